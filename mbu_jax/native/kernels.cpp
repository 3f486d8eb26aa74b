// The kernels, compiled once an instruction set; MBU_ISA names the one.

#include <algorithm>
#include <utility>
#include <vector>

#include "network.h"
#include "vectors.h"

#define MBU_NAME2(prefix, isa) prefix##isa
#define MBU_NAME(prefix, isa) MBU_NAME2(prefix, isa)
#define MBU_TEXT2(text) #text
#define MBU_TEXT(text) MBU_TEXT2(text)

namespace mbu {
namespace {

// --- scratch memory: the rows of a tile, with their halo, in horizontally shifted copies

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
  const int vectors = tile.row_vectors(), inside = std::min(tile.columns, tile.words - left);
  line[0] = line[vectors + 1] = Bits{};
  for (int v = inside / across; v < vectors; ++v) line[1 + v] = Bits{};
  auto* words = reinterpret_cast<uint32_t*>(line + 1);
  for (int group = 0; group < kVectorWords / across; ++group, words += across) {
    const int y = top + group * tile.rows_each + i;
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
          const uint32_t* in = conv.segment[s] + index * tile.height * tile.words;
          fill_plane<across>(in, tile, top, left, lines.data(), out);
        }
      }
    }
  });
}

// --- counting

// The lowest bits of a counter, in registers.
struct Low {
  Bits bit0, bit1, bit2, bit3, bit4;

  explicit Low(const Bits* counter)
      : bit0(counter[0]), bit1(counter[1]), bit2(counter[2]), bit3(counter[3]), bit4(counter[4]) {}

  void put(Bits* counter, Bits complement) const {
    counter[0] = bit0 ^ complement, counter[1] = bit1 ^ complement, counter[2] = bit2 ^ complement;
    counter[3] = bit3 ^ complement, counter[4] = bit4 ^ complement;
  }

  template <int i>
  Bits& bit() {
    if constexpr (i == 0) return bit0;
    if constexpr (i == 1) return bit1;
    if constexpr (i == 2) return bit2;
    if constexpr (i == 3) return bit3;
    if constexpr (i == 4) return bit4;
  }
};

// Consumes 2^level planes into the counter's low `level` bits; the carry is worth 2^level.
template <int level>
[[gnu::always_inline]] inline Bits count(const char* base, const uint32_t* offsets, Low& low) {
  if constexpr (level == 0) {
    return load<Bits>(base + *offsets);
  } else {
    const Bits a = count<level - 1>(base, offsets, low);
    const Bits b = count<level - 1>(base, offsets + (1 << (level - 1)), low);
    return full_add(low.bit<level - 1>(), a, b);
  }
}

// The last planes, fewer than 2^kLowBits: a binary decomposition, each carry joining the next part.
template <int number, int level = 0>
[[gnu::always_inline]] inline Bits count_rest(const char* base, const uint32_t* offsets, Low& low,
                                              Bits carry) {
  if constexpr (level == kLowBits) {
    return carry;
  } else {
    constexpr bool carried = (number & ((1 << level) - 1)) != 0;
    if constexpr (number >> level & 1) {
      const Bits part = count<level>(base, offsets, low);
      Bits& bit = low.bit<level>();
      carry = carried ? full_add(bit, part, carry) : half_add(bit, part);
      offsets += 1 << level;
    } else if constexpr (carried) {
      carry = half_add(low.bit<level>(), carry);
    }
    return count_rest<number, level + 1>(base, offsets, low, carry);
  }
}

// All ones, or none.
Bits spread(bool bit) { return Bits{} - static_cast<uint32_t>(bit); }

// A counter for every vector of a tile: [vectors][bits].
struct Counters {
  Bits* memory;
  int vectors, bits;

  Bits* of(int vector) const { return memory + static_cast<size_t>(vector) * bits; }
};

// Where counters come from: their own memory, another's, or one constant for all vectors.
struct Source {
  const Bits* memory;
  int stride;
};

// Adds `number` planes at all vectors of the tile, so that their cache lines are fetched once, and
// complements the counters where `complement` is all ones.
template <int number>
void add_block(const char* base, const uint32_t* offsets, Source source, Counters counters,
               int shift, Bits complement) {
  for (int v = 0; v < counters.vectors; ++v) {
    const Bits* from = source.memory + static_cast<size_t>(v) * source.stride;
    Bits* to = counters.of(v);
    for (int i = 0; i < shift; ++i) to[i] = from[i] ^ complement;
    Low low(from + shift);
    Bits carry = count_rest<number>(base + v * kVectorBytes, offsets, low, Bits{});
    low.put(to + shift, complement);
    for (int i = shift + kLowBits; i < counters.bits; ++i) {
      const Bits bit = from[i];
      to[i] = bit ^ carry ^ complement;
      carry &= bit;
    }
  }
}

constexpr int kBlock = (1 << kLowBits) - 1;

template <int... number>
void add_block(int n, const char* base, const uint32_t* offsets, Source source, Counters counters,
               int shift, Bits complement, std::integer_sequence<int, number...>) {
  using Function = void (*)(const char*, const uint32_t*, Source, Counters, int, Bits);
  static constexpr Function table[] = {add_block<number>...};
  table[n](base, offsets, source, counters, shift, complement);
}

// Adds the planes listed to the counters, which come from `source` once.
void add_planes(const char* base, const uint32_t* offsets, size_t n, Source& source,
                Counters counters, int shift, bool complement) {
  do {
    const int number = static_cast<int>(std::min<size_t>(n, kBlock));
    n -= number;
    add_block(number, base, offsets, source, counters, shift, spread(complement && n == 0),
              std::make_integer_sequence<int, kBlock + 1>());
    offsets += number;
    source = {counters.memory, counters.bits};
  } while (n);
}

// counter >= least, bit by bit from the lowest.
Bits at_least(const Bits* counter, int64_t least, int bits) {
  if (least == int64_t{1} << (bits - 1)) return counter[bits - 1];
  if (least >> bits) return Bits{};  // never
  Bits passed = spread(true);
  for (int i = 0; i < bits; ++i) {
    passed = least >> i & 1 ? passed & counter[i] : passed | counter[i];
  }
  return passed;
}

void add_all(const Weights& weights, const Range (&ranges)[kMaxShifts], const char* base,
             Source& source, Counters counters, bool complement) {
  int last = kMaxShifts - 1;
  while (last > 0 && ranges[last].begin == ranges[last].end) --last;
  for (int shift = 0; shift <= last; ++shift) {
    const auto [begin, end] = ranges[shift];
    const bool complements = complement && shift == last;
    if (begin == end && !complements) continue;
    add_planes(base, weights.offsets.data() + begin, end - begin, source, counters, shift,
               complements);
  }
}

// One output at all vectors of a tile; codes is [planes][vectors].
void compute(const Weights& weights, const Output& output, const char* base, const Bits* sums,
             Counters counters, Bits* codes) {
  const int bits = counters.bits = output.bits, vectors = counters.vectors;
  Bits constant[kMaxBits];
  Source source = {sums, bits};
  if (!sums) {
    for (int i = 0; i < bits; ++i) constant[i] = spread(output.start >> i & 1);
    source = {constant, 0};
  }
  add_all(weights, output.first, base, source, counters, output.complement);
  add_all(weights, output.second, base, source, counters, false);
  for (int v = 0; v < vectors; ++v) {
    const Bits* counter = source.memory + static_cast<size_t>(v) * source.stride;
    Bits passed[3];
    for (int t = 0; t < weights.thresholds; ++t)
      passed[t] = at_least(counter, output.least[t], bits);
    if (weights.thresholds == 1) {
      codes[v] = passed[0];
    } else {
      codes[v] = passed[0] ^ passed[1] ^ passed[2];
      codes[vectors + v] = passed[1];
    }
  }
}

// half - 1 - S at every vector of the tile, S the sum over all inputs.
void add_inputs(const Weights& weights, const char* base, Counters sums) {
  const Bits zero[kMaxBits] = {};
  Source source = {zero, 0};
  const int planes = weights.tile.planes;
  for (int plane = 0; plane < planes; ++plane) {
    const auto& all = weights.all_inputs[plane];
    add_planes(base, all.data(), all.size(), source, sums, plane, plane == planes - 1);
  }
  for (int v = 0; v < sums.vectors; ++v) sums.of(v)[sums.bits - 1] = ~sums.of(v)[sums.bits - 1];
}

// --- operations

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
  std::vector<Bits> planes, counters, sums, codes;
  std::vector<uint32_t> words;
};

// One task of a convolution: some outputs of a tile of an image.
struct Job {
  Job(const Conv& conv, int64_t task, int results)
      : weights(*conv.weights), tile(weights.tile), outputs(conv.out_channels) {
    const int part = static_cast<int>(task % conv.parts);
    task /= conv.parts;
    left = static_cast<int>(task % tile.tiles_across()) * tile.columns;
    task /= tile.tiles_across();
    top = static_cast<int>(task % tile.tiles_down()) * tile.rows();
    image = static_cast<int>(task / tile.tiles_down());
    rows = std::min(tile.rows(), tile.height - top);
    columns = std::min(tile.columns, tile.words - left);
    first = static_cast<int>(int64_t{conv.out_channels} * part / conv.parts);
    last = static_cast<int>(int64_t{conv.out_channels} * (part + 1) / conv.parts);

    thread_local Workspace workspace;
    workspace.planes.resize(tile.scratch_vectors());
    base = reinterpret_cast<const char*>(workspace.planes.data());
    fill_scratch(conv, tile, image, top, left, workspace.planes.data());
    workspace.counters.resize(static_cast<size_t>(tile.vectors()) * kMaxBits);
    counters = {workspace.counters.data(), tile.vectors(), 0};
    workspace.codes.resize(static_cast<size_t>(results) * tile.planes * tile.vectors());
    codes = workspace.codes.data();
    const size_t words = static_cast<size_t>(tile.rows()) * tile.columns;
    workspace.words.resize(2 * words);
    even = workspace.words.data(), odd = even + words;
    if (weights.from_sum) {
      workspace.sums.resize(static_cast<size_t>(tile.vectors()) * weights.sum_bits);
      sums = workspace.sums.data();
      add_inputs(weights, base, {workspace.sums.data(), tile.vectors(), weights.sum_bits});
    }
  }

  void run(size_t output, int result) const {
    Bits* at = codes + static_cast<size_t>(result) * tile.planes * tile.vectors();
    compute(weights, weights.outputs[output], base, sums, counters, at);
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
  Counters counters;
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

// Bit i of the word to bit 2 i.
uint64_t spread_bits(uint64_t word) {
  word = (word | word << 16) & 0x0000ffff0000ffff;
  word = (word | word << 8) & 0x00ff00ff00ff00ff;
  word = (word | word << 4) & 0x0f0f0f0f0f0f0f0f;
  word = (word | word << 2) & 0x3333333333333333;
  return (word | word << 1) & 0x5555555555555555;
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
  word &= 0x5555555555555555;
  word = (word | word >> 1) & 0x3333333333333333;
  word = (word | word >> 2) & 0x0f0f0f0f0f0f0f0f;
  word = (word | word >> 4) & 0x00ff00ff00ff00ff;
  word = (word | word >> 8) & 0x0000ffff0000ffff;
  return static_cast<uint32_t>(word | word >> 16);
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

// --- the stem: 3x3 sums of an image's levels, as numerators from -255 to 255, in integers

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

// One word of several outputs: the sums of 32 pixels, compared with each threshold. Two vectors of
// sums an output and four outputs are what registers hold and keep the multipliers busy.
template <int outputs>
[[gnu::always_inline]] inline void stem_word(const uint32_t* pairs, const uint32_t* weights, int n,
                                             size_t columns, const int32_t* theta, int thresholds,
                                             int all_outputs, uint32_t (&passed)[outputs][3]) {
  constexpr int pixels = 2 * kVectorWords;
  for (int k = 0; k < outputs; ++k) passed[k][0] = passed[k][1] = passed[k][2] = 0;
  for (int x = 0; x < 32; x += pixels) {
    Bits low[outputs], high[outputs];
    for (int k = 0; k < outputs; ++k) low[k] = high[k] = Bits{};
    for (int i = 0; i < n; ++i) {
      const Bits first = load<Bits>(pairs + i * columns + x);
      const Bits second = load<Bits>(pairs + i * columns + x + kVectorWords);
      for (int k = 0; k < outputs; ++k) {
        const Bits weight = Bits{} + weights[k * n + i];
        low[k] = add_products(low[k], first, weight);
        high[k] = add_products(high[k], second, weight);
      }
    }
    for (int k = 0; k < outputs; ++k) {
      for (int t = 0; t < thresholds; ++t) {
        const Bits least = Bits{} + static_cast<uint32_t>(theta[t * all_outputs + k]);
        passed[k][t] |=
            (lanes_at_least(low[k], least) | lanes_at_least(high[k], least) << kVectorWords) << x;
      }
    }
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
      for (int w = 0; w < words; ++w) {
        uint32_t passed[outputs][3];
        stem_word<outputs>(&workspace.pairs[size_t{32} * w],
                           &workspace.weights[static_cast<size_t>(k) * n], n, columns,
                           stem.theta + k, thresholds, stem.outputs, passed);
        for (int j = 0; j < outputs; ++j) {
          for (int plane = 0; plane < stem.planes; ++plane) {
            // Passed thresholds are nested: the higher bit of their number is the middle one.
            const uint32_t* p = passed[j];
            const uint32_t code = stem.planes == 1 ? p[0] : plane ? p[1] : p[0] ^ p[1] ^ p[2];
            const size_t index =
                (static_cast<size_t>(image) * stem.planes + plane) * stem.outputs + k + j;
            stem.out[(index * stem.height + y) * words + w] = w == words - 1 ? code & valid : code;
          }
        }
      }
    };
    int k = 0;
    for (; k + 4 <= stem.outputs; k += 4) write(k, std::integral_constant<int, 4>());
    for (; k < stem.outputs; ++k) write(k, std::integral_constant<int, 1>());
  }
}

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

// One task is one row of one image. Sums are exact in any order: weights lie on a grid.
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

extern const Kernels MBU_NAME(kernels_, MBU_ISA);  // const alone would be internal
const Kernels MBU_NAME(kernels_, MBU_ISA) = {
    MBU_TEXT(MBU_ISA), kVectorBytes, stem, conv_tasks, conv, up_conv, pool, head,
};

}  // namespace mbu
