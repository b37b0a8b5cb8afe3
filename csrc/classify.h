// One pass over a piece of a tensor for topk_masks: mask bytes for what ranks at or above `hi`, the entries strictly
// between `lo` and `hi` listed, and how many fell where.

#pragma once

#include <algorithm>

#include "ranks.h"

namespace prune {

template <class Rank>
struct Bracket {
  Rank lo, hi;
};

template <class Rank>
struct Candidate {
  Rank rank;
  uint32_t index;  // within the chunk
};

struct Tally {  // ranks >= hi, strictly between; and where they were counted (`kEnds`), == hi and == lo
  int64_t from_hi = 0, inside = 0, at_hi = 0, at_lo = 0;
};

// A piece to classify: x holds elements (of `type`) or, where `type` is Undefined, ranks ready made.
template <class Rank>
struct Piece {
  const char* x;
  const char* alive;  // bytes, or null: all are alive
  char* mask;
  int64_t n;
  uint32_t base;  // index of the first element within the chunk
  ScalarType type;
  bool magnitude;
};

template <class Rank>
PRUNE_INLINE Rank rank_in(const Piece<Rank>& p, int64_t i) {
  if (p.alive != nullptr && p.alive[i] == 0) return kDead<Rank>;
  if (p.type != ScalarType::Undefined) return rank_of<Rank>(p.x, i, p.type, p.magnitude);
  Rank r;
  std::memcpy(&r, p.x + i * sizeof(Rank), sizeof(Rank));
  return r;
}

// Returns false where `list` (with room for `room` entries) is full; the tally is then worthless.
template <bool kEnds, class Rank>
PRUNE_INLINE bool classify_plain(const Piece<Rank>& p, Bracket<Rank> b, Candidate<Rank>* list, int64_t room, Tally& tally,
                                 int64_t from = 0) {
  for (int64_t i = from; i < p.n; ++i) {
    const Rank r = rank_in(p, i);
    p.mask[i] = r >= b.hi;
    tally.from_hi += r >= b.hi;
    if constexpr (kEnds) {
      tally.at_hi += r == b.hi;
      tally.at_lo += r == b.lo;
    }
    if (r > b.lo && r < b.hi) {
      if (tally.inside == room) return false;
      list[tally.inside++] = {r, p.base + static_cast<uint32_t>(i)};
    }
  }
  return true;
}

#if PRUNE_X86

constexpr int64_t kStrip = 4096;  // elements whose candidates are listed together, while they are in the cache

// Lists the entries whose bits are set in the n words. Words are few that have any, and mostly they have one:
// finding them first, without a branch, leaves little to mispredict.
template <ScalarType kType, bool kMagnitude>
PRUNE_INLINE bool list_set_bits(const char* x, int64_t begin, uint32_t base, const uint64_t* words, int64_t n, Candidate<int32_t>* list,
                                int64_t room, int64_t& listed) {
  uint8_t busy[kStrip / 64 + 1];
  int64_t count = 0, inside = 0;
  for (int64_t w = 0; w < n; ++w) {
    busy[count] = static_cast<uint8_t>(w);
    count += words[w] != 0;
    inside += __builtin_popcountll(words[w]);
  }
  if (listed + inside > room) return false;
  Candidate<int32_t>* to = list + listed;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t first = begin + 64 * busy[b];
    uint64_t bits = words[busy[b]];
    do {
      const int64_t i = first + __builtin_ctzll(bits);
      int32_t rank;
      if constexpr (kType == ScalarType::Undefined)
        std::memcpy(&rank, x + 4 * i, 4);
      else
        rank = rank_of<int32_t>(x, i, kType, kMagnitude);
      *to++ = {rank, base + static_cast<uint32_t>(i)};
      bits &= bits - 1;
    } while (bits != 0);
  }
  listed += inside;
  return true;
}

template <ScalarType kType, bool kMagnitude>
PRUNE_AVX512 PRUNE_INLINE __m512i ranks512(const char* x, int64_t i) {
  if constexpr (kType == ScalarType::Undefined) return _mm512_loadu_si512(x + 4 * i);
  __m512i bits;
  if constexpr (kType == ScalarType::Float)
    bits = _mm512_loadu_si512(x + 4 * i);
  else if constexpr (kType == ScalarType::BFloat16)
    bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 2 * i))), 16);
  else
    bits = _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 2 * i))));
  const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(size, _mm512_set1_epi32(0x7f800000));
  __m512i rank = size;
  if constexpr (!kMagnitude) rank = _mm512_mask_sub_epi32(size, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), size);
  return _mm512_mask_mov_epi32(rank, nan, _mm512_set1_epi32(kNan<int32_t>));
}

template <ScalarType kType, bool kMagnitude, bool kEnds, bool kAlive>
PRUNE_AVX512 bool classify512(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& tally) {
  const __m512i lo = _mm512_set1_epi32(b.lo), hi = _mm512_set1_epi32(b.hi), dead = _mm512_set1_epi32(kDead<int32_t>);
  const __m512i next = _mm512_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(b.lo) + 1));
  const __m512i width = _mm512_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(b.hi) - static_cast<uint32_t>(b.lo) - 1));
  const __m512i one = _mm512_set1_epi8(1);
  const char *const x = p.x, *const living = p.alive;
  char* const mask = p.mask;
  Tally t = tally;
  int64_t i = 0;
  for (int64_t strip; (strip = std::min(kStrip, (p.n - i) / 64 * 64)) > 0; i += strip) {
    uint64_t words[kStrip / 64];
    for (int64_t w = 0; w < strip / 64; ++w) {
      const int64_t at = i + 64 * w;
      uint64_t alive = 0;
      if constexpr (kAlive) alive = _cvtmask64_u64(_mm512_test_epi8_mask(_mm512_loadu_si512(living + at), _mm512_set1_epi8(-1)));
      uint64_t from_hi = 0, inside = 0, at_hi = 0, at_lo = 0;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m512i ranks = ranks512<kType, kMagnitude>(x, at + 16 * j);
        if constexpr (kAlive) ranks = _mm512_mask_mov_epi32(dead, static_cast<__mmask16>(alive >> 16 * j), ranks);
        // lo < rank < hi in one comparison: rank - (lo + 1) as an unsigned number is below hi - (lo + 1)
        inside |= static_cast<uint64_t>(_mm512_cmplt_epu32_mask(_mm512_sub_epi32(ranks, next), width)) << 16 * j;
        from_hi |= static_cast<uint64_t>(_mm512_cmpge_epi32_mask(ranks, hi)) << 16 * j;
        if constexpr (kEnds) {
          at_hi |= static_cast<uint64_t>(_mm512_cmpeq_epi32_mask(ranks, hi)) << 16 * j;
          at_lo |= static_cast<uint64_t>(_mm512_cmpeq_epi32_mask(ranks, lo)) << 16 * j;
        }
      }
      words[w] = inside;
      t.from_hi += __builtin_popcountll(from_hi);
      if constexpr (kEnds) {
        t.at_hi += __builtin_popcountll(at_hi);
        t.at_lo += __builtin_popcountll(at_lo);
      }
      _mm512_storeu_si512(mask + at, _mm512_maskz_mov_epi8(_cvtu64_mask64(from_hi), one));
    }
    if (!list_set_bits<kType, kMagnitude>(x, i, p.base, words, strip / 64, list, room, t.inside)) return false;
  }
  tally = t;
  return classify_plain<kEnds>(p, b, list, room, tally, i);
}

template <ScalarType kType, bool kMagnitude>
PRUNE_AVX2 PRUNE_INLINE __m256i ranks256(const char* x, int64_t i) {
  if constexpr (kType == ScalarType::Undefined) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 4 * i));
  __m256i bits;
  if constexpr (kType == ScalarType::Float)
    bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 4 * i));
  else if constexpr (kType == ScalarType::BFloat16)
    bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 2 * i))), 16);
  else
    bits = _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 2 * i))));
  const __m256i size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i nan = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7f800000));
  const __m256i rank = kMagnitude ? size : _mm256_sign_epi32(size, _mm256_or_si256(bits, _mm256_set1_epi32(1)));
  return _mm256_blendv_epi8(rank, _mm256_set1_epi32(kNan<int32_t>), nan);
}

PRUNE_AVX2 PRUNE_INLINE __m256i bytes256(const __m256i c[4]) {  // 4 x 8 lanes of 0 or -1 -> 32 bytes of 0 or -1 in order
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

PRUNE_AVX2 PRUNE_INLINE uint64_t bits256(const __m256i c[4]) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(bytes256(c)));
}

template <ScalarType kType, bool kMagnitude, bool kEnds, bool kAlive>
PRUNE_AVX2 bool classify256(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& tally) {
  const __m256i lo = _mm256_set1_epi32(b.lo), hi = _mm256_set1_epi32(b.hi), below = _mm256_set1_epi32(b.hi - 1);
  const __m256i dead = _mm256_set1_epi32(kDead<int32_t>);
  const char *const x = p.x, *const living = p.alive;
  char* const mask = p.mask;
  Tally t = tally;
  int64_t i = 0;
  for (int64_t strip; (strip = std::min(kStrip, (p.n - i) / 64 * 64)) > 0; i += strip) {
    uint64_t words[kStrip / 64] = {};
    for (int64_t w = 0; w < strip / 32; ++w) {
      const int64_t at = i + 32 * w;
      __m256i from_hi[4], over_lo[4], at_hi[4], at_lo[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m256i ranks = ranks256<kType, kMagnitude>(x, at + 8 * j);
        if constexpr (kAlive) {
          const __m256i alive = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(living + at + 8 * j)));
          ranks = _mm256_blendv_epi8(ranks, dead, _mm256_cmpeq_epi32(alive, _mm256_setzero_si256()));
        }
        from_hi[j] = _mm256_cmpgt_epi32(ranks, below);
        over_lo[j] = _mm256_cmpgt_epi32(ranks, lo);
        at_hi[j] = _mm256_cmpeq_epi32(ranks, hi);
        at_lo[j] = _mm256_cmpeq_epi32(ranks, lo);
      }
      const __m256i bytes = bytes256(from_hi);
      const uint64_t kept = static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
      words[w / 2] |= (bits256(over_lo) & ~kept) << 32 * (w % 2);
      t.from_hi += __builtin_popcountll(kept);
      if constexpr (kEnds) {
        t.at_hi += __builtin_popcountll(bits256(at_hi));
        t.at_lo += __builtin_popcountll(bits256(at_lo));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + at), _mm256_and_si256(bytes, _mm256_set1_epi8(1)));
    }
    if (!list_set_bits<kType, kMagnitude>(x, i, p.base, words, strip / 64, list, room, t.inside)) return false;
  }
  tally = t;
  return classify_plain<kEnds>(p, b, list, room, tally, i);
}

#endif  // PRUNE_X86

}  // namespace prune
