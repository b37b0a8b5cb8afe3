// What masked_sgd_ and indexed_sgd_ share on CUDA: the rule of a step in single (or double) precision, conversions, and
// the rate, which may live on the device.

#pragma once

#include "multi_tensor.cuh"

namespace prune {

template <class T>
struct Rule {
  T lr, momentum, rest, decay;  // rest = 1 - dampening
  const void* rate;             // the learning rate in device memory, or null
  bool rate_is_double, first, nesterov;

  __device__ T learning_rate() const {
    if (rate == nullptr) return lr;
    return rate_is_double ? static_cast<T>(*static_cast<const double*>(rate)) : static_cast<T>(*static_cast<const float*>(rate));
  }
};

template <class To, class From>
__device__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<To, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else if constexpr (std::is_same_v<To, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<From, __nv_bfloat16>)
    return __bfloat162float(x);
  else
    return __half2float(x);
}

template <class T>
__device__ void advance(T& w, T g, T& m, bool kept, bool has_momentum, T lr, const Rule<T>& r) {
  if (r.decay != T(0)) g += r.decay * w;
  T step = g;
  if (has_momentum) {
    const T v = r.first ? g : r.momentum * m + r.rest * g;
    step = r.nesterov ? g + r.momentum * v : v;
    m = kept ? v : T(0);
  }
  const T next = w - lr * step;
  w = kept ? next : T(0);
}

#ifndef __CUDA_ARCH__

struct Rules {  // the same rule in both precisions, checked
  Rule<float> single;
  Rule<double> exact;
};

inline Rules rules(double lr, const std::optional<Tensor>& lr_tensor, double momentum, double dampening, double weight_decay,
                   bool nesterov, bool first, const Tensor& like, const char* op) {
  STD_TORCH_CHECK(!nesterov || (momentum > 0 && dampening == 0), op, ": nesterov needs a momentum and no dampening");
  const void* rate = nullptr;
  bool rate_is_double = false;
  if (lr_tensor.has_value()) {
    const View x = view(*lr_tensor);
    STD_TORCH_CHECK(x.dim == 0 && (x.type == ScalarType::Float || x.type == ScalarType::Double), op,
                    ": lr must be a number or a 0-d float tensor");
    rate_is_double = x.type == ScalarType::Double;
    if (lr_tensor->is_cpu()) {
      lr = rate_is_double ? *reinterpret_cast<const double*>(x.data) : *reinterpret_cast<const float*>(x.data);
    } else {
      check_cuda(*lr_tensor, like, op, "lr", 0);
      rate = x.data;
    }
  }
  return {{static_cast<float>(lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
           static_cast<float>(weight_decay), rate, rate_is_double, first, nesterov},
          {lr, momentum, 1 - dampening, weight_decay, rate, rate_is_double, first, nesterov}};
}

// Which kernel serves a parameter's dtype: float, double, bfloat16, half.
inline size_t kernel_of(ScalarType type) {
  return type == ScalarType::Float ? 0 : type == ScalarType::Double ? 1 : type == ScalarType::BFloat16 ? 2 : 3;
}

#endif  // __CUDA_ARCH__

}  // namespace prune
