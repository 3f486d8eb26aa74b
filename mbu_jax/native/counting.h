// Counting planes by carry-save adders, and comparing the counts.
//
// Part of kernels.cpp, compiled once an instruction set.
#pragma once

#include <iterator>

#include "network.h"
#include "vectors.h"

namespace mbu {
namespace {

// A number for every pixel of a vector: the lowest bits of all first.
template <int bits>
struct Counter {
  Bits bit[bits];

  [[gnu::always_inline]] inline explicit Counter(const Bits* from) {
    each<0, bits>([&](auto i) MBU_INLINE { bit[i] = from[i]; });
  }

  // Adds a carry worth 2^from, modulo 2^bits.
  template <int from>
  [[gnu::always_inline]] inline void add(Bits carry) {
    each<from, bits>([&](auto i) MBU_INLINE {
      if constexpr (i + 1 < bits) {
        carry = half_add(bit[i], carry);
      } else {
        bit[i] ^= carry;
      }
    });
  }
};

// Adds 2^level planes, each worth 2^shift, or their complements; what leaves the `level` bits from
// `shift` on is returned.
template <int level, int shift, bool complements, int bits>
[[gnu::always_inline]] inline Bits count(const char* at, const uint32_t* offsets,
                                         Counter<bits>& counter) {
  if constexpr (level == 0) {
    const Bits plane = load<Bits>(at + *offsets);
    return complements ? ~plane : plane;
  } else if constexpr (level == 1) {
    const Bits a = load<Bits>(at + offsets[0]), b = load<Bits>(at + offsets[1]);
    return full_add<complements>(counter.bit[shift], a, b);
  } else {
    constexpr int half = 1 << (level - 1);
    const Bits a = count<level - 1, shift, complements>(at, offsets, counter);
    const Bits b = count<level - 1, shift, complements>(at, offsets + half, counter);
    return full_add(counter.bit[shift + level - 1], a, b);
  }
}

// Planes that are added without a look at how many there are, as a power of two: more would only
// save a few half adders. Larger shifts are rare, and get less code.
constexpr int block_levels(int shift) { return shift < 2 ? 5 : 3; }

// Adds planes, each worth 2^shift, or their complements.
template <int shift, bool complements, int bits>
[[gnu::always_inline]] inline void add_planes(const char* at, const uint32_t* offsets, uint32_t n,
                                              Counter<bits>& counter) {
  if (!n) return;
  constexpr int levels = block_levels(shift);
  static_assert(shift + levels < bits);
  // Two blocks' carries are added before any higher bit is touched.
  Bits block{};
  for (bool second = false; n >> levels; n -= 1 << levels, offsets += 1 << levels) {
    const Bits part = count<levels, shift, complements>(at, offsets, counter);
    if (second) {
      counter.template add<shift + levels + 1>(full_add(counter.bit[shift + levels], block, part));
      block = Bits{};
    } else {
      block = part;
    }
    second = !second;
  }
  // The rest is a sum of powers of two, whose carries join the next larger one.
  Bits carry{};
  each<0, levels>([&](auto level) MBU_INLINE {
    Bits& bit = counter.bit[shift + level];
    if (n >> level & 1) {
      const Bits part = count<level, shift, complements>(at, offsets, counter);
      carry = full_add(bit, part, carry);
      offsets += 1 << level;
    } else {
      carry = half_add(bit, carry);
    }
  });
  counter.template add<shift + levels + 1>(full_add(counter.bit[shift + levels], block, carry));
}

// Adds an output's planes to what a counter holds.
template <int bits>
[[gnu::always_inline]] inline void add_all(const Weights& weights, const Output& output,
                                           const char* at, Counter<bits>& counter) {
  const uint32_t* offsets = weights.offsets.data();
  each<0, kMaxShifts>([&](auto shift) MBU_INLINE {
    const auto [begin, end] = output.negative[shift];
    add_planes<shift, true>(at, offsets + begin, end - begin, counter);
  });
  each<0, kMaxShifts>([&](auto shift) MBU_INLINE {
    const auto [begin, end] = output.positive[shift];
    add_planes<shift, false>(at, offsets + begin, end - begin, counter);
  });
}

// All ones, or none.
Bits spread(bool bit) { return Bits{} - static_cast<uint32_t>(bit); }

void spread_bits_of(int64_t number, int bits, Bits* out) {
  for (int i = 0; i < bits; ++i) out[i] = spread(number >> i & 1);
}

// counter >= least, bit by bit from the lowest; `below` is the complement of least.
template <int bits>
[[gnu::always_inline]] inline Bits at_least(const Counter<bits>& counter, const Bits* below) {
  Bits passed = spread(true);
  each<0, bits>([&](auto i) MBU_INLINE { passed = majority(passed, counter.bit[i], below[i]); });
  return passed;
}

// One output at `vectors` vectors, beginning at `base`: its codes, [planes][vectors], or where
// there are no thresholds its counters, [vectors][bits]. Counters start from `sums`, if there are
// any.
template <int bits>
void compute(const Weights& weights, const Output& output, int thresholds, const char* base,
             const Bits* sums, int vectors, Bits* out) {
  Bits start[bits], below[3][bits];
  spread_bits_of(output.start, bits, start);
  // Passed where the first bit is set: nothing is to be compared.
  const bool first = thresholds == 1 && output.least[0] == int64_t{1} << (bits - 1);
  for (int t = 0; t < thresholds && !first; ++t) spread_bits_of(~output.least[t], bits, below[t]);
  const Bits inverted = spread(output.inverted);
  for (int v = 0; v < vectors; ++v) {
    Counter<bits> counter(sums ? sums + static_cast<size_t>(v) * bits : start);
    add_all(weights, output, base + v * kVectorBytes, counter);
    if (first) {
      out[v] = counter.bit[bits - 1] ^ inverted;
    } else if (thresholds == 1) {
      out[v] = at_least(counter, below[0]) ^ inverted;
    } else if (thresholds) {
      const Bits middle = at_least(counter, below[1]);
      out[v] = at_least(counter, below[0]) ^ middle ^ at_least(counter, below[2]) ^ inverted;
      out[vectors + v] = middle ^ inverted;
    } else {
      each<0, bits>([&](auto i)
                        MBU_INLINE { out[static_cast<size_t>(v) * bits + i] = counter.bit[i]; });
    }
  }
}

// Calls f with the number of bits as a constant.
template <int i = 0, typename F>
[[gnu::always_inline]] inline void with_bits(int bits, const F& f) {
  if (bits == kCounterBits[i]) {
    f(std::integral_constant<int, kCounterBits[i]>());
  } else if constexpr (i + 1 < std::size(kCounterBits)) {
    with_bits<i + 1>(bits, f);
  }
}

}  // namespace
}  // namespace mbu
