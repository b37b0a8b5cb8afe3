"""Under `enforce` every optimizer trains the network whose pruned weights are gone: that is what each is compared with."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pruning
from pruning.masks import Masks, prunable
from pruning.masks.erasing import Eraser
from pruning.plan import PlanError

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
O = torch.optim


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 6, generator=generator).double(), torch.randint(0, 4, (24,), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4)).double()


def pruned() -> tuple[nn.Module, Masks]:
    model = network()
    return model, pruning.prune(model, 0.6)


class Compact(nn.Module):
    """The masked network with its survivors as its only weights: each a vector, scattered into a matrix of zeros."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        super().__init__()
        self.net, self.masks = [copy.deepcopy(model)], masks
        survivors = {n: p.detach()[masks[n]] if n in masks else p.detach() for n, p in model.named_parameters()}
        self.values = nn.ParameterDict({n.replace(".", "-"): nn.Parameter(v.clone()) for n, v in survivors.items()})

    def whole(self, of: Callable[[Tensor], Tensor] = lambda p: p) -> dict[str, Tensor]:
        out = {}
        for key, value in self.values.items():
            name = key.replace("-", ".")
            mask = self.masks.get(name)
            part = of(value)
            out[name] = part if mask is None else part.new_zeros(mask.shape).masked_scatter(mask, part)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.net[0], self.whole(), (x,))


def step(model: nn.Module, optimizer: Any, clip: float | None = None) -> None:
    x, y = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        return loss

    if isinstance(optimizer, O.LBFGS):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def timm_made(name: str, **settings: Any) -> Make:
    return lambda params: getattr(pytest.importorskip("timm.optim"), name)(params, **settings)


MAKES: dict[str, tuple[Make, float | None]] = {
    "SGD": (lambda p: O.SGD(p, 0.5, weight_decay=0.01), None),
    "MaskedSGD, clipped": (lambda p: pruning.MaskedSGD(p, 0.5, momentum=0.5), 0.2),
    "SGD clipped": (lambda p: O.SGD(p, 0.5), 0.2),
    "momentum": (lambda p: O.SGD(p, 0.1, momentum=0.9, dampening=0.1), None),
    "Nesterov": (lambda p: O.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01), None),
    "Adam": (lambda p: O.Adam(p, 0.01, amsgrad=True, weight_decay=0.01), 0.1),
    "AdamW": (lambda p: O.AdamW(p, 0.01), None),
    "Adamax": (lambda p: O.Adamax(p, 0.01), None),
    "NAdam": (lambda p: O.NAdam(p, 0.01), None),
    "RAdam": (lambda p: O.RAdam(p, 0.01), None),
    "RMSprop": (lambda p: O.RMSprop(p, 0.001, momentum=0.9, centered=True), 0.1),
    "Adagrad": (lambda p: O.Adagrad(p, 0.05), None),
    "Adadelta": (lambda p: O.Adadelta(p), None),
    "Rprop": (lambda p: O.Rprop(p, 0.01), None),
    "ASGD": (lambda p: O.ASGD(p, 0.1, t0=2.0), None),
    "LBFGS": (lambda p: O.LBFGS(p, lr=0.3, max_iter=5), None),
    "LBFGS, line search": (lambda p: O.LBFGS(p, line_search_fn="strong_wolfe", max_iter=5), None),
    "LARS": (timm_made("Lars", lr=0.5, momentum=0.9, weight_decay=0.01, trust_coeff=0.1), None),
    "LAMB": (timm_made("Lamb", lr=0.02, weight_decay=0.01), None),
}


@pytest.mark.parametrize("name", MAKES)
def test_the_masked_network_is_trained_as_one_without_the_pruned_weights(name: str) -> None:
    make, clip = MAKES[name]
    exact = 1e-6 if name.startswith("LBFGS") else 1e-10  # curvature magnifies rounding: 1e-9 after 70 iterations
    model, masks = pruned()
    compact = Compact(model, masks)
    optimizer, other = make(list(model.parameters())), make(list(compact.parameters()))
    pruning.enforce(optimizer, model, masks)
    for _ in range(15):
        step(model, optimizer, clip)
        step(compact, other, clip)
        assert masks.violations(model.state_dict()) == []
        for key, value in compact.whole().items():
            torch.testing.assert_close(model.state_dict()[key], value.detach(), rtol=exact * 100, atol=exact)
    start = dict(network().named_parameters())
    assert all(float((p - start[n]).detach().abs().max()) > 1e-3 for n, p in model.named_parameters())  # trained


def gradients(model: nn.Module, masks: Masks, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the gradients of the survivors, zeros elsewhere, of the network with these weights."""
    compact = Compact(model, masks)
    for key, value in compact.values.items():
        name = key.replace("-", ".")
        value.data.copy_(weights[name][masks[name]] if name in masks else weights[name])
    x, y = data()
    cross_entropy(compact(x), y).backward()
    return compact.whole(lambda p: p.grad)


def test_muon_orthogonalizes_the_momentum_of_survivors_and_moves_no_other() -> None:
    """Muon moves whole matrices: with zeros for what is pruned it has an update for those places, too, which is dropped."""

    def orthogonal(x: Tensor) -> Tensor:  # by a first step of torch's from 0, without momentum
        at = nn.Parameter(torch.zeros_like(x))
        at.grad = x
        O.Muon([at], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn="match_rms_adamw").step()
        return -at.detach() / (0.2 * math.sqrt(max(x.shape)))

    model, masks = pruned()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    for p in model.parameters():
        p.requires_grad_(p.dim() == 2)
    optimizer = O.Muon(matrices, lr=0.05, weight_decay=0.1, momentum=0.9)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    momenta = {n: torch.zeros_like(weights[n]) for n in masks}
    pruning.enforce(optimizer, model, masks)
    for _ in range(6):
        for n, g in gradients(model, masks, weights).items():
            if n not in masks:
                continue
            momenta[n] = 0.9 * momenta[n] + 0.1 * g
            update = orthogonal(0.1 * g + 0.9 * momenta[n])  # Nesterov
            scale = 0.05 * math.sqrt(max(1, g.shape[0] / g.shape[1]))
            moved = weights[n] * (1 - 0.05 * 0.1) - scale * update
            weights[n] = moved.where(masks[n], 0.0)
        step(model, optimizer)
        assert masks.violations(model.state_dict()) == []
        for n in masks:
            torch.testing.assert_close(model.state_dict()[n], weights[n], rtol=1e-8, atol=1e-10)


def test_adafactor_takes_its_means_over_survivors_and_zeros() -> None:
    """Adafactor's row and column means and its root mean squares are over the whole matrix, pruned entries counting as zeros."""
    model, masks = pruned()
    optimizer = O.Adafactor(model.parameters(), lr=0.05)
    pruning.enforce(optimizer, model, masks)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = {n: torch.zeros(w.shape[0], 1).double() for n, w in weights.items()}
    columns = {n: torch.zeros(1, w.shape[-1]).double() for n, w in weights.items()}
    eps = torch.finfo(torch.float64).eps
    for t in range(1, 9):
        beta = 1 - t**-0.8
        for n, g in gradients(model, masks, weights).items():
            if g.dim() == 2:
                rows[n] = beta * rows[n] + (1 - beta) * g.square().mean(1, keepdim=True)
                columns[n] = beta * columns[n] + (1 - beta) * g.square().mean(0, keepdim=True)
                variance = rows[n] * columns[n] / rows[n].mean().clamp(min=eps)
            else:
                columns[n] = beta * columns[n] + (1 - beta) * g.square()
                variance = columns[n][0]
            u = g / variance.clamp(min=eps**2).sqrt()
            scale = max(1e-3, float(weights[n].square().mean().sqrt())) * min(0.05, t**-0.5)
            weights[n] = weights[n] - scale * u / max(1.0, float(u.square().mean().sqrt()))
        step(model, optimizer)
        assert masks.violations(model.state_dict()) == []
        for n, value in model.state_dict().items():
            torch.testing.assert_close(value, weights[n], rtol=1e-8, atol=1e-10)


# --- when it begins, ends, and what is written in between -----------------------------------------------------


def dirty() -> tuple[nn.Module, Masks, O.LBFGS]:
    """Returns a dense network trained by LBFGS, masks that are not yet applied, and the optimizer with its dense history."""
    model = network()
    optimizer = O.LBFGS(model.parameters(), lr=0.3, max_iter=4)
    for _ in range(2):
        step(model, optimizer)
    return (
        model,
        Masks({n: p.detach().abs() > p.detach().abs().median() for n, p in prunable(model).items()}),
        optimizer,
    )


def test_lbfgs_with_a_dense_history_starts_anew_and_one_of_survivors_goes_on() -> None:
    model, masks, optimizer = dirty()
    pruning.enforce(optimizer, model, masks)
    compact = Compact(model, masks)
    other = O.LBFGS(compact.parameters(), lr=0.3, max_iter=4)
    for _ in range(4):
        step(model, optimizer)
        step(compact, other)
        for key, value in compact.whole().items():
            torch.testing.assert_close(model.state_dict()[key], value.detach(), rtol=1e-8, atol=1e-10)
    again = O.LBFGS(model.parameters(), lr=0.3, max_iter=4)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    pruning.enforce(again, model, masks)
    assert len(again.state[next(model.parameters())]["old_dirs"]) > 4  # kept
    flat = torch.cat([(~masks[n] if n in masks else torch.zeros_like(p, dtype=torch.bool)).flatten()
                      for n, p in model.named_parameters()])  # fmt: skip
    state = again.state[next(model.parameters())]
    assert not any(bool(v[flat].any()) for v in (state["d"], *state["old_dirs"], *state["old_stps"]))


def test_a_dense_state_that_is_loaded_is_masked_too() -> None:
    model, masks, dense = dirty()
    lbfgs = O.LBFGS(model.parameters())
    pruning.enforce(lbfgs, model, masks)
    lbfgs.load_state_dict(dense.state_dict())
    assert not lbfgs.state[next(model.parameters())]
    other = network()
    adam = O.Adam(other.parameters(), 0.01)
    step(other, adam)
    saved = copy.deepcopy(adam.state_dict())
    pruning.enforce(adam, other, masks)
    adam.load_state_dict(saved)
    assert masks.violations({n: adam.state[p]["exp_avg"] for n, p in other.named_parameters()}) == []


@pytest.mark.parametrize("how", ["args", "kwargs"])
def test_what_a_closure_writes_to_gradients_is_masked_before_the_step_reads_it(how: str) -> None:
    model, masks = pruned()
    optimizer = O.SGD(model.parameters(), 0.1)
    pruning.enforce(optimizer, model, masks)
    seen = []

    class Spy(O.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = closure()
            seen.extend(p.grad.clone() for p in self.param_groups[0]["params"])
            return loss

    spy = Spy(model.parameters(), 0.1)
    pruning.enforce(spy, model, masks)

    def closure() -> float:
        for p in model.parameters():
            p.grad = torch.full_like(p, math.nan)
        return 3.0

    assert (spy.step(closure) if how == "args" else spy.step(closure=closure)) == 3.0
    names = [n for n, _ in model.named_parameters()]
    assert masks.violations(dict(zip(names, seen, strict=True))) == []
    assert all(bool(g[masks[n]].isnan().all()) for n, g in zip(names, seen, strict=True) if n in masks)
    for p in model.parameters():  # and without one
        p.grad = torch.full_like(p, math.inf)
    optimizer.step()
    assert masks.violations(model.state_dict()) == []


def test_gradients_are_masked_when_backward_has_added_to_them_until_the_handle_is_removed() -> None:
    model, masks = pruned()
    x, y = data()
    named = dict(model.named_parameters())
    with pruning.enforce(O.SGD(model.parameters(), 0.1), model, masks):
        for _ in range(2):
            cross_entropy(model(x), y).backward()
            assert masks.violations({n: p.grad for n, p in named.items()}) == []
    cross_entropy(model(x), y).backward()
    assert masks.violations({n: p.grad for n, p in named.items()}) == list(masks)
    pruning.mask_gradients(model, masks)
    assert masks.violations({n: p.grad for n, p in named.items()}) == []
    assert pruning.mask_gradients is pruning.optim.mask_gradients


def test_the_graph_of_a_gradient_goes_through_its_mask() -> None:
    """Gradient penalties differentiate gradients: those of pruned entries are no part of them."""
    model, masks = pruned()
    compact = Compact(model, masks)
    pruning.enforce(O.SGD(model.parameters(), 0.1), model, masks)
    x, y = data()
    second = []
    for net in (model, compact):
        cross_entropy(net(x), y).backward(create_graph=True)
        penalty = sum(p.grad.square().sum() for p in net.parameters())
        net.zero_grad()
        penalty.backward()
        second.append({n: p.grad for n, p in net.named_parameters()})
    expected = compact.whole(lambda p: p.grad)
    for n, g in second[0].items():
        torch.testing.assert_close(g, expected[n])


def test_expanded_and_sparse_gradients() -> None:
    model, masks = pruned()
    optimizer = O.SGD(model.parameters(), 0.1)
    pruning.enforce(optimizer, model, masks)
    for p in model.parameters():
        p.grad = torch.ones((), dtype=p.dtype).expand(p.shape)
    optimizer.step()
    assert masks.violations(model.state_dict()) == []
    table = nn.Sequential(nn.Embedding(4, 3, sparse=True))
    pruning.enforce(O.SparseAdam(table.parameters()), table, {"0.weight": torch.eye(4, 3) > 0})
    with pytest.raises(PlanError, match=r"\[4, 3\] has a mask and a sparse gradient.*sparse=False"):
        table(torch.tensor([1, 2])).sum().backward()


def test_codes_of_quantized_moments_are_left_alone() -> None:
    model, masks = pruned()
    optimizer = O.SGD(model.parameters(), 0.1)
    codes = torch.full((12, 6), 7, dtype=torch.uint8)
    optimizer.state[model[0].weight]["state1"] = codes
    pruning.enforce(optimizer, model, masks)
    optimizer.step()
    assert bool((codes == 7).all())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64]
)
def test_erasing_selects_and_follows_a_mask_that_changes_in_place(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False, True], [False, True, False]])
    eraser = Eraser(mask)
    wide = torch.complex64 if dtype.is_complex else torch.float32

    def bits(x: Tensor) -> Tensor:
        return x.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])

    values = torch.tensor([[1.0, math.nan, -0.0], [-math.inf, math.nan, -2.0]], dtype=wide).to(dtype)
    for layout in (values.clone(), values.T.contiguous().T, torch.stack([values, values], -1)[..., 1]):
        eraser.erase(layout)
        expected = bits(values.clone())
        expected[~mask] = 0
        assert bits(layout).equal(expected)
    mask[0, 0] = False
    eraser.erase(values)
    assert float(values[0, 0].real if dtype.is_complex else values[0, 0]) == 0
    with torch.inference_mode():
        frozen = Eraser(torch.tensor([True, False]))
    out = torch.ones(2)
    frozen.erase(out)
    assert out.tolist() == [1.0, 0.0]


def test_an_in_place_write_is_counted_by_torch() -> None:
    weight = nn.Parameter(torch.ones(4))
    before = weight._version
    with torch.no_grad():
        Eraser(torch.tensor([True, False, True, False])).erase(weight)
    assert weight._version > before
    assert weight.tolist() == [1, 0, 1, 0]


def test_several_optimizers_hold_together_and_one_of_them_alone_is_refused() -> None:
    model, masks = pruned()
    first, second = O.Adam(model[0].parameters(), 0.01), O.SGD(model[2].parameters(), 0.1)
    with pytest.raises(PlanError, match="does not hold '2.weight'.*of several optimizers give all in one list"):
        pruning.enforce(first, model, masks)
    handle = pruning.enforce([first, second], model, masks)
    for _ in range(3):
        x, y = data()
        cross_entropy(model(x), y).backward()
        first.step()
        second.step()
        assert masks.violations(model.state_dict()) == []
    handle.remove()
    assert not any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in (first, second))
    model[2].requires_grad_(False)
    pruning.enforce(first, model, masks)
    model[2].requires_grad_(True)
    first.add_param_group({"params": list(model[2].parameters())})  # held from then on
    step(model, first)
    assert masks.violations(model.state_dict()) == []


def test_copies_and_pickles_are_free_and_whole() -> None:
    model, masks = pruned()
    optimizer = O.Adam(model.parameters(), 0.01)
    pruning.enforce(optimizer, model, masks)
    for other, theirs in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        step(other, theirs)
        assert masks.violations(other.state_dict()) == list(masks)
        pruning.enforce(theirs, other, masks)
        step(other, theirs)
        assert masks.violations(other.state_dict()) == []
    step(model, optimizer)
    assert masks.violations(model.state_dict()) == []


def test_parameters_that_were_exchanged_since_are_noticed() -> None:
    model, masks = pruned()
    optimizer = O.SGD(model.parameters(), 0.1)
    pruning.enforce(optimizer, model, masks)
    optimizer.param_groups[0]["params"] = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    with pytest.raises(PlanError, match="other parameters than when enforce was called: call it after wrapping"):
        optimizer.step()


def test_a_step_that_is_compiled_holds_the_masks() -> None:
    model, masks = pruned()
    optimizer = O.AdamW(model.parameters(), 0.01)
    pruning.enforce(optimizer, model, masks)
    compiled = torch.compile(lambda: optimizer.step(), backend="eager")
    x, y = data()
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        compiled()
        assert masks.violations(model.state_dict()) == []


def test_what_is_no_model_is_refused() -> None:
    model, masks = pruned()
    with pytest.raises(PlanError, match="masks are matched with a torch.nn.Module, not OrderedDict"):
        pruning.enforce(O.SGD(model.parameters(), 0.1), model.state_dict(), masks)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["SGD clipped", "AdamW", "LBFGS"])
def test_on_cuda_it_is_as_on_the_cpu(name: str) -> None:
    make, clip = MAKES[name]
    here, masks = pruned()
    there = copy.deepcopy(here).cuda()
    x, y = (t.cuda() for t in data())
    a, b = make(list(here.parameters())), make(list(there.parameters()))
    pruning.enforce(a, here, masks)
    pruning.enforce(b, there, masks)
    for _ in range(5):
        step(here, a, clip)

        def closure() -> Tensor:
            b.zero_grad()
            loss = cross_entropy(there(x), y)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(there.parameters(), clip)
            return loss

        if name == "LBFGS":
            b.step(closure)
        else:
            closure()
            b.step()
        assert masks.violations(there.state_dict()) == []
    for mine, other in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), other, rtol=1e-4, atol=1e-6)
