// What masked_sgd_ and indexed_sgd_ share on CUDA: the rule of a step in single (or double) precision, conversions, the rate,
// which may live on the device, and one launch per dtype over all parameters. Multiplications and additions are fused by
// name, not as the compiler likes, so that both ops compute a weight to the same bits.

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

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }  // a * b + c, rounded once
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }

template <class T>
__device__ void advance(T& w, T g, T& m, bool kept, bool has_momentum, T lr, const Rule<T>& r) {
  if (r.decay != T(0)) g = fused(r.decay, w, g);
  T step = g;
  if (has_momentum) {
    const T v = r.first ? g : fused(r.momentum, m, times(r.rest, g));
    step = r.nesterov ? fused(r.momentum, v, g) : v;
    m = kept ? v : T(0);
  }
  const T next = fused(-lr, step, w);
  w = kept ? next : T(0);
}

// Instantiates a kernel for every dtype of parameters (and of what is computed with) and a number of rows.
#define PRUNE_STEPS(step, rows) step(float, float, rows) step(double, double, rows) step(__nv_bfloat16, float, rows) step(__half, float, rows)

#ifndef __CUDA_ARCH__

struct Rules {  // the same rule in both precisions, checked
  Rule<float> single;
  Rule<double> exact;
};

inline Rules rules(double lr, const std::optional<Tensor>& lr_tensor, double momentum, double dampening, double weight_decay,
                   bool nesterov, bool first, const Tensor& like, const char* op) {
  expect(!nesterov || (momentum > 0 && dampening == 0), op, ": nesterov needs a momentum and no dampening");
  const void* rate = nullptr;
  bool rate_is_double = false;
  if (lr_tensor.has_value()) {
    const View x = view(*lr_tensor);
    expect(x.dim == 0 && (x.type == ScalarType::Float || x.type == ScalarType::Double), op,
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

// The rows of an op by the dtype of their parameters, and the tensors that its kernels read and write in their place.
template <class Row>
class Rows {
 public:
  void add(const Row& row, ScalarType type) { rows_[kernel_of(type)].push_back(row); }

  void* read(const Tensor& x) {  // contiguous
    if (x.is_contiguous()) return x.data_ptr();
    held_.push_back(torch::stable::contiguous(x));
    return held_.back().data_ptr();
  }
  void* written(const Tensor& x) {  // read, and copied back by `run`
    void* data = read(x);
    if (!x.is_contiguous()) back_.push_back({x, held_.back()});
    return data;
  }

  // Calls step(type tag, rows, rule) for each dtype that there is.
  template <class Step>
  void run(const Rules& rules, const Step& step) {
    if (!rows_[0].empty()) step(float{}, rows_[0], rules.single);
    if (!rows_[1].empty()) step(double{}, rows_[1], rules.exact);
    if (!rows_[2].empty()) step(__nv_bfloat16{}, rows_[2], rules.single);
    if (!rows_[3].empty()) step(__half{}, rows_[3], rules.single);
    for (auto& [to, from] : back_) torch::stable::copy_(to, from);
  }

 private:
  static size_t kernel_of(ScalarType type) {
    return type == ScalarType::Float ? 0 : type == ScalarType::Double ? 1 : type == ScalarType::BFloat16 ? 2 : 3;
  }

  std::vector<Row> rows_[4];
  std::vector<Tensor> held_;
  std::vector<std::pair<Tensor, Tensor>> back_;
};

// Launches kernel_for(number of rows in the arguments) over the rows, each in blocks of its `chunk`.
template <int kRows, class Row, class T, class KernelFor>
void step_rows(const char* op, const std::vector<Row>& rows, const Rule<T>& rule, cudaStream_t stream, const KernelFor& kernel_for) {
  over<kRows>(rows, [](const Row& r) { return (r.n + r.chunk - 1) / r.chunk; }, [&]<int kTableRows>(const Table<Row, kTableRows>& table, int64_t blocks) {
    launch(op, kernel_for(std::integral_constant<int, kTableRows>{}), blocks, kThreads, stream, table, rule);
  });
}

inline ScalarType wide_of(ScalarType type) { return type == ScalarType::Double ? type : ScalarType::Float; }  // of momenta
inline size_t size_of(ScalarType type) { return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2; }

#endif  // __CUDA_ARCH__

}  // namespace prune
