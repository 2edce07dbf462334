#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# Run by nspawn.sh as root in a booted machine into which vlmd was installed: what docs/service.md says, done and looked at.
set -u
fail() {
    echo "FAIL: $*"
    systemctl status vlmd --no-pager 2>&1 | tail -15
    journalctl --no-pager -n 40 -u vlmd -u dbus -u polkit 2>&1
    exit 1
}
say() { printf '%6.1f s  %s\n' "$(awk '{print $1}' /proc/uptime)" "$*"; }
# until SECONDS COMMAND...: until it succeeds.
until_ok() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
as() { # as USER COMMAND...
    local user=$1
    shift
    setpriv --reuid="$user" --regid="$user" --init-groups env HOME=/ "$@"
}
prop() { systemctl show -P "$1" vlmd; }

# ---- install, as the documentation says ----
systemd-sysusers && systemd-tmpfiles --create || fail "sysusers and tmpfiles"
useradd -M alice && useradd -M bob && usermod -aG vlmd alice || fail "users"
mkdir -p /etc/systemd/system/vlmd.service.d
printf '[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n' >/etc/systemd/system/vlmd.service.d/quick.conf
systemctl reload dbus && systemctl daemon-reload || fail "reload"
as bob busctl --system get-property org.vlmd.Vision1 /org/vlmd/Vision1 org.vlmd.Vision1.Manager State >/dev/null 2>&1 &&
    fail "a service that is not enabled was started by a call"
systemctl -q enable vlmd || fail "enable"
[ "$(stat -c %a:%G /var/lib/vlmd/models)" = 2775:vlmd ] || fail "$(ls -ld /var/lib/vlmd/models)"

# ---- started by the first call, of one who has no rights ----
as alice vlmctl --system status || fail "activation by a member's call"
until_ok 60 systemctl -q is-active vlmd || fail "never READY"
[ "$(prop Type)" = notify ] || fail "the unit is not Type=notify"
pid=$(prop MainPID)
[ "$(stat -c %U "/proc/$pid")" = vlmd ] || fail "runs as $(stat -c %U "/proc/$pid")"
grep -q '^NoNewPrivs:.*1' "/proc/$pid/status" || fail "NoNewPrivileges is not in force"
grep -q '^Seccomp:.*2' "/proc/$pid/status" || fail "the syscall filter is not in force"
grep -q '^CapEff:.*0000000000000000' "/proc/$pid/status" || fail "it has capabilities"
[ "$(grep -c : "/proc/$pid/net/dev")" = 1 ] || fail "it sees a network: $(cat "/proc/$pid/net/dev")"
grep -q 'Max core file size  *0 ' "/proc/$pid/limits" || fail "it may leave a core file"
say "activated on $(systemctl show -P Id dbus) and ready, confined"
systemd-analyze security --threshold=20 vlmd >/tmp/exposure 2>&1 || fail "exposure above 2.0: $(grep -v '✓' /tmp/exposure)"
say "$(tail -1 /tmp/exposure | sed 's/[^ -~]//g')"

# ---- watch and ask ----
until_ok 60 sh -c 'vlmctl --system --json status | grep -qE "\"State\":[[:space:]]*\"ready\""' || fail "the model is not ready"
as alice vlmctl --system stream add world 'test:?seed=7&seconds=6' || fail "stream add by a member"
until_ok 60 sh -c 'vlmctl --system --json stream show world | grep -qE "\"State\":[[:space:]]*\"ended\""' ||
    fail "the drawn world did not play to its end"
question='Is there a red circle in this picture?'
answer=$(as alice vlmctl --system ask world "$question") && [ -n "$answer" ] || fail "ask by a member: $answer"
say "asked: $answer"
captions=$(as alice vlmctl --system captions world --format text) || fail "captions by a member"
as alice busctl --system call org.vlmd.Vision1 /org/vlmd/Vision1 org.vlmd.Vision1.Manager AskText 'aosa{sv}' \
    1 /org/vlmd/Vision1/stream/world "$question" 0 >/dev/null || fail "AskText by busctl"
said=$(as alice vlmctl --system ask - "$question" </root/red.png) && [ -n "$said" ] || fail "a picture: $said"
say "asked about a picture: $said"

# ---- who may not ----
said=$(as bob vlmctl --system status 2>&1) && grep -q world <<<"$said" || fail "all may read: $said"
said=$(as bob vlmctl --system ask world "$question" 2>&1) && fail "one who is no member asked: $said"
grep -q 'group vlmd' <<<"$said" || fail "the refusal does not help: $said"
said=$(as alice vlmctl --system model unload builtin 2>&1) && fail "a member unloaded the model without a password"
grep -q 'password' <<<"$said" || fail "the refusal does not say that a password helps: $said"
as bob vlmctl --system ask - "$question" </root/red.png >/dev/null 2>&1 && fail "one who is no member asked about a picture"
as alice touch /var/lib/vlmd/models/mine.gguf && rm /var/lib/vlmd/models/mine.gguf || fail "a member may not add a model file"
nsenter -m -t "$pid" touch /var/lib/vlmd/models/forged.gguf 2>/dev/null && fail "the daemon could write a model"

# ---- polkit is really asked, and may be absent: about a stream that is not the caller's ----
vlmctl --system stream add hall 'test:?seed=3&seconds=2' || fail "stream add by root"
cat >/etc/polkit-1/rules.d/10-test.rules <<'EOR'
polkit.addRule(function(action, subject) {
    if (action.id === "org.vlmd.vision1.observe" && subject.user === "alice") return polkit.Result.NO;
});
EOR
until_ok 10 sh -c "! setpriv --reuid=alice --regid=alice --init-groups vlmctl --system ask hall '$question'" || fail "polkit's no is no no"
as alice vlmctl --system ask hall "$question" 2>&1 | grep -q polkit || fail "the refusal does not name polkit"
rm /etc/polkit-1/rules.d/10-test.rules
until_ok 10 as alice vlmctl --system ask hall "$question" || fail "polkit's yes is no yes"
systemctl -q stop polkit && systemctl -q mask --runtime polkit || fail "polkit does not stop"
as alice vlmctl --system ask hall "$question" >/dev/null || fail "without polkit the group may not"
journalctl --no-pager -u vlmd | grep -q 'polkit does not answer' || fail "the journal does not say that polkit is gone"
systemctl -q unmask --runtime polkit
cat >/etc/dbus-1/system.d/vlmd-all.conf <<'EOC'
<busconfig>
  <policy context="default"><allow send_destination="org.vlmd.Vision1"/></policy>
</busconfig>
EOC
systemctl reload dbus || fail "reload dbus"
as bob vlmctl --system ask hall "$question" 2>&1 | grep -q 'polkit says' || fail "one who is let in by the bus is not asked about"
rm /etc/dbus-1/system.d/vlmd-all.conf && systemctl reload dbus || fail "reload dbus"
say "polkit decides, and the group without it"

# ---- log ----
systemctl service-log-level vlmd debug || fail "service-log-level"
as alice vlmctl --system ask world "$question" >/dev/null || fail "ask while all is logged"
journalctl --no-pager -o verbose -u vlmd >/tmp/journal
grep -q 'VLMD_STREAM=world' /tmp/journal || fail "the journal lacks the stream's field"
# Sentences only: a caption's single words are in any log.
while IFS= read -r text; do
    [ "${#text}" -lt 12 ] || ! grep -qF -- "$text" /tmp/journal || fail "the journal holds what was seen or said: $text"
done <<<"$question
$answer
$(sed 's/^[^ ]* *//' <<<"$captions")"
say "the journal has no text of it, with debug on"

# ---- the watchdog, and the end ----
kill -STOP "$pid"
until_ok 40 sh -c "p=\$(systemctl show -P MainPID vlmd); [ \$p != $pid ] && [ \$p != 0 ] && systemctl -q is-active vlmd" ||
    fail "the watchdog did not restart a stopped daemon"
say "restarted by the watchdog"
pid=$(prop MainPID)
systemctl kill -s KILL dbus || fail "kill the bus"
until_ok 20 sh -c "p=\$(systemctl show -P MainPID vlmd); [ \$p != $pid ] && [ \$p != 0 ] && systemctl -q is-active vlmd" ||
    fail "a new bus has no vlmd on it"
until_ok 10 as alice vlmctl --system status || fail "no answer on the new bus"
say "back after the bus went"
systemctl stop vlmd || fail "stop"
[ "$(prop Result) $(prop ExecMainStatus)" = "success 0" ] || fail "unclean stop: $(prop Result) $(prop ExecMainStatus)"
as alice vlmctl --system status >/dev/null || fail "started again by a call"
say "stopped, and started again by a call"

# ---- a stream of the configuration, from a home ----
systemctl reset-failed vlmd # it was started often
systemctl stop vlmd || fail "stop"
mkdir -p /etc/vlmd/streams.d /home/alice/Videos && cp /root/sample.webm /home/alice/Videos/clip.webm
printf '[Stream]\nPath=/home/alice/Videos/clip.webm\n[Captions]\nEnabled=no\n' >/etc/vlmd/streams.d/clip.stream
systemctl start vlmd || fail "start with a stream of the configuration"
vlmctl --system --json stream show clip | grep -qE '"State":[[:space:]]*"failed"' || fail "a home is not hidden"
printf '[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=/home/alice/Videos\n' >/etc/systemd/system/vlmd.service.d/home.conf
systemctl daemon-reload && systemctl restart vlmd || fail "restart with a drop-in"
until_ok 30 sh -c 'vlmctl --system --json stream show clip | grep -qE "\"seen\":[[:space:]]*[1-9]"' ||
    fail "no frame of the clip: $(vlmctl --system stream show clip)"
say "a file of a home, once a drop-in shows it"
