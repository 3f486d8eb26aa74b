// The stem: 3x3 sums of an image's levels, as numerators from -255 to 255, in integers.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "network.h"
#include "vectors.h"

namespace mbu {
namespace {

// Rows top - 1 to bottom of an image as numerators, 0 outside: [rows][channels][1 + columns + 1].
void read_rows(const Stem& stem, int image, int top, int bottom, size_t stride, int16_t* out) {
  for (int y = top - 1; y <= bottom; ++y) {
    const bool inside = y >= 0 && y < stem.height;
    const uint8_t* in = stem.x + (static_cast<size_t>(image) * stem.height + (inside ? y : 0)) *
                                     stem.width * stem.channels;
    for (int c = 0; c < stem.channels; ++c, out += stride) {
      std::fill(out, out + stride, int16_t{0});
      for (int x = 0; inside && x < stem.width; ++x)
        out[1 + x] = static_cast<int16_t>(2 * in[static_cast<size_t>(x) * stem.channels + c] - 255);
    }
  }
}

struct StemWorkspace {
  std::vector<int16_t> rows;
  std::vector<uint32_t> pairs, weights;
};

// Outputs at once, which with two vectors of sums each are what registers hold: so many weights are
// read for each vector of pixels.
constexpr int kStemOutputs = kVectorBytes == 64 ? 8 : 4;

// One word of several outputs: the sums of 32 pixels, compared with each threshold.
template <int outputs>
[[gnu::always_inline]] inline void stem_word(const uint32_t* pairs, const uint32_t* weights, int n,
                                             size_t columns, const int32_t* theta, int thresholds,
                                             int all_outputs, uint32_t (&passed)[outputs][3]) {
  constexpr int pixels = 2 * kVectorWords;
  for (int k = 0; k < outputs; ++k) passed[k][0] = passed[k][1] = passed[k][2] = 0;
  for (int x = 0; x < 32; x += pixels) {
    Bits low[outputs], high[outputs];
    each<0, outputs>([&](auto k) MBU_INLINE { low[k] = high[k] = Bits{}; });
    for (int i = 0; i < n; ++i) {
      const Bits first = load<Bits>(pairs + i * columns + x);
      const Bits second = load<Bits>(pairs + i * columns + x + kVectorWords);
      each<0, outputs>([&](auto k) MBU_INLINE {
        const Bits weight = Bits{} + weights[k * n + i];
        low[k] = add_products(low[k], first, weight);
        high[k] = add_products(high[k], second, weight);
      });
    }
    each<0, outputs>([&](auto k) MBU_INLINE {
      for (int t = 0; t < thresholds; ++t) {
        const Bits least = Bits{} + static_cast<uint32_t>(theta[t * all_outputs + k]);
        passed[k][t] |=
            (lanes_at_least(low[k], least) | lanes_at_least(high[k], least) << kVectorWords) << x;
      }
    });
  }
}

// One task is kStemRows rows of one image.
void stem(const Stem& stem, int64_t task) {
  const int blocks = (stem.height + kStemRows - 1) / kStemRows;
  const int image = static_cast<int>(task / blocks);
  const int top = static_cast<int>(task % blocks) * kStemRows;
  const int bottom = std::min(top + kStemRows, stem.height);
  const int words = (stem.width + 31) / 32, terms = 9 * stem.channels, n = (terms + 1) / 2;
  const size_t columns = size_t{32} * words, stride = columns + 2;
  thread_local StemWorkspace workspace;
  workspace.rows.resize(stride * stem.channels * (bottom - top + 2));
  read_rows(stem, image, top, bottom, stride, workspace.rows.data());
  workspace.weights.assign(static_cast<size_t>(stem.outputs) * n, 0);
  for (int k = 0; k < stem.outputs; ++k) {
    for (int t = 0; t < terms; ++t) {
      const uint32_t bits = static_cast<uint16_t>(stem.weight[t * stem.outputs + k]);
      workspace.weights[static_cast<size_t>(k) * n + t / 2] |= bits << (t % 2 * 16);
    }
  }
  workspace.pairs.resize(n * columns);
  const uint32_t valid = stem.width % 32 ? (1u << stem.width % 32) - 1 : ~0u;
  for (int y = top; y < bottom; ++y) {
    const auto term = [&](int t) {  // a row of it, t in the order of the weights
      const int c = t % stem.channels, dx = t / stem.channels % 3, dy = t / stem.channels / 3;
      return workspace.rows.data() + (size_t(y - top + dy) * stem.channels + c) * stride + dx;
    };
    for (int i = 0; i < n; ++i) {
      const int16_t *low = term(2 * i), *high = term(std::min(2 * i + 1, terms - 1));
      uint32_t* pair = &workspace.pairs[i * columns];
      for (size_t x = 0; x < columns; ++x)
        pair[x] = static_cast<uint16_t>(low[x]) |
                  static_cast<uint32_t>(static_cast<uint16_t>(high[x])) << 16;
    }
    const auto write = [&]<int outputs>(int k, std::integral_constant<int, outputs>) {
      const int thresholds = (1 << stem.planes) - 1;
      uint32_t* out[2][outputs];
      for (int plane = 0; plane < stem.planes; ++plane) {
        for (int j = 0; j < outputs; ++j) {
          const size_t index =
              (static_cast<size_t>(image) * stem.planes + plane) * stem.outputs + k + j;
          out[plane][j] = stem.out + (index * stem.height + y) * words;
        }
      }
      for (int w = 0; w < words; ++w) {
        uint32_t passed[outputs][3];
        stem_word<outputs>(&workspace.pairs[size_t{32} * w],
                           &workspace.weights[static_cast<size_t>(k) * n], n, columns,
                           stem.theta + k, thresholds, stem.outputs, passed);
        const uint32_t inside = w == words - 1 ? valid : ~0u;
        for (int j = 0; j < outputs; ++j) {
          // Passed thresholds are nested: the higher bit of their number is the middle one.
          const uint32_t* p = passed[j];
          if (stem.planes == 1) {
            out[0][j][w] = p[0] & inside;
          } else {
            out[0][j][w] = (p[0] ^ p[1] ^ p[2]) & inside;
            out[1][j][w] = p[1] & inside;
          }
        }
      }
    };
    int k = 0;
    for (; k + kStemOutputs <= stem.outputs; k += kStemOutputs)
      write(k, std::integral_constant<int, kStemOutputs>());
    for (; k < stem.outputs; ++k) write(k, std::integral_constant<int, 1>());
  }
}

}  // namespace
}  // namespace mbu
