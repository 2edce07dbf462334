#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# What `meson install` puts where, and whether systemd likes it: the list of files, the units' syntax and exposure, the
# user and the folders that a machine gets. Argument: the build folder. Needs systemd's tools; skips aloud (77) else.
set -u
build=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
skip() { echo "SKIP: $*"; exit 77; }
for tool in systemd-analyze systemd-sysusers systemd-tmpfiles; do
    command -v $tool >/dev/null || skip "no $tool"
done
D=$(mktemp -d)
mkdir -m 700 "$D/run"
trap 'rm -rf "$D"' EXIT
failed=0
fail() { echo "FAIL: $*"; failed=1; }
DESTDIR=$D/root meson install -C "$build" --no-rebuild >"$D/log" 2>&1 || { cat "$D/log"; exit 1; }
prefix=$(python3 -c 'import json, sys; print(next(o["value"] for o in json.load(open(sys.argv[1])) if o["name"] == "prefix"))' \
    "$build/meson-info/intro-buildoptions.json")
[ "$prefix" = /usr ] || [ "$prefix" = /usr/local ] || skip "prefix $prefix gets no system service"

(cd "$D/root" && find . -type f -printf '/%P\n') | sed "s|^$prefix/|PREFIX/|; s|/lib/[a-z0-9_]*-linux-gnu[a-z0-9]*/|/lib/|; s|\(/vlmd/docs\)/.*|\1/...|" | LC_ALL=C sort -u >"$D/files"
diff <(sed "s|^$prefix/|PREFIX/|" "$here/installed.txt" | LC_ALL=C sort) "$D/files" ||
    fail "other files are installed (>) than tests/system/installed.txt says (<)"

for kind in system user; do
    unit=$D/$kind/vlmd.service
    mkdir "$D/$kind"
    sed "s|=$prefix/bin/|=$D/root$prefix/bin/|; s|file:$prefix|file:$D/root$prefix|" "$D/root$prefix/lib/systemd/$kind/vlmd.service" >"$unit"
    said=$(XDG_RUNTIME_DIR=$D/run systemd-analyze verify --man=no "--$kind" "$unit" 2>&1) && ! grep -q vlmd <<<"$said" || fail "$kind unit: $said"
    systemd-analyze security --offline=yes --threshold=20 "$unit" >"$D/exposure" 2>&1 || fail "$kind unit: exposure above 2.0"
    echo "$kind unit: $(tail -1 "$D/exposure" | sed 's/[^ -~]//g')"
done

for f in "$D"/root/usr/share/dbus-1/system.d/*.conf "$D"/root/usr/share/polkit-1/actions/*.policy; do
    python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' "$f" || fail "$f is not XML"
done

# On an empty machine: the user first, then the folders that are theirs.
R=$D/machine
mkdir -p "$R/etc"
if [ "$(id -u)" = 0 ]; then
    cp -r "$D/root/$prefix/lib/sysusers.d" "$D/root/$prefix/lib/tmpfiles.d" "$R/"
    systemd-sysusers --root="$R" "$R/sysusers.d/vlmd.conf" >"$D/log" 2>&1 || fail "sysusers: $(cat "$D/log")"
    systemd-tmpfiles --root="$R" --create "$R/tmpfiles.d/vlmd.conf" >"$D/log" 2>&1 || fail "tmpfiles: $(cat "$D/log")"
    uid=$(sed -n 's/^vlmd:[^:]*:\([0-9]*\):.*/\1/p' "$R/etc/passwd")
    for group in video render; do
        grep -q "^$group:.*[:,]vlmd\$" "$R/etc/group" || fail "vlmd is not a member of $group"
    done
    [ "$(stat -c '%a %u' "$R/var/lib/vlmd/models" 2>&1)" = "2775 $uid" ] || fail "models: $(ls -ld "$R/var/lib/vlmd/models" 2>&1)"
    [ "$(stat -c '%a %u' "$R/var/cache/vlmd" 2>&1)" = "700 $uid" ] || fail "cache: $(ls -ld "$R/var/cache/vlmd" 2>&1)"
else
    echo "not root: the user and the folders were not tried"
fi
exit $failed
