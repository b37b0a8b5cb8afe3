// The ops of the library `prune` and the contract that every kernel keeps. The Python references in pruning/ops are the
// same contract as code; tests compare all of them. Schemas stand in Python, kernels register under the same names.
//
// All ops: lists of any length, tensors of any size (int64) including 0, any strides, all on one device; what is refused
// is refused before anything is written. No op waits for the device. Results do not depend on the number of threads,
// blocks or runs. "Row-major order" is the order of the logical index whatever the memory layout.
//
// topk_masks(tensors, keep, magnitude, alive, out) -> counts
//   tensors  float32, float64, bfloat16 or float16, may be mixed
//   keep     one count for all tensors together, or one per tensor; 0 <= keep <= number of entries
//   alive    none, or bool per tensor: False takes the entry out of the ranking
//   out      bool per tensor, written: True for exactly min(keep, alive) entries, the largest x (|x| with magnitude)
//   counts   int64 [len(tensors)]: how many entries of each are True
//   ties     to the earlier tensor, then to the lower row-major index; +0 = -0; NaN below -inf, NaNs equal each other
//   memory   at most 8 MB + 1 % of the input beyond out
//
// masked_sgd_(params, grads, momenta, masks, masters, lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first)
//   params   float32, float64, bfloat16 or float16; grads alike; momenta float32 (float64 for float64) or none
//   masks    bool of the parameter's shape, or uint8 bits of the row-major order, least significant bit first
//   masters  none, or float32 per 16-bit parameter: the step is done on the master, the parameter is its rounding
//   rule     g += weight_decay * w;  v = first ? g : momentum * v + (1 - dampening) * g;  d = nesterov ? g + momentum * v
//            : v (g without momentum);  w -= lr * d.  Where the mask is False w and v become +0 whatever was there.
//   grads are never written; 16-bit parameters are computed in float32
//
// indexed_sgd_(params, grads, momenta, indices, lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first)
//   indices  int32 or int64 [k] per parameter: ascending row-major places; the rule of masked_sgd_ for these entries alone
//   momenta  [k]: those of the listed entries, in the list's order; none without momentum
//   On the CPU a list that does not ascend within its parameter is refused, and the results are masked_sgd_'s to the bit.
//   On CUDA, which would have to wait for that, places beyond the parameter are left alone; a repeated place is not seen.
//
// nnz(tensors) -> counts        int64 [len(tensors)]: entries unequal to 0; NaN counts; uint8 is bits, set ones count
// pack(mask) -> bits            uint8 [ceil(n / 8)], row-major order, least significant bit first, padded with zeros
// unpack(bits, shape) -> mask   its inverse

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "expect.h"

namespace prune {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A tensor as the kernels see it. `flat`: row-major without gaps, so that index i lies at data[i].
struct View {
  char* data;
  int64_t numel;
  ScalarType type;
  bool flat;
  const int64_t* sizes;
  const int64_t* strides;
  int64_t dim;

  int64_t offset(int64_t index) const {  // of a row-major index, in elements
    if (flat) return index;
    int64_t at = 0;
    for (int64_t d = dim - 1; d >= 0; --d) {
      at += index % sizes[d] * strides[d];
      index /= sizes[d];
    }
    return at;
  }
};

inline View view(const Tensor& t) {
  return {static_cast<char*>(t.data_ptr()), t.numel(), t.scalar_type(), t.is_contiguous(),
          t.sizes().data(), t.strides().data(), t.dim()};
}

inline std::vector<View> views(const std::vector<Tensor>& tensors) {
  std::vector<View> result;
  result.reserve(tensors.size());
  for (const Tensor& t : tensors) result.push_back(view(t));
  return result;
}

// Calls body(j, offset in elements) for the entries begin + j, 0 <= j < n, of the row-major order.
template <class Body>
void walk(const View& x, int64_t begin, int64_t n, const Body& body) {
  if (x.flat) {
    for (int64_t j = 0; j < n; ++j) body(j, begin + j);
    return;
  }
  std::vector<int64_t> at(x.dim);
  int64_t offset = x.offset(begin);
  for (int64_t d = x.dim - 1, index = begin; d >= 0; index /= x.sizes[d--]) at[d] = index % x.sizes[d];
  for (int64_t j = 0; j < n; ++j) {
    body(j, offset);
    for (int64_t d = x.dim - 1; d >= 0; --d) {
      offset += x.strides[d];
      if (++at[d] < x.sizes[d]) break;
      offset -= x.sizes[d] * x.strides[d];
      at[d] = 0;
    }
  }
}

// Whether the elements fill their memory without gaps or overlap, in whatever order.
inline bool gapless(const View& x) {
  std::vector<std::pair<int64_t, int64_t>> order;
  for (int64_t d = 0; d < x.dim; ++d)
    if (x.sizes[d] != 1) order.push_back({x.strides[d], x.sizes[d]});
  std::sort(order.begin(), order.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : order) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Whether two tensors of one shape hold equal indices at equal offsets.
inline bool same_layout(const View& a, const View& b) {
  for (int64_t d = 0; d < a.dim; ++d)
    if (a.sizes[d] != 1 && a.strides[d] != b.strides[d]) return false;
  return true;
}

inline bool is_float(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::Double || t == ScalarType::BFloat16 || t == ScalarType::Half;
}

inline bool same_shape(const View& a, const View& b) {
  if (a.dim != b.dim) return false;
  for (int64_t d = 0; d < a.dim; ++d)
    if (a.sizes[d] != b.sizes[d]) return false;
  return true;
}

}  // namespace prune
