// Ranks on CUDA, as in ranks.h: integers whose order is the order of the floats, read from rows of any float type.

#pragma once

#include "multi_tensor.cuh"

namespace prune {
namespace {

template <class Rank>
struct Numbers;
template <>
struct Numbers<int32_t> {
  using Bits = uint32_t;
  static constexpr int32_t kMin = INT32_MIN, kMax = INT32_MAX, kInfinity = 0x7f800000;
};
template <>
struct Numbers<int64_t> {
  using Bits = uint64_t;
  static constexpr int64_t kMin = INT64_MIN, kMax = INT64_MAX, kInfinity = 0x7ff0000000000000;
};
template <class Rank>
using Bits = typename Numbers<Rank>::Bits;
template <class Rank>
constexpr Rank kDead = Numbers<Rank>::kMin;  // what is not alive; NaN ranks one above, every number higher
template <class Rank>
constexpr Rank kNan = Numbers<Rank>::kMin + 1;

struct Span {  // neighbouring elements
  const char* x;
  const char* alive;  // null: all are
  char* mask;
  ScalarType type;
  bool vector;  // addresses of every fourth element are aligned for four

  __device__ Span from(int64_t place) const {
    const int size = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
    return {x + place * size, alive == nullptr ? nullptr : alive + place, mask + place, type, vector};
  }
};

// A tensor in its ranking. `place` counts elements in memory, `index` in row-major order. They differ where every slice of
// the first dimension is stored transposed, [b][a] for [a][b], as channels_last convolutions are; slices lie in order.
struct Row : Span {
  int64_t n;
  int64_t start;  // index of its first element in the ranking
  int chunk;      // elements that a block takes; whole slices
  int a, b;       // of a transposed slice; b = 1: place = index

  __device__ int64_t place_of(int64_t index) const {
    if (b == 1) return index;
    const int slice = a * b, in = static_cast<int>(index % slice);
    return index - in + in % b * a + in / b;
  }
  __device__ int64_t index_of(int64_t place) const {
    if (b == 1) return place;
    const int slice = a * b, in = static_cast<int>(place % slice);
    return place - in + in % a * b + in / a;
  }
};

// Integers without a sign in the order of the ranks; what is dead is 0.
template <class Rank>
__device__ Bits<Rank> biased(Rank r) {
  return static_cast<Bits<Rank>>(r) ^ static_cast<Bits<Rank>>(Numbers<Rank>::kMin);
}
template <class Rank>
__device__ Rank unbiased(Bits<Rank> u) {
  return static_cast<Rank>(u ^ static_cast<Bits<Rank>>(Numbers<Rank>::kMin));
}

template <class Rank>
__device__ Rank rank_of_bits(Bits<Rank> bits, bool magnitude) {
  const Rank size = static_cast<Rank>(bits & static_cast<Bits<Rank>>(Numbers<Rank>::kMax));
  if (size > Numbers<Rank>::kInfinity) return kNan<Rank>;
  return !magnitude && static_cast<Rank>(bits) < 0 ? -size : size;
}

__device__ inline uint32_t half_bits(uint32_t h) {  // the bits of the same float
  return __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(h))));
}

__device__ inline uint64_t double_bits(uint32_t f) {  // the bits of the same double, denormals kept apart
  const uint64_t sign = static_cast<uint64_t>(f & 0x80000000u) << 32, exponent = f >> 23 & 255, fraction = f & 0x7fffffu;
  if (exponent == 255) return sign | 0x7ff0000000000000ull | fraction << 29;
  if (exponent != 0) return sign | (exponent + 896) << 52 | fraction << 29;
  if (fraction == 0) return sign;
  const int up = __clz(static_cast<int>(fraction)) - 8;
  return sign | static_cast<uint64_t>(897 - up) << 52 | (fraction << up & 0x7fffff) << 29;
}

template <class Rank>
__device__ Rank rank_from_float(uint32_t bits, bool magnitude) {
  if constexpr (sizeof(Rank) == 4)
    return rank_of_bits<Rank>(bits, magnitude);
  else
    return rank_of_bits<Rank>(double_bits(bits), magnitude);
}

template <class Rank>
__device__ Rank rank_from_sixteen(uint32_t bits, ScalarType type, bool magnitude) {
  return rank_from_float<Rank>(type == ScalarType::BFloat16 ? bits << 16 : half_bits(bits), magnitude);
}

template <class Rank>
__device__ Rank rank_at(const Span& row, int64_t place, bool magnitude) {
  if (row.alive != nullptr && row.alive[place] == 0) return kDead<Rank>;
  if (row.type == ScalarType::Float) return rank_from_float<Rank>(reinterpret_cast<const uint32_t*>(row.x)[place], magnitude);
  if (row.type != ScalarType::Double)
    return rank_from_sixteen<Rank>(reinterpret_cast<const uint16_t*>(row.x)[place], row.type, magnitude);
  if constexpr (sizeof(Rank) == 8) return rank_of_bits<Rank>(reinterpret_cast<const uint64_t*>(row.x)[place], magnitude);
  return kDead<Rank>;  // doubles are ranked by 64 bits
}

// Four neighbours as they lie in memory, so that several can be on their way before the first is looked at.
template <class Rank>
struct Four {
  uint4 words[sizeof(Rank) / 4];
  uint32_t alive;

  __device__ void read(const Span& row, int64_t place) {  // row.vector, place % 4 = 0
    alive = row.alive == nullptr ? 0x01010101u : *reinterpret_cast<const uint32_t*>(row.alive + place);
    if (row.type == ScalarType::Float) {
      words[0] = *reinterpret_cast<const uint4*>(row.x + 4 * place);
    } else if (row.type != ScalarType::Double) {
      const uint2 two = *reinterpret_cast<const uint2*>(row.x + 2 * place);
      words[0].x = two.x;
      words[0].y = two.y;
    } else if constexpr (sizeof(Rank) == 8) {
      words[0] = *reinterpret_cast<const uint4*>(row.x + 8 * place);
      words[1] = *reinterpret_cast<const uint4*>(row.x + 8 * place + 16);
    }
  }

  __device__ void ranks(ScalarType type, bool magnitude, Rank out[4]) const {
    const uint4 w = words[0];
    if (type == ScalarType::Float) {
      out[0] = rank_from_float<Rank>(w.x, magnitude);
      out[1] = rank_from_float<Rank>(w.y, magnitude);
      out[2] = rank_from_float<Rank>(w.z, magnitude);
      out[3] = rank_from_float<Rank>(w.w, magnitude);
    } else if (type != ScalarType::Double) {
      out[0] = rank_from_sixteen<Rank>(w.x & 0xffff, type, magnitude);
      out[1] = rank_from_sixteen<Rank>(w.x >> 16, type, magnitude);
      out[2] = rank_from_sixteen<Rank>(w.y & 0xffff, type, magnitude);
      out[3] = rank_from_sixteen<Rank>(w.y >> 16, type, magnitude);
    } else if constexpr (sizeof(Rank) == 8) {
      const uint4 v = words[1];
      out[0] = rank_of_bits<Rank>(w.x | static_cast<uint64_t>(w.y) << 32, magnitude);
      out[1] = rank_of_bits<Rank>(w.z | static_cast<uint64_t>(w.w) << 32, magnitude);
      out[2] = rank_of_bits<Rank>(v.x | static_cast<uint64_t>(v.y) << 32, magnitude);
      out[3] = rank_of_bits<Rank>(v.z | static_cast<uint64_t>(v.w) << 32, magnitude);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if ((alive >> 8 * j & 255) == 0) out[j] = kDead<Rank>;
  }
};

}  // namespace
}  // namespace prune
