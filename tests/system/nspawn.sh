#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# The system service on a machine of its own: what was built is installed into a copy of a Debian tree, which
# systemd-nspawn boots, and inside.sh tries it there. Never the tree we live in: a second system manager on it would
# empty /tmp. Arguments: the build folder, and dbus-daemon or dbus-broker for the machine's bus. The tree is VLMD_TEST_TREE, else /var/cache/vlmd-tests/rootfs; with
# VLMD_TEST_NSPAWN=1 it is made when it is not there (rootfs.sh). Skips aloud (77) when something is missing.
set -u
build=$(realpath "$1")
bus=${2:-dbus-daemon}
here=$(dirname "$(realpath "$0")")
tree=${VLMD_TEST_TREE:-/var/cache/vlmd-tests/rootfs}
skip() { echo "SKIP: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root to boot a machine"
command -v systemd-nspawn >/dev/null || skip "no systemd-nspawn (Debian package systemd-container)"
unshare -m true 2>/dev/null || skip "no mount namespaces here"
if [ ! -x "$tree/lib/systemd/systemd" ]; then
    [ "${VLMD_TEST_NSPAWN:-}" = 1 ] || skip "no Debian tree at $tree; VLMD_TEST_NSPAWN=1 makes one"
    command -v debootstrap >/dev/null || skip "no debootstrap"
    "$here/rootfs.sh" "$tree" || skip "the Debian tree could not be made"
fi
if [ "${3:-}" != inside ]; then # a mount namespace, so that nothing stays mounted
    T=$(mktemp -d)
    trap 'rm -rf "$T"; find /sys/fs/cgroup/*/vlmd-test -depth -type d -exec rmdir {} + 2>/dev/null' EXIT
    export T
    unshare -m "$0" "$build" "$bus" inside
    exit
fi

mount -t tmpfs -o mode=755 tmpfs "$T" && mkdir "$T/upper" "$T/work" "$T/root" || exit 1
mount -t overlay -o "lowerdir=$tree,upperdir=$T/upper,workdir=$T/work" overlay "$T/root" || skip "no overlayfs here"
if [ "$bus" = dbus-broker ]; then
    [ -e "$T/root/lib/systemd/system/dbus-broker.service" ] || skip "the tree lacks dbus-broker; remove $tree and make it again"
    ln -s /lib/systemd/system/dbus-broker.service "$T/root/etc/systemd/system/dbus.service"
fi
DESTDIR=$T/root meson install -C "$build" --no-rebuild >"$T/install.log" 2>&1 || { cat "$T/install.log"; exit 1; }
cp "$here/inside.sh" "$here/../../data/sample.webm" "$T/root/root/"
python3 - "$T/root/root/red.png" <<'EOP' || exit 1
import struct, sys, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\0" + b"\xff\0\0" * 64 for _ in range(64))
with open(sys.argv[1], "wb") as f:
    f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 64, 64, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
EOP
for p in vlmd vlmctl; do
    chroot "$T/root" sh -c "ldd \$(command -v $p) | grep 'not found'" && skip "the tree lacks a library of $p; remove $tree and make it again"
done

# On cgroup v1 the machine's manager needs a group of its own in each hierarchy.
for h in /sys/fs/cgroup/*/; do
    [ -d /sys/fs/cgroup/systemd ] && [ -w "${h}cgroup.procs" ] && mkdir -p "${h}vlmd-test" && echo $$ >"${h}vlmd-test/cgroup.procs" 2>/dev/null
done
systemd-nspawn -q -D "$T/root" -b --register=no --keep-unit -M vlmd-test --private-network --console=pipe \
    </dev/null >"$T/boot.log" 2>&1 &
nspawn=$!
init=
for _ in $(seq 150); do
    for p in $(pgrep -P $nspawn); do
        grep -qE '^NSpid:.*[[:space:]]1$' "/proc/$p/status" 2>/dev/null && init=$p
    done
    [ -n "$init" ] && nsenter -a -t "$init" systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' && break
    kill -0 $nspawn 2>/dev/null || break
    sleep 0.2
done
rc=77
if [ -n "$init" ] && kill -0 "$init" 2>/dev/null; then
    timeout 150 nsenter -a -t "$init" bash /root/inside.sh
    rc=$?
    kill -s RTMIN+4 "$init" # power off: killing nspawn alone would leave the machine running
    timeout 30 tail --pid=$nspawn -f /dev/null || kill -KILL "$init"
else
    tail -5 "$T/boot.log"
    echo "SKIP: the machine did not boot here"
    kill -KILL $nspawn 2>/dev/null
fi
wait $nspawn 2>/dev/null
exit $rc
