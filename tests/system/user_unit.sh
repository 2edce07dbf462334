#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# The user service as installed, under a real `systemd --user`: activated by a call on the session bus, READY, sandboxed,
# watching the drawn world, stopped cleanly. Needs root for a private mount and PID namespace; skips aloud (77) else.
# Argument: the build folder.
set -u
build=$(realpath "$1")
skip() { echo "SKIP: $*"; exit 77; }
if [ "${2:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "needs root for a mount namespace"
    command -v /lib/systemd/systemd >/dev/null || skip "no systemd"
    unshare -m -p -f --mount-proc true 2>/dev/null || skip "no mount and PID namespaces here"
    systemd-analyze security --offline=yes --threshold=20 "$build/systemd/vlmd.service" >/dev/null ||
        { systemd-analyze security --offline=yes "$build/systemd/vlmd.service" | grep -v '✓'; echo "exposure above 2.0"; exit 1; }
    T=$(mktemp -d)
    trap 'rm -rf "$T"' EXIT
    export T
    DESTDIR=$T/inst meson install -C "$build" --no-rebuild >"$T/install.log" 2>&1 || { cat "$T/install.log"; exit 1; }
    unshare -m -p -f --mount-proc "$0" "$build" inside
    exit
fi

# In the namespaces. /run is ours, and /usr/local is what was just installed.
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0 /run/dbus && chmod 700 /run/user/0
# What PID 1 would have made: the nodes that hide /proc and /sys paths from a unit.
mkdir -p -m 0000 /run/systemd/inaccessible/dir && : >/run/systemd/inaccessible/reg && mkfifo /run/systemd/inaccessible/fifo && mknod /run/systemd/inaccessible/chr c 0 0 &&
    mknod /run/systemd/inaccessible/blk b 0 0 &&
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/run/systemd/inaccessible/sock")' &&
    chmod 0000 /run/systemd/inaccessible/* || { echo "SKIP: cannot make device nodes here"; exit 77; }
mount --bind "$T/inst/usr/local" /usr/local || exit 1
export XDG_RUNTIME_DIR=/run/user/0 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus
export XDG_CONFIG_HOME=$T/config HOME=$T/home
mkdir -p "$XDG_CONFIG_HOME/systemd/user/vlmd.service.d" "$HOME"
printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' >"$XDG_CONFIG_HOME/systemd/user/vlmd.service.d/quick.conf"
# The classic bus, whatever dbus.service points to on this machine.
cp /usr/lib/systemd/user/dbus.service "$XDG_CONFIG_HOME/systemd/user/dbus.service"
/lib/systemd/systemd --user --unit=basic.target >"$T/systemd.log" 2>&1 &
manager=$!
for _ in $(seq 100); do
    systemctl --user is-system-running 2>/dev/null | grep -qE 'running|degraded' && break
    sleep 0.1
done
fail() {
    echo "FAIL: $*"
    systemctl --user status vlmd.service --no-pager 2>&1 | tail -20
    grep -iE "vlmd|namespace|failed" "$T/systemd.log" | tail -30
    kill $manager
    exit 1
}
systemctl --user start dbus.socket || fail "no session bus"
vlmctl=/usr/local/bin/vlmctl

$vlmctl status || fail "activation by the first call"
for _ in $(seq 300); do
    [ "$(systemctl --user show -p ActiveState --value vlmd.service)" = active ] && break
    sleep 0.1
done
[ "$(systemctl --user show -p ActiveState --value vlmd.service)" = active ] || fail "never READY"
[ "$(systemctl --user show -p Type --value vlmd.service)" = notify ] || fail "the unit is not Type=notify"
pid=$(systemctl --user show -p MainPID --value vlmd.service)
grep -q '^NoNewPrivs:.*1' "/proc/$pid/status" || fail "NoNewPrivileges is not in force"
grep -q '^Seccomp:.*2' "/proc/$pid/status" || fail "the syscall filter is not in force"

$vlmctl stream add world 'test:?seed=7&seconds=6' || fail "stream add"
for _ in $(seq 300); do
    $vlmctl --json stream show world | grep -qE '"State":[[:space:]]*"ended"' && break
    sleep 0.1
done
$vlmctl --json stream show world | grep -qE '"State":[[:space:]]*"ended"' || { $vlmctl status; fail "the drawn world did not play to its end"; }
$vlmctl --json stream show world | grep -qE '"seen":[[:space:]]*[1-9]' || fail "no frame was seen"

$vlmctl --json status | grep -qE '"State":[[:space:]]*"ready"' || fail "READY, and the model is not warm: $($vlmctl status)"
question='Is there a red circle in this picture?'
answer=$($vlmctl ask world "$question") && [ -n "$answer" ] || fail "ask: $answer"
said=$(busctl --user call org.vlmd.Vision1 /org/vlmd/Vision1 org.vlmd.Vision1.Manager AskText 'aosa{sv}' \
    1 /org/vlmd/Vision1/stream/world "$question" 0) || fail "AskText by busctl"
grep -qF "$answer" <<<"$said" || fail "AskText says $said, Ask says $answer"
echo "asked: $answer"

kill -STOP "$pid" # a daemon that no longer moves must be killed by the watchdog and come back
for _ in $(seq 300); do
    new=$(systemctl --user show -p MainPID --value vlmd.service)
    [ "$new" != "$pid" ] && [ "$new" != 0 ] && break
    sleep 0.1
done
[ "$new" != "$pid" ] && [ "$new" != 0 ] || fail "the watchdog did not restart a stopped daemon"
systemctl --user stop vlmd.service || fail "stop"
[ "$(systemctl --user show -p Result --value vlmd.service)" = success ] || fail "unclean stop"
echo "user unit: activated, ready, sandboxed, watched, asked, restarted by the watchdog, stopped"
kill $manager
exit 0
