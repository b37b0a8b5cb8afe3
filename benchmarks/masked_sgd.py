"""One masked step of SGD: the op against torch's fused, foreach and for-loop SGD, without masks and with three multiplies.

    python benchmarks/masked_sgd.py [--sizes resnet56,resnet50,vgg16] [--threads 1,2] [--device cuda]

The op's step is checked against float64 before it is timed, the step by a list of survivors against the op's. MaskedSGD
chooses between the two. Nesterov, momentum 0.9, weight decay 5e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpu_peers
import torch
from layers import NETWORKS, weights
from timing import Contenders, Probes, Report, arguments, configurations, graphed, interleaved, tried
from torch import Tensor, nn

from pruning import MaskedSGD, ops

RULE: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
LR = 1e-9  # so small that repeats leave the weights where they are


def check(params: list[Tensor], grads: list[Tensor], masks: list[Tensor]) -> None:
    """Asserts that one step agrees with float64 to float32's rounding and leaves +0 where a mask is False."""
    ours, momenta = [p.clone() for p in params], [torch.zeros_like(p) for p in params]
    ops.masked_sgd_(ours, grads, momenta, masks, lr=0.1, **RULE)
    for p, g, mask, got in zip(params, grads, masks, ours, strict=True):
        d = g.double() + 5e-4 * p.double()
        expected = (p.double() - 0.1 * (d + 0.9 * d)).where(mask, 0)
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-7)
        assert not bool(got[~mask].any())


def torch_step(params: list[Tensor], grads: list[Tensor], **how: bool) -> Callable[[], Any]:
    """Returns the step of torch's SGD over copies of the parameters."""
    copies = [p.clone().requires_grad_() for p in params]
    for copy, grad in zip(copies, grads, strict=True):
        copy.grad = grad
    return torch.optim.SGD(copies, lr=LR, **RULE, **how).step


def ours(params: list[Tensor], grads: list[Tensor], masks: list[Tensor]) -> Callable[[], Any]:
    """Returns the step of MaskedSGD over copies of the parameters."""
    model = nn.ParameterList([p.clone() for p in params])
    for parameter, grad in zip(model, grads, strict=True):
        parameter.grad = grad
    optimizer = MaskedSGD(model.parameters(), lr=LR, **RULE)
    optimizer.set_masks(model, {str(i): mask for i, mask in enumerate(masks)})
    optimizer.step()
    return optimizer.step


def by_list(
    params: list[Tensor], grads: list[Tensor], masks: list[Tensor]
) -> tuple[Callable[[], Any], Callable[[], Any] | None]:
    """Returns the step by lists over copies of the parameters, checked, and on the CPU a bare loop over the same places."""
    weights = [p.where(m, 0) for p, m in zip(params, masks, strict=True)]
    places = [m.flatten().nonzero().flatten().int() for m in masks]
    momenta = [torch.zeros(at.numel(), device=at.device) for at in places]
    dense, velocities = [w.clone() for w in weights], [torch.zeros_like(w) for w in weights]
    ops.masked_sgd_(dense, grads, velocities, masks, lr=0.1, **RULE)
    listed = [w.clone() for w in weights]
    ops.indexed_sgd_(listed, grads, momenta, places, lr=0.1, **RULE)
    for a, b in zip(dense, listed, strict=True):
        torch.testing.assert_close(a, b, rtol=0 if a.is_cpu else 1e-6, atol=0 if a.is_cpu else 1e-7)
    floor = Probes().loop("indexed", places, weights, grads, places) if weights[0].is_cpu else None
    return lambda: ops.indexed_sgd_(weights, grads, momenta, places, lr=LR, **RULE), floor


def with_masks(step: Callable[[], Any], tensors: list[list[Tensor]], masks: list[Tensor]) -> Callable[[], Any]:
    def run() -> None:
        step()
        for group in tensors:
            torch._foreach_mul_(group, masks)

    return run


def contenders(options: Any, params: list[Tensor], grads: list[Tensor], density: float) -> Contenders:
    momenta = [torch.zeros_like(p) for p in params]
    masks = [torch.rand_like(p) < density for p in params]
    bits, floats = [ops.pack(m) for m in masks], [m.float() for m in masks]
    check(params, grads, masks)
    still = [torch.zeros_like(p) for p in params]
    copies, moving = [p.clone() for p in params], [g.clone() for g in grads]
    listed, listed_floor = by_list(params, grads, masks)
    runs: Contenders = {
        "prune": lambda: ops.masked_sgd_(params, grads, momenta, masks, lr=LR, **RULE),
        "prune, bits": lambda: ops.masked_sgd_(params, grads, momenta, bits, lr=LR, **RULE),
        "prune, by list": listed,
        "MaskedSGD": ours(params, grads, masks),
        "torch fused, no mask": torch_step(params, grads, fused=True),
        "torch foreach, no mask": torch_step(params, grads, foreach=True),
    }
    if density == 0.1:
        runs["torch fused + masks on g, m, w"] = with_masks(
            torch_step(params, grads, fused=True), [copies, moving, still], floats
        )
        runs["torch foreach + masks on g, m, w"] = with_masks(
            torch_step(params, grads, foreach=True), [copies, moving, still], floats
        )
        runs["torch for-loop, no mask"] = torch_step(params, grads, foreach=False)
    if listed_floor is not None:
        runs["floor of the list"] = listed_floor
    if options.device == "cpu":
        runs["floor: read 12, write 8"] = Probes().loop("sgd_like", params, copies, grads, momenta, last=0.0)
    else:
        runs |= tried("prune in a CUDA graph", lambda: graphed(runs["prune"]))
        runs |= on_gpu(params, grads, masks)
    return runs


def on_gpu(params: list[Tensor], grads: list[Tensor], masks: list[Tensor]) -> Contenders:
    """Returns the step of bfloat16 weights with float32 masters, and Triton's, over flat tensors."""
    brain, brain_grads = [p.bfloat16() for p in params], [g.bfloat16() for g in grads]
    masters, momenta = [p.clone() for p in params], [torch.zeros_like(p) for p in params]
    rule = {**RULE, "lr": LR, "masters": masters}
    runs: Contenders = {
        "prune, bfloat16 with masters": lambda: ops.masked_sgd_(brain, brain_grads, momenta, masks, **rule),
    }
    if not gpu_peers.has_triton():
        return runs
    w, g, mask = (torch.cat([t.flatten() for t in ts]) for ts in (params, grads, masks))
    m = torch.zeros_like(w)

    def triton() -> Callable[[], Any]:
        expected, momentum = w.clone(), torch.zeros_like(w)
        ops.masked_sgd_([expected], [g], [momentum], [mask], lr=LR, **RULE)
        gpu_peers.triton_update(w, g, m, mask, LR, 0.9, 5e-4)
        torch.testing.assert_close(m, momentum, rtol=1e-5, atol=1e-6)
        return lambda: gpu_peers.triton_update(w, g, m, mask, LR, 0.9, 5e-4)

    return runs | tried("Triton, one flat tensor", triton)


def main() -> None:
    options = arguments(__doc__ or "", "resnet56,resnet50", "resnet56,resnet50,large")
    report = Report("masked_sgd_", options)
    for size, threads in configurations(options):
        torch.set_num_threads(threads)
        params = weights(NETWORKS[size](), options.device)
        grads = weights(NETWORKS[size](), options.device, seed=1)
        total = sum(p.numel() for p in params)
        for density in (0.8, 0.1, 0.02):
            times = interleaved(contenders(options, params, grads, density), options.device, options.repeats)
            row = {"network": size, "weights": total, "sparsity": round(1 - density, 2), "threads": threads}
            report.row({**row, "times": times}, least=21 * total)


if __name__ == "__main__":
    main()
