// topk_masks on the CPU. A sample of short runs brackets the threshold; one pass over the weights writes the masks, lists
// what falls strictly inside the bracket and counts what falls on its ends; the threshold is then selected among the
// listed (or is an end of the bracket, where ties are heavy), and only what is undecided is touched again. Where the
// sample misled, a radix selection by histograms finds the threshold instead: always exact, a few passes slower.

#include "topk_sample.h"

namespace prune {
namespace {

constexpr int64_t kBlock = 1 << 16;  // candidates per block of a list

template <class Rank>
class Selection : public Sampled<Rank> {  // one ranking over a group of tensors
  using typename Group<Rank>::Bits;
  using Group<Rank>::x_, Group<Rank>::alive_, Group<Rank>::out_, Group<Rank>::chunks_, Group<Rank>::threads_, Group<Rank>::total_;
  using Group<Rank>::living_, Group<Rank>::each, Group<Rank>::pieces, Group<Rank>::radix, Sampled<Rank>::bracket;

  struct List {
    int64_t block = -1, first = 0, n = 0;
  };
  struct Arena {  // one thread's blocks of candidates
    int64_t block = -1, used = 0;
  };

 public:
  Selection(const std::vector<View>& x, const std::vector<View>& alive, const std::vector<View>& out, bool magnitude,
            int64_t first, int64_t last, int64_t keep, int64_t* kept, int64_t threads)
      : Sampled<Rank>(x, alive, out, magnitude, first, last, threads), keep_(keep), kept_(kept), counts_(chunks_.size()) {
    std::fill(kept + first, kept + last, 0);
  }

  void run() {
    if (keep_ == 0 || keep_ >= living_) {  // nothing, or all that is alive
      const Rank at_least = keep_ == 0 ? std::numeric_limits<Rank>::max() - 1 : kNan<Rank>;
      each([&](int64_t c) { rewrite(c, at_least, keep_ == 0 ? 0 : chunks_[c].n); });
    } else if (!bracketed()) {
      hold(radix(keep_));
    }
    for (size_t c = 0; c < chunks_.size(); ++c) kept_[chunks_[c].tensor] += counts_[c].from_hi;
  }

 private:
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
    const Bracket<Rank> b = bracket(keep_, ends);
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

  const int64_t keep_;
  int64_t* const kept_;
  std::vector<Tally> counts_;  // from_hi ends as what the chunk's mask keeps
  std::vector<List> lists_;
  std::vector<std::unique_ptr<Candidate<Rank>[]>> blocks_;
};

}  // namespace

Tensor topk_masks_cpu(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keep, bool magnitude,
                      const std::vector<Tensor>& alive, const std::vector<Tensor>& out) {
  const std::vector<View> x = views(tensors), a = views(alive), m = views(out);
  const int64_t n = static_cast<int64_t>(x.size());
  expect(m.size() == x.size() && (a.empty() || a.size() == x.size()), "topk_masks: lists of unlike lengths");
  for (int64_t t = 0; t < n; ++t) {
    expect(is_float(x[t].type), "topk_masks: tensors[", t, "] is no floating-point tensor");
    expect(m[t].type == ScalarType::Bool && same_shape(m[t], x[t]), "topk_masks: out[", t, "] does not fit");
    expect(a.empty() || (a[t].type == ScalarType::Bool && same_shape(a[t], x[t])), "topk_masks: alive[", t, "] does not fit");
    expect(tensors[t].is_cpu() && out[t].is_cpu() && (a.empty() || alive[t].is_cpu()), "topk_masks: several devices");
  }
  const bool alone = n == 1 || keep.size() != 1;
  expect(static_cast<int64_t>(keep.size()) == (alone ? n : 1), "topk_masks: keep has ", keep.size(), " counts for ", n, " tensors");
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
    expect(keep[g] >= 0 && keep[g] <= groups[g].elements, "topk_masks: keep is ", keep[g], " of ", groups[g].elements);
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
