// The second part of topk_masks on CUDA: one pass writes masks, lists what lies inside the bracket and counts.

#pragma once

#include <cuda_pipeline.h>

#include "topk_ranking.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192, kSmallChunk = 2048;  // elements that a block classifies at a time; at most 32 a thread, one bit each
constexpr int kClassifiers = 4;                   // blocks of a multiprocessor
template <class Rank>
constexpr int kAhead = sizeof(Rank) == 4 ? 4 : 2;  // reads of four that are on their way at a time

struct Work : Span {  // a chunk
  int n, number;      // its elements, its row
  int64_t begin;      // its place in the row

  template <class Rank>
  __device__ static Work at(const Ranking<Rank>& k, int64_t c) {
    const Chunk chunk = k.chunk[c];
    const Row& row = k.rows[chunk.row];
    const int64_t begin = chunk.number * int64_t{row.chunk};
    return {row.from(begin), static_cast<int>(min(int64_t{row.chunk}, row.n - begin)), chunk.row, begin};
  }
  __device__ bool whole(int at) const { return vector && at + 4 <= n; }
};

// What a thread copies to shared memory ahead of time: two groups of turns, of which it alone reads what it wrote.
template <class Rank>
struct Ring {
  uint4 words[2][kAhead<Rank>][sizeof(Rank) / 4][kThreads];

  // Starts the turns first to first + kAhead - 1 of the chunk: in each, thread t has the elements 4 t to 4 t + 3.
  __device__ void start(const Work& work, int first, int group) {
    const int size = work.type == ScalarType::Double ? 8 : work.type == ScalarType::Float ? 4 : 2;
#pragma unroll
    for (int t = 0; t < kAhead<Rank>; ++t) {
      const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
      if (!work.whole(at)) continue;
      const char* from = work.x + at * size;
      if (size == 2)
        __pipeline_memcpy_async(&words[group][t][0][threadIdx.x], from, 8);
      else
        __pipeline_memcpy_async(&words[group][t][0][threadIdx.x], from, 16);
      if constexpr (sizeof(Rank) == 8)
        if (size == 8) __pipeline_memcpy_async(&words[group][t][1][threadIdx.x], from + 16, 16);
    }
    __pipeline_commit();
  }
};

template <class Rank>
struct Classes {  // of a thread's elements
  int not_below = 0, at_hi = 0, at_lo = 0;
  uint32_t inside = 0;  // bit 4 * turn + j: element (turn * kThreads + thread) * 4 + j of the chunk

  // Takes four elements and returns their masks, a byte each. Few are within the bracket, which one comparison tells.
  __device__ uint32_t take(const Rank (&ranks)[4], Rank lo, Rank hi, int turn) {
    uint32_t bytes = 0;
    bool near = false;
    const Bits<Rank> low = static_cast<Bits<Rank>>(lo), span = static_cast<Bits<Rank>>(hi) - low;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      bytes |= static_cast<uint32_t>(ranks[j] >= hi) << 8 * j;
      near = near || static_cast<Bits<Rank>>(ranks[j]) - low <= span;
    }
    not_below += __popc(bytes);
    if (near) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        at_hi += ranks[j] == hi;
        at_lo += ranks[j] == lo && lo != kDead<Rank>;
        inside |= static_cast<uint32_t>(ranks[j] > lo && ranks[j] < hi) << (4 * turn + j);
      }
    }
    return bytes;
  }
};

// Blocks stay and take chunk after chunk, so that the next one's weights are on their way while this one's are listed.
template <class Rank>
__global__ void __launch_bounds__(kThreads, kClassifiers) classify_kernel(const Ranking<Rank> k) {
  __shared__ Ring<Rank> ring;
  __shared__ unsigned long long scratch[32];
  __shared__ unsigned long long base;
  after_the_kernel_before();
  Work work = Work::at(k, blockIdx.x);
  int group = 0;
  ring.start(work, 0, group);
  const Ends<Rank> ends = ends_after(k, kDigits<Rank>);
  const Rank hi = ends.want[0] == 0 ? Numbers<Rank>::kMax : ends.want[0] < 0 ? kNan<Rank> : unbiased<Rank>(ends.leading[0]);
  Rank lo = ends.want[1] <= 0 ? kDead<Rank> : unbiased<Rank>(ends.leading[1]);
  if (lo >= hi) lo = hi - 1;
  const Bits<Rank> span = biased(hi) - biased(lo);
  int shift = 0;
  while (span >> shift >= kListBins) ++shift;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    k.state->lo = lo;
    k.state->hi = hi;
    k.state->shift = shift;
  }
  for (int64_t c = blockIdx.x; c < k.chunks; c += gridDim.x) {
    const bool more = c + gridDim.x < k.chunks;
    const Work next = more ? Work::at(k, c + gridDim.x) : work;
    Classes<Rank> classes;
    for (int first = 0; first * kThreads * 4 < work.n; first += kAhead<Rank>) {
      if ((first + kAhead<Rank>) * kThreads * 4 < work.n)
        ring.start(work, first + kAhead<Rank>, group ^ 1);
      else if (more)
        ring.start(next, 0, group ^ 1);
      else
        __pipeline_commit();
      uint32_t alive[kAhead<Rank>];
#pragma unroll
      for (int t = 0; t < kAhead<Rank>; ++t) {
        const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
        alive[t] = work.alive != nullptr && work.whole(at) ? *reinterpret_cast<const uint32_t*>(work.alive + at) : 0x01010101u;
      }
      __pipeline_wait_prior(1);
#pragma unroll
      for (int t = 0; t < kAhead<Rank>; ++t) {
        const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
        if (at >= work.n) continue;
        Rank ranks[4];
        if (work.whole(at)) {
          Four<Rank> four;
          four.alive = alive[t];
#pragma unroll
          for (int w = 0; w < static_cast<int>(sizeof(Rank) / 4); ++w) four.words[w] = ring.words[group][t][w][threadIdx.x];
          four.ranks(work.type, k.magnitude, ranks);
          *reinterpret_cast<uint32_t*>(work.mask + at) = classes.take(ranks, lo, hi, first + t);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) ranks[j] = at + j < work.n ? rank_at<Rank>(work, at + j, k.magnitude) : kDead<Rank>;
          const uint32_t bytes = classes.take(ranks, lo, hi, first + t);
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (at + j < work.n) work.mask[at + j] = static_cast<char>(bytes >> 8 * j & 1);
        }
      }
      group ^= 1;
    }
    // four counts of at most 8,192 in one word, summed over the block at once
    uint32_t inside = classes.inside;
    const unsigned long long packed = static_cast<unsigned long long>(classes.not_below) | static_cast<unsigned long long>(classes.at_hi) << 16 |
                                      static_cast<unsigned long long>(classes.at_lo) << 32 |
                                      static_cast<unsigned long long>(__popc(inside)) << 48;
    unsigned long long total;
    const unsigned long long before = block_before(packed, scratch, total);
    if (threadIdx.x == 0) {
      const unsigned not_below = total & 0xffff, at_hi = total >> 16 & 0xffff, at_lo = total >> 32 & 0xffff;
      State<Rank>& s = *k.state;
      if (total >> 48 != 0) base = atomicAdd(&s.inside, total >> 48);
      k.tallies[c] = {static_cast<int>(not_below - at_hi), static_cast<int>(at_hi), static_cast<int>(at_lo)};
      if (not_below != 0) atomicAdd(k.counts + work.number, static_cast<unsigned long long>(not_below));
      if (not_below != at_hi) atomicAdd(&s.above, static_cast<unsigned long long>(not_below - at_hi));
      if (at_hi != 0) atomicAdd(&s.at_hi, static_cast<unsigned long long>(at_hi));
      if (at_lo != 0) atomicAdd(&s.at_lo, static_cast<unsigned long long>(at_lo));
    }
    if (total >> 48 != 0) {
      __syncthreads();
      const Row& row = k.rows[work.number];
      int64_t slot = static_cast<int64_t>(base + (before >> 48));
      for (; inside != 0 && slot < k.room; inside &= inside - 1, ++slot) {  // past the room the list is not used
        const int bit = __ffs(static_cast<int>(inside)) - 1;
        const int at = ((bit / 4) * kThreads + static_cast<int>(threadIdx.x)) * 4 + bit % 4;
        const Rank rank = rank_at<Rank>(work, at, k.magnitude);
        k.list[slot] = Entry<Rank>::make(rank, row.start + row.index_of(work.begin + at));
        atomicAdd(k.list_bins + ((biased(rank) - biased(lo)) >> shift), 1u);
      }
    }
    work = next;
  }
}

}  // namespace
}  // namespace prune
