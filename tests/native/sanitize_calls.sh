#!/bin/sh
# Builds the whole library, its calls from XLA included, with AddressSanitizer and
# UndefinedBehaviorSanitizer (kernels for any processor), and runs the tests of those calls and of
# hostile files with it, in a copy of the committed tree. Takes some minutes, so no test runs it.
#
# Usage: tests/native/sanitize_calls.sh [pytest options]     with PYTHON, CXX from the environment
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
cxx=${CXX:-g++}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
git -C "$root" archive --prefix=tree/ HEAD | tar -x -C "$build"
native=$build/tree/mbu_jax/native
headers=$("$python" -c 'import jaxlib; print(jaxlib.__path__[0])')/include
$cxx -std=c++20 -O1 -g -fPIC -fvisibility=hidden -shared -fsanitize=address,undefined \
  -fno-sanitize-recover=all -fno-sanitize=vptr -isystem "$headers" -DMBU_ISA=portable \
  "$native"/*.cpp -o "$native/libmbu.so"
cd "$build/tree"
# Python is not built with the sanitizer, so its run-time library has to come first; -s shows what
# it reports.
LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0 "$python" -m pytest -n 0 -s "$@" tests/ops/test_bitsliced_calls.py \
  tests/ops/test_bitsliced_processes.py tests/saving/test_saving_fuzz.py -k "not other_processes"
