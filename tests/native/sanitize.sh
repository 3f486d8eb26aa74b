#!/bin/sh
# Builds the kernels and check_kernels.cpp with AddressSanitizer and UndefinedBehaviorSanitizer, for
# every instruction set that this processor runs, and runs them. AVX-512 is emulated where missing.
# Then the same code for any processor with ThreadSanitizer, on four threads.
#
# Usage: tests/native/sanitize.sh [build folder [seed]]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
native=$here/../../mbu_jax/native
build=${1:-$(mktemp -d)}
mkdir -p "$build"
flags="-std=c++20 -Wall -Wextra -Werror -Wno-psabi -I$native"
sanitizers="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  -D_GLIBCXX_ASSERTIONS -D_GLIBCXX_SANITIZE_VECTOR"
start() { ${CXX:-g++} $flags "$@" & jobs="${jobs:-} $!"; }
compile() { start $sanitizers "$@"; }
has() { grep -q -w "$1" /proc/cpuinfo; }

# The portable kernels come first: of the functions that all have, the linker takes the first.
objects="$build/portable.o"
compile -DMBU_ISA=portable -c "$native/kernels.cpp" -o "$build/portable.o"
case $(uname -m) in
x86_64)
  if has avx2 && has fma && has bmi2; then
    compile -mavx2 -mfma -mbmi2 -DMBU_ISA=avx2 -c "$native/kernels.cpp" -o "$build/avx2.o"
    objects="$objects $build/avx2.o"
  fi
  if has avx512f && has avx512bw && has avx512dq && has avx512vl; then
    wide="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mbmi2"
  else
    wide="-I$here/emulated -D__AVX512F__"
  fi
  compile $wide -DMBU_ISA=avx512 -c "$native/kernels.cpp" -o "$build/avx512.o"
  if has avx512_vnni; then vnni="$wide -mavx512vnni"
  else vnni="-I$here/emulated -D__AVX512F__ -D__AVX512VNNI__"
  fi
  compile $vnni -DMBU_ISA=avx512vnni -c "$native/kernels.cpp" -o "$build/avx512vnni.o"
  objects="$objects $build/avx512.o $build/avx512vnni.o"
  ;;
esac
compile -c "$native/weights.cpp" -o "$build/weights.o"
start -O1 -fsanitize=thread -DMBU_ISA=portable -c "$native/kernels.cpp" -o "$build/threads.o"
start -O1 -fsanitize=thread -c "$native/weights.cpp" -o "$build/lists.o"
# The loops that say what is right only have to be fast.
start -O2 -c "$here/check_kernels.cpp" -o "$build/check.o"
start -O2 -fsanitize=thread -c "$here/check_kernels.cpp" -o "$build/check-threads.o"
for job in $jobs; do wait "$job"; done
${CXX:-g++} $sanitizers -o "$build/check" $objects "$build/weights.o" "$build/check.o"
"$build/check" "${2:-1}"
${CXX:-g++} -fsanitize=thread -o "$build/check-threads" "$build/threads.o" "$build/lists.o" \
  "$build/check-threads.o"
TSAN_OPTIONS=halt_on_error=1 "$build/check-threads" "${2:-1}" 4
