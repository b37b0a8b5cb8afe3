// The first part of topk_masks on CUDA: a sample of the ranks, or all of them where they are few, is narrowed down digit
// by digit to the two values between which the threshold lies. The ends are values of the sample, not edges of bins, so
// that however many weights are equal to one of them, only few lie strictly between them.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

template <int kRows>
struct Upload {
  Row rows[kRows];
  int64_t first[kRows + 1];  // chunk of the ranking with which a row begins
  int count, begin;
};

// Copies the rows to the device, says which chunk is of which row, and clears what the ranking counts in.
template <int kRows>
__global__ void __launch_bounds__(kThreads) prepare_kernel(const __grid_constant__ Upload<kRows> upload, Row* rows, Chunk* chunk,
                                                           unsigned long long* counts, uint4* cleared, int64_t words) {
  after_the_kernel_before();
  for (int i = blockIdx.x; i < upload.count; i += gridDim.x) {
    const int r = upload.begin + i;
    if (threadIdx.x == 0) {
      rows[r] = upload.rows[i];
      counts[r] = 0;
    }
    const int64_t first = upload.first[i], n = upload.first[i + 1] - first;
    if (chunk != nullptr)
      for (int64_t c = threadIdx.x; c < n; c += blockDim.x) chunk[first + c] = {r, static_cast<int>(c)};
  }
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < words; i += gridDim.x * int64_t{kThreads}) cleared[i] = {};
}

__device__ inline void add_bins(const unsigned* from, unsigned* to) {
  for (int b = threadIdx.x; b < kDigitBins; b += kThreads)
    if (from[b] != 0) atomicAdd(to + b, from[b]);
}

// Reads the sample, or everything, keeps its ranks and counts their leading digits.
template <class Rank>
__global__ void __launch_bounds__(kThreads, 4) sample_kernel(const Ranking<Rank> k) {
  __shared__ unsigned bins[kDigitBins];
  __shared__ int64_t starts[Search<Rank>::kRows];
  const Search<Rank> row_of{k, starts};
  __shared__ int scratch[32];
  for (int b = threadIdx.x; b < kDigitBins; b += kThreads) bins[b] = 0;
  after_the_kernel_before();
  if (k.runs != 0) row_of.prepare();
  __syncthreads();
  int sampled = 0;
  if (k.runs != 0) {
    const int64_t run = blockIdx.x * int64_t{kThreads} + threadIdx.x;
    Rank ranks[4] = {kDead<Rank>, kDead<Rank>, kDead<Rank>, kDead<Rank>};
    if (run < k.runs) {
      const int64_t stratum = k.total / k.runs;
      const uint64_t hash = (static_cast<uint64_t>(run) + 1) * 0x9e3779b97f4a7c15ull >> 32;
      const int64_t index = run * stratum + static_cast<int64_t>(hash % static_cast<uint64_t>(stratum));
      const Row row = k.rows[row_of(index)];
      const int64_t place = (index - row.start) / 4 * 4;
      sampled = static_cast<int>(min(int64_t{4}, row.n - place));
      if (row.vector && sampled == 4) {
        Four<Rank> four;
        four.read(row, place);
        four.ranks(row.type, k.magnitude, ranks);
      } else {
        for (int j = 0; j < 4; ++j)
          if (j < sampled) ranks[j] = rank_at<Rank>(row, place + j, k.magnitude);
      }
      for (int j = 0; j < 4; ++j) k.sample[4 * run + j] = biased(ranks[j]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) count_in(bins, digit_of<Rank>(biased(ranks[j]), 0), ranks[j] != kDead<Rank>);
  } else {
    const Chunk chunk = k.chunk[blockIdx.x];
    const Row row = k.rows[chunk.row];
    const int64_t begin = chunk.number * int64_t{row.chunk};
    const int n = static_cast<int>(min(int64_t{row.chunk}, row.n - begin));
    for (int base = 0; base < n; base += 8 * kThreads) {
      Rank ranks[2][4];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int at = base + 4 * (t * kThreads + static_cast<int>(threadIdx.x));
        if (row.vector && at + 4 <= n) {
          Four<Rank> four;
          four.read(row, begin + at);
          four.ranks(row.type, k.magnitude, ranks[t]);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) ranks[t][j] = at + j < n ? rank_at<Rank>(row, begin + at + j, k.magnitude) : kDead<Rank>;
        }
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int at = base + 4 * (t * kThreads + static_cast<int>(threadIdx.x));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (at + j < n) k.sample[row.start + begin + at + j] = biased(ranks[t][j]);
          count_in(bins, digit_of<Rank>(biased(ranks[t][j]), 0), ranks[t][j] != kDead<Rank>);
        }
      }
    }
  }
  __syncthreads();
  add_bins(bins, k.digits);
  sampled = block_sum(sampled, scratch);
  if (threadIdx.x == 0 && sampled != 0) atomicAdd(&k.state->sampled, static_cast<unsigned long long>(sampled));
}

constexpr int kSampleTurns = 16;  // elements of the sample that a thread reads

// Counts the digit d of those of the sample that share the leading digits of the bracket's ends.
template <class Rank>
__global__ void __launch_bounds__(kThreads) narrow_kernel(const Ranking<Rank> k, int d) {
  __shared__ unsigned bins[2 * kDigitBins];
  for (int b = threadIdx.x; b < 2 * kDigitBins; b += kThreads) bins[b] = 0;
  after_the_kernel_before();
  const int64_t begin = blockIdx.x * int64_t{kSampleTurns * kThreads} + threadIdx.x;
  Bits<Rank> ranks[kSampleTurns];  // on their way while the ends are found
#pragma unroll
  for (int j = 0; j < kSampleTurns; ++j) ranks[j] = begin + j * kThreads < k.sample_size ? k.sample[begin + j * kThreads] : 0;
  const Ends<Rank> ends = ends_after(k, d);
  const int before = digit_shift<Rank>(d - 1);
  const bool joined = ends.joined();  // then one count serves both
#pragma unroll
  for (int j = 0; j < kSampleTurns; ++j) {
    const Bits<Rank> leading = ranks[j] >> before;
    const int digit = digit_of<Rank>(ranks[j], d);
    count_in(bins, digit, ends.want[0] > 0 && ranks[j] != 0 && leading == ends.leading[0]);
    if (!joined) count_in(bins + kDigitBins, digit, ends.want[1] > 0 && ranks[j] != 0 && leading == ends.leading[1]);
  }
  __syncthreads();
  unsigned* to = k.digits + 2 * d * kDigitBins;
  add_bins(bins, to);
  if (!joined) add_bins(bins + kDigitBins, to + kDigitBins);
}

}  // namespace
}  // namespace prune
