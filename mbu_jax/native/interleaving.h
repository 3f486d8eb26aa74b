// Words of even and odd columns, together and apart.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <cstdint>

#if defined(__BMI2__)
#include <immintrin.h>
#endif

namespace mbu {
namespace {

// Bit i of the word to bit 2 i.
uint64_t spread_bits(uint64_t word) {
#if defined(__BMI2__)
  return _pdep_u64(word, 0x5555555555555555);
#else
  word = (word | word << 16) & 0x0000ffff0000ffff;
  word = (word | word << 8) & 0x00ff00ff00ff00ff;
  word = (word | word << 4) & 0x0f0f0f0f0f0f0f0f;
  word = (word | word << 2) & 0x3333333333333333;
  return (word | word << 1) & 0x5555555555555555;
#endif
}

// Pixels of even columns and of odd ones, one after the other.
void interleave(const uint32_t* even, const uint32_t* odd, int out_words, uint32_t* out) {
  const int whole = out_words / 2;
  for (int w = 0; w < whole; ++w) {
    const uint64_t both = spread_bits(even[w]) | spread_bits(odd[w]) << 1;
    out[2 * w] = static_cast<uint32_t>(both), out[2 * w + 1] = static_cast<uint32_t>(both >> 32);
  }
  if (out_words % 2) {
    out[2 * whole] = static_cast<uint32_t>(spread_bits(even[whole]) | spread_bits(odd[whole]) << 1);
  }
}

// Bit 2 i of the word to bit i.
uint32_t gather_bits(uint64_t word) {
#if defined(__BMI2__)
  return static_cast<uint32_t>(_pext_u64(word, 0x5555555555555555));
#else
  word &= 0x5555555555555555;
  word = (word | word >> 1) & 0x3333333333333333;
  word = (word | word >> 2) & 0x0f0f0f0f0f0f0f0f;
  word = (word | word >> 4) & 0x00ff00ff00ff00ff;
  word = (word | word >> 8) & 0x0000ffff0000ffff;
  return static_cast<uint32_t>(word | word >> 16);
#endif
}

}  // namespace
}  // namespace mbu
