// Ranks: integers whose order is the order of the floats. |x|'s bits order like |x|; a negative number takes the negated
// rank of its magnitude, so -0 and +0 are one. Integers keep denormals apart even where the machine flushes them to zero.
// NaN ranks below every number, and what is not alive below NaN.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "isa.h"
#include "ops.h"

namespace prune {

template <class Rank>
constexpr Rank kDead = std::numeric_limits<Rank>::min();
template <class Rank>
constexpr Rank kNan = kDead<Rank> + 1;

PRUNE_INLINE uint32_t widen_half(uint16_t h) {  // IEEE half -> the bits of the same float
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return sign | 0x7f800000u | fraction << 13;
  if (exponent != 0) return sign | (exponent + 112) << 23 | fraction << 13;
  if (fraction == 0) return sign;
  const int up = __builtin_clz(fraction) - 21;  // a denormal half is a normal float
  return sign | static_cast<uint32_t>(113 - up) << 23 | (fraction << up & 1023) << 13;
}

PRUNE_INLINE uint64_t widen_float(uint32_t f) {  // float -> the bits of the same double
  const uint64_t sign = static_cast<uint64_t>(f & 0x80000000u) << 32, exponent = f >> 23 & 255, fraction = f & 0x7fffff;
  if (exponent == 255) return sign | 0x7ff0000000000000ull | fraction << 29;
  if (exponent != 0) return sign | (exponent + 896) << 52 | fraction << 29;
  if (fraction == 0) return sign;
  const int up = __builtin_clz(static_cast<uint32_t>(fraction)) - 8;
  return sign | static_cast<uint64_t>(897 - up) << 52 | (fraction << up & 0x7fffff) << 29;
}

PRUNE_INLINE uint32_t float_bits(const char* data, int64_t i, ScalarType type) {
  uint32_t bits;
  uint16_t half;
  if (type == ScalarType::Float) {
    std::memcpy(&bits, data + 4 * i, 4);
    return bits;
  }
  std::memcpy(&half, data + 2 * i, 2);
  return type == ScalarType::BFloat16 ? static_cast<uint32_t>(half) << 16 : widen_half(half);
}

template <class Rank>
PRUNE_INLINE Rank rank_of(const char* data, int64_t i, ScalarType type, bool magnitude) {
  using Bits = std::make_unsigned_t<Rank>;
  constexpr Rank infinity = sizeof(Rank) == 4 ? static_cast<Rank>(0x7f800000) : static_cast<Rank>(0x7ff0000000000000);
  Bits bits;
  if constexpr (sizeof(Rank) == 4) {
    bits = float_bits(data, i, type);
  } else if (type == ScalarType::Double) {
    std::memcpy(&bits, data + 8 * i, 8);
  } else {
    bits = widen_float(float_bits(data, i, type));
  }
  const Rank size = static_cast<Rank>(bits & static_cast<Bits>(std::numeric_limits<Rank>::max()));
  if (size > infinity) return kNan<Rank>;
  return !magnitude && static_cast<Rank>(bits) < 0 ? -size : size;
}

}  // namespace prune
