#!/bin/sh
# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
# vlmd against llama.cpp on the same random models and pictures; by hand, it takes long and much disk.
#
#     tests/peer/peer.sh FOLDER BUILD      FOLDER: for all that is made, kept between runs; BUILD: a release build
#
# Needs cmake, ninja, g++, network, and in $PYTHON (python3) torch, transformers 5, tokenizers, gguf, sentencepiece,
# Pillow < 13. PEER_THREADS=1 for a machine that does other things, too: llama.cpp's threads wait for each other by
# spinning. llama.cpp is the one inside PyPI's source package of llama-cpp-python. What comes out belongs in
# docs/measurements/.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { sed -n '4,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
work=$(cd "$1" && pwd) build=$(cd "$2" && pwd) python=${PYTHON:-python3}
version=0.3.36
source=$work/llama_cpp_python-$version/vendor/llama.cpp

if [ ! -d "$source" ]; then
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "llama-cpp-python==$version"
    tar xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
fi
if [ ! -e "$work/llama/bin/libmtmd.so" ]; then
    cmake -S "$source" -B "$work/llama" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=ON \
        -DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF >"$work/llama.log"
    nice ninja -C "$work/llama" -j2 llama mtmd >>"$work/llama.log"
fi
cc -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -o "$work/peer-llama" "$here/peer-llama.c" -I"$source/include" \
    -I"$source/ggml/include" -I"$source/tools/mtmd" -L"$work/llama/bin" -lllama -lmtmd -lggml -lggml-base \
    -Wl,-rpath,"$work/llama/bin"
ninja -C "$build" tests/peer/peer-ours >/dev/null
model=$("$here/../real-weights/fetch.sh") # for its vocabulary
exec "$python" "$here/compare.py" "$work" "$source" "$build/tests/peer/peer-ours" "$model"
