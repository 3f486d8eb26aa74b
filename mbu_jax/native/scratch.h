// The rows of a tile in scratch memory, with their halo, in horizontally shifted copies.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "network.h"
#include "vectors.h"

namespace mbu {
namespace {

// Calls f with the tile's words_across as a constant, so that copies of so many words are moves.
template <int most = kVectorWords, typename F>
void with_words_across(int across, const F& f) {
  if (across == most) {
    f(std::integral_constant<int, most>());
  } else if constexpr (most > 1) {
    with_words_across<most / 2>(across, f);
  }
}

// Every word's left neighbour: in the same vector, but for the first words of a row's part of it,
// whose neighbours lie in the vector before.
template <int across, int... i>
[[gnu::always_inline]] inline Bits left_words(Bits before, Bits at,
                                              std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(before, at,
                                 (i % across ? kVectorWords + i - 1 : i + across - 1)...);
}

// The same to the right.
template <int across, int... i>
[[gnu::always_inline]] inline Bits right_words(Bits at, Bits after,
                                               std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(
      at, after, (i % across < across - 1 ? i + 1 : kVectorWords + i - across + 1)...);
}

// Gathers the words of all rows that vectors number i of a plane hold, with a vector of the words
// beyond the tile before and after.
template <int across>
[[gnu::always_inline]] inline void gather(const uint32_t* plane, const Tile& tile, int top,
                                          int left, int i, Bits* line) {
  constexpr int groups = kVectorWords / across;
  const int vectors = tile.row_vectors(), inside = std::min(tile.columns, tile.words - left);
  const int first = top + i, last = first + (groups - 1) * tile.rows_each;
  line[0] = line[vectors + 1] = Bits{};
  auto* words = reinterpret_cast<uint32_t*>(line + 1);
  if (inside == tile.words && first >= 0 && last < tile.height) {
    // Whole rows, none beyond the image: most are.
    const size_t step = static_cast<size_t>(tile.rows_each) * tile.words;
    const uint32_t* row = plane + static_cast<size_t>(first) * tile.words;
    for (int v = 0; v < vectors; ++v, words += kVectorWords, row += across) {
      for (int group = 0; group < groups; ++group)
        std::memcpy(words + group * across, row + group * step, 4 * across);
    }
    return;
  }
  for (int v = inside / across; v < vectors; ++v) line[1 + v] = Bits{};
  for (int y = first; y <= last; y += tile.rows_each, words += across) {
    if (y < 0 || y >= tile.height) {
      for (int v = 0; v < vectors; ++v) std::memset(words + v * kVectorWords, 0, 4 * across);
      continue;
    }
    const uint32_t* row = plane + static_cast<size_t>(y) * tile.words + left;
    for (int v = 0; v * across < inside; ++v)
      std::memcpy(words + v * kVectorWords, row + v * across, 4 * across);
    if (left) words[across - 1 - kVectorWords] = row[-1];
    if (left + inside < tile.words) words[vectors * kVectorWords] = row[inside];
  }
}

// Fills scratch memory with a plane of the tile and its shifted copies.
template <int across>
void fill_plane(const uint32_t* in, const Tile& tile, int top, int left, Bits* lines, Bits* out) {
  constexpr auto kWords = std::make_integer_sequence<int, kVectorWords>();
  const int halo = tile.side / 2, vectors = tile.row_vectors(), number = tile.rows_each + 2 * halo;
  // All are gathered before any is read: vectors made of words just written would wait for them.
  for (int i = 0; i < number; ++i)
    gather<across>(in, tile, top, left, i - halo, lines + i * (vectors + 2));
  Bits *to = out, *middle = out + tile.plane_vectors(), *right = middle + tile.plane_vectors();
  for (int i = 0; i < number; ++i, lines += vectors + 2) {
    if (tile.side == 1) {
      for (int v = 0; v < vectors; ++v) *to++ = lines[1 + v];
      continue;
    }
    for (int v = 1; v <= vectors; ++v) {
      const Bits at = lines[v];
      *to++ = at << 1 | left_words<across>(lines[v - 1], at, kWords) >> 31;
      *middle++ = at;
      *right++ = at >> 1 | right_words<across>(at, lines[v + 1], kWords) << 31;
    }
  }
}

void fill_scratch(const Conv& conv, const Tile& tile, int image, int top, int left, Bits* out) {
  thread_local std::vector<Bits> lines;
  lines.resize(static_cast<size_t>(tile.rows_each + 2) * (tile.row_vectors() + 2));
  with_words_across(tile.words_across, [&]<int across>(std::integral_constant<int, across>) {
    for (int s = 0; s < kMaxSegments; ++s) {
      const int channels = conv.segment_channels[s];
      for (int channel = 0; channel < channels; ++channel) {
        for (int plane = 0; plane < tile.planes; ++plane, out += tile.side * tile.plane_vectors()) {
          const size_t index =
              (static_cast<size_t>(image) * tile.planes + plane) * channels + channel;
          const size_t plane_words = static_cast<size_t>(tile.height) * tile.words;
          const uint32_t* in = conv.segment[s] + index * plane_words;
          // The next plane lies too far away for the processor to foresee.
          if (channel + 1 < channels) {
            const size_t from = static_cast<size_t>(top) * tile.words, most = plane_words - from;
            const size_t next = std::min(most, static_cast<size_t>(tile.rows()) * tile.words);
            for (size_t i = 0; i < next; i += 16) __builtin_prefetch(in + plane_words + from + i);
          }
          fill_plane<across>(in, tile, top, left, lines.data(), out);
        }
      }
    }
  });
}

}  // namespace
}  // namespace mbu
