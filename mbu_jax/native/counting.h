// Counting planes by carry-save adders, and comparing the counts.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <algorithm>
#include <utility>

#include "network.h"
#include "vectors.h"

namespace mbu {
namespace {

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

}  // namespace
}  // namespace mbu
