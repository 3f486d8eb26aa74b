// The AVX-512 intrinsics that the kernels use, in plain C++: with them the 64-byte kernels can be
// checked on a processor that has no such registers.
#pragma once

#include <cstdint>

typedef long long __m512i __attribute__((vector_size(64)));
typedef float __m512 __attribute__((vector_size(64)));
typedef uint16_t __mmask16;
typedef int32_t EmulatedInts __attribute__((vector_size(64)));

template <int table>
inline __m512i _emulated_ternary(__m512i a, __m512i b, __m512i c) {
  __m512i result = {};
  for (int row = 0; row < 8; ++row) {
    if (table >> row & 1) result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}

#define _mm512_ternarylogic_epi32(a, b, c, table) _emulated_ternary<table>(a, b, c)

inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  const EmulatedInts x = (EmulatedInts)a, y = (EmulatedInts)b;
  return (__m512i)((x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16));
}

inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return (__m512i)((EmulatedInts)sum + (EmulatedInts)_mm512_madd_epi16(a, b));
}

inline __m512 _mm512_mask_add_ps(__m512 other, __mmask16 lanes, __m512 a, __m512 b) {
  for (int i = 0; i < 16; ++i)
    if (lanes >> i & 1) other[i] = a[i] + b[i];
  return other;
}

inline __mmask16 _mm512_cmpge_epi32_mask(__m512i a, __m512i b) {
  const EmulatedInts reached = (EmulatedInts)a >= (EmulatedInts)b;
  int lanes = 0;
  for (int i = 0; i < 16; ++i) lanes |= (reached[i] & 1) << i;
  return static_cast<__mmask16>(lanes);
}
