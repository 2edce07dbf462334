#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# Makes the Debian tree that nspawn.sh boots: systemd, both buses, polkit, and the libraries that vlmd is linked to. Packages
# come from where this machine's apt gets them. Takes a minute or two and 500 MB, once; the tree is kept outside the
# repository. Usage: rootfs.sh DIRECTORY
set -eu
tree=$1
[ ! -d "$tree" ] || { echo "$tree is there already"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "needs root"; exit 1; }
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)
new=$tree.$$
trap 'rm -rf "$new"' EXIT
mkdir -p "$(dirname "$tree")"
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$new" "$mirror" >"$tree.log" 2>&1 ||
    { tail -20 "$tree.log" "$new/debootstrap/debootstrap.log" 2>/dev/null; exit 1; }
# No service is to start while packages are being set up in a tree that is not booted.
printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d" && chmod 755 "$new/usr/sbin/policy-rc.d"
DEBIAN_FRONTEND=noninteractive chroot "$new" apt-get install -y -qq --no-install-recommends polkitd dbus-broker \
    libcjson1 libpcre2-8-0 libgstreamer1.0-0 libgstreamer-plugins-base1.0-0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
    libjpeg62-turbo libpng16-16 libwebp7 libwebpdemux2 >>"$tree.log" 2>&1 || { tail -20 "$tree.log"; exit 1; }
rm -f "$new"/etc/systemd/*/dbus.service # the classic bus again; nspawn.sh chooses
rm -rf "$new"/usr/sbin/policy-rc.d "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
mv "$new" "$tree"
