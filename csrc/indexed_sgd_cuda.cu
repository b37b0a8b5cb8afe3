// indexed_sgd_ on CUDA: one launch per dtype over all parameters, one thread per survivor and turn. Places beyond the
// parameter are left alone: to refuse them the host would have to wait.

#include "sgd_rule.cuh"

namespace prune {
namespace {

constexpr int64_t kChunk = 2048, kSmallChunk = 512;  // survivors of a block

struct Row {
  void* w;
  const void* g;
  void* m;  // [n], null without momentum
  const void* indices;
  int64_t n, numel;
  int chunk;
  bool wide;  // indices of 64 bits
};
constexpr int kRows = (kArgumentBytes - 64) / (sizeof(Row) + 8);

template <class P, class T, int kTableRows>
__global__ void __launch_bounds__(kThreads) indexed_sgd_kernel(const __grid_constant__ Table<Row, kTableRows> table, const Rule<T> rule) {
  after_the_kernel_before();
  const int index = table.find(blockIdx.x);
  const Row& row = table.rows[index];
  const int64_t begin = (blockIdx.x - table.first[index]) * row.chunk, end = min(begin + row.chunk, row.n);
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

#define PRUNE_STEP(P, T, rows) \
  template __global__ void indexed_sgd_kernel<P, T, rows>(const __grid_constant__ Table<Row, rows>, const Rule<T>);
PRUNE_STEPS(PRUNE_STEP, kFewRows)
PRUNE_STEPS(PRUNE_STEP, kRows)

}  // namespace

#ifndef __CUDA_ARCH__

void indexed_sgd_cuda(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                      const std::vector<Tensor>& indices, double lr, std::optional<Tensor> lr_tensor, double momentum,
                      double dampening, double weight_decay, bool nesterov, bool first) {
  const size_t n = params.size();
  expect(n > 0 && grads.size() == n && indices.size() == n && (momenta.empty() || momenta.size() == n) &&
             (momentum == 0 || momenta.size() == n),
         "indexed_sgd_: lists of unlike lengths");
  const Place place(params[0]);
  const Rules rule = rules(lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first, params[0], "indexed_sgd_");
  int64_t total = 0;
  for (const Tensor& at : indices) total += at.numel();
  Rows<Row> rows;
  for (size_t t = 0; t < n; ++t) {
    const View w = view(params[t]), g = view(grads[t]), at = view(indices[t]);
    expect(is_float(w.type) && g.type == w.type && same_shape(g, w), "indexed_sgd_: grads[", t, "] does not fit");
    expect((at.type == ScalarType::Int || at.type == ScalarType::Long) && at.dim == 1, "indexed_sgd_: indices[", t, "] does not fit");
    check_cuda(params[t], params[0], "indexed_sgd_", "params", t);
    check_cuda(grads[t], params[0], "indexed_sgd_", "grads", t);
    check_cuda(indices[t], params[0], "indexed_sgd_", "indices", t);
    Row row{};
    if (momentum != 0) {
      const View m = view(momenta[t]);
      expect(m.type == wide_of(w.type) && same_shape(m, at), "indexed_sgd_: momenta[", t, "] does not fit");
      check_cuda(momenta[t], params[0], "indexed_sgd_", "momenta", t);
      row.m = rows.written(momenta[t]);
    }
    row.w = rows.written(params[t]);
    row.g = rows.read(grads[t]);
    row.indices = rows.read(indices[t]);
    row.n = at.numel;
    row.numel = w.numel;
    row.chunk = static_cast<int>(chunk_for(total, kChunk, kSmallChunk));
    row.wide = at.type == ScalarType::Long;
    rows.add(row, w.type);
  }
  rows.run(rule, [&](auto type, const std::vector<Row>& some, const auto& own) {
    step_rows<kRows>("indexed_sgd_", some, own, place.stream, [&](auto size) {
      return indexed_sgd_kernel<decltype(type), decltype(own.lr), decltype(size)::value>;
    });
  });
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("indexed_sgd_", TORCH_BOX(&indexed_sgd_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
