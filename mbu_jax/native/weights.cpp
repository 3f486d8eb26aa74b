#include "weights.h"

#include <algorithm>
#include <bit>

namespace mbu {
namespace {

int bit_length(uint64_t value) { return 64 - std::countl_zero(value); }

int64_t halve_up(int64_t value) { return (value + 1) >> 1; }

// The non-zeros of one output: where each lies, and by how much its magnitude shifts.
struct NonZero {
  uint32_t channel;
  uint16_t tap, shift;
};

class Lister {
 public:
  Lister(const PackedConv& conv, const Tile& tile, Weights& weights)
      : conv_(conv), tile_(tile), weights_(weights) {}

  std::string run() {
    const int taps = conv_.side * conv_.side;
    weights_ = {};
    weights_.tile = tile_;
    weights_.thresholds = conv_.thresholds;
    weights_.from_sum = conv_.negative == nullptr;
    const int64_t levels = (1 << tile_.planes) - 1, inputs = int64_t{taps} * tile_.channels;
    if (levels * 8 * inputs >= INT32_MAX) return "too many input channels";
    if (weights_.from_sum) list_all_inputs(conv_.transposed ? 1 : taps);
    // A transposed convolution's taps make outputs of their own.
    const int own = conv_.transposed ? taps : 1, shared = conv_.transposed ? 1 : taps;
    weights_.outputs.reserve(static_cast<size_t>(own) * conv_.outputs);
    for (int tap = 0; tap < own; ++tap) {
      for (int output = 0; output < conv_.outputs; ++output) {
        if (std::string wrong = collect(tap, shared, output); !wrong.empty()) return wrong;
        weights_.outputs.push_back(list_one(output));
        if (weights_.offsets.size() > UINT32_MAX) return "too many weights that are not 0";
      }
    }
    return "";
  }

 private:
  uint32_t word(const uint32_t* plane, int tap, int output, int n) const {
    return plane[(static_cast<size_t>(tap) * conv_.outputs + output) * conv_.words + n];
  }

  uint32_t offset(int channel, int plane, int tap) const {
    const int64_t bytes = int64_t{4} * tile_.words_across * tile_.rows_across;
    return static_cast<uint32_t>(tile_.offset(channel, plane, tap) * bytes);
  }

  // Sorts one output's weights into positive_ and negative_.
  std::string collect(int first_tap, int taps, int output) {
    positive_.clear();
    negative_.clear();
    const size_t planes =
        static_cast<size_t>(conv_.side) * conv_.side * conv_.outputs * conv_.words;
    int n = 0;
    for (int channel = 0, segment = 0; segment < kMaxSegments; ++segment) {
      for (int left = conv_.segment_channels[segment]; left > 0; left -= 32, ++n) {
        const uint32_t valid = left >= 32 ? ~0u : (1u << left) - 1;
        for (int t = 0; t < taps; ++t) {
          const int tap = first_tap + t;
          const uint32_t p = word(conv_.positive, tap, output, n);
          const uint32_t q = conv_.negative ? word(conv_.negative, tap, output, n) : ~p & valid;
          if ((p | q) & ~valid) return "weights have bits set beyond a segment";
          if (p & q) return "weights are positive and negative at once";
          uint32_t e[2] = {0, 0};
          if (conv_.exponent) {
            for (int i = 0; i < 2; ++i) e[i] = word(conv_.exponent + i * planes, tap, output, n);
            if (e[0] & e[1]) return "weights have exponent 3";
          }
          for (uint32_t rest = p | q; rest; rest &= rest - 1) {
            const int bit = std::countr_zero(rest);
            const int shift = (e[0] >> bit & 1) + 2 * (e[1] >> bit & 1);
            (p >> bit & 1 ? positive_ : negative_)
                .push_back({static_cast<uint32_t>(channel + bit), static_cast<uint16_t>(t),
                            static_cast<uint16_t>(shift)});
          }
        }
        channel += std::min(left, 32);
      }
    }
    return "";
  }

  static int64_t total(const std::vector<NonZero>& list) {
    int64_t sum = 0;
    for (const NonZero& weight : list) sum += int64_t{1} << weight.shift;
    return sum;
  }

  // Bits of a counter that holds sums up to `most`, either side of its half.
  static int counter_bits(int64_t most) {
    const int least = bit_length(static_cast<uint64_t>(most) + 1) + 1;
    return *std::ranges::lower_bound(kCounterBits, least);
  }

  // Lists weights, `more` powers of two larger than they are.
  void append(const std::vector<NonZero>& list, int more, Range (&ranges)[kMaxShifts]) {
    for (int shift = 0; shift < kMaxShifts; ++shift) {
      const auto begin = static_cast<uint32_t>(weights_.offsets.size());
      for (int plane = 0; plane < tile_.planes; ++plane) {
        for (const NonZero& weight : list) {
          if (plane + weight.shift + more == shift) {
            weights_.offsets.push_back(offset(weight.channel, plane, weight.tap));
          }
        }
      }
      ranges[shift] = {begin, static_cast<uint32_t>(weights_.offsets.size())};
    }
  }

  // half - 1 - S, S the sum over all inputs: half - 1 - all levels + the complements' sum.
  void list_all_inputs(int taps) {
    std::vector<NonZero> all;
    for (int channel = 0; channel < tile_.channels; ++channel) {
      for (int tap = 0; tap < taps; ++tap)
        all.push_back({static_cast<uint32_t>(channel), static_cast<uint16_t>(tap), 0});
    }
    Output& sum = weights_.sum;
    const int64_t levels = (1 << tile_.planes) - 1,
                  most = levels * static_cast<int64_t>(all.size());
    sum.bits = counter_bits(most);
    sum.start = (int64_t{1} << (sum.bits - 1)) - 1 - most;
    append(all, 0, sum.negative);
  }

  // With codes q and levels a = 2 q - L, a.w >= theta is w.q >= (theta + L sum(w)) / 2.
  Output list_one(int output) {
    const int64_t levels = (1 << tile_.planes) - 1;
    const int64_t up = total(positive_), down = total(negative_), most = levels * (up + down);
    Output result = {};
    result.bits = weights_.from_sum ? weights_.sum.bits : counter_bits(most);
    const int64_t half = int64_t{1} << (result.bits - 1);
    int64_t least[3];
    for (int t = 0; t < conv_.thresholds; ++t) {
      const int64_t theta = conv_.theta[static_cast<size_t>(t) * conv_.outputs + output];
      // Beyond these it is always passed, or never. Within them the thresholds below have no more
      // bits than the counter, whose half is more than most + 1.
      least[t] =
          std::clamp(halve_up(theta + levels * (up - down)), -levels * down, levels * up + 1);
    }
    if (weights_.from_sum) {
      // Count the rarer sign twice: w.q = 2 P - S = S - 2 N, S the sum over all inputs. Counters
      // start at half - 1 - S, and S - 2 N >= least where half - 1 - S + 2 N < half - least.
      result.inverted = negative_.size() < positive_.size();
      append(result.inverted ? negative_ : positive_, 1, result.positive);
      for (int t = 0; t < conv_.thresholds; ++t)
        result.least[t] = result.inverted ? half - least[t] : half - 1 + least[t];
      return result;
    }
    // Every complement adds its level less the input. The first threshold is passed where the top
    // bit is set.
    result.start = half - least[0] - levels * down;
    append(negative_, 0, result.negative);
    append(positive_, 0, result.positive);
    for (int t = 0; t < conv_.thresholds; ++t) result.least[t] = half + least[t] - least[0];
    return result;
  }

  const PackedConv& conv_;
  const Tile& tile_;
  Weights& weights_;
  std::vector<NonZero> positive_, negative_;
};

}  // namespace

Tile plan_tile(int height, int width, int side, int planes, int64_t channels, int vector_words) {
  constexpr int64_t scratch_bytes = 384 << 10, most_vectors = 32;
  Tile tile = {};
  tile.height = height, tile.width = width, tile.words = (width + 31) / 32;
  tile.side = side, tile.planes = planes;
  tile.words_across = vector_words;
  while (tile.words % tile.words_across) tile.words_across /= 2;
  tile.rows_across = vector_words / tile.words_across;
  const int64_t copies = channels * planes * side;
  if (copies * side * vector_words * 4 > INT32_MAX) return {};
  tile.channels = static_cast<int>(channels);
  const auto fits = [&] {
    return tile.vectors() <= most_vectors &&
           tile.scratch_vectors() * vector_words * 4 <= scratch_bytes;
  };
  tile.rows_each = 1, tile.columns = tile.words_across;
  // As wide as the image where that fits, then as high: rows are contiguous.
  const int least = tile.columns;
  for (tile.columns = tile.words; tile.columns > least && !fits();) tile.columns -= least;
  const int highest = (height + tile.rows_across - 1) / tile.rows_across;
  while (tile.rows_each < highest) {
    ++tile.rows_each;
    if (!fits()) {
      --tile.rows_each;
      break;
    }
  }
  return tile;
}

std::string list_nonzeros(const PackedConv& conv, const Tile& tile, Weights& weights) {
  return Lister(conv, tile, weights).run();
}

}  // namespace mbu
