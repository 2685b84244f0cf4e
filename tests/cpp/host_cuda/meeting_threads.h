// The threads of a block that meet, at barriers and in shuffles: each has a stack of its own, and
// runs until it meets the others. All of a block must meet at the same places.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

class MeetingThreads {
 public:
  /// Runs the body for each thread of a block, whose number is in `current` whenever it runs. With
  /// `backwards`, the last one comes first.
  void run(unsigned threads, bool backwards, unsigned& current, const std::function<void()>& body) {
    body_ = &body;
    current_ = &current;
    threads_.resize(threads);
    for (Thread& thread : threads_) {
      if (!thread.stack) thread.stack.reset(new char[kStack]);
      thread.done = false;
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = &scheduler_;
      makecontext(&thread.context, begin, 0);
    }
    active_ = this;
    for (unsigned done = 0; done == 0;) {
      any_ = next_any_;
      next_any_ = false;
      place_ = nullptr;
      for (unsigned i = 0; i < threads; ++i) {
        current = backwards ? threads - 1 - i : i;
        swapcontext(&scheduler_, &threads_[current].context);
        done += threads_[current].done;
      }
      if (done != 0 && done != threads) fail("some threads end where others meet");
      parity_ = !parity_;
    }
    active_ = nullptr;
  }

  /// Waits for all threads; `place` names what waits. Whether any has said `here`.
  static bool meet(const char* place, bool here = false) {
    MeetingThreads& self = *active_;
    if (self.place_ && self.place_ != place) fail("threads meet at different places");
    self.place_ = place;
    self.next_any_ = self.next_any_ || here;
    swapcontext(&self.threads_[*self.current_].context, &self.scheduler_);
    return self.any_;
  }

  /// Waits for all threads, and gives what the thread whose number is this one's ^ mask brought.
  template <class V>
  static V exchange(V value, unsigned mask) {
    static_assert(sizeof(V) <= sizeof(uint64_t));
    MeetingThreads& self = *active_;
    const unsigned thread = *self.current_;
    const bool parity = self.parity_;
    std::memcpy(&self.threads_[thread].brought[parity], &value, sizeof(V));
    meet("shuffle");
    // Two threads of a warp differ in the last five bits; and the next exchange writes elsewhere.
    if (mask >= 32 || (thread ^ mask) >= self.threads_.size()) fail("a shuffle leaves the warp");
    std::memcpy(&value, &self.threads_[thread ^ mask].brought[parity], sizeof(V));
    return value;
  }

 private:
  static constexpr size_t kStack = 1 << 16;
  struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
    uint64_t brought[2];
  };

  [[noreturn]] static void fail(const char* what) {
    std::printf("%s\n", what);
    std::exit(1);
  }
  static void begin() {
    MeetingThreads& self = *active_;
    const unsigned thread = *self.current_;
    (*self.body_)();
    self.threads_[thread].done = true;
  }

  static inline MeetingThreads* active_ = nullptr;
  std::vector<Thread> threads_;
  ucontext_t scheduler_;
  const std::function<void()>* body_ = nullptr;
  const char* place_ = nullptr;
  unsigned* current_ = nullptr;
  bool any_ = false, next_any_ = false, parity_ = false;
};
