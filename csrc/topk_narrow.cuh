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

// What the last block does with a digit's counts: both ends move into one bin each.
template <class Rank>
__device__ void narrow(const Ranking<Rank>& k, int d) {
  State<Rank>& s = *k.state;
  const unsigned* bins = k.digits + 2 * d * kDigitBins;
  long long want[2];
  if (d == 0) {
    const double share = static_cast<double>(k.keep) / static_cast<double>(k.total);
    const double sampled = k.runs == 0 ? static_cast<double>(k.total) : static_cast<double>(__ldcg(&s.sampled));
    // seven standard deviations of independent samples, because neighbouring weights are alike
    const long long width = k.runs == 0 ? 0 : static_cast<long long>(7.0 * sqrt(sampled * share * (1.0 - share))) + 8;
    const long long middle = k.runs == 0 ? k.keep : static_cast<long long>(share * sampled);
    want[0] = max(middle - width, 0ll);
    want[1] = middle + width;
  } else {
    want[0] = s.want[0];
    want[1] = s.want[1];
  }
  constexpr int kEach = kDigitBins / kThreads;
  unsigned counts[2][kEach];
  read_bins(bins, counts[0]);
  read_bins(bins + (d == 0 ? 0 : kDigitBins), counts[1]);
  Found found[2];
  from_top(counts, want, found);
  if (threadIdx.x != 0) return;
  for (int end = 0; end < 2; ++end) {
    // above the sample's top there is no end but infinity, below its bottom none but what is dead
    if (d == 0 && found[end].bin < 0) s.want[end] = want[end] < 1 ? 0 : -1;
    if (found[end].bin < 0) continue;
    s.want[end] = want[end] - found[end].above;
    s.leading[end] = s.leading[end] << digit_width<Rank>(d) | static_cast<Bits<Rank>>(found[end].bin);
  }
  if (d + 1 < kDigits<Rank>) return;
  Rank hi = s.want[0] == 0 ? Numbers<Rank>::kMax : s.want[0] < 0 ? kNan<Rank> : unbiased<Rank>(s.leading[0]);
  Rank lo = s.want[1] <= 0 ? kDead<Rank> : unbiased<Rank>(s.leading[1]);
  if (lo >= hi) lo = hi - 1;
  s.hi = hi;
  s.lo = lo;
  const Bits<Rank> span = biased(hi) - biased(lo);
  int shift = 0;
  while (span >> shift >= kListBins) ++shift;
  s.shift = shift;
}

__device__ inline void add_bins(const unsigned* from, unsigned* to) {
  for (int b = threadIdx.x; b < kDigitBins; b += kThreads)
    if (from[b] != 0) atomicAdd(to + b, from[b]);
}

constexpr int kSearched = 512;  // rows whose starts are looked through in shared memory

__device__ inline int last_start(const int64_t* starts, int count, int64_t index) {  // at or before the index
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (starts[middle] <= index)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Reads the sample, or everything, keeps its ranks and counts their leading digits.
template <class Rank>
__global__ void __launch_bounds__(kThreads) sample_kernel(const Ranking<Rank> k) {
  __shared__ unsigned bins[kDigitBins];
  __shared__ int64_t starts[kSearched];
  __shared__ int scratch[32];
  after_the_kernel_before();
  for (int b = threadIdx.x; b < kDigitBins; b += kThreads) bins[b] = 0;
  if (k.runs != 0)
    for (int r = threadIdx.x; r < min(k.count, kSearched); r += kThreads) starts[r] = k.rows[r].start;
  __syncthreads();
  int sampled = 0;
  if (k.runs != 0) {
    const int64_t run = blockIdx.x * int64_t{kThreads} + threadIdx.x;
    Rank ranks[4] = {kDead<Rank>, kDead<Rank>, kDead<Rank>, kDead<Rank>};
    if (run < k.runs) {
      const int64_t stratum = k.total / k.runs;
      const uint64_t hash = (static_cast<uint64_t>(run) + 1) * 0x9e3779b97f4a7c15ull >> 32;
      const int64_t index = run * stratum + static_cast<int64_t>(hash % static_cast<uint64_t>(stratum));
      const Row row = k.rows[k.count <= kSearched ? last_start(starts, k.count, index) : row_of_index(k, index)];
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
    for (int base = 0; base < n; base += 4 * kThreads) {
      const int at = base + 4 * static_cast<int>(threadIdx.x);
      Rank ranks[4];
      if (row.vector && at + 4 <= n) {
        Four<Rank> four;
        four.read(row, begin + at);
        four.ranks(row.type, k.magnitude, ranks);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) ranks[j] = at + j < n ? rank_at<Rank>(row, begin + at + j, k.magnitude) : kDead<Rank>;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (at + j < n) k.sample[row.start + begin + at + j] = biased(ranks[j]);
        count_in(bins, digit_of<Rank>(biased(ranks[j]), 0), ranks[j] != kDead<Rank>);
      }
    }
  }
  __syncthreads();
  add_bins(bins, k.digits);
  sampled = block_sum(sampled, scratch);
  if (threadIdx.x == 0 && sampled != 0) atomicAdd(&k.state->sampled, static_cast<unsigned long long>(sampled));
  if (last_block(k.state->finished)) narrow(k, 0);
}

constexpr int kSampleTurns = 4;

// Counts the digit d of those of the sample that share the leading digits of the bracket's ends.
template <class Rank>
__global__ void __launch_bounds__(kThreads) narrow_kernel(const Ranking<Rank> k, int d) {
  __shared__ unsigned bins[2 * kDigitBins];
  after_the_kernel_before();
  for (int b = threadIdx.x; b < 2 * kDigitBins; b += kThreads) bins[b] = 0;
  const int before = digit_shift<Rank>(d - 1);
  const Bits<Rank> top = k.state->leading[0], bottom = k.state->leading[1];
  const bool has_top = k.state->want[0] > 0, has_bottom = k.state->want[1] > 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * int64_t{kSampleTurns * kThreads} + threadIdx.x;
  Bits<Rank> ranks[kSampleTurns];
#pragma unroll
  for (int j = 0; j < kSampleTurns; ++j) ranks[j] = begin + j * kThreads < k.sample_size ? k.sample[begin + j * kThreads] : 0;
#pragma unroll
  for (int j = 0; j < kSampleTurns; ++j) {
    const Bits<Rank> leading = ranks[j] >> before;
    const int digit = digit_of<Rank>(ranks[j], d);
    count_in(bins, digit, has_top && ranks[j] != 0 && leading == top);
    count_in(bins + kDigitBins, digit, has_bottom && ranks[j] != 0 && leading == bottom);
  }
  __syncthreads();
  unsigned* to = k.digits + 2 * d * kDigitBins;
  add_bins(bins, to);
  add_bins(bins + kDigitBins, to + kDigitBins);
  if (last_block(k.state->finished + d)) narrow(k, d);
}

}  // namespace
}  // namespace prune
