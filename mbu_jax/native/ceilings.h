// What the processor can do at best, for accounts of where time goes.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace mbu {
namespace {

// Full adders alone, kAdders a round, as many as registers hold and independent of each other.
constexpr int kAdders = 6;

uint32_t add_only(int64_t rounds) {
  Bits counters[kAdders] = {}, carries[kAdders], plane = Bits{} + 0x12345678u;
  // Equal ones would be computed once.
  for (int j = 0; j < kAdders; ++j) carries[j] = Bits{} + static_cast<uint32_t>(rounds * j);
  for (int64_t i = 0; i < rounds; ++i) {
    for (int j = 0; j < kAdders; ++j) carries[j] = full_add(counters[j], carries[j], plane);
  }
  uint32_t all = 0;
  for (int j = 0; j < kAdders; ++j) all ^= counters[j][0] ^ carries[j][0];
  return all;
}

// Reads `vectors` vectors of memory, `rounds` times.
uint32_t read_only(const void* memory, int64_t vectors, int64_t rounds) {
  const auto* words = static_cast<const uint32_t*>(memory);
  Bits seen[4] = {};
  for (int64_t i = 0; i < rounds; ++i) {
    for (int64_t v = 0; v + 4 <= vectors; v += 4) {
      for (int j = 0; j < 4; ++j) seen[j] |= load<Bits>(words + (v + j) * kVectorWords);
    }
  }
  return (seen[0] | seen[1] | seen[2] | seen[3])[0];
}

}  // namespace
}  // namespace mbu
