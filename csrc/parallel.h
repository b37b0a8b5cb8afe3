// Work shared among torch's threads: units are taken in order from a counter, so that a slow core holds nobody up.
// What a unit computes may depend on the unit only, never on the thread that took it.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace prune {

template <class Work>
void share(int64_t units, int64_t threads, const Work& work) {  // work(unit, thread), 0 <= thread < threads
  if (threads <= 1 || units <= 1) {
    for (int64_t unit = 0; unit < units; ++unit) work(unit, int64_t{0});
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t unit = next++; unit < units; unit = next++) work(unit, thread);
  });
}

inline int64_t threads_for(int64_t elements, int64_t at_least_each) {
  const int64_t most = torch::stable::get_num_threads();
  return std::clamp<int64_t>(elements / at_least_each, 1, most);
}

}  // namespace prune
