// One pass over a piece of a tensor for topk_masks: mask bytes for what ranks at or above `hi`, the entries strictly
// between `lo` and `hi` listed, and how many fell where.

#pragma once

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

struct Tally {
  int64_t above = 0, at_hi = 0, inside = 0, at_lo = 0;  // rank > hi, == hi, strictly between, == lo
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

// Returns false where `list` (with room for `room` more after tally.inside) is full; the tally is then worthless.
template <class Rank>
PRUNE_INLINE bool classify_plain(const Piece<Rank>& p, Bracket<Rank> b, Candidate<Rank>* list, int64_t room, Tally& tally,
                                 int64_t from = 0) {
  for (int64_t i = from; i < p.n; ++i) {
    Rank r;
    if (p.type == ScalarType::Undefined)
      std::memcpy(&r, p.x + i * sizeof(Rank), sizeof(Rank));
    else
      r = rank_of<Rank>(p.x, i, p.type, p.magnitude);
    if (p.alive != nullptr && p.alive[i] == 0) r = kDead<Rank>;
    p.mask[i] = r >= b.hi;
    tally.above += r > b.hi;
    tally.at_hi += r == b.hi;
    tally.at_lo += r == b.lo;
    if (r > b.lo && r < b.hi) {
      if (tally.inside == room) return false;
      list[tally.inside++] = {r, p.base + static_cast<uint32_t>(i)};
    }
  }
  return true;
}

#if PRUNE_X86

template <ScalarType kType, bool kMagnitude>
PRUNE_AVX512 PRUNE_INLINE __m512i ranks512(const char* x, int64_t i) {
  const __m512i sizes = _mm512_set1_epi32(0x7fffffff), infinity = _mm512_set1_epi32(0x7f800000);
  if constexpr (kType == ScalarType::Undefined) return _mm512_loadu_si512(x + 4 * i);
  __m512i bits;
  if constexpr (kType == ScalarType::Float)
    bits = _mm512_loadu_si512(x + 4 * i);
  else if constexpr (kType == ScalarType::BFloat16)
    bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 2 * i))), 16);
  else
    bits = _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 2 * i))));
  const __m512i size = _mm512_and_si512(bits, sizes);
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(size, infinity);
  __m512i rank = size;
  if constexpr (!kMagnitude) rank = _mm512_mask_sub_epi32(size, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), size);
  return _mm512_mask_mov_epi32(rank, nan, _mm512_set1_epi32(kNan<int32_t>));
}

template <ScalarType kType, bool kMagnitude>
PRUNE_AVX512 bool classify512(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& tally) {
  const __m512i lo = _mm512_set1_epi32(b.lo), hi = _mm512_set1_epi32(b.hi), dead = _mm512_set1_epi32(kDead<int32_t>);
  const __m512i one = _mm512_set1_epi8(1);
  Tally t = tally;
  int64_t i = 0;
  for (; i + 64 <= p.n; i += 64) {
    uint64_t above = 0, at_hi = 0, over_lo = 0, at_lo = 0;
    const uint64_t alive = p.alive == nullptr ? ~0ull : _cvtmask64_u64(_mm512_test_epi8_mask(
        _mm512_loadu_si512(p.alive + i), _mm512_set1_epi8(-1)));
    __m512i ranks[4];
    for (int j = 0; j < 4; ++j) {
      ranks[j] = ranks512<kType, kMagnitude>(p.x, i + 16 * j);
      if (p.alive != nullptr) ranks[j] = _mm512_mask_mov_epi32(dead, static_cast<__mmask16>(alive >> 16 * j), ranks[j]);
      above |= static_cast<uint64_t>(_mm512_cmpgt_epi32_mask(ranks[j], hi)) << 16 * j;
      at_hi |= static_cast<uint64_t>(_mm512_cmpeq_epi32_mask(ranks[j], hi)) << 16 * j;
      over_lo |= static_cast<uint64_t>(_mm512_cmpgt_epi32_mask(ranks[j], lo)) << 16 * j;
      at_lo |= static_cast<uint64_t>(_mm512_cmpeq_epi32_mask(ranks[j], lo)) << 16 * j;
    }
    t.above += __builtin_popcountll(above);
    t.at_hi += __builtin_popcountll(at_hi);
    t.at_lo += __builtin_popcountll(at_lo);
    _mm512_storeu_si512(p.mask + i, _mm512_maskz_mov_epi8(_cvtu64_mask64(above | at_hi), one));
    uint64_t inside = over_lo & ~(above | at_hi);
    if (inside != 0) {
      if (t.inside + 64 > room && t.inside + __builtin_popcountll(inside) > room) return false;
      alignas(64) int32_t stored[64];
      for (int j = 0; j < 4; ++j) _mm512_store_si512(stored + 16 * j, ranks[j]);
      do {
        const int at = __builtin_ctzll(inside);
        list[t.inside++] = {stored[at], p.base + static_cast<uint32_t>(i + at)};
        inside &= inside - 1;
      } while (inside != 0);
    }
  }
  tally = t;
  return classify_plain(p, b, list, room, tally, i);
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

PRUNE_AVX2 PRUNE_INLINE uint32_t bits256(__m256i a, __m256i b, __m256i c, __m256i d) {  // 4 x 8 lanes -> 32 bits in order
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  return static_cast<uint32_t>(_mm256_movemask_epi8(
      _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))));
}

template <ScalarType kType, bool kMagnitude>
PRUNE_AVX2 bool classify256(const Piece<int32_t>& p, Bracket<int32_t> b, Candidate<int32_t>* list, int64_t room, Tally& tally) {
  const __m256i lo = _mm256_set1_epi32(b.lo), hi = _mm256_set1_epi32(b.hi), dead = _mm256_set1_epi32(kDead<int32_t>);
  Tally t = tally;
  int64_t i = 0;
  for (; i + 32 <= p.n; i += 32) {
    __m256i ranks[4], above[4], at_hi[4], over_lo[4], at_lo[4];
    for (int j = 0; j < 4; ++j) {
      ranks[j] = ranks256<kType, kMagnitude>(p.x, i + 8 * j);
      if (p.alive != nullptr) {
        const __m256i alive = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p.alive + i + 8 * j)));
        ranks[j] = _mm256_blendv_epi8(ranks[j], dead, _mm256_cmpeq_epi32(alive, _mm256_setzero_si256()));
      }
      above[j] = _mm256_cmpgt_epi32(ranks[j], hi);
      at_hi[j] = _mm256_cmpeq_epi32(ranks[j], hi);
      over_lo[j] = _mm256_cmpgt_epi32(ranks[j], lo);
      at_lo[j] = _mm256_cmpeq_epi32(ranks[j], lo);
    }
    const uint32_t is_above = bits256(above[0], above[1], above[2], above[3]);
    const uint32_t is_hi = bits256(at_hi[0], at_hi[1], at_hi[2], at_hi[3]);
    t.above += __builtin_popcount(is_above);
    t.at_hi += __builtin_popcount(is_hi);
    t.at_lo += __builtin_popcount(bits256(at_lo[0], at_lo[1], at_lo[2], at_lo[3]));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(is_above | is_hi)), _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p.mask + i), _mm256_and_si256(set, _mm256_set1_epi8(1)));
    uint32_t inside = bits256(over_lo[0], over_lo[1], over_lo[2], over_lo[3]) & ~(is_above | is_hi);
    if (inside != 0) {
      if (t.inside + __builtin_popcount(inside) > room) return false;
      alignas(32) int32_t stored[32];
      for (int j = 0; j < 4; ++j) _mm256_store_si256(reinterpret_cast<__m256i*>(stored + 8 * j), ranks[j]);
      do {
        const int at = __builtin_ctz(inside);
        list[t.inside++] = {stored[at], p.base + static_cast<uint32_t>(i + at)};
        inside &= inside - 1;
      } while (inside != 0);
    }
  }
  tally = t;
  return classify_plain(p, b, list, room, tally, i);
}

#endif  // PRUNE_X86

}  // namespace prune
