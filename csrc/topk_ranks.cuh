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
constexpr Rank kDead = Numbers<Rank>::kMin;  // what is not alive; NaN ranks one above, every number higher
template <class Rank>
constexpr Rank kNan = Numbers<Rank>::kMin + 1;

struct Row {  // a tensor in its ranking
  const char* x;
  const char* alive;  // null: all are
  char* mask;
  int64_t n;
  int64_t start;  // index of its first element in the ranking
  ScalarType type;
  bool vector;    // addresses are aligned for four elements
};

template <class Rank>
__device__ Rank rank_of_bits(typename Numbers<Rank>::Bits bits, bool magnitude) {
  const Rank size = static_cast<Rank>(bits & static_cast<typename Numbers<Rank>::Bits>(Numbers<Rank>::kMax));
  if (size > Numbers<Rank>::kInfinity) return kNan<Rank>;
  return !magnitude && static_cast<Rank>(bits) < 0 ? -size : size;
}

__device__ uint32_t half_bits(uint16_t h) {  // the bits of the same float
  return __float_as_uint(__half2float(__ushort_as_half(h)));
}

__device__ uint64_t double_bits(uint32_t f) {  // the bits of the same double, denormals kept apart
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
__device__ Rank rank_at(const Row& row, int64_t i, bool magnitude) {
  if (row.alive != nullptr && row.alive[i] == 0) return kDead<Rank>;
  switch (row.type) {
    case ScalarType::Float: return rank_from_float<Rank>(reinterpret_cast<const uint32_t*>(row.x)[i], magnitude);
    case ScalarType::BFloat16:
      return rank_from_float<Rank>(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(row.x)[i]) << 16, magnitude);
    case ScalarType::Half: return rank_from_float<Rank>(half_bits(reinterpret_cast<const uint16_t*>(row.x)[i]), magnitude);
    default:
      if constexpr (sizeof(Rank) == 8) return rank_of_bits<Rank>(reinterpret_cast<const uint64_t*>(row.x)[i], magnitude);
      return kDead<Rank>;  // doubles are ranked by 64 bits
  }
}

template <class Rank>
__device__ void ranks_at_four(const Row& row, int64_t i, bool magnitude, Rank ranks[4]) {  // row.vector, i % 4 = 0
  if (row.type == ScalarType::Float) {
    const uint4 bits = *reinterpret_cast<const uint4*>(reinterpret_cast<const uint32_t*>(row.x) + i);
    ranks[0] = rank_from_float<Rank>(bits.x, magnitude);
    ranks[1] = rank_from_float<Rank>(bits.y, magnitude);
    ranks[2] = rank_from_float<Rank>(bits.z, magnitude);
    ranks[3] = rank_from_float<Rank>(bits.w, magnitude);
  } else if (row.type != ScalarType::Double) {
    const ushort4 bits = *reinterpret_cast<const ushort4*>(reinterpret_cast<const uint16_t*>(row.x) + i);
    const bool brain = row.type == ScalarType::BFloat16;
    ranks[0] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.x) << 16 : half_bits(bits.x), magnitude);
    ranks[1] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.y) << 16 : half_bits(bits.y), magnitude);
    ranks[2] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.z) << 16 : half_bits(bits.z), magnitude);
    ranks[3] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.w) << 16 : half_bits(bits.w), magnitude);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      ranks[j] = kDead<Rank>;
      if constexpr (sizeof(Rank) == 8) ranks[j] = rank_of_bits<Rank>(reinterpret_cast<const uint64_t*>(row.x)[i + j], magnitude);
    }
  }
  if (row.alive != nullptr) {
    const uint32_t alive = *reinterpret_cast<const uint32_t*>(row.alive + i);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if ((alive >> 8 * j & 255) == 0) ranks[j] = kDead<Rank>;
  }
}

}  // namespace
}  // namespace prune
