#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# run.sh TARGET SECONDS CORPUS DICT: libFuzzer on a copy of the corpus; a crashing input stays beside the target.
# -timeout is wall time and there to find what never ends: the slowest input known takes a third of a second, and a
# machine may be slow and busy with other things.
set -e
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Freed memory is kept only briefly, so that the limit on memory means the parser's own.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=8:allocator_may_return_null=1"
set -- "$1" "$2" "$3" "$4"
dict=
[ -f "$4" ] && dict="-dict=$4"
# shellcheck disable=SC2086
timeout -s KILL "$(($2 + 150))" "$1" -max_total_time="$2" -max_len=4096 -timeout=100 -rss_limit_mb=256 -malloc_limit_mb=64 -print_final_stats=1 \
    -artifact_prefix="$(dirname "$1")/" $dict "$out" "$3" 2>"$out/log" || { tail -60 "$out/log"; exit 1; }
grep -E 'stat::number_of_executed_units|stat::average_exec_per_sec|stat::peak_rss_mb' "$out/log"
