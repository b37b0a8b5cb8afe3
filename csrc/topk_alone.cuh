// A ranking that one block does by itself, digit by digit: small ones, and those whose sample misled.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

constexpr int kWide = 1024;  // threads of a block that works alone

// Counts in 32 bits, since 64-bit atomics on shared memory are loops of compare and swap. Where a bin could overflow, as
// only rankings by 64-bit ranks may be long enough for, they are added up in time.
template <class Rank>
struct Bins {
  using Count = std::conditional_t<sizeof(Rank) == 8, unsigned long long, unsigned>;
  unsigned* now;              // [kDigitBins], shared
  unsigned long long* whole;  // [kDigitBins], shared; 64-bit ranks alone

  __device__ void clear() const {
    for (int b = threadIdx.x; b < kDigitBins; b += blockDim.x) {
      now[b] = 0;
      if constexpr (sizeof(Rank) == 8) whole[b] = 0;
    }
  }
  __device__ void add_up() const {  // between two barriers
    if constexpr (sizeof(Rank) == 8) {
      for (int b = threadIdx.x; b < kDigitBins; b += blockDim.x) {
        whole[b] += now[b];
        now[b] = 0;
      }
    }
  }
  __device__ Count operator[](int b) const {
    if constexpr (sizeof(Rank) == 8)
      return whole[b];
    else
      return now[b];
  }
};

// Ranks rows[first] to rows[last - 1] and writes their masks and counts. One block.
template <class Rank, int kBlock>
__device__ void select_alone(const Row* rows, int first, int last, long long keep, bool magnitude, unsigned long long* counts) {
  __shared__ unsigned now[kDigitBins];
  __shared__ unsigned long long whole[sizeof(Rank) == 8 ? kDigitBins : 1];
  __shared__ long long scratch[32];
  constexpr int kTurns = 8;
  const Bins<Rank> bins{now, whole};
  Bits<Rank> leading = 0;
  long long left = keep, ties = 0;
  for (int d = 0; d < kDigits<Rank> && left > 0; ++d) {
    bins.clear();
    __syncthreads();
    const int before = d == 0 ? 0 : digit_shift<Rank>(d - 1);
    int64_t since = 0;
    for (int r = first; r < last; ++r) {
      const Row row = rows[r];
      for (int64_t base = 0; base < row.n; base += kTurns * kBlock) {
        Rank ranks[kTurns];
#pragma unroll
        for (int j = 0; j < kTurns; ++j) {
          const int64_t place = base + j * kBlock + threadIdx.x;
          ranks[j] = place < row.n ? rank_at<Rank>(row, place, magnitude) : kDead<Rank>;
        }
#pragma unroll
        for (int j = 0; j < kTurns; ++j) {
          const Bits<Rank> bits = biased(ranks[j]);
          count_in(now, digit_of<Rank>(bits, d), bits != 0 && (d == 0 || bits >> before == leading));
        }
        since += kTurns * kBlock;
        if (sizeof(Rank) == 8 && since > int64_t{1} << 31) {
          __syncthreads();
          bins.add_up();
          __syncthreads();
          since = 0;
        }
      }
    }
    __syncthreads();
    bins.add_up();
    __syncthreads();
    if (d == 0) {
      long long living = 0;
      for (int b = threadIdx.x; b < kDigitBins; b += kBlock) living += static_cast<long long>(bins[b]);
      living = block_sum(living, scratch);
      if (living < left) left = living;  // all of them, then: the lowest is the threshold
      if (living == 0) break;
    }
    constexpr int kEach = kDigitBins / kBlock;
    typename Bins<Rank>::Count own[1][kEach];
    for (int j = 0; j < kEach; ++j) own[0][j] = bins[(kBlock - 1 - static_cast<int>(threadIdx.x)) * kEach + j];
    const long long want[1] = {left};
    Found found[1];
    from_top(own, want, found);
    left -= found[0].above;
    ties = static_cast<long long>(bins[found[0].bin]);
    leading = leading << digit_width<Rank>(d) | static_cast<Bits<Rank>>(found[0].bin);
    __syncthreads();
  }
  const bool none = left <= 0;
  const Rank threshold = none ? Numbers<Rank>::kMax : unbiased<Rank>(leading);
  const bool ordered = !none && left < ties;  // not all that equal the threshold stay
  for (int r = first; r < last; ++r) {
    const Row row = rows[r];
    long long kept = 0;
    for (int64_t base = 0; base < row.n; base += kBlock) {
      const int64_t at = base + threadIdx.x, place = ordered && at < row.n ? row.place_of(at) : at;
      const Rank rank = at < row.n ? rank_at<Rank>(row, place, magnitude) : kDead<Rank>;
      bool keeps = none ? false : ordered ? rank > threshold : rank >= threshold;
      const bool tie = ordered && rank == threshold && left > 0;
      if (ordered && __syncthreads_or(tie)) {
        int total;
        const int before = block_before(static_cast<int>(tie), reinterpret_cast<int*>(scratch), total);
        keeps = keeps || (tie && before < left);
        left -= min(left, static_cast<long long>(total));
      }
      if (at < row.n) row.mask[place] = keeps;
      kept += keeps;
    }
    kept = block_sum(kept, scratch);
    if (threadIdx.x == 0) counts[r] = static_cast<unsigned long long>(kept);
  }
}

struct Alone {
  int first, last;
  long long keep;
  bool wide;
};
template <int kGroups>
struct Alones {
  Alone groups[kGroups];
};
constexpr int kFewGroups = 64, kManyGroups = kArgumentBytes / sizeof(Alone);

template <int kGroups>
__global__ void __launch_bounds__(kWide) alone_kernel(const __grid_constant__ Alones<kGroups> alones, const Row* rows, bool magnitude,
                                                      unsigned long long* counts) {
  after_the_kernel_before();
  const Alone& group = alones.groups[blockIdx.x];
  if (group.wide)
    select_alone<int64_t, kWide>(rows, group.first, group.last, group.keep, magnitude, counts);
  else
    select_alone<int32_t, kWide>(rows, group.first, group.last, group.keep, magnitude, counts);
}

}  // namespace
}  // namespace prune
