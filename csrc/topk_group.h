// The weights of one ranking on the CPU, in chunks that no thread count changes: walked piece by piece, read one by one, and
// ranked by histograms where nothing faster holds.

#pragma once

#include <memory>

#include "classify.h"
#include "parallel.h"

namespace prune {
namespace {

constexpr int64_t kPiece = 4096;  // elements gathered at a time where memory is strided
constexpr int kBins = 2048;

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
class Group {  // tensors first to last - 1, ranked together
 protected:
  using Bits = std::make_unsigned_t<Rank>;

 public:
  Group(const std::vector<View>& x, const std::vector<View>& alive, const std::vector<View>& out, bool magnitude, int64_t first,
        int64_t last, int64_t threads)
      : x_(x), alive_(alive), out_(out), magnitude_(magnitude), threads_(threads) {
    for (int64_t t = first; t < last; ++t) {
      for (int64_t i = 0; i < x[t].numel; i += kChunk<Rank>) {
        chunks_.push_back({t, i, std::min(kChunk<Rank>, x[t].numel - i)});
        starts_.push_back(total_);
        total_ += chunks_.back().n;
      }
    }
    living_ = alive.empty() ? total_ : count_alive();
  }

  template <class Work>
  void each(const Work& work) const {
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

  Rank rank_at(int64_t chunk, int64_t i) const {
    const Chunk& k = chunks_[chunk];
    const View& x = x_[k.tensor];
    if (!alive_.empty() && alive_[k.tensor].data[alive_[k.tensor].offset(k.begin + i)] == 0) return kDead<Rank>;
    return rank_of<Rank>(x.data, x.offset(k.begin + i), x.type, magnitude_);
  }

  // The keep-th largest rank, eleven bits at a time.
  Rank radix(int64_t keep) const {
    constexpr int kBits = 8 * sizeof(Rank);
    constexpr Bits kFlip = Bits{1} << (kBits - 1);
    Bits prefix = 0;
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
  const int64_t threads_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> starts_;  // of the chunks in the group's flat order
  int64_t total_ = 0, living_ = 0;

 private:
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
};

}  // namespace
}  // namespace prune
