#!/bin/bash
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
#
# Builds vlmd the ways it must build and runs every suite. Cheap and strict first. Options:
#   ./test.sh            everything
#   ./test.sh quick      the first stage only: gcc, ASan and UBSan, lints and all suites
# The last line is "N passed, N failed, N skipped"; what was skipped is named above it.
set -u
cd "$(dirname "$0")" || exit 1
.ci/install build media run test || exit 1
mode=${1:-all}
passed=0 failed=0 skipped=0
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 VLMD_TEST_SEED=${VLMD_TEST_SEED:-1}
jobs=$(nproc)

# stage NAME BUILDDIR "SETUP OPTIONS" MESON-TEST-ARGS...
stage() {
    local name=$1 dir=$2 opts=$3 t0=$SECONDS
    shift 3
    printf '== %s\n' "$name"
    # shellcheck disable=SC2086
    if ! { [ -f "$dir/build.ninja" ] || meson setup "$dir" --werror $opts; } >"$dir.log" 2>&1 ||
        ! nice ninja -C "$dir" >>"$dir.log" 2>&1; then
        tail -40 "$dir.log"
        printf 'FAIL %s: it does not build; the whole log is in %s\n' "$name" "$dir.log"
        failed=$((failed + 1))
        return
    fi
    meson test -C "$dir" --no-rebuild --print-errorlogs --timeout-multiplier 6 --num-processes "$jobs" "$@" 2>&1 | grep -vE '^$|OK  ' || true
    local counts
    counts=$(python3 - "$dir/meson-logs/testlog.json" <<'EOP'
import json, sys
n = {"pass": 0, "fail": 0, "skip": 0}
for line in open(sys.argv[1]):
    r = json.loads(line)["result"]
    n["pass" if r in ("OK", "EXPECTEDFAIL") else "skip" if r == "SKIP" else "fail"] += 1
print(n["pass"], n["fail"], n["skip"])
EOP
    ) || counts="0 1 0"
    # shellcheck disable=SC2086
    set -- $counts
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    printf '   %s passed, %s failed, %s skipped in %d s\n' "$1" "$2" "$3" $((SECONDS - t0))
}

stage 'gcc, ASan and UBSan: every suite' build-asan \
    '-Dbuildtype=debug -Doptimization=1 -Db_sanitize=address,undefined' --no-suite real-weights
if [ "$mode" = all ]; then
    tests/real-weights/fetch.sh >/dev/null # without it that suite skips
    stage 'release: a real language model; hundreds of seconds of video; as installed, under a real systemd --user' build-release \
        '-Dbuildtype=release' --suite real-weights --suite system --suite endurance
    stage 'release, nothing optional: the core alone' build-core \
        '-Dbuildtype=release -Dgstreamer=disabled -Djpeg=disabled -Dpng=disabled -Dwebp=disabled -Ddaemon=disabled' --suite unit --suite conformance --suite golden
    CC=clang stage 'clang, TSan: where threads meet' build-tsan \
        '-Dbuildtype=debug -Doptimization=1 -Db_sanitize=thread -Db_lundef=false' --suite threads
    CC=clang stage 'clang, libFuzzer with ASan' build-fuzz \
        '-Dbuildtype=debugoptimized -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Dgstreamer=disabled' --suite fuzz
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
