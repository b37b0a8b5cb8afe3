// The second part of topk_masks on CUDA: one pass writes masks, lists what lies inside the bracket and counts.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192, kSmallChunk = 2048;  // elements that a block classifies at a time; at most 32 a thread, one bit each
constexpr int kClassifiers = 2;                   // blocks of a multiprocessor
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

// Reads turns first to first + kAhead - 1 of the chunk: in each, thread t has the elements 4 t to 4 t + 3.
template <class Rank>
__device__ void read_turns(const Work& work, int first, Four<Rank> (&four)[kAhead<Rank>]) {
#pragma unroll
  for (int t = 0; t < kAhead<Rank>; ++t) {
    const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (work.whole(at)) four[t].read(work, at);
  }
}

// Blocks stay and take chunk after chunk, so that the next one's weights are on their way while this one's are listed.
template <class Rank>
__global__ void __launch_bounds__(kThreads, kClassifiers) classify_kernel(const Ranking<Rank> k) {
  after_the_kernel_before();
  __shared__ unsigned long long scratch[32];
  __shared__ unsigned long long base;
  const Rank lo = k.state->lo, hi = k.state->hi;
  const int shift = k.state->shift;
  Four<Rank> four[kAhead<Rank>];
  Work work = Work::at(k, blockIdx.x);
  read_turns(work, 0, four);
  for (int64_t c = blockIdx.x; c < k.chunks; c += gridDim.x) {
    const bool more = c + gridDim.x < k.chunks;
    const Work next = more ? Work::at(k, c + gridDim.x) : work;
    unsigned counted = 0;  // above, at hi, at lo: at most 32 each, ten bits apart
    uint32_t inside = 0;   // bit 4 * turn + j: element (turn * kThreads + thread) * 4 + j of the chunk
    for (int first = 0; first * kThreads * 4 < work.n; first += kAhead<Rank>) {
      Four<Rank> ahead[kAhead<Rank>];
      if ((first + kAhead<Rank>) * kThreads * 4 < work.n)
        read_turns(work, first + kAhead<Rank>, ahead);
      else if (more)
        read_turns(next, 0, ahead);
#pragma unroll
      for (int t = 0; t < kAhead<Rank>; ++t) {
        const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
        if (at >= work.n) continue;
        Rank ranks[4];
        if (work.whole(at)) {
          four[t].ranks(work.type, k.magnitude, ranks);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            ranks[j] = at + j < work.n ? rank_at<Rank>(work, at + j, k.magnitude) : kDead<Rank>;
        }
        uint32_t bytes = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          bytes |= static_cast<uint32_t>(ranks[j] >= hi) << 8 * j;
          counted += static_cast<unsigned>(ranks[j] > hi) + (static_cast<unsigned>(ranks[j] == hi) << 10) +
                     (static_cast<unsigned>(ranks[j] == lo && lo != kDead<Rank>) << 20);
          inside |= static_cast<uint32_t>(ranks[j] > lo && ranks[j] < hi) << (4 * (first + t) + j);
        }
        if (work.whole(at)) {
          *reinterpret_cast<uint32_t*>(work.mask + at) = bytes;
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (at + j < work.n) work.mask[at + j] = static_cast<char>(bytes >> 8 * j & 1);
        }
      }
#pragma unroll
      for (int t = 0; t < kAhead<Rank>; ++t) four[t] = ahead[t];
    }
    // four counts of at most 8,192 in one word, summed over the block at once
    const unsigned long long packed = (counted & 1023) | static_cast<unsigned long long>(counted >> 10 & 1023) << 16 |
                                      static_cast<unsigned long long>(counted >> 20) << 32 |
                                      static_cast<unsigned long long>(__popc(inside)) << 48;
    unsigned long long total;
    const unsigned long long before = block_before(packed, scratch, total);
    if (threadIdx.x == 0) {
      const unsigned above = total & 0xffff, at_hi = total >> 16 & 0xffff, at_lo = total >> 32 & 0xffff;
      State<Rank>& s = *k.state;
      if (total >> 48 != 0) base = atomicAdd(&s.inside, total >> 48);
      k.tallies[c] = {static_cast<int>(above), static_cast<int>(at_hi), static_cast<int>(at_lo)};
      if (above + at_hi != 0) atomicAdd(k.counts + work.number, static_cast<unsigned long long>(above + at_hi));
      if (above != 0) atomicAdd(&s.above, static_cast<unsigned long long>(above));
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
