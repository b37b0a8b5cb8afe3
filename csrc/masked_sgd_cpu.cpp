// masked_sgd_ on the CPU: one pass over weights, gradients and momenta in fixed chunks of all tensors together. 16-bit and
// strided memory passes through float scratch of a few kilobytes. Where the caller vouches for zeros and few survive, only
// the cache lines that hold survivors are touched.

#include <bit>
#include <cmath>

#include "isa.h"
#include "ops.h"
#include "parallel.h"
#include "ranks.h"

namespace prune {
namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int64_t kPiece = 512;        // elements converted or gathered at a time
constexpr int64_t kSparse = 32;        // one survivor among so many, or fewer: only their cache lines are touched

template <class T>
struct Rule {
  T lr, momentum, rest, decay;  // rest = 1 - dampening
  bool first, nesterov, settled;
};

// Survivors as the kernels read them: one byte each, or one bit each from bit `shift` of the first byte on.
struct Kept {
  const char* bytes;
  const uint8_t* bits;

  bool at(int64_t i) const { return bytes != nullptr ? bytes[i] != 0 : (bits[i >> 3] >> (i & 7) & 1) != 0; }
};

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

void step_double(double* w, const double* g, double* m, Kept kept, int64_t n, const Rule<double>& r) {
  step_bytes(w, g, m, kept, n, r);
}

void step_scalar(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) {
  step_bytes(w, g, m, kept, n, r);
}

#if PRUNE_X86

PRUNE_AVX2 void step_avx2(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) {
  step_bytes(w, g, m, kept, n, r);
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
PRUNE_AVX512 void step_survivors(float* w, const float* g, float* m, const uint64_t* words, int64_t n, const Rule512& r) {
  uint16_t groups[kChunk / 16 + 1];
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    groups[count] = static_cast<uint16_t>(i / 16);
    count += (words[i / 64] >> (i % 64) & 0xffff) != 0;
  }
  constexpr int64_t kAhead = 16;
  for (int64_t at = 0; at < count; ++at) {
    if (at + kAhead < count) {
      const int64_t next = groups[at + kAhead] * int64_t{16};
      __builtin_prefetch(w + next, 1);
      __builtin_prefetch(g + next, 0);
      if constexpr (kMomentum) __builtin_prefetch(m + next, 1);
    }
    const int64_t i = groups[at] * int64_t{16};
    const __mmask16 live = n - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i)) - 1);
    step16<kMomentum>(w + i, g + i, m + i, live, static_cast<__mmask16>(words[i / 64] >> (i % 64)), r);
  }
}

template <bool kMomentum>
PRUNE_AVX512 PRUNE_INLINE void step_avx512(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule512& r, bool settled) {
  if (settled) {
    uint64_t words[kChunk / 64];
    int64_t survivors = 0;
    for (int64_t i = 0; i < n; i += 64) {
      words[i / 64] = kept64(kept, i, n);
      survivors += __builtin_popcountll(words[i / 64]);
    }
    if (survivors * kSparse <= n) return step_survivors<kMomentum>(w, g, m, words, n, r);
  }
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
    step_avx512<true>(w, g, m, kept, n, rule, r.settled);
  else
    step_avx512<false>(w, g, nullptr, kept, n, rule, r.settled);
}

#endif  // PRUNE_X86

using Step = void (*)(float*, const float*, float*, Kept, int64_t, const Rule<float>&);

const Step kStep =
#if PRUNE_X86
    isa() == Isa::avx512 ? static_cast<Step>(step_avx512) : isa() == Isa::avx2 ? step_avx2 :
#endif
                                                                               step_scalar;

void step(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r) { kStep(w, g, m, kept, n, r); }
void step(double* w, const double* g, double* m, Kept kept, int64_t n, const Rule<double>& r) { step_double(w, g, m, kept, n, r); }

float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

void put_float(char* data, int64_t i, ScalarType type, float value) {  // rounds to nearest, ties to even
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  uint16_t half;
  if (type == ScalarType::Float) {
    std::memcpy(data + 4 * i, &value, 4);
    return;
  }
  if (type == ScalarType::BFloat16) {
    half = std::isnan(value) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  } else {
    const uint32_t size = bits & 0x7fffffff;
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    if (size > 0x7f800000) {
      half = sign | 0x7e00;
    } else if (size >= 0x477ff000) {  // 65520 and more round to infinity
      half = sign | 0x7c00;
    } else if (size < 0x38800000) {  // below the smallest normal half: a multiple of 2^-24, rounded by the addition
      const uint32_t sum = std::bit_cast<uint32_t>(as_float(size) + 0.5f);
      half = sign | static_cast<uint16_t>(sum - 0x3f000000);
    } else {
      half = sign | static_cast<uint16_t>((size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13);
    }
  }
  std::memcpy(data + 2 * i, &half, 2);
}

template <class T>
T get(const View& x, int64_t offset) {
  if constexpr (sizeof(T) == 8)
    return reinterpret_cast<const double*>(x.data)[offset];
  else
    return as_float(float_bits(x.data, offset, x.type));
}

template <class T>
void put(const View& x, int64_t offset, T value) {
  if constexpr (sizeof(T) == 8)
    reinterpret_cast<double*>(x.data)[offset] = value;
  else
    put_float(x.data, offset, x.type, value);
}

template <class T>
void gather(const View& x, int64_t begin, int64_t n, T* to) {
  walk(x, begin, n, [&](int64_t j, int64_t offset) { to[j] = get<T>(x, offset); });
}

template <class T>
void scatter(const View& x, int64_t begin, int64_t n, const T* from) {
  walk(x, begin, n, [&](int64_t j, int64_t offset) { put<T>(x, offset, from[j]); });
}

struct Target {
  View w, g, mask;
  View m, master;  // data null where there is none
};

template <class T>
void update(const Target& t, int64_t begin, int64_t n, const Rule<T>& r) {
  const bool bits = t.mask.type == ScalarType::Byte;
  const bool direct = t.w.flat && t.g.flat && t.mask.flat && (t.m.data == nullptr || t.m.flat) && t.master.data == nullptr &&
                      t.w.type == (sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
  const auto kept_from = [&](int64_t i) {
    return bits ? Kept{nullptr, reinterpret_cast<const uint8_t*>(t.mask.data) + i / 8} : Kept{t.mask.data + i, nullptr};
  };
  if (direct) {
    step(reinterpret_cast<T*>(t.w.data) + begin, reinterpret_cast<const T*>(t.g.data) + begin,
         t.m.data == nullptr ? nullptr : reinterpret_cast<T*>(t.m.data) + begin, kept_from(begin), n, r);
    return;
  }
  const View& source = t.master.data != nullptr ? t.master : t.w;
  alignas(64) T w[kPiece], g[kPiece], m[kPiece];
  char kept[kPiece];
  for (int64_t i = begin; i < begin + n; i += kPiece) {
    const int64_t some = std::min(kPiece, begin + n - i);
    gather(source, i, some, w);
    gather(t.g, i, some, g);
    if (t.m.data != nullptr) gather(t.m, i, some, m);
    if (!bits) walk(t.mask, i, some, [&](int64_t j, int64_t offset) { kept[j] = t.mask.data[offset]; });
    step(w, g, t.m.data == nullptr ? nullptr : m, bits ? kept_from(i) : Kept{kept, nullptr}, some, r);
    scatter(t.w, i, some, w);
    if (t.master.data != nullptr) scatter(t.master, i, some, w);
    if (t.m.data != nullptr) scatter(t.m, i, some, m);
  }
}

}  // namespace

void masked_sgd_cpu(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                    const std::vector<Tensor>& masks, const std::vector<Tensor>& masters, double lr,
                    std::optional<Tensor> lr_tensor, double momentum, double dampening, double weight_decay, bool nesterov,
                    bool first, bool settled) {
  const size_t n = params.size();
  STD_TORCH_CHECK(grads.size() == n && masks.size() == n && (momenta.empty() || momenta.size() == n) &&
                      (masters.empty() || masters.size() == n) && (momentum == 0 || momenta.size() == n),
                  "masked_sgd_: lists of unlike lengths");
  STD_TORCH_CHECK(!nesterov || (momentum > 0 && dampening == 0), "masked_sgd_: nesterov needs a momentum and no dampening");
  if (lr_tensor.has_value()) {
    const View rate = view(*lr_tensor);
    STD_TORCH_CHECK(lr_tensor->is_cpu() && rate.dim == 0 && (rate.type == ScalarType::Float || rate.type == ScalarType::Double),
                    "masked_sgd_: lr must be a number or a 0-d float tensor on the parameters' device");
    lr = rate.type == ScalarType::Double ? *reinterpret_cast<const double*>(rate.data) : *reinterpret_cast<const float*>(rate.data);
  }
  struct Unit {
    size_t target;
    int64_t begin, n;
  };
  std::vector<Target> targets;
  std::vector<Unit> units;
  targets.reserve(n);
  int64_t elements = 0;
  const View none{};
  for (size_t t = 0; t < n; ++t) {
    Target x{view(params[t]), view(grads[t]), view(masks[t]), momentum == 0 ? none : view(momenta[t]),
                   masters.empty() ? none : view(masters[t])};
    const ScalarType wide = x.w.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(is_float(x.w.type) && x.g.type == x.w.type && same_shape(x.g, x.w), "masked_sgd_: grads[", t, "] does not fit");
    STD_TORCH_CHECK(momentum == 0 || (x.m.type == wide && same_shape(x.m, x.w)), "masked_sgd_: momenta[", t, "] does not fit");
    STD_TORCH_CHECK(masters.empty() || (x.master.type == ScalarType::Float && wide == ScalarType::Float && same_shape(x.master, x.w)),
                    "masked_sgd_: masters[", t, "] does not fit");
    STD_TORCH_CHECK(x.mask.type == ScalarType::Bool
                        ? same_shape(x.mask, x.w)
                        : x.mask.type == ScalarType::Byte && x.mask.dim == 1 && x.mask.numel == (x.w.numel + 7) / 8 && x.mask.flat,
                    "masked_sgd_: masks[", t, "] does not fit");
    STD_TORCH_CHECK(params[t].is_cpu() && grads[t].is_cpu() && masks[t].is_cpu() && (momentum == 0 || momenta[t].is_cpu()) &&
                        (masters.empty() || masters[t].is_cpu()),
                    "masked_sgd_: several devices");
    const auto alike = [&](const View& v) { return v.data == nullptr || same_layout(v, x.w); };
    if (!x.w.flat && x.mask.type == ScalarType::Bool && gapless(x.w) && alike(x.g) && alike(x.mask) && alike(x.m) && alike(x.master))
      x.w.flat = x.g.flat = x.mask.flat = x.m.flat = x.master.flat = true;  // channels-last: any common order will do
    targets.push_back(x);
    for (int64_t i = 0; i < x.w.numel; i += kChunk) units.push_back({t, i, std::min(kChunk, x.w.numel - i)});
    elements += x.w.numel;
  }
  const Rule<double> exact{lr, momentum, 1 - dampening, weight_decay, first, nesterov, settled};
  const Rule<float> single{static_cast<float>(lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
                           static_cast<float>(weight_decay), first, nesterov, settled};
  share(units.size(), threads_for(elements, kChunk), [&](int64_t u, int64_t) {
    const Target& t = targets[units[u].target];
    if (t.w.type == ScalarType::Double)
      update<double>(t, units[u].begin, units[u].n, exact);
    else
      update<float>(t, units[u].begin, units[u].n, single);
  });
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) { m.impl("masked_sgd_", TORCH_BOX(&masked_sgd_cpu)); }

}  // namespace prune
