// The kernels against loops that read every bit by its definition, on buffers of their exact size.
//
// Built with sanitizers by sanitize.sh; takes a seed and a number of threads. Prints what differs
// and exits 1, or how much was compared.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "crew.h"
#include "network.h"
#include "weights.h"

namespace mbu {
extern const Kernels kernels_portable;
extern const Kernels kernels_avx2 __attribute__((weak));
extern const Kernels kernels_avx512 __attribute__((weak));
extern const Kernels kernels_avx512vnni __attribute__((weak));
}  // namespace mbu

namespace {

using namespace mbu;

std::mt19937 rng;
int64_t compared = 0;
int threads = 1;
uint64_t calls = 0;  // of convolutions

// Helpers have their work shared out as in a process with XLA, on threads of this one.
void run_tasks(int64_t tasks, const std::function<void(int64_t)>& run) {
  static Crew crew;
  static std::vector<std::jthread> helpers;  // those of earlier calls may still look out for more
  const auto schedule = [&](auto help) { helpers.emplace_back(help); };
  std::vector<std::atomic<int>> times(tasks);
  const bool whole = crew.run(threads, schedule, tasks, [&](int64_t task) {
    ++times[task];
    run(task);
  });
  const bool once = std::all_of(times.begin(), times.end(), [](const auto& n) { return n == 1; });
  if (!whole || !once) {
    std::fprintf(stderr, "tasks were left out, or done twice\n");
    std::exit(1);
  }
}

int draw(int least, int most) { return least + static_cast<int>(rng() % (most - least + 1)); }
bool chance(double share) { return rng() < share * 4294967296.0; }
int words_of(int bits) { return (bits + 31) / 32; }

// Memory of exactly this many elements, so that the sanitizer sees one beyond.
template <typename T>
struct Exact {
  explicit Exact(size_t n, T fill = {}) : size(n), memory(new T[n]) {
    std::fill_n(memory.get(), n, fill);
  }
  T& operator[](size_t i) { return memory[i]; }
  const T& operator[](size_t i) const { return memory[i]; }
  T* data() const { return memory.get(); }
  size_t size;
  std::unique_ptr<T[]> memory;
};

enum Kind { kBinary, kMasked, kPow2 };

struct Case {
  const char* name;
  int images, planes, first, second, outputs, height, width;
  Kind kind;
  double density;
  bool transposed;
  int parts;
};

std::string text(const Case& c) {
  char line[200];
  std::snprintf(line, sizeof line, "%s: B%d P%d C%d+%d K%d %dx%d kind %d density %g %s parts %d",
                c.name, c.images, c.planes, c.first, c.second, c.outputs, c.height, c.width, c.kind,
                c.density, c.transposed ? "transposed" : "3x3", c.parts);
  return line;
}

[[noreturn]] void fail(const Kernels& kernels, const std::string& where, const std::string& what) {
  std::fprintf(stderr, "%s kernels, %s: %s\n", kernels.name, where.c_str(), what.c_str());
  std::exit(1);
}

// Random codes [images][channels][height][width] and their planes.
struct Activations {
  Activations(int images, int planes, int channels, int height, int width)
      : planes(planes),
        channels(channels),
        height(height),
        width(width),
        words(words_of(width)),
        codes(static_cast<size_t>(images) * channels * height * width),
        bits(static_cast<size_t>(images) * planes * channels * height * words) {
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = draw(0, (1 << planes) - 1);
      const size_t x = i % width, y = i / width % height, c = i / width / height % channels;
      const size_t image = i / width / height / channels;
      for (int p = 0; p < planes; ++p) {
        if (codes[i] >> p & 1)
          bits[(((image * planes + p) * channels + c) * height + y) * words + x / 32] |= 1u
                                                                                         << x % 32;
      }
    }
  }
  int code(int image, int channel, int y, int x) const {
    return codes[((static_cast<size_t>(image) * channels + channel) * height + y) * width + x];
  }
  int planes, channels, height, width, words;
  std::vector<uint8_t> codes;
  Exact<uint32_t> bits;
};

struct Layer {
  explicit Layer(const Case& c)
      : side(c.transposed ? 2 : 3),
        inputs(c.first + c.second),
        words(words_of(c.first) + words_of(c.second)),
        weights(static_cast<size_t>(side) * side * c.outputs * inputs),
        positive(static_cast<size_t>(side) * side * c.outputs * words),
        negative(positive.size),
        exponent(2 * positive.size),
        theta(static_cast<size_t>((1 << c.planes) - 1) * c.outputs) {
    for (int tap = 0; tap < side * side; ++tap) {
      for (int k = 0; k < c.outputs; ++k) {
        for (int i = 0; i < inputs; ++i) {
          if (c.kind != kBinary && !chance(c.density)) continue;
          const int shift = c.kind == kPow2 ? draw(0, 2) : 0;
          const bool plus = chance(k % 3 == 0 ? 0.1 : k % 3 == 1 ? 0.9 : 0.5);
          weights[(static_cast<size_t>(tap) * c.outputs + k) * inputs + i] =
              (plus ? 1 : -1) * (1 << shift);
          const int word = i < c.first ? i / 32 : words_of(c.first) + (i - c.first) / 32;
          const uint32_t bit = 1u << (i < c.first ? i : i - c.first) % 32;
          const size_t at = (static_cast<size_t>(tap) * c.outputs + k) * words + word;
          (plus ? positive : negative)[at] |= bit;
          if (shift) exponent[(shift - 1) * positive.size + at] |= bit;
        }
      }
    }
  }
  int weight(int tap, int output, int channel, int outputs) const {
    return weights[(static_cast<size_t>(tap) * outputs + output) * inputs + channel];
  }
  PackedConv packed(const Case& c) const {
    return {positive.data(),
            c.kind == kBinary ? nullptr : negative.data(),
            c.kind == kPow2 ? exponent.data() : nullptr,
            theta.data(),
            side,
            c.outputs,
            words,
            (1 << c.planes) - 1,
            {c.first, c.second},
            c.transposed};
  }
  int side, inputs, words;
  std::vector<int> weights;
  Exact<uint32_t> positive, negative, exponent;
  Exact<int32_t> theta;
};

// Sums a.w as [image][output][row][column], by the definition.
std::vector<int> sums_of(const Case& c, const Activations& x, const Activations& y,
                         const Layer& layer) {
  const int scale = c.transposed ? 2 : 1, lowest = 1 - (1 << c.planes);
  const auto level = [&](int image, int channel, int row, int column) {
    if (row < 0 || row >= c.height || column < 0 || column >= c.width) return lowest;
    return lowest + 2 * (channel < c.first ? x.code(image, channel, row, column)
                                           : y.code(image, channel - c.first, row, column));
  };
  std::vector<int> sums;
  for (int image = 0; image < c.images; ++image) {
    for (int k = 0; k < c.outputs; ++k) {
      for (int row = 0; row < scale * c.height; ++row) {
        for (int column = 0; column < scale * c.width; ++column) {
          int sum = 0;
          for (int channel = 0; channel < layer.inputs; ++channel) {
            if (c.transposed) {
              const int tap = row % 2 * 2 + column % 2;
              sum += level(image, channel, row / 2, column / 2) *
                     layer.weight(tap, k, channel, c.outputs);
              continue;
            }
            for (int tap = 0; tap < 9; ++tap) {
              if (const int w = layer.weight(tap, k, channel, c.outputs)) {
                sum += w * level(image, channel, row + tap / 3 - 1, column + tap % 3 - 1);
              }
            }
          }
          sums.push_back(sum);
        }
      }
    }
  }
  return sums;
}

// Thresholds at sums that occur, beside them, all equal, and at the ends of their range.
void draw_thresholds(const Case& c, const std::vector<int>& sums, Layer& layer) {
  const int thresholds = (1 << c.planes) - 1;
  const size_t pixels = sums.size() / c.images / c.outputs;
  for (int k = 0; k < c.outputs; ++k) {
    std::vector<int32_t> chosen;
    for (int t = 0; t < thresholds; ++t) {
      const int seen = sums[static_cast<size_t>(k) * pixels + rng() % pixels];
      const int32_t choices[] = {seen,      seen,       seen + 1,      seen - 1,
                                 INT32_MAX, -INT32_MAX, INT32_MAX - 1, 2 - INT32_MAX};
      chosen.push_back(choices[draw(0, 7)]);
    }
    if (k % 5 == 4) std::fill(chosen.begin(), chosen.end(), chosen[0]);
    std::sort(chosen.begin(), chosen.end());
    for (int t = 0; t < thresholds; ++t)
      layer.theta[static_cast<size_t>(t) * c.outputs + k] = chosen[t];
  }
}

std::vector<uint32_t> expected_planes(const Case& c, const std::vector<int>& sums,
                                      const Layer& layer) {
  const int scale = c.transposed ? 2 : 1, height = scale * c.height, width = scale * c.width;
  const int words = words_of(width), thresholds = (1 << c.planes) - 1;
  std::vector<uint32_t> out(static_cast<size_t>(c.images) * c.planes * c.outputs * height * words);
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t column = i % width, row = i / width % height, k = i / width / height % c.outputs;
    const size_t image = i / width / height / c.outputs;
    int code = 0;
    for (int t = 0; t < thresholds; ++t) code += sums[i] >= layer.theta[t * c.outputs + k];
    for (int p = 0; p < c.planes; ++p) {
      if (code >> p & 1) {
        out[(((image * c.planes + p) * c.outputs + k) * height + row) * words + column / 32] |=
            1u << column % 32;
      }
    }
  }
  return out;
}

// Every vector that the lists lead to lies inside the scratch memory.
void check_offsets(const Kernels& kernels, const Case& c, const Tile& tile,
                   const Weights& weights) {
  const int64_t bytes = tile.scratch_vectors() * kernels.vector_bytes;
  const int64_t reach = int64_t{tile.vectors()} * kernels.vector_bytes;
  for (const uint32_t offset : weights.offsets) {
    if (offset + reach > bytes) fail(kernels, text(c), "a list leads beyond the scratch memory");
  }
}

// The lists hold what a plan counts: every plane of a weight that is not zero, or of a binary
// layer's rarer sign, and then every input once.
void check_lengths(const Kernels& kernels, const Case& c, const Layer& layer,
                   const Weights& weights) {
  const int taps = layer.side * layer.side, own = c.transposed ? taps : 1, shared = taps / own;
  size_t expected = 0, inputs = 0;
  for (int output = 0; output < own * c.outputs; ++output) {
    size_t signs[2] = {0, 0};
    for (int t = 0; t < shared; ++t) {
      for (int i = 0; i < layer.inputs; ++i) {
        const int tap = c.transposed ? output / c.outputs : t;
        const int w = layer.weight(tap, output % c.outputs, i, c.outputs);
        if (w) ++signs[w > 0];
      }
    }
    expected += c.kind == kBinary ? std::min(signs[0], signs[1]) : signs[0] + signs[1];
  }
  for (const auto& [begin, end] : weights.sum.negative) inputs += end - begin;
  const size_t all = c.kind == kBinary ? static_cast<size_t>(shared) * layer.inputs : 0;
  if (weights.offsets.size() - inputs != c.planes * expected || inputs != c.planes * all) {
    fail(kernels, text(c), "the lists have other lengths");
  }
}

void check_conv(const Kernels& kernels, const Case& c) {
  const Activations x(c.images, c.planes, c.first, c.height, c.width);
  const Activations y(c.images, c.planes, c.second, c.height, c.width);
  Layer layer(c);
  const auto sums = sums_of(c, x, y, layer);
  draw_thresholds(c, sums, layer);
  const auto expected = expected_planes(c, sums, layer);
  const Tile tile = plan_tile(c.height, c.width, c.transposed ? 1 : 3, c.planes, c.first + c.second,
                              kernels.vector_bytes / 4);
  Weights weights;
  const std::string problem = list_nonzeros(layer.packed(c), tile, weights);
  if (!problem.empty()) fail(kernels, text(c), problem);
  check_offsets(kernels, c, tile, weights);
  check_lengths(kernels, c, layer, weights);
  constexpr int64_t nobody = -1;
  std::vector<int64_t> owner(expected.size(), nobody);
  for (const uint32_t fill : {0u, ~0u}) {
    Exact<uint32_t> out(expected.size(), fill);
    const Conv conv = {{x.bits.data(), y.bits.data()},
                       {c.first, c.second},
                       c.images,
                       &weights,
                       out.data(),
                       c.outputs,
                       c.parts,
                       ++calls};
    const int64_t tasks = kernels.conv_tasks(conv);
    const auto run = c.transposed ? kernels.up_conv : kernels.conv;
    if (threads > 1) run_tasks(tasks, [&](int64_t task) { run(conv, task); });
    for (int64_t task = 0; threads == 1 && task < tasks; ++task) {
      const std::vector<uint32_t> before(out.data(), out.data() + out.size);
      run(conv, task);
      for (size_t i = 0; i < out.size; ++i) {
        if (out[i] == before[i]) continue;
        // Tasks run at once, so none may touch what another writes, not even to leave it as it is.
        if (owner[i] != nobody && owner[i] != task) {
          fail(kernels, text(c),
               "tasks " + std::to_string(owner[i]) + " and " + std::to_string(task) +
                   " write the same word, number " + std::to_string(i));
        }
        owner[i] = task;
      }
    }
    for (size_t i = 0; i < out.size; ++i, ++compared) {
      if (out[i] != expected[i]) fail(kernels, text(c), "word " + std::to_string(i) + " differs");
    }
  }
}

void check_stem(const Kernels& kernels, int images, int planes, int channels, int outputs,
                int height, int width) {
  Exact<uint8_t> x(static_cast<size_t>(images) * height * width * channels);
  for (size_t i = 0; i < x.size; ++i) x[i] = static_cast<uint8_t>(draw(0, 3) ? draw(0, 255) : 255);
  Exact<int16_t> weight(static_cast<size_t>(9) * channels * outputs);
  const int most = chance(0.3) ? INT16_MAX : 999;  // the largest lie alone, or sums would not fit
  for (size_t i = 0; i < weight.size; ++i)
    weight[i] = static_cast<int16_t>(most == 999 || chance(0.1) ? draw(-most, most) : 0);
  std::vector<int64_t> sums;  // [image][row][column][output]
  for (int image = 0; image < images; ++image) {
    for (int y = 0; y < height; ++y) {
      for (int column = 0; column < width; ++column) {
        for (int k = 0; k < outputs; ++k) {
          int64_t sum = 0;
          for (int tap = 0; tap < 9; ++tap) {
            const int row = y + tap / 3 - 1, at = column + tap % 3 - 1;
            if (row < 0 || row >= height || at < 0 || at >= width) continue;
            for (int c = 0; c < channels; ++c) {
              const size_t pixel = ((static_cast<size_t>(image) * height + row) * width + at);
              sum += (2 * x[pixel * channels + c] - 255) *
                     weight[(static_cast<size_t>(tap) * channels + c) * outputs + k];
            }
          }
          sums.push_back(sum);
        }
      }
    }
  }
  const int thresholds = (1 << planes) - 1;
  Exact<int32_t> theta(static_cast<size_t>(thresholds) * outputs);
  for (int k = 0; k < outputs; ++k) {
    std::vector<int32_t> chosen;
    for (int t = 0; t < thresholds; ++t) {
      const auto seen = static_cast<int32_t>(sums[rng() % (sums.size() / outputs) * outputs + k]);
      const int32_t choices[] = {seen, seen, seen + 1, seen - 1, INT32_MAX, -INT32_MAX};
      chosen.push_back(choices[draw(0, 5)]);
    }
    std::sort(chosen.begin(), chosen.end());
    for (int t = 0; t < thresholds; ++t) theta[static_cast<size_t>(t) * outputs + k] = chosen[t];
  }
  const int words = words_of(width);
  std::vector<uint32_t> expected(static_cast<size_t>(images) * planes * outputs * height * words);
  for (size_t i = 0; i < sums.size(); ++i) {
    const size_t k = i % outputs, column = i / outputs % width, row = i / outputs / width % height;
    const size_t image = i / outputs / width / height;
    int code = 0;
    for (int t = 0; t < thresholds; ++t) code += sums[i] >= theta[t * outputs + k];
    for (int p = 0; p < planes; ++p) {
      if (code >> p & 1)
        expected[(((image * planes + p) * outputs + k) * height + row) * words + column / 32] |=
            1u << column % 32;
    }
  }
  Exact<uint32_t> out(expected.size(), ~0u);
  const Stem stem = {x.data(), weight.data(), theta.data(), images, height,
                     width,    channels,      outputs,      planes, out.data()};
  const int64_t tasks = int64_t{images} * ((height + kStemRows - 1) / kStemRows);
  run_tasks(tasks, [&](int64_t task) { kernels.stem(stem, task); });
  for (size_t i = 0; i < out.size; ++i, ++compared) {
    if (out[i] != expected[i])
      fail(kernels, "stem " + std::to_string(width), "word " + std::to_string(i) + " differs");
  }
}

void check_pool(const Kernels& kernels, int images, int planes, int channels, int height,
                int width) {
  const Activations x(images, planes, channels, height, width);
  const int half = width / 2, words = words_of(half);
  std::vector<uint32_t> expected(static_cast<size_t>(images) * planes * channels * (height / 2) *
                                 words);
  for (int image = 0; image < images; ++image) {
    for (int c = 0; c < channels; ++c) {
      for (int row = 0; row < height / 2; ++row) {
        for (int column = 0; column < half; ++column) {
          int code = 0;
          for (int i = 0; i < 4; ++i)
            code = std::max(code, x.code(image, c, 2 * row + i / 2, 2 * column + i % 2));
          for (int p = 0; p < planes; ++p) {
            const size_t plane = (static_cast<size_t>(image) * planes + p) * channels + c;
            if (code >> p & 1)
              expected[(plane * (height / 2) + row) * words + column / 32] |= 1u << column % 32;
          }
        }
      }
    }
  }
  Exact<uint32_t> out(expected.size(), ~0u);
  const Pool pool = {x.bits.data(), images, planes, channels, height, width, out.data()};
  run_tasks(int64_t{images} * channels, [&](int64_t task) { kernels.pool(pool, task); });
  for (size_t i = 0; i < out.size; ++i, ++compared) {
    if (out[i] != expected[i])
      fail(kernels, "pool " + std::to_string(width), "word " + std::to_string(i) + " differs");
  }
}

void check_head(const Kernels& kernels, int images, int planes, int channels, int height, int width,
                int classes) {
  const Activations x(images, planes, channels, height, width);
  Exact<float> weight(static_cast<size_t>(channels) * classes), bias(classes);
  for (size_t i = 0; i < weight.size; ++i) weight[i] = draw(-999, 999) / 256.0f;
  for (size_t i = 0; i < bias.size; ++i) bias[i] = draw(-999, 999) / 256.0f;
  Exact<float> out(static_cast<size_t>(images) * height * width * classes, NAN);
  const Head head = {x.bits.data(), weight.data(), bias.data(), images,  planes,
                     channels,      height,        width,       classes, out.data()};
  run_tasks(int64_t{images} * height, [&](int64_t task) { kernels.head(head, task); });
  for (size_t i = 0; i < out.size; ++i, ++compared) {
    const int k = i % classes, column = i / classes % width, row = i / classes / width % height;
    const int image = i / classes / width / height;
    double sum = bias[k];
    for (int c = 0; c < channels; ++c) {
      sum += double{weight[static_cast<size_t>(c) * classes + k]} *
             (2 * x.code(image, c, row, column) + 1 - (1 << planes));
    }
    if (!(out[i] == sum))
      fail(kernels, "head " + std::to_string(width), "logit " + std::to_string(i) + " differs");
  }
}

// Planes that no layer has are refused in words.
void check_hostile(const Kernels& kernels) {
  const Case c = {"hostile", 1, 2, 33, 5, 3, 2, 2, kPow2, 0.5, false, 1};
  const Tile tile =
      plan_tile(c.height, c.width, 3, c.planes, c.first + c.second, kernels.vector_bytes / 4);
  const auto refuse = [&](const char* wanted, auto spoil) {
    Layer layer(c);
    const PackedConv packed = layer.packed(c);
    spoil(layer);
    Weights weights;
    const std::string found = list_nonzeros(packed, tile, weights);
    if (found.find(wanted) == std::string::npos) fail(kernels, wanted, "got '" + found + "'");
  };
  refuse("beyond a segment", [](Layer& l) { l.positive[l.words * 7 + 1] |= 1u << 1; });
  refuse("beyond a segment", [](Layer& l) { l.negative[l.words * 26 + 2] |= 1u << 31; });
  refuse("positive and negative", [](Layer& l) { l.positive[9] |= 1, l.negative[9] |= 1; });
  refuse("exponent 3", [](Layer& l) {
    l.positive[9] |= 1, l.negative[9] &= ~1u, l.exponent[9] |= 1,
        l.exponent[l.positive.size + 9] |= 1;
  });
  for (const int planes : {1, 2}) {
    if (plan_tile(8, 8, 3, planes, int64_t{1} << 30, kernels.vector_bytes / 4).side) {
      fail(kernels, "2^30 channels", "a tile was planned");
    }
  }
}

// Planes with bits flipped anywhere and any thresholds are refused, or computed with inside memory.
void check_random(const Kernels& kernels) {
  int refused = 0, taken = 0;
  for (int i = 0; i < 150; ++i) {
    const Case c = {"flipped",         1,           draw(1, 2),
                    draw(1, 70),       draw(0, 40), draw(1, 5),
                    draw(1, 5),        draw(1, 90), static_cast<Kind>(draw(0, 2)),
                    chance(0.5) * 0.3, chance(0.4), draw(1, 3)};
    Layer layer(c);
    const PackedConv packed = layer.packed(c);
    for (int flips = draw(1, 3); flips > 0; --flips) {
      Exact<uint32_t>* planes[] = {&layer.positive, &layer.negative, &layer.exponent};
      Exact<uint32_t>& chosen = *planes[draw(0, 2)];
      chosen[rng() % chosen.size] ^= 1u << draw(0, 31);
    }
    for (size_t t = 0; t < layer.theta.size; ++t) layer.theta[t] = static_cast<int32_t>(rng());
    const Tile tile = plan_tile(c.height, c.width, c.transposed ? 1 : 3, c.planes,
                                c.first + c.second, kernels.vector_bytes / 4);
    Weights weights;
    if (!list_nonzeros(packed, tile, weights).empty()) {
      ++refused;
      continue;
    }
    ++taken;
    check_offsets(kernels, c, tile, weights);
    const Activations x(1, c.planes, c.first, c.height, c.width);
    const Activations y(1, c.planes, c.second, c.height, c.width);
    const int scale = c.transposed ? 2 : 1;
    Exact<uint32_t> out(static_cast<size_t>(c.planes) * c.outputs * scale * c.height *
                        words_of(scale * c.width));
    const Conv conv = {{x.bits.data(), y.bits.data()},
                       {c.first, c.second},
                       1,
                       &weights,
                       out.data(),
                       c.outputs,
                       c.parts,
                       ++calls};
    const auto run = c.transposed ? kernels.up_conv : kernels.conv;
    run_tasks(kernels.conv_tasks(conv), [&](int64_t task) { run(conv, task); });
  }
  if (refused < 10 || taken < 10) fail(kernels, "flipped bits", "hardly any refused, or taken");
}

void check(const Kernels& kernels, unsigned seed) {
  rng.seed(seed);
  const Case fixed[] = {
      {"one pixel", 1, 1, 4, 0, 2, 1, 1, kBinary, 1, false, 1},
      {"no weights", 2, 2, 33, 0, 3, 3, 33, kMasked, 0, false, 1},
      {"no channels", 1, 1, 0, 0, 2, 2, 40, kMasked, 0, false, 1},
      {"columns of one word", 1, 1, 1200, 0, 3, 4, 70, kMasked, 0.05, false, 1},
      {"columns of eight words", 1, 2, 700, 3, 5, 2, 767, kPow2, 0.01, false, 1},
      {"columns, binary", 1, 1, 300, 200, 2, 3, 1055, kBinary, 1, false, 1},
      {"columns, transposed", 1, 2, 2500, 0, 3, 3, 33, kMasked, 0.1, true, 1},
      {"columns, transposed, odd words", 1, 1, 3500, 0, 2, 2, 80, kBinary, 1, true, 1},
      {"thousands of pixels", 1, 1, 7, 0, 2, 2, 5000, kMasked, 0.5, false, 1},
      {"thousands of pixels, transposed", 1, 1, 7, 0, 2, 2, 4001, kBinary, 1, true, 1},
      {"tall", 1, 2, 3, 2, 2, 700, 5, kPow2, 0.7, false, 1},
      {"parts", 2, 1, 40, 0, 37, 5, 65, kMasked, 0.3, false, 2},
      {"parts, transposed", 1, 2, 40, 0, 70, 5, 33, kPow2, 0.3, true, 4},
      {"counters of many bits", 1, 2, 1100, 0, 4, 2, 3, kPow2, 1, false, 1},
  };
  for (const Case& c : fixed) check_conv(kernels, c);
  for (int i = 0; i < 150; ++i) {
    const double densities[] = {0, 0.02, 0.1, 0.5, 1};
    const int widths[] = {draw(1, 12), draw(13, 70), draw(71, 300)};
    const Kind kind = static_cast<Kind>(draw(0, 2));
    check_conv(kernels, {"random", draw(1, 3), draw(1, 2), draw(1, 70),
                         chance(0.5) ? 0 : draw(1, 40), draw(1, 6), draw(1, 9), widths[draw(0, 2)],
                         kind, densities[draw(0, 4)], chance(0.4), draw(1, 3)});
  }
  for (int i = 0; i < 60; ++i) {
    check_stem(kernels, draw(1, 2), draw(1, 2), draw(1, 5), draw(1, 6), draw(1, 20), draw(1, 80));
    check_pool(kernels, draw(1, 2), draw(1, 2), draw(1, 4), 2 * draw(1, 4), 2 * draw(1, 90));
    check_head(kernels, draw(1, 2), draw(1, 2), draw(1, 40), draw(1, 3), draw(1, 180), draw(1, 3));
  }
  check_hostile(kernels);
  check_random(kernels);
  std::printf("%s: as the definition in %lld numbers, threads %d\n", kernels.name,
              static_cast<long long>(compared), threads);
  compared = 0;
}

}  // namespace

int main(int count, char** arguments) {
  const unsigned seed = count > 1 ? std::strtoul(arguments[1], nullptr, 10) : 1;
  if (count > 2) threads = std::atoi(arguments[2]);
  // One call right after the other: helpers go from one to the next.
  for (int call = 0; call < 1000; ++call) run_tasks(call % 10, [](int64_t) {});
  check(mbu::kernels_portable, seed);
  if (&mbu::kernels_avx2) check(mbu::kernels_avx2, seed);
  if (&mbu::kernels_avx512) check(mbu::kernels_avx512, seed);
  if (&mbu::kernels_avx512vnni) check(mbu::kernels_avx512vnni, seed);
}
