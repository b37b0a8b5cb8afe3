// The second part of topk_masks on CUDA: one pass writes masks, lists what lies inside the bracket and counts.

#pragma once

#include <cuda_pipeline.h>

#include "topk_ranking.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192, kSmallChunk = 2048;  // elements that a block classifies at a time; at most 32 a thread, one bit each
constexpr int kClassifiers = 3;                   // blocks of a multiprocessor
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int kResident = 2;  // 100 KB of shared memory, 33 KB for a block: registers for two do
#else
constexpr int kResident = kClassifiers;
#endif
template <class Rank>
constexpr int kAhead = sizeof(Rank) == 4 ? 4 : 2;  // reads of four that are on their way at a time

struct Work : Span {  // a chunk
  int n, number;      // its elements, its row
  int64_t begin;      // its place in the row

  template <class Rank>
  __device__ static Work of(const Ranking<Rank>& k, Chunk chunk) {
    const Row& row = k.rows[chunk.row];
    const int64_t begin = chunk.number * int64_t{row.chunk};
    return {row.from(begin), static_cast<int>(min(int64_t{row.chunk}, row.n - begin)), chunk.row, begin};
  }
  __device__ bool whole(int at) const { return vector && at + 4 <= n; }
  __device__ bool plain() const {  // nothing but whole groups of floats, all alive
    return type == ScalarType::Float && vector && alive == nullptr && n % (kAhead<int32_t> * kThreads * 4) == 0;
  }
};

// What a thread copies to shared memory ahead of time: two groups of turns, of which it alone reads what it wrote.
template <class Rank>
struct Ring {
  uint4 words[2][kAhead<Rank>][sizeof(Rank) / 4][kThreads];

  // Starts the turns first to first + kAhead - 1 of the chunk: in each, thread t has the elements 4 t to 4 t + 3.
  __device__ void start(const Work& work, int first, int group) {
    const int size = work.type == ScalarType::Double ? 8 : work.type == ScalarType::Float ? 4 : 2;
    if (size == 4 && work.vector && (first + kAhead<Rank>) * kThreads * 4 <= work.n) {
      const char* from = work.x + 16 * (first * kThreads + static_cast<int>(threadIdx.x));
#pragma unroll
      for (int t = 0; t < kAhead<Rank>; ++t) __pipeline_memcpy_async(&words[group][t][0][threadIdx.x], from + 16 * t * kThreads, 16);
      __pipeline_commit();
      return;
    }
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

struct Sums {  // over the block
  int not_below, at_hi, at_lo, inside, before;  // before: what is inside of the threads before this one
};

__device__ inline Sums block_sums(int not_below, int at_hi, int at_lo, int inside, uint4* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned ends = warp_sum(static_cast<unsigned>(at_hi) << 16 | static_cast<unsigned>(at_lo));  // at most 1,024 each
  not_below = warp_sum(not_below);
  int to_here = inside;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, to_here, step);
    if (lane >= step) to_here += other;
  }
  if (lane == 31) scratch[warp] = uint4{static_cast<unsigned>(not_below), ends, static_cast<unsigned>(to_here), 0};
  __syncthreads();
  Sums sums{0, 0, 0, 0, to_here - inside};
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) {
    const uint4 own = scratch[w];
    if (w < warp) sums.before += static_cast<int>(own.z);
    sums.not_below += static_cast<int>(own.x);
    sums.at_hi += static_cast<int>(own.y >> 16);
    sums.at_lo += static_cast<int>(own.y & 0xffff);
    sums.inside += static_cast<int>(own.z);
  }
  __syncthreads();
  return sums;
}

__device__ inline int at_bit(int bit) {  // which element of the chunk a bit of Classes::inside is
  return (bit / 4 * kThreads + static_cast<int>(threadIdx.x)) * 4 + bit % 4;
}

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

  // Sorts an element that was only marked as near; `bit` is as in `inside`.
  __device__ void look_again(const Work& work, Rank rank, Rank lo, Rank hi, int bit) {
    if (rank == hi) {
      ++not_below;
      ++at_hi;
      work.mask[at_bit(bit)] = 1;
    } else if (rank == lo) {
      ++at_lo;
    } else {
      inside |= 1u << bit;
    }
  }

  // Takes all of the thread's elements anew: where a NaN was seen, which the signs of differences mistake.
  __device__ void take_all(const Work& work, Rank lo, Rank hi) {
    *this = {};
    for (int turn = 0; turn * kThreads * 4 < work.n; ++turn) {
      const int at = at_bit(4 * turn);
      Rank ranks[4];
      for (int j = 0; j < 4; ++j) ranks[j] = rank_at<Rank>(work, at + j, true);
      *reinterpret_cast<uint32_t*>(work.mask + at) = take(ranks, lo, hi, turn);
    }
  }
};

// The magnitudes of floats with few ties at the bracket's ends: what nearly all rankings are. Four at a time, by the signs
// of differences, without a branch; what lies within the bracket, ends included, is only marked and looked at later.
struct Plain {
  int lo, hi;  // 0 <= lo < hi <= infinity

  // Returns the four's masks, a byte each: larger than hi. `near` gets a bit for each that is within; `nan` is set by one.
  __device__ uint32_t take(uint4 words, uint32_t& near, int turn, bool& nan) const {
    constexpr int kSize = 0x7fffffff, kInfinity = 0x7f800000;
    const int a = static_cast<int>(words.x) & kSize, b = static_cast<int>(words.y) & kSize;
    const int c = static_cast<int>(words.z) & kSize, d = static_cast<int>(words.w) & kSize;
    nan = nan || max(max(a, b), max(c, d)) > kInfinity;
    const uint32_t above = signs(hi - a, hi - b, hi - c, hi - d), below = signs(a - lo, b - lo, c - lo, d - lo);
    near |= ((~(above | below) & 0x80808080u) >> 7) * 0x01020408u >> 24 << 4 * turn;
    return above >> 7 & 0x01010101u;
  }

 private:
  // The leading bytes of the four, the sign on top of each.
  __device__ static uint32_t signs(int a, int b, int c, int d) {
    return __byte_perm(__byte_perm(static_cast<uint32_t>(a), static_cast<uint32_t>(b), 0x0073),
                       __byte_perm(static_cast<uint32_t>(c), static_cast<uint32_t>(d), 0x0073), 0x5410);
  }
};

// Blocks stay and take chunk after chunk, so that the next one's weights are on their way while this one's are listed.
template <class Rank>
__global__ void __launch_bounds__(kThreads, kResident) classify_kernel(const Ranking<Rank> k) {
  __shared__ Ring<Rank> ring;
  __shared__ uint4 scratch[kThreads / 32];
  __shared__ unsigned long long base;
  after_the_kernel_before();
  Work work = Work::of(k, k.chunk[blockIdx.x]);
  int group = 0;
  ring.start(work, 0, group);
  const Ends<Rank> ends = ends_after(k, kDigits<Rank>);
  const Rank hi = ends.want[0] == 0 ? Numbers<Rank>::kMax : ends.want[0] < 0 ? kNan<Rank> : unbiased<Rank>(ends.leading[0]);
  Rank lo = ends.want[1] <= 0 ? kDead<Rank> : unbiased<Rank>(ends.leading[1]);
  if (lo >= hi) lo = hi - 1;
  const bool plain = sizeof(Rank) == 4 && k.magnitude && lo >= 0 && hi <= Numbers<Rank>::kInfinity &&
                     max(ends.sharing[0], ends.sharing[1]) * 1024 <= k.sample_size + 8192;
  const Bits<Rank> span = biased(hi) - biased(lo);
  int shift = 0;
  while (span >> shift >= kListBins) ++shift;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    k.state->lo = lo;
    k.state->hi = hi;
    k.state->shift = shift;
  }
  unsigned all_above = 0, all_hi = 0, all_lo = 0;  // of this block's chunks: one address takes few additions at a time
  const unsigned chunks = static_cast<unsigned>(k.chunks), step = gridDim.x;  // fewer than 2^31, which the host checks
  Chunk coming = k.chunk[min(blockIdx.x + step, chunks - 1)];  // read one chunk earlier than its row
  for (unsigned c = blockIdx.x; c < chunks; c += step) {
    const bool more = c + step < chunks;
    const Work next = more ? Work::of(k, coming) : work;
    coming = k.chunk[min(c + 2 * step, chunks - 1)];
    Classes<Rank> classes;
    Rank first_inside = 0;  // its rank, for the list; further ones are read again
    bool nan = false;
    for (int first = 0; first * kThreads * 4 < work.n; first += kAhead<Rank>) {
      if ((first + kAhead<Rank>) * kThreads * 4 < work.n)
        ring.start(work, first + kAhead<Rank>, group ^ 1);
      else if (more)
        ring.start(next, 0, group ^ 1);
      else
        __pipeline_commit();
      if constexpr (sizeof(Rank) == 4) {
        if (plain && work.plain()) {
          const Plain bracket{lo, hi};
          uint32_t near = 0;  // as `inside`, with the bracket's ends
          __pipeline_wait_prior(1);
#pragma unroll
          for (int t = 0; t < kAhead<Rank>; ++t) {
            const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
            const uint32_t bytes = bracket.take(ring.words[group][t][0][threadIdx.x], near, first + t, nan);
            *reinterpret_cast<uint32_t*>(work.mask + at) = bytes;
            classes.not_below += __popc(bytes);
          }
          for (; near != 0; near &= near - 1) {
            const int bit = __ffs(static_cast<int>(near)) - 1;
            const uint32_t* words = reinterpret_cast<const uint32_t*>(&ring.words[group][bit / 4 - first][0][threadIdx.x]);
            const Rank rank = static_cast<Rank>(words[bit % 4] & 0x7fffffffu);
            const bool none = classes.inside == 0;
            classes.look_again(work, rank, lo, hi, bit);
            if (none) first_inside = rank;
          }
          group ^= 1;
          continue;
        }
      }
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
    bool known = plain && work.plain() && !nan;  // the rank of the first
    if constexpr (sizeof(Rank) == 4)
      if (nan) classes.take_all(work, lo, hi);
    uint32_t inside = classes.inside;
    const Sums sums = block_sums(classes.not_below, classes.at_hi, classes.at_lo, __popc(inside), scratch);
    if (threadIdx.x == 0) {
      const unsigned not_below = sums.not_below, at_hi = sums.at_hi, at_lo = sums.at_lo;
      if (sums.inside != 0) base = atomicAdd(&k.state->inside, static_cast<unsigned long long>(sums.inside));
      k.tallies[c] = {static_cast<int>(not_below - at_hi), static_cast<int>(at_hi), static_cast<int>(at_lo)};
      if (not_below != 0) atomicAdd(k.counts + work.number, static_cast<unsigned long long>(not_below));
      all_above += not_below - at_hi;
      all_hi += at_hi;
      all_lo += at_lo;
    }
    if (sums.inside != 0) {
      __syncthreads();
      const Row& row = k.rows[work.number];
      int64_t slot = static_cast<int64_t>(base) + sums.before;
      for (; inside != 0 && slot < k.room; inside &= inside - 1, ++slot) {  // past the room the list is not used
        const int at = at_bit(__ffs(static_cast<int>(inside)) - 1);
        const Rank rank = known ? first_inside : rank_at<Rank>(work, at, k.magnitude);
        known = false;
        k.list[slot] = Entry<Rank>::make(rank, row.start + row.index_of(work.begin + at));
        atomicAdd(k.list_bins + ((biased(rank) - biased(lo)) >> shift), 1u);
      }
    }
    work = next;
  }
  if (threadIdx.x == 0) {
    atomicAdd(&k.state->above, static_cast<unsigned long long>(all_above));
    atomicAdd(&k.state->at_hi, static_cast<unsigned long long>(all_hi));
    atomicAdd(&k.state->at_lo, static_cast<unsigned long long>(all_lo));
  }
}

}  // namespace
}  // namespace prune
