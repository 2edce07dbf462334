#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# Every header compiles alone.
cd "$(dirname "$0")/../.." || exit 1
flags=$(pkg-config --cflags libsystemd gstreamer-1.0 libcjson 2>/dev/null)
bad=0
for h in $(git ls-files '*.h'); do
    case $h in # what only files with these flags may include
    *_avx2.h) isa='-mavx2 -mfma -mf16c' ;;
    *) isa= ;;
    esac
    # shellcheck disable=SC2086
    printf '#include "%s"\n' "$h" | ${CC:-cc} -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -I. $flags $isa \
        -fsyntax-only -x c - || { echo "$h does not compile alone"; bad=1; }
done
exit $bad
