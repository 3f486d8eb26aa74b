// Both convolutions: fill scratch memory, count, write planes.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "counting.h"
#include "interleaving.h"
#include "network.h"
#include "scratch.h"

namespace mbu {
namespace {

int64_t conv_tasks(const Conv& conv) {
  const Tile& tile = conv.weights->tile;
  return int64_t{conv.images} * tile.tiles_down() * tile.tiles_across() * conv.parts;
}

void clear_beyond(uint32_t* rows, int number, int words, int width) {
  if (width % 32 == 0) return;
  const uint32_t valid = (1u << width % 32) - 1;
  for (int r = 0; r < number; ++r) rows[static_cast<size_t>(r + 1) * words - 1] &= valid;
}

// A thread's memory for one tile.
struct Workspace {
  std::vector<Bits> planes, sums, codes;
  std::vector<uint32_t> words;
  uint64_t call = 0;  // whose tile the planes and sums are of
  int64_t place = 0;
};

// One task of a convolution: some outputs of a tile of an image.
struct Job {
  Job(const Conv& conv, int64_t task, int results)
      : weights(*conv.weights), tile(weights.tile), outputs(conv.out_channels) {
    const int part = static_cast<int>(task % conv.parts);
    task /= conv.parts;
    const int64_t place = task;
    left = static_cast<int>(task % tile.tiles_across()) * tile.columns;
    task /= tile.tiles_across();
    top = static_cast<int>(task % tile.tiles_down()) * tile.rows();
    image = static_cast<int>(task / tile.tiles_down());
    rows = std::min(tile.rows(), tile.height - top);
    columns = std::min(tile.columns, tile.words - left);
    first = static_cast<int>(int64_t{conv.out_channels} * part / conv.parts);
    last = static_cast<int>(int64_t{conv.out_channels} * (part + 1) / conv.parts);

    thread_local Workspace workspace;
    const bool filled = workspace.call == conv.call && workspace.place == place;
    workspace.call = 0;  // in case memory runs out
    workspace.planes.resize(tile.scratch_vectors());
    base = reinterpret_cast<const char*>(workspace.planes.data());
    if (!filled) fill_scratch(conv, tile, image, top, left, workspace.planes.data());
    workspace.codes.resize(static_cast<size_t>(results) * tile.planes * tile.vectors());
    codes = workspace.codes.data();
    const size_t words = static_cast<size_t>(tile.rows()) * tile.columns;
    workspace.words.resize(2 * words);
    even = workspace.words.data(), odd = even + words;
    if (weights.from_sum) {
      with_bits(weights.sum.bits, [&]<int bits>(std::integral_constant<int, bits>) {
        workspace.sums.resize(static_cast<size_t>(tile.vectors()) * bits);
        sums = workspace.sums.data();
        if (!filled)
          compute<bits>(weights, weights.sum, 0, base, nullptr, tile.vectors(),
                        workspace.sums.data());
      });
    }
    workspace.call = conv.call, workspace.place = place;
  }

  void run(size_t number, int result) const {
    const Output& output = weights.outputs[number];
    Bits* at = codes + static_cast<size_t>(result) * tile.planes * tile.vectors();
    with_bits(output.bits, [&]<int bits>(std::integral_constant<int, bits>) {
      compute<bits>(weights, output, weights.thresholds, base, sums, tile.vectors(), at);
    });
  }

  // Number of an output's plane among all those of the result.
  size_t plane_index(int output, int plane) const {
    return (static_cast<size_t>(image) * tile.planes + plane) * outputs + output;
  }

  // Whether the tile holds the ends of rows, which no other may touch.
  bool last_columns() const { return left + columns == tile.words; }

  // Writes a result's plane in the order of the image, its rows `stride` words apart.
  void put(int result, int plane, uint32_t* out, size_t stride) const {
    const auto* words = reinterpret_cast<const uint32_t*>(
        codes + static_cast<size_t>(result * tile.planes + plane) * tile.vectors());
    with_words_across(tile.words_across, [&]<int across>(std::integral_constant<int, across>) {
      const int vectors = columns / across;
      for (int i = 0; i < tile.rows_each; ++i) {
        for (int v = 0; v < vectors; ++v) {
          const uint32_t* from =
              words + static_cast<size_t>(i * tile.row_vectors() + v) * kVectorWords;
          for (int row = i; row < rows; row += tile.rows_each, from += across)
            std::memcpy(out + row * stride + v * across, from, 4 * across);
        }
      }
    });
  }

  const Weights& weights;
  const Tile& tile;
  const int outputs;                    // of the whole convolution
  int image, top, left, rows, columns;  // of the image, in pixels down and words across
  int first, last;                      // outputs
  const char* base;
  Bits* codes;
  uint32_t *even, *odd;  // rows of a result's columns, for those who interleave them
  const Bits* sums = nullptr;
};

void conv(const Conv& conv, int64_t task) {
  const Job job(conv, task, 1);
  const Tile& tile = job.tile;
  for (int output = job.first; output < job.last; ++output) {
    job.run(output, 0);
    for (int plane = 0; plane < tile.planes; ++plane) {
      const size_t index = job.plane_index(output, plane);
      uint32_t* out = conv.out + (index * tile.height + job.top) * tile.words;
      job.put(0, plane, out + job.left, tile.words);
      if (job.last_columns()) clear_beyond(out, job.rows, tile.words, tile.width);
    }
  }
}

void up_conv(const Conv& conv, int64_t task) {
  const Job job(conv, task, 2);
  const Tile& tile = job.tile;
  const int out_words = (2 * tile.width + 31) / 32;
  const int words = std::min(2 * job.columns, out_words - 2 * job.left);
  for (int output = job.first; output < job.last; ++output) {
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j)
        job.run(static_cast<size_t>(2 * i + j) * conv.out_channels + output, j);
      for (int plane = 0; plane < tile.planes; ++plane) {
        const size_t index = job.plane_index(output, plane);
        uint32_t* out = conv.out + (index * 2 * tile.height + 2 * job.top + i) * out_words;
        job.put(0, plane, job.even, tile.columns);
        job.put(1, plane, job.odd, tile.columns);
        for (int row = 0; row < job.rows; ++row) {
          interleave(job.even + row * tile.columns, job.odd + row * tile.columns, words,
                     out + 2 * static_cast<size_t>(row) * out_words + 2 * job.left);
        }
      }
    }
    for (int plane = 0; job.last_columns() && plane < tile.planes; ++plane) {
      const size_t index = job.plane_index(output, plane);
      clear_beyond(conv.out + (index * 2 * tile.height + 2 * job.top) * out_words, 2 * job.rows,
                   out_words, 2 * tile.width);
    }
  }
}

}  // namespace
}  // namespace mbu
