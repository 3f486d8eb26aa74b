// Logits: sums of the weights of every pixel, exact in any order.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "network.h"
#include "vectors.h"

namespace mbu {
namespace {

// One task is one row of one image.
void head(const Head& head, int64_t task) {
  const size_t image = task / head.height, y = task % head.height;
  const int words = (head.width + 31) / 32, inputs = head.planes * head.channels;
  // Planes lie a power of two apart and would compete for a few sets of the cache.
  thread_local std::vector<uint32_t> rows;
  rows.resize(static_cast<size_t>(inputs) * words);
  for (int i = 0; i < inputs; ++i) {
    std::memcpy(&rows[static_cast<size_t>(i) * words],
                head.x + ((image * inputs + i) * head.height + y) * words, 4 * size_t(words));
  }
  thread_local std::vector<float> ones;  // what a bit adds
  ones.resize(inputs);
  constexpr int vectors = 32 / kVectorWords;
  for (int k = 0; k < head.classes; ++k) {
    float lowest = head.bias[k];
    for (int i = 0; i < inputs; ++i) {
      const float weight = head.weight[static_cast<size_t>(i % head.channels) * head.classes + k];
      ones[i] = weight * (i < head.channels ? 2.0f : 4.0f);
      lowest -= weight * (i < head.channels ? 1.0f : 2.0f);
    }
    float* out = head.out + ((image * head.height + y) * head.width) * head.classes + k;
    for (int w = 0; w < words; ++w) {
      Floats sums[vectors];
      for (int v = 0; v < vectors; ++v) sums[v] = Floats{} + lowest;
      for (int i = 0; i < inputs; ++i) {
        const uint32_t word = rows[static_cast<size_t>(i) * words + w];
        for (int v = 0; v < vectors; ++v)
          sums[v] = add_where(sums[v], word >> (v * kVectorWords), Floats{} + ones[i]);
      }
      const int columns = std::min(32, head.width - 32 * w);
      float all[32];
      for (int v = 0; v < vectors; ++v) store(all + v * kVectorWords, sums[v]);
      for (int x = 0; x < columns; ++x) out[(size_t{32} * w + x) * head.classes] = all[x];
    }
  }
}

}  // namespace
}  // namespace mbu
