#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# Accuracy against measured cost, of every reducer and policy, by one command: docs/measurements/quality-DATE.csv, .png
# and .md. What stands behind goes to the sweep, as in
#
#     bench/curves.sh --scenes 300
#
# 100 scenes take about 25 minutes on two quiet cores, 300 a bit over an hour. Builds in build-curves, or in $BUILD.
set -eu
cd "$(dirname "$0")/.."
.ci/install build curves
build=${BUILD:-build-curves}
out=docs/measurements/quality-$(date +%F)
[ -f "$build/build.ninja" ] || meson setup "$build" -Dbuildtype=release >/dev/null
ninja -C "$build" bench/quality >/dev/null
"$build/bench/quality" --model data/vlmd-world-text.gguf --mmproj data/vlmd-world-mmproj.gguf --sweep "$out.csv" "$@"
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
isa=$(grep -ow -e avx512_vnni -e avx512f -e avx2 /proc/cpuinfo | sort -ru | paste -sd ' ')
sed -i "1s|\$|; on $(nproc) cores of $cpu, ${isa:-$(uname -m)}|" "$out.csv"
/usr/bin/python3 bench/curves.py "$out.csv"
echo "$out.md"
