// What masked_sgd_ and indexed_sgd_ share on the CPU: the rule of a step on rows of floats, and elements read and written
// as floats whatever their tensor holds. One function computes every step, so that a survivor's bits do not depend on
// which op, chunk or thread updates it.

#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "ops.h"
#include "ranks.h"

namespace prune {

template <class T>
struct Rule {
  T lr, momentum, rest, decay;  // rest = 1 - dampening
  bool first, nesterov;
};

// Survivors as the kernels read them: one byte each, one bit each, or (both null) all of them.
struct Kept {
  const char* bytes;
  const uint8_t* bits;

  bool all() const { return bytes == nullptr && bits == nullptr; }
  bool at(int64_t i) const { return all() || (bytes != nullptr ? bytes[i] != 0 : (bits[i >> 3] >> (i & 7) & 1) != 0); }
};

// One step of n entries; m is null without momentum, as then w - lr g alone is computed. Pruned entries of w and m become +0.
void step(float* w, const float* g, float* m, Kept kept, int64_t n, const Rule<float>& r);
void step(double* w, const double* g, double* m, Kept kept, int64_t n, const Rule<double>& r);

// The learning rate that an op was given, as a number or as a 0-d float tensor.
inline double learning_rate(double lr, const std::optional<Tensor>& tensor, const char* op) {
  if (!tensor.has_value()) return lr;
  const View rate = view(*tensor);
  expect(tensor->is_cpu() && rate.dim == 0 && (rate.type == ScalarType::Float || rate.type == ScalarType::Double), op,
         ": lr must be a number or a 0-d float tensor on the parameters' device");
  return rate.type == ScalarType::Double ? *reinterpret_cast<const double*>(rate.data) : *reinterpret_cast<const float*>(rate.data);
}

inline void check_rule(double momentum, double dampening, bool nesterov, const char* op) {
  expect(!nesterov || (momentum > 0 && dampening == 0), op, ": nesterov needs a momentum and no dampening");
}

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

inline void put_float(char* data, int64_t i, ScalarType type, float value) {  // rounds to nearest, ties to even
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

}  // namespace prune
