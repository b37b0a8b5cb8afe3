// topk_masks on the CPU. A sample of short runs brackets the threshold; one pass over the weights writes the masks, lists
// what falls strictly inside the bracket and counts what falls on its ends; the threshold is then selected among the
// listed (or is an end of the bracket, where ties are heavy), and only what is undecided is touched again. Where the
// sample misled, a radix selection by histograms finds the threshold instead: always exact, a few passes slower.

#include <cmath>
#include <memory>

#include "classify.h"
#include "parallel.h"

namespace prune {
namespace {

constexpr int64_t kBlock = 1 << 16;      // candidates per block of a list
constexpr int64_t kRun = 16;             // elements per sampled run: a cache line of floats
constexpr int64_t kWholly = 4096;        // groups up to this size are listed wholly instead of sampled
constexpr int64_t kPiece = 4096;         // elements gathered at a time where memory is strided
constexpr int kBins = 2048;
constexpr double kSigmas = 5;             // of the sample's error, either side: misses once in 10^6 selections

struct Chunk {  // of one tensor; no chunk crosses tensors
  int64_t tensor, begin, n;
};

template <class Rank>
constexpr int64_t kChunk = 1 << 16;

using Classify32 = bool (*)(const Piece<int32_t>&, Bracket<int32_t>, Candidate<int32_t>*, int64_t, Tally&);

template <bool kEnds>
bool classify_scalar32(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& t) {
  return classify_plain<kEnds>(p, b, list, room, t);
}

#if PRUNE_X86
template <bool kMagnitude, bool kEnds, bool kAlive>
Classify32 vector_kernel(ScalarType type) {
  const bool wide = isa() == Isa::avx512;
  switch (type) {
    case ScalarType::Float:
      return wide ? classify512<ScalarType::Float, kMagnitude, kEnds, kAlive> : classify256<ScalarType::Float, kMagnitude, kEnds, kAlive>;
    case ScalarType::BFloat16:
      return wide ? classify512<ScalarType::BFloat16, kMagnitude, kEnds, kAlive>
                  : classify256<ScalarType::BFloat16, kMagnitude, kEnds, kAlive>;
    case ScalarType::Half:
      return wide ? classify512<ScalarType::Half, kMagnitude, kEnds, kAlive> : classify256<ScalarType::Half, kMagnitude, kEnds, kAlive>;
    default:
      return wide ? classify512<ScalarType::Undefined, true, kEnds, kAlive> : classify256<ScalarType::Undefined, true, kEnds, kAlive>;
  }
}

template <bool kEnds>
Classify32 vector_kernel(const Piece<int32_t>& p) {
  if (p.alive != nullptr) return p.magnitude ? vector_kernel<true, kEnds, true>(p.type) : vector_kernel<false, kEnds, true>(p.type);
  return p.magnitude ? vector_kernel<true, kEnds, false>(p.type) : vector_kernel<false, kEnds, false>(p.type);
}
#endif

template <bool kEnds>
bool classify(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& t) {
#if PRUNE_X86
  if (isa() != Isa::scalar) return vector_kernel<kEnds>(p)(p, b, list, room, t);
#endif
  return classify_scalar32<kEnds>(p, b, list, room, t);
}

template <bool kEnds>
bool classify(const Piece<int64_t>& p, Bracket<int64_t> b, Candidate<int64_t>* list, int64_t room, Tally& t) {
  return classify_plain<kEnds>(p, b, list, room, t);
}

int64_t size_of(ScalarType type) { return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2; }

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
class Selection {  // one ranking over a group of tensors
  using Bits = std::make_unsigned_t<Rank>;
  struct List {
    int64_t block = -1, first = 0, n = 0;
  };
  struct Arena {  // one thread's blocks of candidates
    int64_t block = -1, used = 0;
  };

 public:
  Selection(const std::vector<View>& x, const std::vector<View>& alive, const std::vector<View>& out, bool magnitude,
            int64_t first, int64_t last, int64_t keep, int64_t* kept, int64_t threads)
      : x_(x), alive_(alive), out_(out), magnitude_(magnitude), keep_(keep), kept_(kept), threads_(threads) {
    for (int64_t t = first; t < last; ++t) {
      kept_[t] = 0;
      for (int64_t i = 0; i < x[t].numel; i += kChunk<Rank>) {
        chunks_.push_back({t, i, std::min(kChunk<Rank>, x[t].numel - i)});
        starts_.push_back(total_);
        total_ += chunks_.back().n;
      }
    }
    counts_.resize(chunks_.size());
    living_ = alive.empty() ? total_ : count_alive();
  }

  void run() {
    if (keep_ == 0 || keep_ >= living_) {  // nothing, or all that is alive
      const Rank at_least = keep_ == 0 ? std::numeric_limits<Rank>::max() - 1 : kNan<Rank>;
      each([&](int64_t c) { rewrite(c, at_least, keep_ == 0 ? 0 : chunks_[c].n); });
    } else if (!bracketed()) {
      hold(radix());
    }
    for (size_t c = 0; c < chunks_.size(); ++c) kept_[chunks_[c].tensor] += counts_[c].from_hi;
  }

 private:
  template <class Work>
  void each(const Work& work) {
    share(chunks_.size(), threads_, [&](int64_t c, int64_t) { work(c); });
  }

  // Calls body(piece) for the pieces of a chunk; strided memory passes through contiguous scratch.
  template <class Body>
  bool pieces(int64_t c, const Body& body) const {
    const Chunk& k = chunks_[c];
    const View &x = x_[k.tensor], &m = out_[k.tensor];
    const View* a = alive_.empty() ? nullptr : &alive_[k.tensor];
    const int64_t size = size_of(x.type);
    if (x.flat && m.flat && (a == nullptr || a->flat))
      return body(Piece<Rank>{x.data + k.begin * size, a == nullptr ? nullptr : a->data + k.begin, m.data + k.begin, k.n, 0,
                              x.type, magnitude_});
    std::vector<Rank> ranks(std::min(kPiece, k.n));
    std::vector<char> masks(ranks.size());
    for (int64_t i = 0; i < k.n; i += kPiece) {
      const int64_t n = std::min(kPiece, k.n - i);
      walk(x, k.begin + i, n, [&](int64_t j, int64_t offset) { ranks[j] = rank_of<Rank>(x.data, offset, x.type, magnitude_); });
      if (a != nullptr)
        walk(*a, k.begin + i, n, [&](int64_t j, int64_t offset) { ranks[j] = a->data[offset] == 0 ? kDead<Rank> : ranks[j]; });
      if (!body(Piece<Rank>{reinterpret_cast<char*>(ranks.data()), nullptr, masks.data(), n, static_cast<uint32_t>(i),
                            ScalarType::Undefined, magnitude_}))
        return false;
      walk(m, k.begin + i, n, [&](int64_t j, int64_t offset) { m.data[offset] = masks[j]; });
    }
    return true;
  }

  int64_t count_alive() {
    std::vector<int64_t> living(chunks_.size());
    each([&](int64_t c) {
      const Chunk& k = chunks_[c];
      const View& a = alive_[k.tensor];
      walk(a, k.begin, k.n, [&](int64_t, int64_t offset) { living[c] += a.data[offset] != 0; });
    });
    int64_t sum = 0;
    for (int64_t n : living) sum += n;
    return sum;
  }

  // Writes rank > threshold, and the first `quota` of those equal to it.
  void rewrite(int64_t c, Rank threshold, int64_t quota) {
    int64_t left = quota, kept = 0;
    pieces(c, [&](const Piece<Rank>& p) {
      const Rank at_least = left == 0 ? threshold + 1 : threshold;
      Tally t;
      classify<true>(p, {static_cast<Rank>(at_least - 1), at_least}, nullptr, 0, t);
      kept += t.from_hi;
      if (left >= t.at_hi) {
        left -= t.at_hi;
      } else if (left > 0) {
        kept -= t.at_hi - left;
        for (int64_t i = 0; i < p.n; ++i)
          if (p.mask[i] != 0 && rank_in(p, i) == threshold && left-- <= 0) p.mask[i] = 0;
        left = 0;
      }
      return true;
    });
    counts_[c].from_hi = kept;
  }

  // Keeps what ranks above the threshold, and the first of its ties up to `keep_`. False where it is not the threshold.
  bool hold(Rank threshold) {
    each([&](int64_t c) {
      counts_[c] = Tally();
      pieces(c, [&](const Piece<Rank>& p) {
        return classify<true>(p, {static_cast<Rank>(threshold - 1), threshold}, nullptr, 0, counts_[c]);
      });
    });
    return keep_first_at_hi(threshold);
  }

  // Shares `quota` among the chunks in order, at most at(tally) to each, and has every chunk decided.
  template <class At, class Decide>
  void settle(int64_t quota, const At& at, const Decide& decide) {
    std::vector<int64_t> quotas(chunks_.size());
    for (size_t c = 0; c < chunks_.size(); ++c) {
      quotas[c] = std::min(quota, at(counts_[c]));
      quota -= quotas[c];
    }
    each([&](int64_t c) { decide(c, quotas[c]); });
  }

  bool keep_first_at_hi(Rank hi) {  // the masks hold all that rank at or above hi
    int64_t from_hi = 0, at_hi = 0;
    for (const Tally& t : counts_) {
      from_hi += t.from_hi;
      at_hi += t.at_hi;
    }
    const int64_t quota = keep_ - (from_hi - at_hi);
    if (quota <= 0 || quota > at_hi) return false;
    settle(quota, [](const Tally& t) { return t.at_hi; }, [&](int64_t c, int64_t mine) {
      if (mine != counts_[c].at_hi) rewrite(c, hi, mine);
    });
    return true;
  }

  struct Bins {  // histogram of listed ranks over the bracket
    int shift = 0;
    Rank lo;
    explicit Bins(Bracket<Rank> b) : lo(b.lo) {
      while ((static_cast<Bits>(b.hi) - static_cast<Bits>(b.lo)) >> shift >= kBins) ++shift;
    }
    size_t of(Rank r) const { return (static_cast<Bits>(r) - static_cast<Bits>(lo)) >> shift; }
  };

  bool bracketed() {
    bool ends = false;
    const Bracket<Rank> b = bracket(ends);
    const Bins bins(b);
    const int64_t most = (8 << 20) / 3 * 2 / static_cast<int64_t>(sizeof(Candidate<Rank>)) + total_ / 400;
    blocks_.resize(std::max<int64_t>(threads_, most / kBlock));
    std::vector<Arena> arenas(threads_);
    std::vector<std::vector<int64_t>> listed(threads_, std::vector<int64_t>(kBins));
    std::atomic<int64_t> taken{0};
    std::atomic<bool> full{false};
    lists_.resize(chunks_.size());
    const int64_t room = std::min<int64_t>(kBlock, total_);
    share(chunks_.size(), threads_, [&](int64_t c, int64_t thread) {
      Arena& arena = arenas[thread];
      for (int64_t attempt = 0; attempt < 2 && !full; ++attempt) {
        if (arena.block >= 0) {
          Candidate<Rank>* entries = blocks_[arena.block].get() + arena.used;
          Tally t;
          const bool fits = pieces(c, [&](const Piece<Rank>& p) {
            return (ends ? classify<true>(p, b, entries, room - arena.used, t) : classify<false>(p, b, entries, room - arena.used, t));
          });
          if (fits) {
            lists_[c] = {arena.block, arena.used, t.inside};
            arena.used += t.inside;
            counts_[c] = t;
            for (int64_t i = 0; i < t.inside; ++i) ++listed[thread][bins.of(entries[i].rank)];
            return;
          }
        }
        const int64_t block = taken++;
        if (block >= static_cast<int64_t>(blocks_.size())) {
          full = true;
          return;
        }
        blocks_[block].reset(new Candidate<Rank>[room]);
        arena = {block, 0};
      }
    });
    if (full) return false;
    Tally all;
    for (const Tally& t : counts_) {
      all.from_hi += t.from_hi;
      all.inside += t.inside;
      all.at_lo += t.at_lo;
    }
    const int64_t rest = keep_ - all.from_hi;
    if (rest <= 0) return ends && keep_first_at_hi(b.hi);
    if (rest <= all.inside) {
      for (int64_t t = 1; t < threads_; ++t)
        for (int i = 0; i < kBins; ++i) listed[0][i] += listed[t][i];
      among_listed(bins, listed[0], rest);
      return true;
    }
    if (rest > all.inside + all.at_lo) return false;
    settle(rest - all.inside, [](const Tally& t) { return t.at_lo; }, [&](int64_t c, int64_t mine) {
      if (mine == 0)
        fix(c, b.lo, 0);
      else
        rewrite(c, b.lo, mine);
    });
    return true;
  }

  const Candidate<Rank>* list(int64_t c) const { return blocks_[lists_[c].block].get() + lists_[c].first; }

  // Decides a chunk's listed entries: above the threshold, or among the first `quota` at it.
  void fix(int64_t c, Rank threshold, int64_t quota) {
    const Chunk& k = chunks_[c];
    const View& m = out_[k.tensor];
    int64_t kept = counts_[c].from_hi;
    const Candidate<Rank>* entries = lists_[c].n == 0 ? nullptr : list(c);
    for (int64_t i = 0; i < lists_[c].n; ++i) {
      if (m.flat && i + 16 < lists_[c].n) __builtin_prefetch(m.data + k.begin + entries[i + 16].index, 1);
      const bool keep = entries[i].rank > threshold || (entries[i].rank == threshold && quota-- > 0);
      kept += keep;
      m.data[m.offset(k.begin + entries[i].index)] = keep;
    }
    counts_[c].from_hi = kept;
  }

  void among_listed(const Bins& bins, const std::vector<int64_t>& listed, int64_t keep) {
    int64_t above = 0;
    size_t bin = kBins - 1;
    while (above + listed[bin] < keep) above += listed[bin--];
    std::vector<Rank> close;
    close.reserve(listed[bin]);
    for (size_t c = 0; c < chunks_.size(); ++c)
      for (int64_t i = 0; i < lists_[c].n; ++i)
        if (const Rank r = list(c)[i].rank; bins.of(r) == bin) close.push_back(r);
    const Rank threshold = largest(close, keep - above);
    std::vector<int64_t> quotas(chunks_.size());
    int64_t quota = keep - above;
    for (Rank r : close) quota -= r > threshold;
    for (size_t c = 0; c < chunks_.size(); ++c) {
      int64_t at = 0;
      for (int64_t i = 0; i < lists_[c].n; ++i) at += list(c)[i].rank == threshold;
      quotas[c] = std::min(quota, at);
      quota -= quotas[c];
    }
    each([&](int64_t c) { fix(c, threshold, quotas[c]); });
  }

  Rank rank_at(int64_t chunk, int64_t i) const {
    const Chunk& k = chunks_[chunk];
    const View& x = x_[k.tensor];
    if (!alive_.empty() && alive_[k.tensor].data[alive_[k.tensor].offset(k.begin + i)] == 0) return kDead<Rank>;
    return rank_of<Rank>(x.data, x.offset(k.begin + i), x.type, magnitude_);
  }

  // Runs of 16 neighbours, one at a fixed pseudo-random place in each of equal strata, tell where the threshold lies and,
  // by how much each differs from the run before it, how sure that is: neighbouring weights are alike, so the spread must
  // be that of runs; layers differ, but strata keep to their layers, so only the spread between neighbouring strata counts.
  // `ends` tells whether ties with an end of the bracket are many enough to be worth counting.
  Bracket<Rank> bracket(bool& ends) const {
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
    const double share_kept = static_cast<double>(keep_) / static_cast<double>(living_);
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

  // The keep-th largest rank, eleven bits at a time.
  Rank radix() {
    constexpr int kBits = 8 * sizeof(Rank);
    constexpr Bits kFlip = Bits{1} << (kBits - 1);
    Bits prefix = 0;
    int64_t keep = keep_;
    for (int left = kBits; left > 0;) {
      const int take = std::min(11, left), shift = left - take;
      std::vector<std::vector<int64_t>> bins(threads_, std::vector<int64_t>(kBins));
      share(chunks_.size(), threads_, [&](int64_t c, int64_t thread) {
        for (int64_t i = 0; i < chunks_[c].n; ++i) {
          const Rank r = rank_at(c, i);
          const Bits bits = static_cast<Bits>(r) ^ kFlip;
          if (r != kDead<Rank> && (left == kBits || bits >> left == prefix)) ++bins[thread][bits >> shift & ((1 << take) - 1)];
        }
      });
      int64_t bin = (1 << take) - 1;
      for (;; --bin) {
        int64_t here = 0;
        for (const auto& counted : bins) here += counted[bin];
        if (here >= keep) break;
        keep -= here;
      }
      prefix = prefix << take | static_cast<Bits>(bin);
      left = shift;
    }
    return static_cast<Rank>(prefix ^ kFlip);
  }

  const std::vector<View>&x_, &alive_, &out_;
  const bool magnitude_;
  const int64_t keep_;
  int64_t* const kept_;
  const int64_t threads_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> starts_;  // of the chunks in the group's flat order
  std::vector<Tally> counts_;    // from_hi ends as what the chunk's mask keeps
  std::vector<List> lists_;
  std::vector<std::unique_ptr<Candidate<Rank>[]>> blocks_;
  int64_t total_ = 0, living_ = 0;
};

}  // namespace

Tensor topk_masks_cpu(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keep, bool magnitude,
                      const std::vector<Tensor>& alive, const std::vector<Tensor>& out) {
  const std::vector<View> x = views(tensors), a = views(alive), m = views(out);
  const int64_t n = static_cast<int64_t>(x.size());
  STD_TORCH_CHECK(m.size() == x.size() && (a.empty() || a.size() == x.size()), "topk_masks: lists of unlike lengths");
  for (int64_t t = 0; t < n; ++t) {
    STD_TORCH_CHECK(is_float(x[t].type), "topk_masks: tensors[", t, "] is no floating-point tensor");
    STD_TORCH_CHECK(m[t].type == ScalarType::Bool && same_shape(m[t], x[t]), "topk_masks: out[", t, "] does not fit");
    STD_TORCH_CHECK(a.empty() || (a[t].type == ScalarType::Bool && same_shape(a[t], x[t])), "topk_masks: alive[", t, "] does not fit");
    STD_TORCH_CHECK(tensors[t].is_cpu() && out[t].is_cpu() && (a.empty() || alive[t].is_cpu()), "topk_masks: several devices");
  }
  const bool alone = n == 1 || keep.size() != 1;
  STD_TORCH_CHECK(static_cast<int64_t>(keep.size()) == (alone ? n : 1), "topk_masks: keep has ", keep.size(), " counts for ", n, " tensors");
  Tensor counts = torch::stable::empty({n}, ScalarType::Long);
  int64_t* kept = counts.mutable_data_ptr<int64_t>();

  struct Group {
    int64_t first, last, elements;
  };
  std::vector<Group> groups;
  for (int64_t t = 0; t < n; ++t) {
    if (alone || t == 0) groups.push_back({t, t, 0});
    groups.back().last = t + 1;
    groups.back().elements += x[t].numel;
  }
  for (size_t g = 0; g < groups.size(); ++g)
    STD_TORCH_CHECK(keep[g] >= 0 && keep[g] <= groups[g].elements, "topk_masks: keep is ", keep[g], " of ", groups[g].elements);
  const auto select = [&](int64_t g, int64_t threads) {
    const Group& group = groups[g];
    bool wide = false;
    for (int64_t t = group.first; t < group.last; ++t) wide |= x[t].type == ScalarType::Double;
    if (wide)
      Selection<int64_t>(x, a, m, magnitude, group.first, group.last, keep[g], kept, threads).run();
    else
      Selection<int32_t>(x, a, m, magnitude, group.first, group.last, keep[g], kept, threads).run();
  };
  constexpr int64_t kEach = 1 << 15;  // elements that are worth another thread
  std::vector<int64_t> small;
  int64_t elements = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].elements > 16 * kEach || groups.size() == 1) {
      select(g, threads_for(groups[g].elements, kEach));
    } else {
      small.push_back(g);
      elements += groups[g].elements;
    }
  }
  share(small.size(), threads_for(elements, kEach), [&](int64_t i, int64_t) { select(small[i], 1); });
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) { m.impl("topk_masks", TORCH_BOX(&topk_masks_cpu)); }

}  // namespace prune
