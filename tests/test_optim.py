"""SGD under masks is torch's SGD for what survives; what is pruned is +0 after every step, with any optimizer."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import ops
from pruning.masks import Masks, prunable
from pruning.plan import PlanError
from pruning.training.enforcing import enforce, mask_gradients
from pruning.training.optim import MaskedSGD

SETTINGS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def batches(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 2, 4, 4, generator=generator) for _ in range(n)]


def halves(model: nn.Module, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in prunable(model).items()})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4, seed: int = 0) -> None:
    for x in batches(steps, seed):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def momenta(optimizer: torch.optim.Optimizer, model: nn.Module, key: str = "momentum_buffer") -> dict[str, Tensor]:
    return {n: s[key] for n, p in model.named_parameters() if key in (s := optimizer.state.get(p, {}))}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- as torch's ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
def test_without_masks_it_is_torch_to_the_bit(settings: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    a, b = MaskedSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    train(ours, a)
    train(theirs, b)
    assert same(ours.state_dict(), theirs.state_dict())
    assert same(momenta(a, ours), momenta(b, theirs))


@pytest.mark.parametrize("settings", SETTINGS)
def test_full_masks_change_no_more_than_rounding(settings: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    a, b = MaskedSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    a.set_masks(ours, Masks.full(prunable(ours)))
    train(ours, a)
    train(theirs, b)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    for mine, other in zip(momenta(a, ours).values(), momenta(b, theirs).values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", SETTINGS)
def test_survivors_move_as_in_torch_with_weights_and_gradients_masked_in_float64(settings: dict[str, Any]) -> None:
    ours, theirs = network().double(), network().double()
    masks = halves(ours)
    a, b = MaskedSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    a.set_masks(ours, masks)
    for x in batches(5):
        x = x.double()
        masks.apply(theirs)
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
        mask_gradients(theirs, masks)
        a.step()
        b.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_has_no_mask_is_updated_as_in_torch_to_the_bit(settings: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    a, b = MaskedSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    a.set_masks(ours, {"4.weight": torch.ones(3, 16, dtype=torch.bool)})
    for step in range(4):
        for i, (mine, other) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            generator = torch.Generator().manual_seed(100 * step + i)
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        a.step()
        b.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert name == "4.weight" or torch.equal(mine, other)


def test_groups_have_their_own_settings() -> None:
    ours, theirs = network(), network()

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        weights, rest = [list(g) for g in (model[0].parameters(), model[4].parameters())]
        return [{"params": weights, "lr": 0.2, "weight_decay": 0.1}, {"params": rest, "momentum": 0.5}]

    a, b = MaskedSGD(groups(ours), lr=0.1), torch.optim.SGD(groups(theirs), lr=0.1)
    a.set_masks(ours, Masks.full(prunable(ours)))
    train(ours, a)
    train(theirs, b)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_schedulers_tensor_rates_and_closures_work() -> None:
    ours, theirs = network(), network()
    a = MaskedSGD(ours.parameters(), lr=torch.tensor(0.1), momentum=0.9)
    b = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    a.set_masks(ours, Masks.full(prunable(ours)))
    for optimizer, model in ((a, ours), (b, theirs)):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        for x in batches(3):

            def closure(
                model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer, x: Tensor = x
            ) -> Tensor:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                return loss

            assert float(optimizer.step(closure).detach()) > 0
            schedule.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"momentum": -0.1}, {"nesterov": True}])
def test_what_torch_refuses_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MaskedSGD(network().parameters(), **bad)


# --- what is pruned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "seed"), list(itertools.product(SETTINGS, range(3))))
def test_pruned_weights_and_momenta_are_plus_zero_at_once_and_after_every_step(
    settings: dict[str, Any], seed: int
) -> None:
    model = network(seed)
    optimizer = MaskedSGD(model.parameters(), **settings)
    train(model, optimizer, 2)
    masks = halves(model, seed)
    optimizer.set_masks(model, masks)
    for x in [*batches(3, seed), batches(1)[0] * float("nan")]:
        assert masks.violations(model.state_dict()) == []
        assert masks.violations(momenta(optimizer, model)) == []
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert masks.violations(model.state_dict()) == []
    assert masks.violations(momenta(optimizer, model)) == []


def test_weights_without_a_gradient_stay_and_their_pruned_ones_are_held() -> None:
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    masks = halves(model)
    optimizer.set_masks(model, masks)
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    with torch.no_grad():
        model[4].weight[~masks["4.weight"]] = 7.0  # somebody else's doing
    optimizer.step()
    assert same(before, model.state_dict())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    assert torch.equal(model[4].weight, before["4.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert masks.violations(model.state_dict()) == []


def test_a_frozen_weight_is_pruned_and_does_not_move() -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    masks = halves(model)
    expected = model[4].weight.where(masks["4.weight"], 0.0)
    optimizer = MaskedSGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    optimizer.set_masks(model, masks)
    train(model, optimizer)
    assert torch.equal(model[4].weight, expected)


def test_masks_are_replaced_cleared_and_changed_in_place() -> None:
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    first, second = halves(model, 1), halves(model, 2)
    optimizer.set_masks(model, first)
    train(model, optimizer)
    optimizer.set_masks(model, second)
    train(model, optimizer)
    assert second.violations(model.state_dict()) == []
    assert first.violations(model.state_dict()) == list(first)
    second["4.weight"].logical_and_(first["4.weight"])
    train(model, optimizer)
    assert second.violations(model.state_dict()) == []
    optimizer.clear_masks()
    train(model, optimizer)
    assert second.violations(model.state_dict()) == list(second)


def test_a_shared_weight_has_one_mask() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    masks = halves(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.set_masks(model, masks)
    model(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
    assert masks.violations(model.state_dict()) == []
    assert not masks["0.weight"].all()


def test_extra_masks_hold_too() -> None:
    model = network()
    gone = torch.tensor([True, False, True, True])
    extra = {"0.bias": gone, "1.weight": gone, "1.bias": gone}
    masks = Masks(halves(model), extra)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.set_masks(model, masks)
    train(model, optimizer)
    assert masks.violations(model.state_dict()) == []
    assert masks.violations(momenta(optimizer, model)) == []
    assert float(model[1].bias.detach()[1]) == 0.0
    assert bool((model[1].weight != 0).sum() == 3)


def test_masks_of_another_model_and_sparse_gradients_are_refused() -> None:
    model = network()
    optimizer = MaskedSGD(model.parameters(), lr=0.1)
    with pytest.raises(PlanError, match="which the model lacks"):
        optimizer.set_masks(model, {"9.weight": torch.ones(1).bool()})
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = MaskedSGD(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(PlanError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_have_float32_momenta_that_a_state_dict_keeps(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    masks = halves(model)

    def made(model: nn.Module) -> MaskedSGD:
        optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer.set_masks(model, masks)
        return optimizer

    def step(model: nn.Module, optimizer: MaskedSGD, seed: int) -> None:
        for x in batches(3, seed):
            optimizer.zero_grad()
            model(x.to(dtype)).float().square().mean().backward()
            optimizer.step()

    optimizer = made(model)
    step(model, optimizer, 0)
    assert momenta(optimizer, model)["0.weight"].dtype == torch.float32
    other = copy.deepcopy(model)
    resumed = made(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(momenta(resumed, other), momenta(optimizer, model))
    step(model, optimizer, 1)
    step(other, resumed, 1)
    assert same(model.state_dict(), other.state_dict())
    assert masks.violations(model.state_dict()) == []


# --- few survivors ------------------------------------------------------------------------------------------

native = pytest.mark.skipif(ops.backend("cpu") != "native-cpu", reason=f"no kernels: {ops.report()['cpu']['reason']}")


def few(model: nn.Module, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(w.shape, generator=generator) for n, w in prunable(model).items()}
    return Masks({n: ops.topk_masks([s], 2)[0] for n, s in scores.items()})  # of 72 and of 48


@pytest.fixture
def by_list(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters each call of indexed_sgd_ was given."""
    calls: list[int] = []
    own = ops.indexed_sgd_

    def counted(params: list[Tensor], *rest: Any, **rule: Any) -> None:
        calls.append(len(params))
        own(params, *rest, **rule)

    monkeypatch.setattr(ops, "indexed_sgd_", counted)
    return calls


def pairs(sweep: int = 1000, **settings: Any) -> list[tuple[nn.Module, MaskedSGD, Masks]]:
    """Returns the same training twice, after one step: one that never goes by lists, one that does."""
    out = []
    for every in (1, sweep):
        model = network()
        masks = few(model)
        optimizer = MaskedSGD(model.parameters(), **settings)
        optimizer.SWEEP = every
        optimizer.set_masks(model, masks)
        train(model, optimizer, 1)
        out.append((model, optimizer, masks))
    return out


@native
@pytest.mark.parametrize("settings", SETTINGS)
def test_updates_by_list_are_the_masked_ones_to_the_bit(by_list: list[int], settings: dict[str, Any]) -> None:
    (model, optimizer, masks), (other, lists, _) = pairs(5, **settings)
    assert not by_list
    for seed, steps in enumerate((1, 2, 6, 1)):
        train(model, optimizer, steps, seed)
        train(other, lists, steps, seed)
        assert same(model.state_dict(), other.state_dict())
        if seed % 2:
            assert same(momenta(optimizer, model), momenta(lists, other))
            assert masks.violations(other.state_dict()) == masks.violations(momenta(lists, other)) == []
    assert by_list == [2] * 8  # of ten steps after the first, the fourth and the ninth were sweeps


@native
def test_a_write_to_pruned_weights_is_undone_by_the_next_step(by_list: list[int]) -> None:
    (model, optimizer, masks), (other, lists, _) = pairs(lr=0.1, momentum=0.9)
    for m, o in ((model, optimizer), (other, lists)):
        train(m, o, 2)
        with torch.no_grad():
            m[0].weight.add_(1.0)
        train(m, o, 1, 7)
        assert masks.violations(m.state_dict()) == []
        train(m, o, 2, 8)
    assert by_list == [2, 2, 1, 2, 2]
    assert same(model.state_dict(), other.state_dict())
    assert same(momenta(optimizer, model), momenta(lists, other))


@native
def test_a_write_that_no_version_counts_is_undone_by_the_next_sweep() -> None:
    _, (model, optimizer, masks) = pairs(4, lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    model[0].weight.data.fill_(3.0)
    train(model, optimizer, 2)
    assert masks.violations(model.state_dict()) == []


@native
def test_masks_changed_in_place_are_listed_anew(by_list: list[int]) -> None:
    twins = pairs(lr=0.1, momentum=0.9)
    for model, optimizer, masks in twins:
        train(model, optimizer, 2)
        masks["0.weight"].copy_(few(model, 1)["0.weight"])
        train(model, optimizer, 3, 1)
        assert masks.violations(model.state_dict()) == masks.violations(momenta(optimizer, model)) == []
    assert by_list == [2, 2, 1, 2, 2]
    assert same(twins[0][0].state_dict(), twins[1][0].state_dict())


@native
def test_masks_written_by_an_op_count_as_changed() -> None:
    _, (model, optimizer, masks) = pairs(lr=0.1)
    train(model, optimizer, 1)
    ops.topk_masks([torch.arange(float(m.numel())).view(m.shape) for m in masks.values()], 3, out=list(masks.values()))
    train(model, optimizer, 1)
    assert masks.kept == 3
    assert masks.violations(model.state_dict()) == []


@native
@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle", "set anew", "cleared"])
def test_momenta_of_survivors_go_with_the_optimizer(how: str) -> None:
    results = []
    for model, optimizer, masks in pairs(lr=0.1, momentum=0.9, nesterov=True):
        train(model, optimizer, 3)
        if how == "state dict":
            resumed = MaskedSGD(model.parameters(), lr=9.0, momentum=0.9)
            resumed.set_masks(model, masks)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        elif how == "deepcopy":
            model, resumed = copy.deepcopy((model, optimizer))
        elif how == "pickle":
            model, resumed = pickle.loads(pickle.dumps((model, optimizer)))
        else:
            resumed = optimizer
            resumed.set_masks(model, halves(model)) if how == "set anew" else resumed.clear_masks()
        train(model, resumed, 3, 1)
        results.append((model.state_dict(), momenta(resumed, model)))
    assert same(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1])


@native
def test_masks_made_in_inference_mode_hold() -> None:
    model = network()
    with torch.inference_mode():
        masks = few(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.set_masks(model, masks)
    train(model, optimizer)
    assert masks.violations(model.state_dict()) == []


# --- state --------------------------------------------------------------------------------------------------


def test_the_state_dict_is_torchs_and_goes_both_ways() -> None:
    model = network()
    ours = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    ours.set_masks(model, halves(model))
    train(model, ours)
    theirs = torch.optim.SGD(network().parameters(), lr=0.5, momentum=0.1)
    theirs.load_state_dict(ours.state_dict())
    assert theirs.param_groups[0]["lr"] == 0.1
    assert set(theirs.state_dict()["state"]) == set(range(6))
    back = MaskedSGD(model.parameters(), lr=0.5, momentum=0.1)
    back.load_state_dict(theirs.state_dict())
    assert same(momenta(back, model), momenta(ours, model))


def test_loaded_momenta_of_pruned_weights_are_zeroed() -> None:
    model = network()
    dense = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, dense)
    masks = halves(model)
    pruned = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    pruned.set_masks(model, masks)
    pruned.load_state_dict(dense.state_dict())
    assert masks.violations(momenta(pruned, model)) == []
    assert masks.violations(momenta(dense, model)) == list(masks)


@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
def test_resumed_training_is_training_never_stopped(how: str) -> None:
    model = network()
    masks = halves(model)
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    optimizer.set_masks(model, masks)
    train(model, optimizer, 3, 0)
    if how == "state dict":
        other = copy.deepcopy(model)
        resumed = MaskedSGD(other.parameters(), lr=9.0, momentum=0.9)
        resumed.set_masks(other, masks)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif how == "deepcopy":
        other, resumed = copy.deepcopy((model, optimizer))
    else:
        other, resumed = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, 3, 1)
    train(other, resumed, 3, 1)
    assert same(model.state_dict(), other.state_dict())
    assert masks.violations(other.state_dict()) == []


# --- masters of 16-bit parameters ---------------------------------------------------------------------------

HALF = [torch.bfloat16, torch.float16]


def feed(step: int, *pairs: tuple[nn.Module, MaskedSGD]) -> None:
    """One step of each optimizer under the same gradients, all of them bfloat16 and float16 numbers."""
    for model, optimizer in pairs:
        for i, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + i)
            values = torch.randint(-64, 64, parameter.shape, generator=generator) / 64
            parameter.grad = values.to(parameter.dtype)
        optimizer.step()


def mastered(dtype: torch.dtype, masked: bool = True, **settings: Any) -> tuple[nn.Module, MaskedSGD]:
    model = network().to(dtype)
    optimizer = MaskedSGD(model.parameters(), **settings, masters=True)
    if masked:
        optimizer.set_masks(model, halves(model))
    return model, optimizer


def masters(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return momenta(optimizer, model, "master")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", HALF)
def test_masters_are_the_float32_training_to_the_bit(
    dtype: torch.dtype, settings: dict[str, Any], masked: bool
) -> None:
    model, optimizer = mastered(dtype, masked, **settings)
    wide = copy.deepcopy(model).float()
    reference = MaskedSGD(wide.parameters(), **settings)
    if masked:
        reference.set_masks(wide, halves(wide))
    for step in range(6):
        feed(step, (model, optimizer), (wide, reference))
        expected = dict(wide.named_parameters())
        assert same(masters(optimizer, model), expected)
        assert same(dict(model.named_parameters()), {n: p.to(dtype) for n, p in expected.items()})
        assert same(momenta(optimizer, model), momenta(reference, wide))
    assert masked == (halves(model).violations(masters(optimizer, model)) == [])


@pytest.mark.parametrize("masked", [True, False])
def test_masters_keep_updates_that_sixteen_bits_lose(masked: bool) -> None:
    results = {}
    for on in (True, False):
        weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        model = nn.ParameterDict({"weight": weight})
        optimizer = MaskedSGD([weight], lr=2.0**-10, masters=on)
        if masked:
            optimizer.set_masks(model, {"weight": torch.tensor([True, True, True, False])})
        for _ in range(8):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        results[on] = weight.detach()[:3].tolist()
    assert results == {True: [1 - 8 * 2.0**-10] * 3, False: [1.0] * 3}


def test_parameters_of_other_dtypes_have_no_master_and_move_as_without() -> None:
    results = []
    for on in (True, False):
        model = network()
        model[4].double()
        optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9, masters=on)
        optimizer.set_masks(model, halves(model))
        for step in range(3):
            feed(step, (model, optimizer))
        assert masters(optimizer, model) == {}
        results.append((model.state_dict(), momenta(optimizer, model)))
    assert same(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1])


def test_without_masters_the_state_has_none() -> None:
    model = network().bfloat16()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.set_masks(model, halves(model))
    feed(0, (model, optimizer))
    assert masters(optimizer, model) == {}


@pytest.mark.parametrize("how", ["optimizer first", "optimizer last", "deepcopy", "pickle", "file"])
@pytest.mark.parametrize("dtype", HALF)
def test_masters_go_with_the_optimizer(dtype: torch.dtype, how: str, tmp_path: Path) -> None:
    settings = {"lr": 0.003, "momentum": 0.9, "nesterov": True}
    model, optimizer = mastered(dtype, **settings)
    for step in range(3):
        feed(step, (model, optimizer))
    if how == "deepcopy":
        other, resumed = copy.deepcopy((model, optimizer))
    elif how == "pickle":
        other, resumed = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        other, resumed = mastered(dtype, **settings)
        feed(9, (other, resumed))  # its own masters must not stay
        torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
        weights, state = torch.load(tmp_path / "state.pt")
        if how != "optimizer last":
            resumed.load_state_dict(state)
        other.load_state_dict(weights)
        if how == "optimizer last":
            resumed.load_state_dict(state)
    kept = masters(optimizer, model)
    assert same(masters(resumed, other), kept)
    assert not same(kept, {n: p.to(dtype).float() for n, p in kept.items()})
    assert all(master is not kept[n] for n, master in masters(resumed, other).items())
    for step in range(3, 6):
        feed(step, (model, optimizer), (other, resumed))
    assert same(model.state_dict(), other.state_dict())
    assert same(masters(resumed, other), masters(optimizer, model))
    assert same(momenta(resumed, other), momenta(optimizer, model))


def test_a_state_dict_goes_from_and_to_optimizers_without_masters() -> None:
    model, optimizer = mastered(torch.bfloat16, lr=0.01, momentum=0.9)
    feed(0, (model, optimizer))
    plain = MaskedSGD(model.parameters(), lr=0.01, momentum=0.9)
    plain.load_state_dict(optimizer.state_dict())
    assert masters(plain, model) == {}
    theirs = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    feed(1, (model, theirs))
    expected = {n: p.detach().float() for n, p in model.named_parameters()}
    expected |= {n: expected[n].where(mask, 0.0) for n, mask in halves(model).items()}
    optimizer.load_state_dict(theirs.state_dict())  # with bfloat16 momenta
    assert masters(optimizer, model) == {}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert same(masters(optimizer, model), expected)
    assert {m.dtype for m in momenta(optimizer, model).values()} == {torch.float32}


@pytest.mark.parametrize("name", ["4.weight", "4.bias"])  # with and without a mask
def test_a_write_to_a_weight_is_read_into_its_master(name: str) -> None:
    model, optimizer = mastered(torch.bfloat16, lr=0.003)
    feed(0, (model, optimizer))
    weight, mask = model.get_parameter(name), halves(model)[name] if name == "4.weight" else None
    before = masters(optimizer, model)[name].clone()
    assert not torch.equal(before, weight.float())
    with torch.no_grad():
        weight.view(-1)[1::2] = 0.3  # every other entry
    expected = before.clone()
    expected.view(-1)[1::2] = weight.detach().float().view(-1)[1::2]
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(masters(optimizer, model)[name], expected if mask is None else expected.where(mask, 0.0))
    assert torch.equal(weight, masters(optimizer, model)[name].bfloat16())


def test_masters_under_new_masks_none_and_a_new_group() -> None:
    model, optimizer = mastered(torch.bfloat16, lr=0.003, momentum=0.9)
    feed(0, (model, optimizer))
    before = {n: m.clone() for n, m in masters(optimizer, model).items()}
    second = halves(model, 2)
    optimizer.set_masks(model, second)
    assert second.violations(masters(optimizer, model)) == second.violations(model.state_dict()) == []
    optimizer.zero_grad()
    optimizer.step()
    after = masters(optimizer, model)
    assert all(torch.equal(after[n], before[n].where(second[n], 0.0)) for n in second)
    optimizer.clear_masks()
    later = nn.Linear(3, 3).bfloat16()
    optimizer.add_param_group({"params": list(later.parameters()), "momentum": 0.0})
    whole = nn.Sequential(model, later)
    wide = copy.deepcopy(whole).float()
    reference = MaskedSGD(wide[0].parameters(), lr=0.003, momentum=0.9)
    reference.add_param_group({"params": list(wide[1].parameters()), "momentum": 0.0})
    with torch.no_grad():
        for (n, p), mine in zip(wide[0].named_parameters(), model.parameters(), strict=True):
            p.copy_(after[n])
            reference.state[p]["momentum_buffer"] = optimizer.state[mine]["momentum_buffer"].clone()
    for step in range(1, 4):
        feed(step, (whole, optimizer), (wide, reference))
    assert same(masters(optimizer, whole), dict(wide.named_parameters()))
    assert second.violations(model.state_dict()) == list(second)


@native
def test_parameters_with_masters_never_go_by_lists(by_list: list[int]) -> None:
    model = network().bfloat16()
    optimizer = MaskedSGD(model.parameters(), lr=0.1, masters=True)
    masks = few(model)
    optimizer.set_masks(model, masks)
    for step in range(4):
        feed(step, (model, optimizer))
    assert not by_list
    assert masks.violations(masters(optimizer, model)) == masks.violations(model.state_dict()) == []


@pytest.mark.parametrize("name", ["4.weight", "4.bias"])
@pytest.mark.parametrize(
    ("bad", "said"), [(torch.zeros(2), r"shape \(2,\), is float32"), (torch.zeros(3, 16).bfloat16(), "bfloat16")]
)
def test_a_master_that_does_not_fit_is_refused(name: str, bad: Tensor, said: str) -> None:
    model, optimizer = mastered(torch.bfloat16, lr=0.1)
    optimizer.state[model.get_parameter(name)]["master"] = bad
    with pytest.raises(PlanError, match=f"the master of a parameter of shape .*{said}.*; allowed is float32"):
        feed(0, (model, optimizer))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF)
def test_on_cuda_masters_round_to_the_weights_and_are_near_the_cpus(dtype: torch.dtype) -> None:
    here, there = network().to(dtype), network().to(dtype).cuda()
    found = []
    for model in (here, there):
        optimizer = MaskedSGD(model.parameters(), lr=0.003, momentum=0.9, weight_decay=0.01, masters=True)
        masks = halves(here)
        optimizer.set_masks(model, masks)
        for step in range(4):
            for i, parameter in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(100 * step + i)
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype).to(parameter.device)
            optimizer.step()
        found.append(masters(optimizer, model))
        assert same(
            {n: p.detach() for n, p in model.named_parameters()}, {n: m.to(dtype) for n, m in found[-1].items()}
        )
        assert masks.violations(found[-1]) == masks.violations(model.state_dict()) == []
    for name, master in found[1].items():
        torch.testing.assert_close(master.cpu(), found[0][name], rtol=1e-5, atol=1e-6)


# --- any other optimizer, gradients -------------------------------------------------------------------------

OTHERS = {
    "Adam": ({"lr": 0.1, "amsgrad": True}, "max_exp_avg_sq"),
    "AdamW": ({"lr": 0.1}, "exp_avg"),
    "SGD": ({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, "momentum_buffer"),
    "RMSprop": ({"lr": 0.001, "momentum": 0.9}, "square_avg"),
    "Adagrad": ({"lr": 0.1}, "sum"),
    "Rprop": ({"lr": 0.1}, "prev"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_enforce_holds_weights_and_state_of_any_optimizer(name: str) -> None:
    settings, key = OTHERS[name]
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), **settings)
    train(model, optimizer, 2)
    masks = halves(model)
    handle = enforce(optimizer, model, masks)
    for steps in (0, 1, 2):
        train(model, optimizer, steps)
        assert masks.violations(model.state_dict()) == []
        assert masks.violations(momenta(optimizer, model, key)) == []
    handle.remove()
    train(model, optimizer, 1)
    assert masks.violations(model.state_dict()) == list(masks)


def test_survivors_under_enforce_move_as_under_masked_sgd() -> None:
    ours, theirs = network(), network()
    a = MaskedSGD(ours.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    b = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    a.set_masks(ours, halves(ours))
    enforce(b, theirs, halves(theirs))
    train(ours, a)
    train(theirs, b)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_norms_of_masked_gradients_see_survivors_only() -> None:
    model = network()
    masks = halves(model)
    masks.apply(model)
    model(batches(1)[0]).square().mean().backward()
    model[0].bias.grad = None
    expected = sum(
        float((p.grad.where(masks[n], 0.0) if n in masks else p.grad).double().square().sum())
        for n, p in model.named_parameters()
        if p.grad is not None
    )
    mask_gradients(model, masks)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1e9))
    assert norm**2 == pytest.approx(expected, rel=1e-5)
    assert masks.violations({n: p.grad for n, p in model.named_parameters() if p.grad is not None}) == []


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS)
def test_on_cuda_it_is_torch_without_masks_and_the_cpu_with_them(settings: dict[str, Any]) -> None:
    def train_on(device: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for x in batches(3):
            optimizer.zero_grad()
            model(x.to(device)).square().mean().backward()
            optimizer.step()

    ours, theirs = network().cuda(), network().cuda()
    train_on("cuda", ours, MaskedSGD(ours.parameters(), **settings))
    train_on("cuda", theirs, torch.optim.SGD(theirs.parameters(), **settings))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    here, there = network(), network().cuda()
    masks = halves(here)
    for device, model in (("cpu", here), ("cuda", there)):
        optimizer = MaskedSGD(model.parameters(), **settings)
        optimizer.set_masks(model, masks)
        train_on(device, model, optimizer)
        assert masks.violations(model.state_dict()) == []
        assert masks.violations(momenta(optimizer, model)) == []
    for mine, other in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), other, rtol=1e-4, atol=1e-5)
