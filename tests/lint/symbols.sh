#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# Every symbol with external linkage begins with vl_. Argument: the build folder.
bad=0
for lib in $(find "$1" -name 'libvl_*.a'); do
    nm --defined-only -g "$lib" 2>/dev/null |
        awk 'NF == 3 && $3 !~ /^(vl_|__|_?asan|__odr_asan)/ { print lib ": " $3; n++ } END { exit n > 0 }' lib="$lib" || bad=1
done
[ -n "$(find "$1" -name 'libvl_*.a')" ] || { echo "no libraries under $1"; bad=1; }
exit $bad
