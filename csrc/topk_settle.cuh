// The last part of topk_masks on CUDA: what the pass left open is settled: the listed, the threshold's ties, or everything
// where the sample misled.

#pragma once

#include "topk_alone.cuh"
#include "topk_classify.cuh"

namespace prune {
namespace {

constexpr int kSettlers = 512;   // threads of a block
template <class Rank>
constexpr int kCompared = 4096 / sizeof(Entry<Rank>);  // so many close entries are compared each with each

// kDone: the masks stand. kListed: those of the list that rank high enough are still to be kept. kThreshold: what equals
// the threshold is still to be handed out. kMissed: the bracket does not hold the threshold.
enum Mode : int { kDone, kListed, kThreshold, kMissed };

template <class Rank>
struct Decision {
  Mode mode;
  int bin;               // kListed: the list's with the threshold; -1: all of the list stays
  long long close_keep;  // kListed: so many of that bin's
  Rank threshold;        // kThreshold
  long long quota;       // kThreshold: so many of what equals it, the first ones
  bool low;              // kThreshold: it is lo, else hi
};

// Where the threshold lies, from the counts of the whole pass. Every block decides for itself.
template <class Rank>
__device__ Decision<Rank> decide(const Ranking<Rank>& k) {
  const State<Rank>& s = *k.state;
  const long long above = static_cast<long long>(s.above), at_hi = static_cast<long long>(s.at_hi);
  const long long at_lo = static_cast<long long>(s.at_lo), inside = static_cast<long long>(s.inside);
  const long long rest = k.keep - above - at_hi;  // to be found below hi
  const bool has_list = inside <= k.room, at_end = s.lo == kDead<Rank>;
  Decision<Rank> d{kMissed, -1, 0, s.hi, 0, false};
  if (rest <= 0 && k.keep >= above) {
    d.mode = rest == 0 ? kDone : kThreshold;
    d.quota = k.keep - above;
  } else if (rest > 0 && rest < inside && has_list) {
    constexpr int kEach = kListBins / kSettlers;
    unsigned counts[1][kEach];
    read_bins(k.list_bins, counts[0]);
    const long long want[1] = {rest};
    Found found[1];
    from_top(counts, want, found);
    d.mode = kListed;
    d.bin = found[0].bin;
    d.close_keep = rest - found[0].above;
  } else if (rest > 0 && has_list && (rest == inside || (at_end && rest > inside))) {
    d.mode = inside == 0 ? kDone : kListed;
  } else if (rest >= inside && (at_end || rest <= inside + at_lo)) {
    d.mode = kThreshold;
    d.threshold = s.lo;
    d.quota = at_end ? 0 : rest - inside;
    d.low = true;
  }
  return d;
}

// Keeps the entries of the lanes that say so. All lanes of the warp call it.
template <class Rank>
__device__ void keep_entry(const Ranking<Rank>& k, const Search<Rank>& row_of, const Entry<Rank>& entry, bool keeps) {
  int r = -1;
  if (keeps) {
    const int64_t index = entry.index();
    r = row_of(index);
    const Row& row = k.rows[r];
    row.mask[row.place_of(index - row.start)] = 1;
  }
  const unsigned same = __match_any_sync(0xffffffffu, r);
  if (keeps && static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(same)) - 1)
    atomicAdd(k.counts + r, static_cast<unsigned long long>(__popc(same)));
}

template <class Rank>
__device__ int list_bin(const State<Rank>& s, const Entry<Rank>& entry) {
  return static_cast<int>((biased(entry.rank()) - biased(s.lo)) >> s.shift);
}

// Of the list, what lies above the threshold's bin stays, and what lies in it is gathered.
template <class Rank>
__device__ void settle_listed(const Ranking<Rank>& k, const Search<Rank>& row_of, const Decision<Rank>& d) {
  State<Rank>& s = *k.state;
  const int64_t n = static_cast<int64_t>(s.inside);
  for (int64_t base = blockIdx.x * int64_t{kSettlers}; base < n; base += gridDim.x * int64_t{kSettlers}) {
    const int64_t i = base + threadIdx.x;
    const Entry<Rank> entry = i < n ? k.list[i] : Entry<Rank>{};
    const int bin = i < n ? list_bin(s, entry) : -1;
    keep_entry(k, row_of, entry, i < n && bin > d.bin);
    const unsigned close = __ballot_sync(0xffffffffu, i < n && bin == d.bin), lane = threadIdx.x % 32;
    unsigned long long slot = 0;
    if (lane == 0 && close != 0) slot = atomicAdd(&s.close, static_cast<unsigned long long>(__popc(close)));
    slot = __shfl_sync(0xffffffffu, slot, 0) + __popc(close & ((1u << lane) - 1));
    if ((close >> lane & 1) != 0 && slot < static_cast<unsigned long long>(k.close_room)) k.close[slot] = entry;
  }
}

// Few entries, compared each with each: the `keep` largest stay. One block.
template <class Rank>
__device__ void settle_few(const Ranking<Rank>& k, const Search<Rank>& row_of, int n, long long keep) {
  __shared__ Entry<Rank> entries[kCompared<Rank>];
  for (int i = threadIdx.x; i < n; i += kSettlers) entries[i] = k.close[i];
  __syncthreads();
  for (int base = 0; base < n; base += kSettlers) {
    const int i = base + static_cast<int>(threadIdx.x);
    long long larger = 0;
    if (i < n)
      for (int j = 0; j < n; ++j) larger += entries[j] > entries[i];
    keep_entry(k, row_of, i < n ? entries[i] : Entry<Rank>{}, i < n && larger < keep);
  }
}

// Of the entries that `belongs` to, the `keep` largest stay, found digit by digit below what all have in common. One block.
template <class Rank, class Belongs>
__device__ void settle_close(const Ranking<Rank>& k, const Search<Rank>& row_of, const Entry<Rank>* entries, int64_t n, long long keep, const Belongs& belongs) {
  constexpr int kTurns = 128 / sizeof(Entry<Rank>);
  __shared__ unsigned bins[kDigitBins];
  __shared__ uint64_t scratch[32];
  uint64_t chosen[Entry<Rank>::kWords] = {};
  // calls body(entry, whether it belongs and equals `chosen` in the words before w); all lanes, several reads on their way
  const auto each = [&](int w, const auto& body) {
    for (int64_t base = 0; base < n; base += kTurns * kSettlers) {
      Entry<Rank> some[kTurns];
#pragma unroll
      for (int j = 0; j < kTurns; ++j) {
        const int64_t i = base + j * kSettlers + threadIdx.x;
        some[j] = i < n ? entries[i] : Entry<Rank>{};
      }
#pragma unroll
      for (int j = 0; j < kTurns; ++j) {
        bool here = base + j * kSettlers + threadIdx.x < n && belongs(some[j]);
#pragma unroll
        for (int v = 0; v < Entry<Rank>::kWords - 1; ++v) here = here && (v >= w || some[j].word(v) == chosen[v]);
        body(some[j], here);
      }
    }
  };
#pragma unroll
  for (int w = 0; w < Entry<Rank>::kWords; ++w) {
    uint64_t ones = 0, zeros = 0;
    each(w, [&](const Entry<Rank>& entry, bool here) {
      ones |= here ? entry.word(w) : 0;
      zeros |= here ? ~entry.word(w) : 0;
    });
    ones = block_or(ones, scratch);
    zeros = block_or(zeros, scratch);
    int left = (ones & zeros) == 0 ? 0 : 64 - __clzll(static_cast<long long>(ones & zeros));  // bits that are still open
    chosen[w] = left == 64 ? 0 : ones >> left << left;
    while (left > 0) {
      const int shift = max(left - kDigitBits, 0), before = left;
      for (int b = threadIdx.x; b < kDigitBins; b += kSettlers) bins[b] = 0;
      __syncthreads();
      each(w, [&](const Entry<Rank>& entry, bool here) {
        const bool same = here && (before == 64 || entry.word(w) >> before == chosen[w] >> before);
        count_in(bins, static_cast<int>(entry.word(w) >> shift) & ((1 << (before - shift)) - 1), same);
      });
      __syncthreads();
      constexpr int kEach = kDigitBins / kSettlers;
      unsigned counts[1][kEach];
      for (int j = 0; j < kEach; ++j) counts[0][j] = bins[(kSettlers - 1 - static_cast<int>(threadIdx.x)) * kEach + j];
      const long long want[1] = {keep};
      Found found[1];
      from_top(counts, want, found);
      keep -= found[0].above;
      chosen[w] |= static_cast<uint64_t>(found[0].bin) << shift;
      left = shift;
    }
  }
  each(0, [&](const Entry<Rank>& entry, bool here) {
    bool keeps = true;  // chosen, or larger in the first word that differs
#pragma unroll
    for (int w = Entry<Rank>::kWords - 1; w >= 0; --w)
      keeps = entry.word(w) != chosen[w] ? entry.word(w) > chosen[w] : keeps;
    keep_entry(k, row_of, entry, here && keeps);
  });
}

// Writes the mask of the chunk c: what ranks above the threshold, and the first `quota` that equal it.
template <class Rank>
__device__ void settle_ties(const Ranking<Rank>& k, const Decision<Rank>& d, int64_t c, int quota) {
  const Tally tally = k.tallies[c];
  const int ties = d.low ? tally.at_lo : tally.at_hi;
  if (!d.low && quota == ties) return;  // the mask holds them all already
  const Work work = Work::of(k, k.chunk[c]);
  const int n = work.n;
  const Rank threshold = d.threshold;
  __shared__ int scratch[32];
  int kept = 0;
  if (quota == 0 || quota == ties) {  // no order to keep: above the threshold, with all of its ties or none
    const Rank at_least = quota == 0 ? threshold + 1 : threshold;
#pragma unroll 2
    for (int at = 4 * static_cast<int>(threadIdx.x); at < n; at += 4 * kSettlers) {
      Rank ranks[4];
      const bool whole = work.whole(at);
      if (whole) {
        Four<Rank> four;
        four.read(work, at);
        four.ranks(work.type, k.magnitude, ranks);
      }
      uint32_t bytes = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!whole) ranks[j] = at + j < n ? rank_at<Rank>(work, at + j, k.magnitude) : kDead<Rank>;
        const bool keeps = ranks[j] >= at_least && ranks[j] != kDead<Rank>;
        bytes |= static_cast<uint32_t>(keeps) << 8 * j;
        kept += keeps;
      }
      if (whole) {
        *reinterpret_cast<uint32_t*>(work.mask + at) = bytes;
      } else {
        for (int j = 0; j < 4 && at + j < n; ++j) work.mask[at + j] = static_cast<char>(bytes >> 8 * j & 1);
      }
    }
  } else {
    const Row& row = k.rows[work.number];
    for (int base = 0; base < n; base += kSettlers) {
      const int index = base + static_cast<int>(threadIdx.x);
      const int at = index < n ? static_cast<int>(row.place_of(work.begin + index) - work.begin) : 0;
      const Rank rank = index < n ? rank_at<Rank>(work, at, k.magnitude) : kDead<Rank>;
      const int tie = index < n && rank == threshold;
      int total;
      const int before = block_before(tie, scratch, total);
      const bool keeps = index < n && (rank > threshold || (tie && before < quota));
      quota -= min(quota, total);
      if (index < n) work.mask[at] = keeps;
      kept += keeps;
    }
  }
  kept = block_sum(kept, scratch);
  const int counted = tally.above + tally.at_hi;
  if (threadIdx.x == 0 && kept != counted)
    atomicAdd(k.counts + work.number, static_cast<unsigned long long>(static_cast<long long>(kept - counted)));
}

template <class Rank>
__global__ void __launch_bounds__(kSettlers, 1) settle_kernel(const Ranking<Rank> k) {
  after_the_kernel_before();
  State<Rank>& s = *k.state;
  const Decision<Rank> d = decide(k);
  if (d.mode == kDone) return;
  if (d.mode == kThreshold) {  // neighbouring chunks, so that one sum over what lies before them says what is left for them
    const int64_t each = (k.chunks + gridDim.x - 1) / gridDim.x, begin = min(blockIdx.x * each, k.chunks), end = min(begin + each, k.chunks);
    __shared__ long long scratch[32];
    long long before = 0;
    for (int64_t c = threadIdx.x; c < begin; c += kSettlers) before += d.low ? k.tallies[c].at_lo : k.tallies[c].at_hi;
    long long left = d.quota - block_sum(before, scratch);
    for (int64_t c = begin; c < end; ++c) {
      const int ties = d.low ? k.tallies[c].at_lo : k.tallies[c].at_hi;
      settle_ties(k, d, c, static_cast<int>(max(0ll, min(static_cast<long long>(ties), left))));
      left -= ties;
    }
    return;
  }
  __shared__ int64_t starts[Search<Rank>::kRows];
  const Search<Rank> row_of{k, starts};
  row_of.prepare();
  __syncthreads();
  if (d.mode == kListed) settle_listed(k, row_of, d);
  if (d.mode == kListed && d.bin < 0) return;
  if (!last_block(&s.finished)) return;
  if (d.mode == kMissed) {
    select_alone<Rank, kSettlers>(k.rows, 0, k.count, k.keep, k.magnitude, k.counts);
    return;
  }
  const int64_t close = static_cast<int64_t>(__ldcg(&s.close));
  if (close <= min(static_cast<int64_t>(kCompared<Rank>), k.close_room))
    settle_few(k, row_of, static_cast<int>(close), d.close_keep);
  else if (close <= k.close_room)
    settle_close(k, row_of, k.close, close, d.close_keep, [](const Entry<Rank>&) { return true; });
  else
    settle_close(k, row_of, k.list, static_cast<int64_t>(s.inside), d.close_keep, [&](const Entry<Rank>& entry) { return list_bin(s, entry) == d.bin; });
}

}  // namespace
}  // namespace prune
