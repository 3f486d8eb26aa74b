// What the kernels work on: shapes, weights as lists of non-zeros, and one entry an operation.
//
// Activations are pixel-packed: uint32 [images, planes, channels, height, words], the pixel in
// column x at bit x % 32 of word x / 32 of its row, bits beyond the width 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mbu {

constexpr int kMaxSegments = 2;
constexpr int kCounterBits[] = {8, 9, 10, 11, 13, 16, 34};  // for which code is made
constexpr int kMaxShifts =
    4;  // at which planes enter a counter: plane + log2 of the magnitude, or plane + 1

// A part of an image that is worked on at once, and how its planes lie in scratch memory.
//
// One vector holds `words_across` neighbouring words of each of `rows_across` rows that lie
// `rows_each` apart, so that a tap above or below is the same number of whole vectors away,
// however narrow the image. A plane is [rows_each + halo][columns / words_across] vectors, with a
// copy for each horizontal tap, shifted by one pixel.
struct Tile {
  int height, width;              // of the input image, in pixels
  int words;                      // in a row of the image
  int side;                       // of the kernel: 3, or 1
  int planes, channels;           // of the input, all segments together
  int words_across, rows_across;  // their product is a vector's number of words
  int rows_each;                  // of the tile, for each of rows_across
  int columns;                    // of the tile, in words

  int rows() const { return rows_across * rows_each; }
  int row_vectors() const { return columns / words_across; }
  int vectors() const { return rows_each * row_vectors(); }
  // Planes whose distance is a multiple of many cache lines would compete for a few of its sets.
  int plane_vectors() const {
    const int used = (rows_each + side - 1) * row_vectors(), bytes = used * vector_bytes();
    return bytes % 256 ? used : used + 64 / std::min(64, vector_bytes());
  }
  int vector_bytes() const { return 4 * words_across * rows_across; }
  int64_t scratch_vectors() const { return int64_t{channels} * planes * side * plane_vectors(); }
  int tiles_down() const { return (height + rows() - 1) / rows(); }
  int tiles_across() const { return (words + columns - 1) / columns; }
  // Where a plane of a tap starts in scratch memory, in vectors.
  int64_t offset(int channel, int plane, int tap) const {
    const int dy = tap / side, dx = tap % side;
    return ((int64_t{channel} * planes + plane) * side + dx) * plane_vectors() +
           int64_t{dy} * row_vectors();
  }
};

// The largest tile whose planes stay in a core's cache. No tile, side 0, where there are too many
// channels for any.
Tile plan_tile(int height, int width, int side, int planes, int64_t channels, int vector_words);

// One output channel: count the complements of the planes listed in `negative` and the planes in
// `positive`, and compare. Lists are offsets in bytes into the scratch memory, by the counter's bit
// that they enter at.
struct Range {
  uint32_t begin, end;
};
struct Output {
  Range negative[kMaxShifts], positive[kMaxShifts];
  int64_t start;     // the counter before, unless it starts from the sum over all inputs
  int64_t least[3];  // the counter after, modulo 2^bits, that passes each threshold
  int bits;          // of the counter, one of kCounterBits
  bool inverted;     // passed where it is less
};

struct Weights {
  Tile tile;
  int thresholds;  // 1 or 3
  bool from_sum;   // counters start from the sum over all inputs (binary layers)
  Output sum;      // half - 1 - that sum, for from_sum: no thresholds
  std::vector<uint32_t> offsets;
  std::vector<Output> outputs;  // [taps that make outputs of their own][channels]
};

struct Conv {
  const uint32_t* segment[kMaxSegments];
  int segment_channels[kMaxSegments];
  int images;
  const Weights* weights;
  uint32_t* out;
  int out_channels;
  int parts;      // that the outputs of a tile are shared out in
  uint64_t call;  // differs from that of every other call: a thread knows what it has filled
};

struct Stem {
  const uint8_t* x;       // levels [images, height, width, channels]
  const int16_t* weight;  // [3, 3, channels, outputs]
  const int32_t* theta;   // [1 or 3, outputs]
  int images, height, width, channels, outputs, planes;
  uint32_t* out;
};
constexpr int kStemRows = 8;  // in one task
constexpr int kMaxStemChannels = 1 << 11;

struct Pool {
  const uint32_t* x;
  int images, planes, channels, height, width;
  uint32_t* out;
};

struct Head {
  const uint32_t* x;
  const float* weight;  // [channels, classes]
  const float* bias;    // [classes]
  int images, planes, channels, height, width, classes;
  float* out;  // [images, height, width, classes]
};

// The same functions, compiled for one instruction set; each does one of `*_tasks` parts.
struct Kernels {
  const char* name;
  int vector_bytes;
  void (*stem)(const Stem&, int64_t task);
  int64_t (*conv_tasks)(const Conv&);
  void (*conv)(const Conv&, int64_t task);
  void (*up_conv)(const Conv&, int64_t task);
  void (*pool)(const Pool&, int64_t task);
  void (*head)(const Head&, int64_t task);
  // The ceilings, see ceilings.h.
  uint32_t (*add_only)(int64_t rounds);
  uint32_t (*read_only)(const void* memory, int64_t vectors, int64_t rounds);
};

const Kernels& best_kernels();

}  // namespace mbu
