// masked_sgd_ on the CPU: one pass over weights, gradients and momenta in fixed chunks of all tensors together. 16-bit and
// strided memory passes through float scratch of a few kilobytes.

#include "parallel.h"
#include "sgd_step.h"

namespace prune {
namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int64_t kPiece = 512;  // elements converted or gathered at a time

template <class T>
void gather(const View& x, int64_t begin, int64_t n, T* to) {
  walk(x, begin, n, [&](int64_t j, int64_t offset) { to[j] = get<T>(x, offset); });
}

template <class T>
void scatter(const View& x, int64_t begin, int64_t n, const T* from) {
  walk(x, begin, n, [&](int64_t j, int64_t offset) { put<T>(x, offset, from[j]); });
}

struct Target {
  View w, g, mask;
  View m, master;  // data null where there is none
};

template <class T>
void update(const Target& t, int64_t begin, int64_t n, const Rule<T>& r) {
  const bool bits = t.mask.type == ScalarType::Byte;
  const bool direct = t.w.flat && t.g.flat && t.mask.flat && (t.m.data == nullptr || t.m.flat) && t.master.data == nullptr &&
                      t.w.type == (sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
  const auto kept_from = [&](int64_t i) {
    return bits ? Kept{nullptr, reinterpret_cast<const uint8_t*>(t.mask.data) + i / 8} : Kept{t.mask.data + i, nullptr};
  };
  if (direct) {
    step(reinterpret_cast<T*>(t.w.data) + begin, reinterpret_cast<const T*>(t.g.data) + begin,
         t.m.data == nullptr ? nullptr : reinterpret_cast<T*>(t.m.data) + begin, kept_from(begin), n, r);
    return;
  }
  const View& source = t.master.data != nullptr ? t.master : t.w;
  alignas(64) T w[kPiece], g[kPiece], m[kPiece];
  char kept[kPiece];
  for (int64_t i = begin; i < begin + n; i += kPiece) {
    const int64_t some = std::min(kPiece, begin + n - i);
    gather(source, i, some, w);
    gather(t.g, i, some, g);
    if (t.m.data != nullptr) gather(t.m, i, some, m);
    if (!bits) walk(t.mask, i, some, [&](int64_t j, int64_t offset) { kept[j] = t.mask.data[offset]; });
    step(w, g, t.m.data == nullptr ? nullptr : m, bits ? kept_from(i) : Kept{kept, nullptr}, some, r);
    scatter(t.w, i, some, w);
    if (t.master.data != nullptr) scatter(t.master, i, some, w);
    if (t.m.data != nullptr) scatter(t.m, i, some, m);
  }
}

}  // namespace

void masked_sgd_cpu(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, const std::vector<Tensor>& momenta,
                    const std::vector<Tensor>& masks, const std::vector<Tensor>& masters, double lr,
                    std::optional<Tensor> lr_tensor, double momentum, double dampening, double weight_decay, bool nesterov,
                    bool first) {
  const size_t n = params.size();
  expect(grads.size() == n && masks.size() == n && (momenta.empty() || momenta.size() == n) &&
             (masters.empty() || masters.size() == n) && (momentum == 0 || momenta.size() == n),
         "masked_sgd_: lists of unlike lengths");
  check_rule(momentum, dampening, nesterov, "masked_sgd_");
  lr = learning_rate(lr, lr_tensor, "masked_sgd_");
  struct Unit {
    size_t target;
    int64_t begin, n;
  };
  std::vector<Target> targets;
  std::vector<Unit> units;
  targets.reserve(n);
  int64_t elements = 0;
  const View none{};
  for (size_t t = 0; t < n; ++t) {
    Target x{view(params[t]), view(grads[t]), view(masks[t]), momentum == 0 ? none : view(momenta[t]),
                   masters.empty() ? none : view(masters[t])};
    const ScalarType wide = x.w.type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    expect(is_float(x.w.type) && x.g.type == x.w.type && same_shape(x.g, x.w), "masked_sgd_: grads[", t, "] does not fit");
    expect(momentum == 0 || (x.m.type == wide && same_shape(x.m, x.w)), "masked_sgd_: momenta[", t, "] does not fit");
    expect(masters.empty() || (x.master.type == ScalarType::Float && wide == ScalarType::Float && same_shape(x.master, x.w)),
           "masked_sgd_: masters[", t, "] does not fit");
    expect(x.mask.type == ScalarType::Bool
               ? same_shape(x.mask, x.w)
               : x.mask.type == ScalarType::Byte && x.mask.dim == 1 && x.mask.numel == (x.w.numel + 7) / 8 && x.mask.flat,
           "masked_sgd_: masks[", t, "] does not fit");
    expect(params[t].is_cpu() && grads[t].is_cpu() && masks[t].is_cpu() && (momentum == 0 || momenta[t].is_cpu()) &&
               (masters.empty() || masters[t].is_cpu()),
           "masked_sgd_: several devices");
    const auto alike = [&](const View& v) { return v.data == nullptr || same_layout(v, x.w); };
    if (!x.w.flat && x.mask.type == ScalarType::Bool && gapless(x.w) && alike(x.g) && alike(x.mask) && alike(x.m) && alike(x.master))
      x.w.flat = x.g.flat = x.mask.flat = x.m.flat = x.master.flat = true;  // channels-last: any common order will do
    targets.push_back(x);
    for (int64_t i = 0; i < x.w.numel; i += kChunk) units.push_back({t, i, std::min(kChunk, x.w.numel - i)});
    elements += x.w.numel;
  }
  const Rule<double> exact{lr, momentum, 1 - dampening, weight_decay, first, nesterov};
  const Rule<float> single{static_cast<float>(lr), static_cast<float>(momentum), static_cast<float>(1 - dampening),
                           static_cast<float>(weight_decay), first, nesterov};
  share(units.size(), threads_for(elements, kChunk), [&](int64_t u, int64_t) {
    const Target& t = targets[units[u].target];
    if (t.w.type == ScalarType::Double)
      update<double>(t, units[u].begin, units[u].n, exact);
    else
      update<float>(t, units[u].begin, units[u].n, single);
  });
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) { m.impl("masked_sgd_", TORCH_BOX(&masked_sgd_cpu)); }

}  // namespace prune
