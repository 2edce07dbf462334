#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# clang-format over every tracked C file.
cd "$(dirname "$0")/../.." || exit 1
git ls-files '*.c' '*.h' | xargs clang-format-14 --dry-run --Werror
