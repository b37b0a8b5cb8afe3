// A ranking that one block does by itself, digit by digit: small ones, and those whose sample misled.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

// Ranks rows[first] to rows[last - 1] digit by digit and writes their masks and counts. One block.
template <class Rank>
__device__ void select_alone(const Row* rows, int first, int last, long long keep, bool magnitude, unsigned long long* counts) {
  using Bits = typename Numbers<Rank>::Bits;
  constexpr int kDigits = sizeof(Rank), kAhead = 8;
  __shared__ unsigned long long bins[256];
  __shared__ long long left, scratch[32];
  __shared__ Bits prefix;
  __shared__ int chosen;
  if (threadIdx.x == 0) {
    left = keep;
    prefix = 0;
  }
  bool none = keep == 0;
  for (int d = 0; d < kDigits && !none; ++d) {
    const int shift = 8 * (kDigits - 1 - d);
    for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    const Bits wanted = prefix;
    for (int r = first; r < last; ++r) {
      const Row row = rows[r];
      for (int64_t base = threadIdx.x; base < row.n; base += int64_t{kAhead} * blockDim.x) {
        Rank ranks[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const int64_t i = base + int64_t{j} * blockDim.x;
          ranks[j] = i < row.n ? rank_at<Rank>(row, i, magnitude) : kDead<Rank>;
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const Bits bits = biased(ranks[j]);
          if (ranks[j] != kDead<Rank> && (d == 0 || bits >> (shift + 8) == wanted)) atomicAdd(bins + (bits >> shift & 255), 1ull);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      long long living = 0;
      if (d == 0) {
        for (int b = 0; b < 256; ++b) living += static_cast<long long>(bins[b]);
        left = min(left, living);
      }
      int b = 255;
      while (b > 0 && static_cast<long long>(bins[b]) < left) left -= static_cast<long long>(bins[b--]);
      prefix = prefix << 8 | static_cast<Bits>(b);
      chosen = left > 0;
    }
    __syncthreads();
    none = chosen == 0;  // nothing is alive
  }
  const Rank threshold = none ? Numbers<Rank>::kMax : unbiased<Rank>(prefix);
  long long quota = none ? 0 : left;
  for (int r = first; r < last; ++r) {
    const Row row = rows[r];
    long long kept = 0;
    for (int64_t base = 0; base < row.n; base += blockDim.x) {
      const int64_t i = base + threadIdx.x;
      const Rank rank = i < row.n ? rank_at<Rank>(row, i, magnitude) : kDead<Rank>;
      const bool tie = rank == threshold && rank != kDead<Rank>;
      bool keeps = rank > threshold;
      if (__syncthreads_or(tie && quota > 0)) {
        long long total;
        const long long before = block_before(static_cast<long long>(tie), scratch, total);
        keeps = keeps || (tie && before < quota);
        quota -= min(quota, total);
      }
      if (i < row.n) row.mask[i] = keeps;
      kept += keeps;
    }
    kept = block_sum(kept, scratch);
    if (threadIdx.x == 0) counts[r] = static_cast<unsigned long long>(kept);
  }
}

constexpr int kAloneRows = kArgumentBytes / 24;

struct Alone {
  int first, last;
  long long keep;
  bool wide;
};
struct Alones {
  Alone groups[kAloneRows];
};

__global__ void __launch_bounds__(kWide) alone_kernel(const __grid_constant__ Alones alones, const Row* rows, bool magnitude, unsigned long long* counts) {
  const Alone& group = alones.groups[blockIdx.x];
  if (group.wide)
    select_alone<int64_t>(rows, group.first, group.last, group.keep, magnitude, counts);
  else
    select_alone<int32_t>(rows, group.first, group.last, group.keep, magnitude, counts);
}

}  // namespace
}  // namespace prune
