// Sharing tasks out among threads, XLA's as a rule.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace mbu {

// Tasks 0 to n, which any number of threads work off together.
class SharedTasks {
 public:
  SharedTasks(int64_t n, const std::function<void(int64_t)>& task) : n_(n), task_(task) {}

  void work() {
    for (int64_t i; (i = next_.fetch_add(1)) < n_;) {
      try {
        if (!failed_) task_(i);
      } catch (...) {
        failed_ = true;
      }
      if (done_.fetch_add(1) + 1 == n_) done_.notify_all();
    }
  }

  // Whether a task has not been begun.
  bool left() const { return next_ < n_; }

  bool done() const { return done_ == n_; }

  // Waits for the tasks that others have begun.
  void wait() const {
    for (int64_t done; (done = done_.load()) < n_;) done_.wait(done);
  }

  bool failed() const { return failed_; }

 private:
  const int64_t n_;
  const std::function<void(int64_t)> task_;
  std::atomic<int64_t> next_{0}, done_{0};
  std::atomic<bool> failed_{false};
};

// Threads that help with one call after another. Waking one takes as long as a small convolution,
// so one with nothing left to do looks out for the next call before it goes.
class Crew {
 public:
  // Runs tasks 0 to n on this thread and on others, `threads` in all, which `schedule` finds; tells
  // whether none threw. It never waits for a thread that has not begun, so that calls on several
  // devices, each holding a thread of the same pool, cannot lock.
  template <typename Schedule>
  bool run(int64_t threads, const Schedule& schedule, int64_t n,
           const std::function<void(int64_t)>& task) {
    const auto tasks = std::make_shared<SharedTasks>(n, task);
    const int64_t helpers = std::min(threads, n) - 1;
    if (helpers > 0) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        latest_ = tasks;
        ++calls_;
      }
      try {
        for (int64_t i = looking_; i < helpers; ++i) schedule([this, tasks] { help(tasks); });
      } catch (...) {  // for want of memory: this thread does what is left
      }
    }
    tasks->work();
    const auto end = Clock::now() + kPatience;
    while (!tasks->done() && Clock::now() < end) relax();
    tasks->wait();
    return !tasks->failed();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kPatience{200};

  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  void help(std::shared_ptr<SharedTasks> tasks) {
    tasks->work();
    ++looking_;
    uint64_t seen = 0;
    for (auto end = Clock::now() + kPatience; Clock::now() < end; relax()) {
      if (calls_ == seen) continue;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        tasks = latest_;
        seen = calls_;
      }
      if (!tasks->left()) continue;
      --looking_;
      tasks->work();
      ++looking_;
      end = Clock::now() + kPatience;
    }
    --looking_;
  }

  std::mutex mutex_;
  std::shared_ptr<SharedTasks> latest_;  // of calls_ with more than one thread
  std::atomic<uint64_t> calls_{0};
  std::atomic<int64_t> looking_{0};  // helpers without work
};

}  // namespace mbu
