// Where the threshold of a ranking lies, as a sample tells.

#pragma once

#include <cmath>

#include "topk_group.h"

namespace prune {
namespace {

constexpr int64_t kRun = 16;       // elements per sampled run: a cache line of floats
constexpr int64_t kWholly = 4096;  // groups up to this size are listed wholly instead of sampled
constexpr double kSigmas = 5;      // of the sample's error, either side: misses once in 10^6 selections

template <class Rank>
Rank largest(std::vector<Rank>& ranks, int64_t k) {  // the k-th, 1-based; reorders
  std::nth_element(ranks.begin(), ranks.begin() + (k - 1), ranks.end(), std::greater<Rank>());
  return ranks[k - 1];
}

template <class Rank>
class Ordered {  // order statistics of what is alive among ranks: one histogram of their leading bits, then a small part
  using Bits = std::make_unsigned_t<Rank>;
  static constexpr int kShift = 8 * sizeof(Rank) - 12;

 public:
  explicit Ordered(const std::vector<Rank>& ranks) : ranks_(ranks), bins_(1 << 12) {
    for (Rank r : ranks) ++bins_[bin(r)];
    for (int64_t count : bins_) living_ += count;
    for (Rank r : ranks) living_ -= r == kDead<Rank>;
  }
  int64_t size() const { return living_; }
  Rank largest(int64_t k) const {  // the k-th, 1 <= k <= size()
    size_t at = bins_.size() - 1;
    while (bins_[at] < k) k -= bins_[at--];
    std::vector<Rank> close;
    close.reserve(bins_[at]);
    for (Rank r : ranks_)
      if (bin(r) == at) close.push_back(r);
    return prune::largest(close, k);
  }

 private:
  static size_t bin(Rank r) { return (static_cast<Bits>(r) ^ Bits{1} << (8 * sizeof(Rank) - 1)) >> kShift; }

  const std::vector<Rank>& ranks_;
  std::vector<int64_t> bins_;
  int64_t living_ = 0;
};

template <class Rank>
class Sampled : public Group<Rank> {
 public:
  using Group<Rank>::Group, Group<Rank>::x_, Group<Rank>::alive_, Group<Rank>::chunks_, Group<Rank>::starts_;
  using Group<Rank>::magnitude_, Group<Rank>::threads_, Group<Rank>::total_, Group<Rank>::living_, Group<Rank>::rank_at;

  // Runs of 16 neighbours, one at a fixed pseudo-random place in each of equal strata, tell where the threshold lies and,
  // by how much each differs from the run before it, how sure that is: neighbouring weights are alike, so the spread must
  // be that of runs; layers differ, but strata keep to their layers, so only the spread between neighbouring strata counts.
  // `ends` tells whether ties with an end of the bracket are many enough to be worth counting.
  Bracket<Rank> bracket(int64_t keep, bool& ends) const {
    const Bracket<Rank> everything{kDead<Rank>, std::numeric_limits<Rank>::max()};
    if (total_ <= kWholly) return everything;
    const int64_t runs = static_cast<int64_t>(std::pow(1.5 * static_cast<double>(total_), 2.0 / 3.0)) / kRun + 1;
    const int64_t stratum = total_ / runs;
    std::vector<Rank> sample(runs * kRun, kDead<Rank>);
    constexpr int64_t kUnit = 256;
    share((runs + kUnit - 1) / kUnit, std::min<int64_t>(threads_, runs / 1024 + 1), [&](int64_t unit, int64_t) {
      const int64_t first = unit * kUnit, last = std::min(runs, first + kUnit);
      int64_t places[kUnit], chunk_of[kUnit];
      int64_t chunk = std::upper_bound(starts_.begin(), starts_.end(), first * stratum) - starts_.begin() - 1;
      for (int64_t s = first; s < last; ++s) {
        const uint64_t hash = (static_cast<uint64_t>(s) + 1) * 0x9e3779b97f4a7c15ull >> 32;
        const int64_t at = s * stratum + static_cast<int64_t>(hash % static_cast<uint64_t>(std::max<int64_t>(stratum / kRun, 1))) * kRun;
        while (chunk + 1 < static_cast<int64_t>(starts_.size()) && starts_[chunk + 1] <= at) ++chunk;
        places[s - first] = at;
        chunk_of[s - first] = chunk;
        const Chunk& k = chunks_[chunk];
        __builtin_prefetch(x_[k.tensor].data + x_[k.tensor].offset(k.begin + at - starts_[chunk]) * size_of(x_[k.tensor].type));
      }
      for (int64_t s = first; s < last; ++s)
        sample_run(chunk_of[s - first], places[s - first], &sample[s * kRun]);
    });
    const Ordered<Rank> order(sample);
    const int64_t n = order.size();
    if (n == 0) return everything;
    const double share_kept = static_cast<double>(keep) / static_cast<double>(living_);
    const int64_t middle = std::clamp<int64_t>(static_cast<int64_t>(share_kept * static_cast<double>(n)), 1, n);
    const Rank guess = order.largest(middle);
    std::vector<int32_t> above(runs), equal(runs), living(runs);
    int64_t over = 0, at = 0;
    for (int64_t s = 0; s < runs; ++s) {
      int32_t a = 0, e = 0, l = 0;
      for (int64_t j = 0; j < kRun; ++j) {
        const Rank r = sample[s * kRun + j];
        a += r > guess;
        e += r == guess;
        l += r != kDead<Rank>;
      }
      over += above[s] = a;
      at += equal[s] = e;
      living[s] = l;
    }
    const double tied = static_cast<double>(middle - over) / static_cast<double>(at);  // the share of ties to count
    double variance = 0, before = 0;
    for (int64_t s = 0; s < runs; ++s) {
      const double excess = above[s] + tied * equal[s] - share_kept * living[s];
      if (s > 0) variance += (excess - before) * (excess - before) / 2;
      before = excess;
    }
    const int64_t width = static_cast<int64_t>(kSigmas * std::sqrt(variance)) + 8;
    Bracket<Rank> b = everything;
    if (middle + width <= n) b.lo = order.largest(middle + width);
    if (middle - width >= 1) b.hi = order.largest(middle - width);
    if (b.lo == b.hi) b.lo = b.hi - 1;  // one value holds the whole bracket: its ties are counted, nothing is listed
    int64_t at_ends = 0;
    for (Rank r : sample) at_ends += r == b.lo || r == b.hi;
    ends = at_ends > 8;
    return b;
  }

 private:
  void sample_run(int64_t chunk, int64_t at, Rank* run) const {  // kRun neighbours in the group's flat order
    const Chunk& k = chunks_[chunk];
    const View& x = x_[k.tensor];
    const int64_t i = k.begin + at - starts_[chunk];
    if (x.flat && alive_.empty() && i + kRun <= k.begin + k.n) {
      if (x.type == ScalarType::Float)  // by itself, so that the loop is vectorized
        for (int64_t j = 0; j < kRun; ++j) run[j] = rank_of<Rank>(x.data, i + j, ScalarType::Float, magnitude_);
      else
        for (int64_t j = 0; j < kRun; ++j) run[j] = rank_of<Rank>(x.data, i + j, x.type, magnitude_);
      return;
    }
    for (int64_t j = 0; j < kRun && at + j < total_; ++j) {
      while (chunk + 1 < static_cast<int64_t>(starts_.size()) && starts_[chunk + 1] <= at + j) ++chunk;
      run[j] = rank_at(chunk, at + j - starts_[chunk]);
    }
  }
};

}  // namespace
}  // namespace prune
