#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# Builds vlmd, starts it on a bus of its own, and watches a video with you: captions as they come, three questions while
# it plays, one status screen; then a real street, a clip of Debian's opencv-doc (96 MB, once), not with DEMO_REAL=0.
#   ./demo.sh                                      the sample clip of the drawn world
#   ./demo.sh FILE [--model F.gguf --mmproj F.gguf]   your file, with the built-in model or with yours
#   ./demo.sh PICTURE [...] [--ask "QUESTION"]        a JPEG, PNG or WebP: one answer, without a daemon
set -eu
cd "$(dirname "$0")"

file= model= mmproj= question=
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$2; shift 2 ;;
    --mmproj) mmproj=$2; shift 2 ;;
    --ask) question=$2; shift 2 ;;
    -h | --help) sed -n 's/^# \{0,1\}//; 5,9p' "$0"; exit 0 ;;
    -*) echo "demo.sh: unknown option $1; see ./demo.sh --help" >&2; exit 2 ;;
    *) file=$1; shift ;;
    esac
done
[ -z "$file" ] || [ -r "$file" ] || { echo "demo.sh: cannot read $file" >&2; exit 2; }
[ -z "$model" ] || [ -n "$mmproj" ] || { echo "demo.sh: --model needs --mmproj beside it" >&2; exit 2; }

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
say 'Building (the first time this installs what it needs)'
.ci/install build media run
[ -f build-demo/build.ninja ] || meson setup build-demo -Dbuildtype=release -Dtests=disabled >build-demo.log 2>&1 ||
    { tail -20 build-demo.log; exit 1; }
ninja -C build-demo >build-demo.log 2>&1 || { tail -40 build-demo.log; exit 1; }
vlmctl=build-demo/cli/vlmctl
text=${model:-data/vlmd-world-text.gguf}
projector=${mmproj:-data/vlmd-world-mmproj.gguf}
if [ -n "$file" ] && [ -z "$model" ]; then
    say 'Note: the built-in model knows drawn shapes, and of a fixed camera that something comes, goes or moves.'
    echo '  For all else give it a SmolVLM pair:'
    echo '  ./demo.sh FILE --model text.gguf --mmproj mmproj.gguf'
fi

# A picture: JPEG, PNG, WebP by their first bytes.
if [ -n "$file" ]; then
    case $(head -c 12 "$file" | od -An -tx1 | tr -d ' \n') in
    ffd8ff* | 89504e470d0a1a0a* | 52494646????????57454250)
        say "Looking at $file"
        exec $vlmctl run "$file" --model "$text" --mmproj "$projector" --ask "${question:-What is in the picture?}"
        ;;
    esac
fi

# A bus and a daemon of our own, in a folder that goes away again.
run=$(mktemp -d)
watcher= daemon= bus=
cleanup() {
    for p in $watcher $daemon $bus; do kill "$p" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cat >"$run/bus.conf" <<EOB
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=$run/bus</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
EOB
dbus-daemon --config-file="$run/bus.conf" --nofork >"$run/bus.log" 2>&1 &
bus=$!
export DBUS_SESSION_BUS_ADDRESS=unix:path=$run/bus XDG_CONFIG_HOME=$run/config
for _ in $(seq 50); do [ -S "$run/bus" ] && break; sleep 0.1; done

build-demo/daemon/vlmd --model "$text" --mmproj "$projector" >"$run/vlmd.log" 2>&1 &
daemon=$!
state=
for _ in $(seq 600); do
    state=$($vlmctl --json status 2>/dev/null | sed -n 's/.*"State":[[:space:]]*"\([a-z]*\)".*/\1/p' | head -1) || true
    case $state in ready | failed | no-model) break ;; esac
    kill -0 $daemon 2>/dev/null || { cat "$run/vlmd.log"; exit 1; }
    sleep 0.1
done
[ "$state" = ready ] || { echo "vlmd did not come up:"; $vlmctl status || true; cat "$run/vlmd.log"; exit 1; }

clip=${file:-data/sample.webm}
say "Watching $clip live, one look a second"
$vlmctl stream add demo "$clip" --realtime
$vlmctl watch demo &
watcher=$!

ask() {
    printf '\033[1m   > %s\033[0m\n   ' "$*"
    $vlmctl ask demo "$@"
}
ended() { $vlmctl --json stream show demo 2>/dev/null | grep -qE '"State":[[:space:]]*"(ended|failed)"'; }
# Sleeps N seconds of a clip that plays, less when it is over.
play() { for _ in $(seq "$1"); do ended && return; sleep 1; done; }

play 9
if [ -z "$file" ]; then
    ask 'How many shapes are there?' || true
    play 8
    ask 'What happened last?' || true
    play 7
    say 'About a moment that has left its window it does not guess:'
    rc=0
    ask 'Where was the red circle?' --since 22s --until 18s || rc=$?
    [ $rc = 3 ] || { echo "demo.sh: expected NothingSeen (exit code 3), got $rc" >&2; exit 1; }
    play 60
else
    ask "${question:-What is in the picture?}" || true
    play 10
    ask 'What happened last?' || true
    play 5
    rc=0
    ask 'What was there before?' --since 22s --until 18s || rc=$?
    [ $rc = 3 ] || echo "   (that moment is still in the window)"
    play 600
fi
say 'Status'
$vlmctl status
say 'Captions as WebVTT (first lines)'
$vlmctl captions demo --format vtt | head -12

# The street: out of the package, which need not be installed; kept beside the clips of bench/footage/judge.py.
street() {
    local clip=usr/share/doc/opencv-doc/examples/data/vtest.avi
    local cache=${VLMD_FOOTAGE:-${XDG_CACHE_HOME:-$HOME/.cache}/vlmd/footage}
    for kept in "/$clip" "$cache/vtest.avi"; do
        [ ! -s "$kept" ] || { echo "$kept"; return 0; }
    done
    mkdir -p "$cache" && cd "$cache" || return 1
    if ! ls opencv-doc_*.deb >/dev/null 2>&1; then
        echo '  fetching its package (96 MB)' >&2
        timeout 120 apt-get -qq download opencv-doc >/dev/null 2>&1 || return 1
    fi
    dpkg-deb --fsys-tarfile opencv-doc_*.deb | tar -xO "./$clip" >vtest.avi.part && mv vtest.avi.part vtest.avi || return 1
    echo "$cache/vtest.avi"
}

[ -z "$file" ] && [ "${DEMO_REAL:-1}" != 0 ] || exit 0
say 'A real street, as fast as the model looks: where in the picture something appears, moves or leaves'
if real=$(street); then
    $vlmctl run "$real" --model "$text" --mmproj "$projector"
else
    echo '  left out: its clip is in the Debian package opencv-doc (96 MB), which is not installed and cannot be fetched in 2 min'
fi
