// indexed_sgd_ on CUDA: one launch per dtype over all parameters, one thread per survivor and turn. Places beyond the
// parameter are left alone: to refuse them the host would have to wait.

#include "sgd_rule.cuh"

namespace prune {
namespace {

constexpr int64_t kChunk = 2048;  // survivors of a block
constexpr int kRows = kArgumentBytes / 64;

struct Row {
  void* w;
  const void* g;
  void* m;  // [n], null without momentum
  const void* indices;
  int64_t n, numel;
  bool wide;  // indices of 64 bits
};

template <class P, class T>
__global__ void __launch_bounds__(kThreads) indexed_sgd_kernel(const __grid_constant__ Table<Row, kRows> table, const Rule<T> rule) {
  const int index = table.find(blockIdx.x);
  const Row& row = table.rows[index];
  const int64_t begin = (blockIdx.x - table.first[index]) * kChunk, end = min(begin + kChunk, row.n);
  const T lr = rule.learning_rate();
  const bool has_momentum = row.m != nullptr;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const int64_t at = row.wide ? static_cast<const int64_t*>(row.indices)[i] : static_cast<const int32_t*>(row.indices)[i];
    if (at < 0 || at >= row.numel) continue;
    P* w = static_cast<P*>(row.w) + at;
    T* m = static_cast<T*>(row.m) + i;
    T weight = convert<T>(*w);
    T velocity = has_momentum && !rule.first ? *m : T(0);
    advance<T>(weight, convert<T>(static_cast<const P*>(row.g)[at]), velocity, true, has_momentum, lr, rule);
    *w = convert<P>(weight);
    if (has_momentum) *m = velocity;
  }
}

template __global__ void indexed_sgd_kernel<float, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);
template __global__ void indexed_sgd_kernel<double, double>(const __grid_constant__ Table<Row, kRows>, const Rule<double>);
template __global__ void indexed_sgd_kernel<__nv_bfloat16, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);
template __global__ void indexed_sgd_kernel<__half, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);

}  // namespace

#ifndef __CUDA_ARCH__

namespace {

template <class P, class T>
void launch(const std::vector<Row>& rows, const Rule<T>& rule, cudaStream_t stream) {
  over<kRows>(rows, [](const Row& r) { return (r.n + kChunk - 1) / kChunk; }, [&](const auto& table, int64_t blocks) {
    check_blocks(blocks, "indexed_sgd_");
    indexed_sgd_kernel<P, T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(table, rule);
    check_launch("indexed_sgd_");
  });
}

}  // namespace

void indexed_sgd_cuda(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                      const std::vector<Tensor>& indices, double lr, std::optional<Tensor> lr_tensor, double momentum,
                      double dampening, double weight_decay, bool nesterov, bool first) {
  const size_t n = params.size();
  STD_TORCH_CHECK(n > 0 && grads.size() == n && indices.size() == n && (momenta.empty() || momenta.size() == n) &&
                      (momentum == 0 || momenta.size() == n),
                  "indexed_sgd_: lists of unlike lengths");
  const Place place(params[0]);
  const Rules rule = rules(lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first, params[0], "indexed_sgd_");
  std::vector<Tensor> held;
  std::vector<std::pair<Tensor, Tensor>> back;  // strided weights and momenta pass through contiguous copies
  std::vector<Row> rows[4];
  const auto read = [&](const Tensor& x) {
    held.push_back(torch::stable::contiguous(x));
    return held.back().data_ptr();
  };
  const auto written = [&](const Tensor& x) {
    void* data = read(x);
    if (!x.is_contiguous()) back.push_back({x, held.back()});
    return data;
  };
  for (size_t t = 0; t < n; ++t) {
    const View w = view(params[t]), g = view(grads[t]), at = view(indices[t]);
    const ScalarType wide = w.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(is_float(w.type) && g.type == w.type && same_shape(g, w), "indexed_sgd_: grads[", t, "] does not fit");
    STD_TORCH_CHECK((at.type == ScalarType::Int || at.type == ScalarType::Long) && at.dim == 1, "indexed_sgd_: indices[", t, "] does not fit");
    check_cuda(params[t], params[0], "indexed_sgd_", "params", t);
    check_cuda(grads[t], params[0], "indexed_sgd_", "grads", t);
    check_cuda(indices[t], params[0], "indexed_sgd_", "indices", t);
    Row row{};
    if (momentum != 0) {
      const View m = view(momenta[t]);
      STD_TORCH_CHECK(m.type == wide && same_shape(m, at), "indexed_sgd_: momenta[", t, "] does not fit");
      check_cuda(momenta[t], params[0], "indexed_sgd_", "momenta", t);
      row.m = written(momenta[t]);
    }
    row.w = written(params[t]);
    row.g = read(grads[t]);
    row.indices = read(indices[t]);
    row.n = at.numel;
    row.numel = w.numel;
    row.wide = at.type == ScalarType::Long;
    rows[kernel_of(w.type)].push_back(row);
  }
  launch<float, float>(rows[0], rule.single, place.stream);
  launch<double, double>(rows[1], rule.exact, place.stream);
  launch<__nv_bfloat16, float>(rows[2], rule.single, place.stream);
  launch<__half, float>(rows[3], rule.single, place.stream);
  for (auto& [to, from] : back) torch::stable::copy_(to, from);
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("indexed_sgd_", TORCH_BOX(&indexed_sgd_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
