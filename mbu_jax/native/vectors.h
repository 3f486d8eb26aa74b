// Vectors of bits, as wide as the instruction set that this file is compiled for.
//
// One source, compiled once an instruction set (see kernels.cpp): nothing here may have external
// linkage, or the linker would mix code of several.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2, NEON, and what compilers make of it elsewhere
#endif

constexpr int kVectorWords = kVectorBytes / 4;

typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
typedef float Floats __attribute__((vector_size(kVectorBytes)));

// For lambdas, where the attribute must follow the parameters.
#define MBU_INLINE __attribute__((always_inline))

// Calls f with every number from `from` to below `to` as a constant, so that arrays stay in
// registers.
template <int from, int to, typename F>
[[gnu::always_inline]] inline void each(const F& f) {
  if constexpr (from < to) {
    f(std::integral_constant<int, from>());
    each<from + 1, to>(f);
  }
}

template <typename V>
[[gnu::always_inline]] inline V load(const void* at) {
  V value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <typename V>
[[gnu::always_inline]] inline void store(void* at, V value) {
  std::memcpy(at, &value, sizeof value);
}

// Adds the products of two pairs of int16 to each sum, modulo 2^32.
[[gnu::always_inline]] inline Bits add_products(Bits sum, Bits pairs, Bits weights) {
#if defined(__AVX512VNNI__)
  return (Bits)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)pairs, (__m512i)weights);
#elif defined(__AVX512F__)
  return sum + (Bits)_mm512_madd_epi16((__m512i)pairs, (__m512i)weights);
#elif defined(__AVX2__)
  return sum + (Bits)_mm256_madd_epi16((__m256i)pairs, (__m256i)weights);
#else
  const Ints low = ((Ints)pairs << 16 >> 16) * ((Ints)weights << 16 >> 16);
  const Ints high = ((Ints)pairs >> 16) * ((Ints)weights >> 16);
  return sum + (Bits)low + (Bits)high;
#endif
}

// A bit a lane: whether it is at least as large, the lowest lane first.
[[gnu::always_inline]] inline uint32_t lanes_at_least(Bits sum, Bits least) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epi32_mask((__m512i)sum, (__m512i)least);
#elif defined(__AVX2__)
  const __m256i less = _mm256_cmpgt_epi32((__m256i)least, (__m256i)sum);
  return ~_mm256_movemask_ps((__m256)less) & 0xff;
#else
  const Bits reached = (Bits)((Ints)sum >= (Ints)least);
  uint32_t lanes = 0;
  for (int i = 0; i < kVectorWords; ++i) lanes |= (reached[i] & 1) << i;
  return lanes;
#endif
}

// Adds one to the sums of those lanes whose bit is set, the lowest lane first.
[[gnu::always_inline]] inline Floats add_where(Floats sums, uint32_t lanes, Floats one) {
#if defined(__AVX512F__)
  return (Floats)_mm512_mask_add_ps((__m512)sums, static_cast<__mmask16>(lanes), (__m512)sums,
                                    (__m512)one);
#else
  Bits bit{};
  for (int i = 0; i < kVectorWords; ++i) bit[i] = 1u << i;
  const Bits set = (Bits)(((Bits{} + lanes) & bit) != 0);
  return sums + (Floats)(set & (Bits)one);
#endif
}

// Adds two bits, or their complements, to a bit of a counter, which stays; the carry is worth twice
// as much.
template <bool complements = false>
[[gnu::always_inline]] inline Bits full_add(Bits& counter, Bits a, Bits b) {
#if defined(__AVX512F__)
  // Two operations, each of which overwrites what is not needed any more: the carry is made of the
  // sum, for the counter as it was would have to be copied first.
  const __m512i x = (__m512i)a, y = (__m512i)b;
  const __m512i sum = _mm512_ternarylogic_epi32((__m512i)counter, x, y, 0x96);  // c ^ x ^ y
  counter = (Bits)sum;
  // The majority of c, x and y with c = sum ^ x ^ y, or of c, ~x and ~y.
  return (Bits)_mm512_ternarylogic_epi32(x, sum, y, complements ? 0x17 : 0xb2);
#else
  const Bits differ = a ^ b;
  const Bits carry = complements ? (counter & differ) | ~(a | b) : (counter & differ) | (a & b);
  counter ^= differ;
  return carry;
#endif
}

[[gnu::always_inline]] inline Bits half_add(Bits& counter, Bits a) {
  const Bits carry = counter & a;
  counter ^= a;
  return carry;
}

// What at least two of three bits are.
[[gnu::always_inline]] inline Bits majority(Bits a, Bits b, Bits c) {
#if defined(__AVX512F__)
  return (Bits)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)c, 0xe8);
#else
  return (a & b) | ((a | b) & c);
#endif
}

}  // namespace
