// The operations as XLA calls them: checks of every shape, threads, and lists of non-zeros that are
// kept from call to call.

#include "xla/ffi/api/ffi.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "crew.h"
#include "network.h"
#include "weights.h"

namespace ffi = xla::ffi;

namespace mbu {
namespace {

using Words = ffi::Buffer<ffi::U32>;

ffi::Error out_of_memory() {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
}

ffi::Error run_tasks(ffi::ThreadPool& pool, int64_t n, const std::function<void(int64_t)>& task) {
  static Crew& crew = *new Crew;  // outlives threads that still look at it when the process ends
  const auto schedule = [&](auto help) { pool.Schedule(std::move(help)); };
  bool done = false;
  try {
    done = crew.run(pool.num_threads(), schedule, n, task);
  } catch (const std::bad_alloc&) {
  }
  return done ? ffi::Error::Success() : out_of_memory();
}

ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument(what); }

template <typename Buffer>
bool has_shape(Buffer& buffer, std::initializer_list<int64_t> shape) {
  const auto dims = buffer.dimensions();
  return dims.size() == shape.size() && std::equal(shape.begin(), shape.end(), dims.begin());
}

// Whether twice a size, rounded up to whole words of pixels, is an int, too.
bool fits(std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes) {
    if (size < 0 || size > (INT32_MAX - 31) / 2) return false;
  }
  return true;
}

int64_t words_of(int64_t width) { return (width + 31) / 32; }

// Lists of one convolution, with the planes that they were made from.
struct Lists {
  std::vector<uint32_t> planes;
  std::vector<int32_t> theta;
  Weights weights;

  bool are_of(std::initializer_list<Words*> now, ffi::Buffer<ffi::S32>& now_theta) const {
    if (std::memcmp(theta.data(), now_theta.typed_data(), now_theta.size_bytes())) return false;
    size_t at = 0;
    for (Words* part : now) {
      const size_t n = part->element_count();
      if (n && std::memcmp(planes.data() + at, part->typed_data(), n * 4)) return false;
      at += n;
    }
    return true;
  }
};

// Of one call of a compiled program, whose arrays always have the same shapes. Networks of equal
// shapes, such as the members of an ensemble, may share a program and call it in turn.
struct ConvState {
  static constexpr size_t kKept = 8;
  static ffi::TypeId id;
  std::mutex mutex;
  std::vector<std::shared_ptr<const Lists>> recent;  // the last used first
  // Which lists make room for new ones is left to chance: where more than kKept networks take
  // turns, the oldest are needed next; were the newest dropped, stale ones would stay for ever.
  std::minstd_rand random;
};
ffi::TypeId ConvState::id = {};
std::atomic<int64_t> lists_made{0};

ffi::ErrorOr<std::unique_ptr<ConvState>> make_state() { return std::make_unique<ConvState>(); }

ffi::Error run_conv_or_throw(ffi::ThreadPool pool, ConvState* state, Words first, Words second,
                             Words positive, Words negative, Words exponent,
                             ffi::Buffer<ffi::S32> theta, ffi::Result<Words> out, int64_t width,
                             bool transposed) {
  if (first.dimensions().size() != 5 || second.dimensions().size() != 5 ||
      positive.dimensions().size() != 4 || theta.dimensions().size() != 2) {
    return wrong("a convolution's arrays have other ranks");
  }
  const auto x = first.dimensions(), y = second.dimensions(), w = positive.dimensions();
  const int64_t images = x[0], planes = x[1], height = x[3], words = words_of(width);
  const int64_t side = transposed ? 2 : 3, outputs = w[2], thresholds = theta.dimensions()[0];
  const int64_t weight_words = words_of(x[2]) + words_of(y[2]);
  const int64_t scale = transposed ? 2 : 1;
  if (!fits({images, planes, x[2], y[2], height, width, outputs}) || width < 1 || planes < 1 ||
      planes > 2 || thresholds != (1 << planes) - 1 ||
      !has_shape(first, {images, planes, x[2], height, words}) ||
      !has_shape(second, {images, planes, y[2], height, words}) ||
      !has_shape(positive, {side, side, outputs, weight_words}) ||
      !has_shape(theta, {thresholds, outputs}) ||
      (negative.element_count() && negative.element_count() != positive.element_count()) ||
      (exponent.element_count() && (exponent.element_count() != 2 * positive.element_count() ||
                                    negative.element_count() == 0)) ||
      !has_shape(*out, {images, planes, outputs, scale * height, words_of(scale * width)})) {
    return wrong("a convolution's arrays do not fit each other");
  }
  if (out->element_count() == 0) return ffi::Error::Success();
  const Kernels& kernels = best_kernels();
  std::shared_ptr<const Lists> lists;
  {
    const std::lock_guard<std::mutex> lock(state->mutex);
    auto& recent = state->recent;
    const auto found = std::find_if(recent.begin(), recent.end(), [&](const auto& kept) {
      return kept->are_of({&positive, &negative, &exponent}, theta);
    });
    if (found != recent.end()) {
      std::rotate(recent.begin(), found, found + 1);
    } else {
      auto made = std::make_shared<Lists>();
      for (Words* part : {&positive, &negative, &exponent}) {
        made->planes.insert(made->planes.end(), part->typed_data(),
                            part->typed_data() + part->element_count());
      }
      made->theta.assign(theta.typed_data(), theta.typed_data() + theta.element_count());
      const PackedConv packed = {positive.typed_data(),
                                 negative.element_count() ? negative.typed_data() : nullptr,
                                 exponent.element_count() ? exponent.typed_data() : nullptr,
                                 theta.typed_data(),
                                 static_cast<int>(side),
                                 static_cast<int>(outputs),
                                 static_cast<int>(weight_words),
                                 static_cast<int>(thresholds),
                                 {static_cast<int>(x[2]), static_cast<int>(y[2])},
                                 transposed};
      const Tile tile =
          plan_tile(static_cast<int>(height), static_cast<int>(width), transposed ? 1 : 3,
                    static_cast<int>(planes), x[2] + y[2], kernels.vector_bytes / 4);
      const std::string problem =
          tile.side ? list_nonzeros(packed, tile, made->weights) : "too many input channels";
      if (!problem.empty()) return wrong(problem);
      if (recent.size() == ConvState::kKept)
        recent.erase(recent.begin() + state->random() % ConvState::kKept);
      recent.insert(recent.begin(), made);
      ++lists_made;
    }
    lists = recent.front();
  }
  static std::atomic<uint64_t> calls{0};
  Conv conv = {{first.typed_data(), second.typed_data()},
               {static_cast<int>(x[2]), static_cast<int>(y[2])},
               static_cast<int>(images),
               &lists->weights,
               out->typed_data(),
               static_cast<int>(outputs),
               1,
               ++calls};
  // Sharing out the outputs of a tile costs its copies once more: only where threads would idle.
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  while (threads > 1 && conv.parts * 16 <= outputs && kernels.conv_tasks(conv) < 4 * threads)
    conv.parts *= 2;
  return run_tasks(pool, kernels.conv_tasks(conv), [&](int64_t task) {
    (transposed ? kernels.up_conv : kernels.conv)(conv, task);
  });
}

ffi::Error run_conv(ffi::ThreadPool pool, ConvState* state, Words first, Words second,
                    Words positive, Words negative, Words exponent, ffi::Buffer<ffi::S32> theta,
                    ffi::Result<Words> out, int64_t width, bool transposed) {
  try {
    return run_conv_or_throw(pool, state, first, second, positive, negative, exponent, theta, out,
                             width, transposed);
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
}

ffi::Error run_stem(ffi::ThreadPool threads, ffi::Buffer<ffi::U8> x, ffi::Buffer<ffi::S16> weight,
                    ffi::Buffer<ffi::S32> theta, ffi::Result<Words> out) {
  const auto d = x.dimensions(), w = weight.dimensions(), t = theta.dimensions();
  if (d.size() != 4 || w.size() != 4 || t.size() != 2 || !fits({d[0], d[1], d[2], w[3]}) ||
      d[3] < 1 || d[3] > kMaxStemChannels || (t[0] != 1 && t[0] != 3) ||
      !has_shape(weight, {3, 3, d[3], w[3]}) || !has_shape(theta, {t[0], w[3]}) ||
      !has_shape(*out, {d[0], t[0] == 1 ? 1 : 2, w[3], d[1], words_of(d[2])})) {
    return wrong("a stem's arrays do not fit each other");
  }
  if (out->element_count() == 0) return ffi::Error::Success();
  const Stem stem = {x.typed_data(),         weight.typed_data(),    theta.typed_data(),
                     static_cast<int>(d[0]), static_cast<int>(d[1]), static_cast<int>(d[2]),
                     static_cast<int>(d[3]), static_cast<int>(w[3]), t[0] == 1 ? 1 : 2,
                     out->typed_data()};
  const Kernels& kernels = best_kernels();
  return run_tasks(threads, d[0] * ((d[1] + kStemRows - 1) / kStemRows),
                   [&](int64_t task) { kernels.stem(stem, task); });
}

ffi::Error run_pool(ffi::ThreadPool threads, Words x, ffi::Result<Words> out, int64_t width) {
  const auto d = x.dimensions();
  if (d.size() != 5 || !fits({d[0], d[1], d[2], d[3], width}) || d[1] < 1 || d[1] > 2 || d[3] % 2 ||
      width % 2 || !has_shape(x, {d[0], d[1], d[2], d[3], words_of(width)}) ||
      !has_shape(*out, {d[0], d[1], d[2], d[3] / 2, words_of(width / 2)})) {
    return wrong("a pool's arrays do not fit each other");
  }
  const Pool pool = {x.typed_data(),         static_cast<int>(d[0]), static_cast<int>(d[1]),
                     static_cast<int>(d[2]), static_cast<int>(d[3]), static_cast<int>(width),
                     out->typed_data()};
  const Kernels& kernels = best_kernels();
  return run_tasks(threads, d[0] * d[2], [&](int64_t task) { kernels.pool(pool, task); });
}

ffi::Error run_head(ffi::ThreadPool threads, Words x, ffi::Buffer<ffi::F32> weight,
                    ffi::Buffer<ffi::F32> bias, ffi::Result<ffi::Buffer<ffi::F32>> out,
                    int64_t width) {
  const auto d = x.dimensions(), w = weight.dimensions();
  if (d.size() != 5 || w.size() != 2 || !fits({d[0], d[1], d[2], d[3], width, w[1]}) || d[1] < 1 ||
      d[1] > 2 || !has_shape(x, {d[0], d[1], d[2], d[3], words_of(width)}) || w[0] != d[2] ||
      !has_shape(bias, {w[1]}) || !has_shape(*out, {d[0], d[3], width, w[1]})) {
    return wrong("a head's arrays do not fit each other");
  }
  if (out->element_count() == 0) return ffi::Error::Success();
  const Head head = {x.typed_data(),         weight.typed_data(),     bias.typed_data(),
                     static_cast<int>(d[0]), static_cast<int>(d[1]),  static_cast<int>(d[2]),
                     static_cast<int>(d[3]), static_cast<int>(width), static_cast<int>(w[1]),
                     out->typed_data()};
  const Kernels& kernels = best_kernels();
  return run_tasks(threads, d[0] * d[3], [&](int64_t task) { kernels.head(head, task); });
}

}  // namespace
}  // namespace mbu

#pragma GCC visibility push(default)
extern "C" {

XLA_FFI_TypeId* mbu_conv_state_id() { return &mbu::ConvState::id; }
const XLA_FFI_TypeInfo* mbu_conv_state_info() {
  static const XLA_FFI_TypeInfo info = ffi::MakeTypeInfo<mbu::ConvState>();
  return &info;
}
const char* mbu_instructions() { return mbu::best_kernels().name; }
int64_t mbu_vector_bytes() { return mbu::best_kernels().vector_bytes; }
int64_t mbu_lists_made() { return mbu::lists_made; }  // for tests: do calls keep them?
uint32_t mbu_add_only(int64_t rounds) { return mbu::best_kernels().add_only(rounds); }
uint32_t mbu_read_only(const void* memory, int64_t vectors, int64_t rounds) {
  return mbu::best_kernels().read_only(memory, vectors, rounds);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(mbu_conv_instantiate, mbu::make_state, ffi::Ffi::BindInstantiate());
XLA_FFI_DEFINE_HANDLER_SYMBOL(mbu_conv, mbu::run_conv,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Ctx<ffi::State<mbu::ConvState>>()
                                  .Arg<mbu::Words>()
                                  .Arg<mbu::Words>()
                                  .Arg<mbu::Words>()
                                  .Arg<mbu::Words>()
                                  .Arg<mbu::Words>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<mbu::Words>()
                                  .Attr<int64_t>("width")
                                  .Attr<bool>("transposed"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mbu_stem, mbu::run_stem,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::S16>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<mbu::Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    mbu_pool, mbu::run_pool,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<mbu::Words>().Ret<mbu::Words>().Attr<int64_t>(
        "width"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mbu_head, mbu::run_head,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<mbu::Words>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("width"));

}  // extern "C"
#pragma GCC visibility pop
