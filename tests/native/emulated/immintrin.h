// The one AVX-512 intrinsic that the kernels use, in plain C++: with it the 64-byte kernels can be
// checked on a processor that has no such registers.
#pragma once

typedef long long __m512i __attribute__((vector_size(64)));

template <int table>
inline __m512i _emulated_ternary(__m512i a, __m512i b, __m512i c) {
  __m512i result = {};
  for (int row = 0; row < 8; ++row) {
    if (table >> row & 1) result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}

#define _mm512_ternarylogic_epi32(a, b, c, table) _emulated_ternary<table>(a, b, c)
