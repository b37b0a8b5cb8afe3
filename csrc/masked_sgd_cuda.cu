// masked_sgd_ on CUDA: one launch per dtype over all parameters, one block per 8,192 elements, four elements per thread
// and turn as one 16-byte access where addresses allow. Single-precision scalars; the rate may live on the device.

#include "sgd_rule.cuh"

namespace prune {
namespace {

constexpr int64_t kChunk = 8192;
constexpr int kRows = kArgumentBytes / 64;

struct Row {
  void* w;
  const void* g;
  void* m;              // null without momentum
  float* master;        // null where there is none
  const uint8_t* mask;  // bytes, or bits where `bits`
  int64_t n;
  bool bits, vector;    // vector: all addresses are aligned for four elements
};

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

__device__ uint32_t kept_four(const Row& row, int64_t i) {  // bits 0 to 3, for entries i to i + 3, i % 4 = 0
  if (row.bits) return row.mask[i / 8] >> (i & 4) & 15;
  const uint32_t bytes = *reinterpret_cast<const uint32_t*>(row.mask + i);
  return ((bytes & 0xff) != 0) | ((bytes & 0xff00) != 0) << 1 | ((bytes & 0xff0000) != 0) << 2 | ((bytes & 0xff000000) != 0) << 3;
}

template <class P, class T>
__global__ void __launch_bounds__(kThreads) masked_sgd_kernel(const __grid_constant__ Table<Row, kRows> table, const Rule<T> rule) {
  const int index = table.find(blockIdx.x);
  const Row& row = table.rows[index];
  const int64_t begin = (blockIdx.x - table.first[index]) * kChunk, end = min(begin + kChunk, row.n);
  const T lr = rule.learning_rate();
  const bool has_momentum = row.m != nullptr;
  const int64_t vectors = row.vector ? (end - begin) / 4 : 0;
  for (int64_t v = threadIdx.x; v < vectors; v += kThreads) {
    const int64_t i = begin + 4 * v;
    auto* w = reinterpret_cast<Four<P>*>(static_cast<P*>(row.w) + i);
    auto* m = reinterpret_cast<Four<T>*>(static_cast<T*>(row.m) + i);
    auto* master = reinterpret_cast<Four<float>*>(row.master + i);
    const uint32_t kept = kept_four(row, i);
    if (kept == 0) {  // nothing survives here: no need to read
      *w = Four<P>{};
      if (has_momentum) *m = Four<T>{};
      if (row.master != nullptr) *master = Four<float>{};
      continue;
    }
    const Four<P> grads = *reinterpret_cast<const Four<P>*>(static_cast<const P*>(row.g) + i);
    Four<P> weights = *w;
    Four<T> velocities{};
    if (has_momentum && !rule.first) velocities = *m;
    Four<float> masters{};
    if (row.master != nullptr) masters = *master;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      T weight = row.master != nullptr ? static_cast<T>(masters.at[j]) : convert<T>(weights.at[j]);
      advance<T>(weight, convert<T>(grads.at[j]), velocities.at[j], kept >> j & 1, has_momentum, lr, rule);
      weights.at[j] = convert<P>(weight);
      masters.at[j] = static_cast<float>(weight);
    }
    *w = weights;
    if (has_momentum) *m = velocities;
    if (row.master != nullptr) *master = masters;
  }
  for (int64_t i = begin + 4 * vectors + threadIdx.x; i < end; i += kThreads) {
    const bool kept = row.bits ? (row.mask[i / 8] >> (i & 7) & 1) != 0 : row.mask[i] != 0;
    P* w = static_cast<P*>(row.w) + i;
    T* m = static_cast<T*>(row.m) + i;
    T weight = row.master != nullptr ? static_cast<T>(row.master[i]) : convert<T>(*w);
    T velocity = has_momentum && !rule.first ? *m : T(0);
    advance<T>(weight, convert<T>(static_cast<const P*>(row.g)[i]), velocity, kept, has_momentum, lr, rule);
    *w = convert<P>(weight);
    if (has_momentum) *m = velocity;
    if (row.master != nullptr) row.master[i] = static_cast<float>(weight);
  }
}

template __global__ void masked_sgd_kernel<float, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);
template __global__ void masked_sgd_kernel<double, double>(const __grid_constant__ Table<Row, kRows>, const Rule<double>);
template __global__ void masked_sgd_kernel<__nv_bfloat16, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);
template __global__ void masked_sgd_kernel<__half, float>(const __grid_constant__ Table<Row, kRows>, const Rule<float>);

}  // namespace

#ifndef __CUDA_ARCH__

namespace {

template <class P, class T>
void launch(const std::vector<Row>& rows, const Rule<T>& rule, cudaStream_t stream) {
  over<kRows>(rows, [](const Row& r) { return (r.n + kChunk - 1) / kChunk; }, [&](const auto& table, int64_t blocks) {
    check_blocks(blocks, "masked_sgd_");
    masked_sgd_kernel<P, T><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(table, rule);
    check_launch("masked_sgd_");
  });
}

}  // namespace

void masked_sgd_cuda(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                     const std::vector<Tensor>& masks, const std::vector<Tensor>& masters, double lr,
                     std::optional<Tensor> lr_tensor, double momentum, double dampening, double weight_decay, bool nesterov,
                     bool first) {
  const size_t n = params.size();
  STD_TORCH_CHECK(n > 0 && grads.size() == n && masks.size() == n && (momenta.empty() || momenta.size() == n) &&
                      (masters.empty() || masters.size() == n) && (momentum == 0 || momenta.size() == n),
                  "masked_sgd_: lists of unlike lengths");
  const Place place(params[0]);
  const Rules rule = rules(lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first, params[0], "masked_sgd_");
  struct Back {
    Tensor to, from;
  };
  std::vector<Tensor> held;
  std::vector<Back> back;  // strided tensors pass through contiguous copies
  std::vector<Row> rows[4];
  for (size_t t = 0; t < n; ++t) {
    const View w = view(params[t]), g = view(grads[t]), mask = view(masks[t]);
    const ScalarType wide = w.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(is_float(w.type) && g.type == w.type && same_shape(g, w), "masked_sgd_: grads[", t, "] does not fit");
    STD_TORCH_CHECK(mask.type == ScalarType::Bool ? same_shape(mask, w)
                                                  : mask.type == ScalarType::Byte && mask.dim == 1 && mask.numel == (w.numel + 7) / 8,
                    "masked_sgd_: masks[", t, "] does not fit");
    check_cuda(params[t], params[0], "masked_sgd_", "params", t);
    check_cuda(grads[t], params[0], "masked_sgd_", "grads", t);
    check_cuda(masks[t], params[0], "masked_sgd_", "masks", t);
    bool direct = mask.type == ScalarType::Bool && gapless(w) && same_layout(g, w) && same_layout(mask, w);
    bool flat = w.flat && g.flat && mask.flat;
    if (momentum != 0) {
      const View m = view(momenta[t]);
      STD_TORCH_CHECK(m.type == wide && same_shape(m, w), "masked_sgd_: momenta[", t, "] does not fit");
      check_cuda(momenta[t], params[0], "masked_sgd_", "momenta", t);
      direct = direct && same_layout(m, w);
      flat = flat && m.flat;
    }
    if (!masters.empty()) {
      const View m = view(masters[t]);
      STD_TORCH_CHECK(m.type == ScalarType::Float && wide == ScalarType::Float && same_shape(m, w), "masked_sgd_: masters[", t, "] does not fit");
      check_cuda(masters[t], params[0], "masked_sgd_", "masters", t);
      direct = direct && same_layout(m, w);
      flat = flat && m.flat;
    }
    const auto read = [&](const Tensor& x) {
      if (direct || flat) return static_cast<char*>(x.data_ptr());
      held.push_back(torch::stable::contiguous(x));
      return static_cast<char*>(held.back().data_ptr());
    };
    const auto written = [&](const Tensor& x) {
      char* data = read(x);
      if (!direct && !flat && !x.is_contiguous()) back.push_back({x, held.back()});
      return data;
    };
    Row row{};
    row.w = written(params[t]);
    row.g = read(grads[t]);
    row.m = momentum == 0 ? nullptr : written(momenta[t]);
    row.master = masters.empty() ? nullptr : reinterpret_cast<float*>(written(masters[t]));
    row.mask = reinterpret_cast<const uint8_t*>(read(masks[t]));
    row.n = w.numel;
    row.bits = mask.type == ScalarType::Byte;
    const size_t size = w.type == ScalarType::Double ? 8 : w.type == ScalarType::Float ? 4 : 2, wide_size = wide == ScalarType::Double ? 8 : 4;
    row.vector = aligned(row.w, 4 * size) && aligned(row.g, 4 * size) && aligned(row.m, 4 * wide_size) &&
                 aligned(row.master, 16) && (row.bits || aligned(row.mask, 4));
    rows[kernel_of(w.type)].push_back(row);
  }
  launch<float, float>(rows[0], rule.single, place.stream);
  launch<double, double>(rows[1], rule.exact, place.stream);
  launch<__nv_bfloat16, float>(rows[2], rule.single, place.stream);
  launch<__half, float>(rows[3], rule.single, place.stream);
  for (Back& b : back) torch::stable::copy_(b.to, b.from);
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("masked_sgd_", TORCH_BOX(&masked_sgd_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
