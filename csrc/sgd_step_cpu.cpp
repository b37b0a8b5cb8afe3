// The rule of sgd_step.h, compiled for every instruction set; the best is chosen when the module is loaded.

#include "sgd_step.h"

#include "isa.h"

namespace prune {
namespace {

constexpr int64_t kPiece = 512;  // entries whose masks are unpacked to bytes at a time

template <class T, bool kMomentum>
PRUNE_INLINE void step_plain(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, const uint8_t* __restrict__ kept,
                             int64_t n, const Rule<T>& r) {
  for (int64_t i = 0; i < n; ++i) {
    const T grad = r.decay != 0 ? g[i] + r.decay * w[i] : g[i];
    T step = grad;
    if constexpr (kMomentum) {
      const T v = r.first ? grad : r.momentum * m[i] + r.rest * grad;
      step = r.nesterov ? grad + r.momentum * v : v;
      m[i] = kept[i] ? v : T(0);
    }
    const T next = w[i] - r.lr * step;
    w[i] = kept[i] ? next : T(0);
  }
}

template <class T>
PRUNE_INLINE void step_bytes(T* w, const T* g, T* m, Kept kept, int64_t n, const Rule<T>& r) {
  uint8_t bytes[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t some = std::min(kPiece, n - i);
    for (int64_t j = 0; j < some; ++j) bytes[j] = kept.at(i + j);
    if (m != nullptr)
      step_plain<T, true>(w + i, g + i, m + i, bytes, some, r);
    else
      step_plain<T, false>(w + i, g + i, nullptr, bytes, some, r);
  }
}

void step_scalar(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) {
  step_bytes(w, g, m, kept, n, r);
}

#if PRUNE_X86

struct Rule256 {
  __m256 lr, momentum, rest, decay;
  bool first, nesterov, decays;
};

template <bool kMomentum>
PRUNE_AVX2 PRUNE_INLINE void step8(float* w, const float* g, float* m, __m256 kept, const Rule256& r) {
  const __m256 weight = _mm256_loadu_ps(w);
  __m256 grad = _mm256_loadu_ps(g);
  if (r.decays) grad = _mm256_fmadd_ps(r.decay, weight, grad);
  __m256 step = grad;
  if constexpr (kMomentum) {
    __m256 v = grad;
    if (!r.first) v = _mm256_fmadd_ps(r.momentum, _mm256_loadu_ps(m), _mm256_mul_ps(r.rest, grad));
    step = r.nesterov ? _mm256_fmadd_ps(r.momentum, v, grad) : v;
    _mm256_storeu_ps(m, _mm256_and_ps(v, kept));
  }
  _mm256_storeu_ps(w, _mm256_and_ps(_mm256_fnmadd_ps(r.lr, step, weight), kept));
}

enum class Masks { all, bytes, bits };

template <Masks kMasks>
PRUNE_AVX2 PRUNE_INLINE __m256 kept8(Kept kept, int64_t i) {  // lanes of ones for survivors among i to i + 7, i % 8 = 0
  if constexpr (kMasks == Masks::all) return _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  if constexpr (kMasks == Masks::bytes) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kept.bytes + i)));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(bytes, _mm256_setzero_si256()));
  }
  const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(kept.bits[i / 8]), places), places));
}

template <bool kMomentum, Masks kMasks>
PRUNE_AVX2 PRUNE_INLINE void step_avx2(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule256& r) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) step8<kMomentum>(w + i, g + i, m + i, kept8<kMasks>(kept, i), r);
  if (i == n) return;
  float tail[3][8] = {};
  char bytes[8] = {};
  for (int64_t j = 0; i + j < n; ++j) bytes[j] = kept.at(i + j);
  const size_t left = sizeof(float) * static_cast<size_t>(n - i);
  std::memcpy(tail[0], w + i, left);
  std::memcpy(tail[1], g + i, left);
  if constexpr (kMomentum) std::memcpy(tail[2], m + i, left);
  step8<kMomentum>(tail[0], tail[1], tail[2], kept8<Masks::bytes>({bytes, nullptr}, 0), r);
  std::memcpy(w + i, tail[0], left);
  if constexpr (kMomentum) std::memcpy(m + i, tail[2], left);
}

template <bool kMomentum>
PRUNE_AVX2 PRUNE_INLINE void step_avx2(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule256& r) {
  if (kept.all())
    step_avx2<kMomentum, Masks::all>(w, g, m, kept, n, r);
  else if (kept.bytes != nullptr)
    step_avx2<kMomentum, Masks::bytes>(w, g, m, kept, n, r);
  else
    step_avx2<kMomentum, Masks::bits>(w, g, m, kept, n, r);
}

PRUNE_AVX2 void step_avx2(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) {
  const Rule256 rule{_mm256_set1_ps(r.lr), _mm256_set1_ps(r.momentum), _mm256_set1_ps(r.rest), _mm256_set1_ps(r.decay),
                     r.first, r.nesterov, r.decay != 0};
  if (m != nullptr)
    step_avx2<true>(w, g, m, kept, n, rule);
  else
    step_avx2<false>(w, g, nullptr, kept, n, rule);
}

struct Rule512 {
  __m512 lr, momentum, rest, decay;
  bool first, nesterov, decays;
};

template <bool kMomentum>
PRUNE_AVX512 PRUNE_INLINE void step16(float* w, const float* g, float* m, __mmask16 live, __mmask16 kept, const Rule512& r) {
  const __m512 weight = _mm512_maskz_loadu_ps(live, w);
  __m512 grad = _mm512_maskz_loadu_ps(live, g);
  if (r.decays) grad = _mm512_fmadd_ps(r.decay, weight, grad);
  __m512 step = grad;
  if constexpr (kMomentum) {
    __m512 v = grad;
    if (!r.first) v = _mm512_fmadd_ps(r.momentum, _mm512_maskz_loadu_ps(live, m), _mm512_mul_ps(r.rest, grad));
    step = r.nesterov ? _mm512_fmadd_ps(r.momentum, v, grad) : v;
    _mm512_mask_storeu_ps(m, live, _mm512_maskz_mov_ps(kept, v));
  }
  _mm512_mask_storeu_ps(w, live, _mm512_maskz_mov_ps(kept, _mm512_fnmadd_ps(r.lr, step, weight)));
}

PRUNE_AVX512 PRUNE_INLINE uint64_t kept64(Kept kept, int64_t i, int64_t n) {  // of entries i to i + 63, i % 64 = 0
  const int64_t left = n - i;
  if (kept.all()) return ~0ull;
  if (kept.bytes != nullptr) {
    const __mmask64 live = left >= 64 ? ~0ull : (1ull << left) - 1;
    const __m512i bytes = _mm512_maskz_loadu_epi8(live, kept.bytes + i);
    return _cvtmask64_u64(_mm512_test_epi8_mask(bytes, bytes));
  }
  uint64_t word = 0;
  std::memcpy(&word, kept.bits + i / 8, left >= 64 ? 8 : (left + 7) / 8);
  return left >= 64 ? word : word & ((1ull << left) - 1);
}

template <bool kMomentum>
PRUNE_AVX512 PRUNE_INLINE void step_avx512(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule512& r) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t k = kept64(kept, i, n);
    for (int j = 0; j < 64; j += 16)
      step16<kMomentum>(w + i + j, g + i + j, m + i + j, 0xffff, static_cast<__mmask16>(k >> j), r);
  }
  const uint64_t k = i < n ? kept64(kept, i, n) : 0;
  for (int j = 0; i + j < n; j += 16) {
    const __mmask16 live = n - i - j >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i - j)) - 1);
    step16<kMomentum>(w + i + j, g + i + j, m + i + j, live, static_cast<__mmask16>(k >> j), r);
  }
}

PRUNE_AVX512 void step_avx512(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) {
  const Rule512 rule{_mm512_set1_ps(r.lr), _mm512_set1_ps(r.momentum), _mm512_set1_ps(r.rest), _mm512_set1_ps(r.decay),
                     r.first, r.nesterov, r.decay != 0};
  if (m != nullptr)
    step_avx512<true>(w, g, m, kept, n, rule);
  else
    step_avx512<false>(w, g, nullptr, kept, n, rule);
}

#endif  // PRUNE_X86

using Step = void (*)(float*, const float*, float*, Kept, int64_t, const Rule<float>&);

const Step kStep =
#if PRUNE_X86
    isa() == Isa::avx512 ? static_cast<Step>(step_avx512) : isa() == Isa::avx2 ? static_cast<Step>(step_avx2) :
#endif
                                                                               step_scalar;

}  // namespace

void step(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) { kStep(w, g, m, kept, n, r); }
void step(double* w, const double* g, double* m, Kept kept, int64_t n, const Rule<double>& r) { step_bytes(w, g, m, kept, n, r); }

}  // namespace prune
