// Bare loops that move the bytes an op must move and do next to nothing with them: the floors of the CPU benchmarks.
// Built by timing.py for the machine it runs on. Every probe goes over `count` arrays of sizes[i] elements, `threads` at
// a time, arrays cut into pieces so that threads share them evenly.

#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t kPiece = 1 << 16;

class Pool {
 public:
  template <class Work>
  static void run(int64_t count, const int64_t* sizes, int threads, const Work& work) {
    struct Piece {
      int64_t array, begin, end;
    };
    std::vector<Piece> pieces;
    for (int64_t a = 0; a < count; ++a)
      for (int64_t i = 0; i < sizes[a]; i += kPiece) pieces.push_back({a, i, i + kPiece < sizes[a] ? i + kPiece : sizes[a]});
    const int64_t n = static_cast<int64_t>(pieces.size());
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t p = 0; p < n; ++p) work(pieces[p].array, pieces[p].begin, pieces[p].end);
  }
};

}  // namespace

extern "C" {

void read4_write1(int64_t count, const int64_t* sizes, int threads, const float* const* x, uint8_t* const* y, float limit) {
  Pool::run(count, sizes, threads, [&](int64_t a, int64_t begin, int64_t end) {
    const float* __restrict__ in = x[a];
    uint8_t* __restrict__ out = y[a];
    int64_t i = begin;
#ifdef __AVX512BW__  // compilers narrow 4-byte comparisons to bytes badly, and a slow floor would flatter the op
    const __m512 bound = _mm512_set1_ps(limit);
    for (; i + 64 <= end; i += 64) {
      uint64_t over = 0;
      for (int j = 0; j < 4; ++j)
        over |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_abs_ps(_mm512_loadu_ps(in + i + 16 * j)), bound, _CMP_GT_OQ)) << 16 * j;
      _mm512_storeu_si512(out + i, _mm512_maskz_set1_epi8(_cvtu64_mask64(over), 1));
    }
#elif defined(__AVX2__)
    const __m256 bound = _mm256_set1_ps(limit), sign = _mm256_set1_ps(-0.0f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), one = _mm256_set1_epi8(1);
    for (; i + 32 <= end; i += 32) {
      __m256i over[4];
      for (int j = 0; j < 4; ++j)
        over[j] = _mm256_castps_si256(_mm256_cmp_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(in + i + 8 * j)), bound, _CMP_GT_OQ));
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(over[0], over[1]), _mm256_packs_epi32(over[2], over[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_and_si256(_mm256_permutevar8x32_epi32(bytes, order), one));
    }
#endif
    for (; i < end; ++i) out[i] = __builtin_fabsf(in[i]) > limit;
  });
}

int64_t read4(int64_t count, const int64_t* sizes, int threads, const uint32_t* const* x) {
  std::atomic<int64_t> total{0};
  Pool::run(count, sizes, threads, [&](int64_t a, int64_t begin, int64_t end) {
    uint32_t sum = 0;
    const auto* __restrict__ in = x[a];
    for (int64_t i = begin; i < end; ++i) sum |= in[i];
    total += sum != 0;
  });
  return total;
}

int64_t read1(int64_t count, const int64_t* sizes, int threads, const uint8_t* const* x) {
  std::atomic<int64_t> total{0};
  Pool::run(count, sizes, threads, [&](int64_t a, int64_t begin, int64_t end) {
    uint8_t sum = 0;
    const auto* __restrict__ in = x[a];
    for (int64_t i = begin; i < end; ++i) sum |= in[i];
    total += sum != 0;
  });
  return total;
}

void sgd_like(int64_t count, const int64_t* sizes, int threads, float* const* w, const float* const* g, float* const* m,
              float lr) {
  Pool::run(count, sizes, threads, [&](int64_t a, int64_t begin, int64_t end) {
    float *__restrict__ weight = w[a], *__restrict__ velocity = m[a];
    const float* __restrict__ grad = g[a];
    for (int64_t i = begin; i < end; ++i) {
      velocity[i] += grad[i];
      weight[i] -= lr * velocity[i];
    }
  });
}
// Reads and writes w and reads g at listed places: sizes are the lists'.
void indexed(int64_t count, const int64_t* sizes, int threads, float* const* w, const float* const* g, const int32_t* const* places) {
  Pool::run(count, sizes, threads, [&](int64_t a, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) w[a][places[a][i]] += 0.0f * g[a][places[a][i]];
  });
}

}
