// indexed_sgd_ on the CPU: survivors are gathered from weights and gradients, stepped as masked_sgd_ steps them, and the
// weights scattered back; their momenta lie side by side. Lists are cut at fixed places, and no entry is named twice.

#include "parallel.h"
#include "sgd_step.h"

namespace prune {
namespace {

constexpr int64_t kUnit = 1 << 13;  // survivors of a unit of work
constexpr int64_t kPiece = 128;     // gathered at a time; asking for later lines ahead measured no faster

struct Listed {
  View w, g;
  char* m;  // null without momentum
  const char* indices;
  int64_t n;
  bool wide;  // indices of 64 bits
};

struct Unit {
  size_t target;
  int64_t begin, n;
};

template <class Index>
bool ascends(const Index* indices, int64_t begin, int64_t n, int64_t numel) {  // within the entry before `begin` and numel
  bool fine = indices[begin] > (begin == 0 ? Index{-1} : indices[begin - 1]) && indices[begin + n - 1] < numel;
  for (int64_t i = begin + 1; i < begin + n; ++i) fine &= indices[i] > indices[i - 1];
  return fine;
}

template <class T, class Index>
void update(const Listed& t, int64_t begin, int64_t n, const Rule<T>& r) {
  const Index* indices = reinterpret_cast<const Index*>(t.indices) + begin;
  T* m = t.m == nullptr ? nullptr : reinterpret_cast<T*>(t.m) + begin;
  const ScalarType type = t.w.type;
  const bool direct = t.w.flat && t.g.flat && type == (sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
  alignas(64) T w[kPiece], g[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t some = std::min(kPiece, n - i);
    if (direct) {
      T* const weights = reinterpret_cast<T*>(t.w.data);
      const T* const grads = reinterpret_cast<const T*>(t.g.data);
      for (int64_t j = 0; j < some; ++j) {
        w[j] = weights[indices[i + j]];
        g[j] = grads[indices[i + j]];
      }
      step(w, g, m == nullptr ? nullptr : m + i, Kept{nullptr, nullptr}, some, r);
      for (int64_t j = 0; j < some; ++j) weights[indices[i + j]] = w[j];
    } else {
      for (int64_t j = 0; j < some; ++j) {
        w[j] = get<T>(t.w, t.w.offset(indices[i + j]));
        g[j] = get<T>(t.g, t.g.offset(indices[i + j]));
      }
      step(w, g, m == nullptr ? nullptr : m + i, Kept{nullptr, nullptr}, some, r);
      for (int64_t j = 0; j < some; ++j) put<T>(t.w, t.w.offset(indices[i + j]), w[j]);
    }
  }
}

template <class T>
void update(const Listed& t, const Unit& u, const Rule<T>& r) {
  if (t.wide)
    update<T, int64_t>(t, u.begin, u.n, r);
  else
    update<T, int32_t>(t, u.begin, u.n, r);
}

}  // namespace

void indexed_sgd_cpu(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                     const std::vector<Tensor>& indices, double lr, std::optional<Tensor> lr_tensor, double momentum,
                     double dampening, double weight_decay, bool nesterov, bool first) {
  const size_t n = params.size();
  expect(grads.size() == n && indices.size() == n && (momenta.empty() || momenta.size() == n) &&
             (momentum == 0 || momenta.size() == n),
         "indexed_sgd_: lists of unlike lengths");
  check_rule(momentum, dampening, nesterov, "indexed_sgd_");
  lr = learning_rate(lr, lr_tensor, "indexed_sgd_");
  std::vector<Listed> targets;
  std::vector<Unit> units;
  targets.reserve(n);
  int64_t survivors = 0;
  for (size_t t = 0; t < n; ++t) {
    const View w = view(params[t]), g = view(grads[t]), at = view(indices[t]);
    const ScalarType wide = w.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    expect(is_float(w.type) && g.type == w.type && same_shape(g, w), "indexed_sgd_: grads[", t, "] does not fit");
    expect((at.type == ScalarType::Int || at.type == ScalarType::Long) && at.dim == 1 && at.flat, "indexed_sgd_: indices[", t,
           "] does not fit");
    expect(params[t].is_cpu() && grads[t].is_cpu() && indices[t].is_cpu(), "indexed_sgd_: several devices");
    Listed x{w, g, nullptr, at.data, at.numel, at.type == ScalarType::Long};
    if (momentum != 0) {
      const View m = view(momenta[t]);
      expect(m.type == wide && same_shape(m, at) && m.flat && momenta[t].is_cpu(), "indexed_sgd_: momenta[", t, "] does not fit");
      x.m = m.data;
    }
    targets.push_back(x);
    for (int64_t i = 0; i < x.n; i += kUnit) units.push_back({t, i, std::min(kUnit, x.n - i)});
    survivors += x.n;
  }
  const int64_t threads = threads_for(survivors, kUnit / 4);
  std::atomic<bool> fine{true};
  share(units.size(), threads, [&](int64_t u, int64_t) {
    const Listed& t = targets[units[u].target];
    if (!(t.wide ? ascends(reinterpret_cast<const int64_t*>(t.indices), units[u].begin, units[u].n, t.w.numel)
                 : ascends(reinterpret_cast<const int32_t*>(t.indices), units[u].begin, units[u].n, t.w.numel)))
      fine = false;
  });
  expect(fine, "indexed_sgd_: indices must ascend, without repetition, within their parameter");
  const Rule<double> exact{lr, momentum, 1 - dampening, weight_decay, first, nesterov};
  const Rule<float> single{static_cast<float>(lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
                           static_cast<float>(weight_decay), first, nesterov};
  share(units.size(), threads, [&](int64_t u, int64_t) {
    const Listed& t = targets[units[u].target];
    if (t.w.type == ScalarType::Double)
      update<double>(t, units[u], exact);
    else
      update<float>(t, units[u], single);
  });
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) { m.impl("indexed_sgd_", TORCH_BOX(&indexed_sgd_cpu)); }

}  // namespace prune
