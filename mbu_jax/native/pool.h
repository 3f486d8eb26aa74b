// The 2x2 maximum of codes.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <cstdint>

#include "interleaving.h"
#include "network.h"

namespace mbu {
namespace {

// One task is one channel of one image.
void pool(const Pool& pool, int64_t task) {
  const int words = (pool.width + 31) / 32, out_words = (pool.width / 2 + 31) / 32;
  const size_t image = task / pool.channels, channel = task % pool.channels;
  for (int row = 0; row < pool.height / 2; ++row) {
    const uint32_t* in[2];
    uint32_t* out[2];
    for (int plane = 0; plane < pool.planes; ++plane) {
      const size_t index = (image * pool.planes + plane) * pool.channels + channel;
      in[plane] = pool.x + (index * pool.height + 2 * row) * words;
      out[plane] = pool.out + (index * (pool.height / 2) + row) * out_words;
    }
    for (int w = 0; w < out_words; ++w) {
      const bool second = 2 * w + 1 < words;
      const auto both = [&](int plane, int below) {
        const uint32_t* from = in[plane] + below * words + 2 * w;
        return from[0] | (second ? static_cast<uint64_t>(from[1]) << 32 : 0);
      };
      if (pool.planes == 1) {
        const uint64_t any = both(0, 0) | both(0, 1);
        out[0][w] = gather_bits(any | any >> 1);
      } else {
        // The larger of two codes: the higher bits decide, the lower ones count where these tie.
        const auto larger = [](uint64_t& low, uint64_t& high, uint64_t other_low,
                               uint64_t other_high) {
          low = (low & ~(other_high & ~high)) | (other_low & ~(high & ~other_high));
          high |= other_high;
        };
        uint64_t low = both(0, 0), high = both(1, 0);
        larger(low, high, both(0, 1), both(1, 1));
        larger(low, high, low >> 1, high >> 1);
        out[0][w] = gather_bits(low);
        out[1][w] = gather_bits(high);
      }
    }
  }
}

}  // namespace
}  // namespace mbu
