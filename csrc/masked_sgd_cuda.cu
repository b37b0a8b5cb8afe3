// masked_sgd_ on CUDA: one launch per dtype over all parameters, one block per 8,192 elements (2,048 where there are few),
// four elements per thread and turn as one 16-byte access where addresses allow. A thread reads its masks of all turns
// first: what is wholly pruned is then not read, and nothing waits for its mask. Single-precision scalars; the rate may
// live on the device.

#include "sgd_rule.cuh"

namespace prune {
namespace {

constexpr int kTurns = 8, kChunk = 4 * kTurns * kThreads, kSmallChunk = 2048;

struct Row {
  void* w;
  const void* g;
  void* m;              // null without momentum
  float* master;        // null where there is none
  const uint8_t* mask;  // bytes, or bits where `bits`
  int64_t n;
  int chunk;
  bool bits, vector;    // vector: all addresses are aligned for four elements
};
constexpr int kRows = (kArgumentBytes - 64) / (sizeof(Row) + 8);

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
struct Operands {  // of four entries
  Four<P> w, g;
  Four<T> m;
  Four<float> master;

  __device__ void read(const Row& row, int64_t i, bool moving) {
    g = *reinterpret_cast<const Four<P>*>(static_cast<const P*>(row.g) + i);
    if (moving) m = *reinterpret_cast<const Four<T>*>(static_cast<const T*>(row.m) + i);
    if (row.master != nullptr)
      master = *reinterpret_cast<const Four<float>*>(row.master + i);
    else
      w = *reinterpret_cast<const Four<P>*>(static_cast<const P*>(row.w) + i);
  }
};

template <class P, class T, int kTableRows>
__global__ void __launch_bounds__(kThreads) masked_sgd_kernel(const __grid_constant__ Table<Row, kTableRows> table, const Rule<T> rule) {
  constexpr int kAhead = sizeof(T) == 8 ? 1 : 2;  // turns whose operands are on their way at a time
  after_the_kernel_before();
  const int index = table.find(blockIdx.x);
  const Row& row = table.rows[index];
  const int64_t begin = (blockIdx.x - table.first[index]) * row.chunk;
  const int n = static_cast<int>(min(static_cast<int64_t>(row.chunk), row.n - begin)), vectors = row.vector ? n / 4 : 0;
  const T lr = rule.learning_rate();
  const bool has_momentum = row.m != nullptr, moving = has_momentum && !rule.first;
  uint32_t kept = 0;  // four bits a turn
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int v = t * kThreads + static_cast<int>(threadIdx.x);
    if (v < vectors) kept |= kept_four(row, begin + 4 * v) << 4 * t;
  }
#pragma unroll 1
  for (int first = 0; first * kThreads < vectors; first += kAhead) {
    Operands<P, T> four[kAhead];
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      const int v = (first + t) * kThreads + static_cast<int>(threadIdx.x);
      four[t].m = {};
      if (v < vectors && (kept >> 4 * (first + t) & 15) != 0) four[t].read(row, begin + 4 * v, moving);
    }
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      const int v = (first + t) * kThreads + static_cast<int>(threadIdx.x);
      if (v >= vectors) break;
      const int64_t i = begin + 4 * v;
      const uint32_t own = kept >> 4 * (first + t) & 15;
      Four<P> weights{};
      Four<T> velocities{};
      Four<float> masters{};
      if (own != 0) {
        velocities = four[t].m;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          T weight = row.master != nullptr ? static_cast<T>(four[t].master.at[j]) : convert<T>(four[t].w.at[j]);
          advance<T>(weight, convert<T>(four[t].g.at[j]), velocities.at[j], own >> j & 1, has_momentum, lr, rule);
          weights.at[j] = convert<P>(weight);
          masters.at[j] = static_cast<float>(weight);
        }
      }
      *reinterpret_cast<Four<P>*>(static_cast<P*>(row.w) + i) = weights;
      if (has_momentum) *reinterpret_cast<Four<T>*>(static_cast<T*>(row.m) + i) = velocities;
      if (row.master != nullptr) *reinterpret_cast<Four<float>*>(row.master + i) = masters;
    }
  }
  for (int64_t i = begin + 4 * vectors + threadIdx.x; i < begin + n; i += kThreads) {
    const bool keeps = row.bits ? (row.mask[i / 8] >> (i & 7) & 1) != 0 : row.mask[i] != 0;
    P* w = static_cast<P*>(row.w) + i;
    T* m = static_cast<T*>(row.m) + i;
    T weight = row.master != nullptr ? static_cast<T>(row.master[i]) : convert<T>(*w);
    T velocity = moving ? *m : T(0);
    advance<T>(weight, convert<T>(static_cast<const P*>(row.g)[i]), velocity, keeps, has_momentum, lr, rule);
    *w = convert<P>(weight);
    if (has_momentum) *m = velocity;
    if (row.master != nullptr) row.master[i] = static_cast<float>(weight);
  }
}

#define PRUNE_STEP(P, T, rows) \
  template __global__ void masked_sgd_kernel<P, T, rows>(const __grid_constant__ Table<Row, rows>, const Rule<T>);
PRUNE_STEPS(PRUNE_STEP, kFewRows)
PRUNE_STEPS(PRUNE_STEP, kRows)

}  // namespace

#ifndef __CUDA_ARCH__

void masked_sgd_cuda(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                     const std::vector<Tensor>& masks, const std::vector<Tensor>& masters, double lr,
                     std::optional<Tensor> lr_tensor, double momentum, double dampening, double weight_decay, bool nesterov,
                     bool first) {
  const size_t n = params.size();
  expect(n > 0 && grads.size() == n && masks.size() == n && (momenta.empty() || momenta.size() == n) &&
             (masters.empty() || masters.size() == n) && (momentum == 0 || momenta.size() == n),
         "masked_sgd_: lists of unlike lengths");
  const Place place(params[0]);
  const Rules rule = rules(lr, lr_tensor, momentum, dampening, weight_decay, nesterov, first, params[0], "masked_sgd_");
  int64_t total = 0;
  for (const Tensor& p : params) total += p.numel();
  Rows<Row> rows;
  for (size_t t = 0; t < n; ++t) {
    const View w = view(params[t]), g = view(grads[t]), mask = view(masks[t]);
    const ScalarType wide = wide_of(w.type);
    expect(is_float(w.type) && g.type == w.type && same_shape(g, w), "masked_sgd_: grads[", t, "] does not fit");
    expect(mask.type == ScalarType::Bool ? same_shape(mask, w)
                                         : mask.type == ScalarType::Byte && mask.dim == 1 && mask.numel == (w.numel + 7) / 8,
           "masked_sgd_: masks[", t, "] does not fit");
    check_cuda(params[t], params[0], "masked_sgd_", "params", t);
    check_cuda(grads[t], params[0], "masked_sgd_", "grads", t);
    check_cuda(masks[t], params[0], "masked_sgd_", "masks", t);
    // all in one order of memory, whichever it is: then they are taken as they lie
    bool direct = mask.type == ScalarType::Bool && gapless(w) && same_layout(g, w) && same_layout(mask, w);
    if (momentum != 0) {
      const View m = view(momenta[t]);
      expect(m.type == wide && same_shape(m, w), "masked_sgd_: momenta[", t, "] does not fit");
      check_cuda(momenta[t], params[0], "masked_sgd_", "momenta", t);
      direct = direct && same_layout(m, w);
    }
    if (!masters.empty()) {
      const View m = view(masters[t]);
      expect(m.type == ScalarType::Float && wide == ScalarType::Float && same_shape(m, w), "masked_sgd_: masters[", t, "] does not fit");
      check_cuda(masters[t], params[0], "masked_sgd_", "masters", t);
      direct = direct && same_layout(m, w);
    }
    const auto read = [&](const Tensor& x) { return direct ? x.data_ptr() : rows.read(x); };
    const auto written = [&](const Tensor& x) { return direct ? x.data_ptr() : rows.written(x); };
    Row row{};
    row.w = written(params[t]);
    row.g = read(grads[t]);
    row.m = momentum == 0 ? nullptr : written(momenta[t]);
    row.master = masters.empty() ? nullptr : static_cast<float*>(written(masters[t]));
    row.mask = static_cast<const uint8_t*>(read(masks[t]));
    row.n = w.numel;
    row.chunk = static_cast<int>(chunk_for(total, kChunk, kSmallChunk));
    row.bits = mask.type == ScalarType::Byte;
    const size_t size = size_of(w.type), wide_size = size_of(wide);
    row.vector = aligned(row.w, 4 * size) && aligned(row.g, 4 * size) && aligned(row.m, 4 * wide_size) &&
                 aligned(row.master, 16) && (row.bits || aligned(row.mask, 4));
    rows.add(row, w.type);
  }
  rows.run(rule, [&](auto type, const std::vector<Row>& some, const auto& own) {
    step_rows<kRows>("masked_sgd_", some, own, place.stream, [&](auto size) {
      return masked_sgd_kernel<decltype(type), decltype(own.lr), decltype(size)::value>;
    });
  });
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("masked_sgd_", TORCH_BOX(&masked_sgd_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune
