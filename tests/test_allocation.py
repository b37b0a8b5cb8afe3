"""Allocations against independent computations, exact totals, edge rules, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pruning
from pruning import models, plan
from pruning.deciding.allocation import ALLOCATIONS
from pruning.deciding.allocation.counts import layer_counts as counted
from pruning.deciding.allocation.ranking import lamp
from pruning.deciding.allocation.sharing import allocate
from pruning.masks import Masks, empty_layers
from pruning.plan import PlanError

SHAPES = {
    "conv1.weight": (16, 3, 3, 3),
    "conv2.weight": (16, 16, 3, 3),
    "conv3.weight": (32, 16, 1, 1),
    "fc1.weight": (40, 32),
    "fc2.weight": (10, 40),
}
SIZES = [432, 2304, 512, 1280, 400]
TOTAL = 4928


def layer_counts(shapes: Any, keep: int, allocation: str, **more: Any) -> list[int]:
    return counted(shapes, keep, ALLOCATIONS[allocation].load(), **more)


def sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def random_scores(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, signed: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return scores if signed else {name: score.abs() for name, score in scores.items()}


def kept(masks: Masks) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


def test_the_registry_has_the_names_of_the_plan() -> None:
    assert set(ALLOCATIONS) == set(plan.choices(plan.Allocation))


@pytest.mark.parametrize("allocation", [name for name in ALLOCATIONS if name != "rates"])
@pytest.mark.parametrize("signed", [False, True])
def test_totals_are_exact_and_the_best_of_each_layer_stay(allocation: str, signed: bool) -> None:
    for seed in range(20):
        scores = random_scores(seed, signed=signed)
        for density in (1.0, 0.9, 0.5, 1 / 3, 0.25, 0.17, 0.1234):
            masks = allocate(scores, density, allocation)
            assert sum(kept(masks)) == round(density * TOTAL)
            assert list(masks) == list(scores)
            for name, mask in masks.items():
                if 0 < int(mask.sum()) < mask.numel():
                    assert scores[name][mask].min() >= scores[name][~mask].max()


@pytest.mark.parametrize("allocation", [name for name in ALLOCATIONS if name != "rates"])
def test_twenty_hard_cycles_end_on_the_exact_count(allocation: str) -> None:
    masks: Masks | None = None
    for cycle in range(1, 21):
        before, density = masks, 0.9**cycle
        masks = allocate(random_scores(cycle), density, allocation, masks=before)
        assert sum(kept(masks)) == round(density * TOTAL)
        if before is not None:
            assert all(bool((before[name] | ~mask).all()) for name, mask in masks.items())


# --- global and uniform -------------------------------------------------------------------------------------


def test_global_is_one_ranking_with_ties_to_the_earlier() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0, 2.0]]), "b": torch.tensor([[2.0, 2.0, 0.0]])}
    masks = allocate(scores, 0.5, "global")
    assert masks["a"].tolist() == [[True, False, True]]
    assert masks["b"].tolist() == [[True, False, False]]


def test_uniform_rounds_by_largest_remainder() -> None:
    """0.3 of 7, 5 and 4: quotas 33/16.. of 5 in all are 2.1875, 1.5625, 1.25."""
    shapes = sizes({"a": (7, 1), "b": (5, 1), "c": (4, 1)})
    assert layer_counts(shapes, 5, "uniform") == [2, 2, 1]
    assert layer_counts(shapes, 8, "uniform") == [4, 2, 2]  # 3.5, 2.5, 2.0: the tie goes to the earlier layer


def test_uniform_is_of_what_is_left() -> None:
    shapes = sizes({"a": (10, 1), "b": (10, 1)})
    assert layer_counts(shapes, 5, "uniform", left=[8, 2]) == [4, 1]


# --- uniform+ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1000, 1479, 2464, 4000])
def test_uniform_plus_against_a_linear_solve(keep: int) -> None:
    """First 432 dense; the rest share one density f, unless the last then keeps less than 80 of its 400."""
    share = (keep - 432) / (TOTAL - 432)
    last = 80 if round(share * 400) < 80 else None
    # unknowns: counts of the 5 layers and the common density f
    system, value = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for i, size in enumerate(SIZES):
        system[i, i] = 1.0
        if i == 0:
            value[i] = 432
        elif i == 4 and last is not None:
            value[i] = last
        else:
            system[i, 5] = -size
    system[5, :5] = 1.0
    value[5] = keep
    solved = torch.linalg.solve(system, value)[:5]
    counts = layer_counts(sizes(SHAPES), keep, "uniform+")
    assert sum(counts) == keep
    assert all(abs(count - float(x)) < 1 for count, x in zip(counts, solved, strict=True))
    assert counts[0] == 432
    assert counts[4] >= 80


def test_uniform_plus_leaves_no_linear_first_layer_dense() -> None:
    shapes = sizes({"fc1": (30, 20), "fc2": (20, 30), "fc3": (5, 20)})
    assert layer_counts(shapes, 650, "uniform+") == [300, 300, 50]
    assert layer_counts(shapes, 130, "uniform+") == [55, 55, 20]


def test_uniform_plus_counts_the_last_layer_by_its_size_and_the_rest_by_what_is_left() -> None:
    shapes = sizes({"conv": (4, 1, 3, 3), "a": (10, 10), "b": (10, 10), "fc": (10, 10)})
    assert layer_counts(shapes, 36 + 20 + 30, "uniform+", left=[36, 40, 20, 40]) == [36, 20, 10, 20]
    assert layer_counts(shapes, 36 + 12 + 30, "uniform+", left=[36, 40, 20, 12]) == [36, 20, 10, 12]


def test_uniform_plus_says_when_the_ends_alone_are_too_many() -> None:
    with pytest.raises(PlanError, match=r"first convolution dense and 20 % of its last layer: 512 weights, not 493"):
        allocate(random_scores(0), 0.1, "uniform+")


def test_uniform_plus_of_resnet56_has_the_published_densities() -> None:
    """The middle layers of ResNet-56 (A shortcuts, 10 classes): Zimmer et al. (2023), .0995, .0494, .00935."""
    shapes = {"conv1": (16, 3, 3, 3)}
    for stage, width in enumerate((16, 32, 64)):
        for block in range(9):
            before = width // 2 if block == 0 and stage > 0 else width
            shapes[f"layer{stage}.{block}.conv1"] = (width, before, 3, 3)
            shapes[f"layer{stage}.{block}.conv2"] = (width, width, 3, 3)
    shapes["fc"] = (10, 64)
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total == 848_944
    for sparsity, density in ((0.90, 0.0995), (0.95, 0.0494), (0.99, 0.00935)):
        counts = layer_counts(sizes(shapes), round((1 - sparsity) * total), "uniform+")
        assert counts[0] == 432
        assert counts[-1] == 128
        middle = sum(counts[1:-1]) / (total - 432 - 640)
        assert middle == pytest.approx(density, abs=5e-5 if density > 0.01 else 5e-6)


@pytest.mark.parametrize(
    ("sparsity", "sparse_macs", "published"),
    [(0.90, 12_876_672, 9.74), (0.93, 9_125_120, 13.75), (0.95, 6_622_848, 18.96), (0.99, 1_610_432, 77.85)],
)
def test_uniform_plus_of_resnet56_has_the_published_speedups(
    sparsity: float, sparse_macs: int, published: float
) -> None:
    """Zimmer et al. (2023) print them truncated: 9, 13, 18, 77. Whole weights per layer account for up to 0.1 %."""
    model = models.build("resnet56", (3, 32, 32), 10, seed=0)
    masks = pruning.prune(model, sparsity, allocation="uniform+")
    count = pruning.count_macs(model, torch.zeros(1, 3, 32, 32), masks, convention="shrinkbench")
    assert count.macs == 125_485_696
    assert count.sparse_macs == sparse_macs
    assert count.speedup == pytest.approx(published, rel=1e-3)
    assert int(count.speedup) == int(published)


# --- ERK ----------------------------------------------------------------------------------------------------


def erk_counts(left: list[int], keep: int) -> list[float]:
    """Solves for one epsilon, c_l = epsilon * sum(dims) outside a dense set that grows one layer at a time."""
    numbers = [sum(shape) for shape in SHAPES.values()]
    full: set[int] = set()
    while True:
        system, value = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        for i in range(5):
            value[i] = left[i] if i in full else 0
            system[i, 5] = 0 if i in full else -numbers[i]
        system[5] = torch.tensor([1.0] * 5 + [0.0])
        value[5] = keep
        solved = torch.linalg.solve(system, value)[:5].tolist()
        ratios = {i: solved[i] / left[i] for i in range(5) if i not in full}
        worst = max(ratios, key=lambda i: ratios[i])
        if ratios[worst] <= 1 + 1e-12:
            return solved
        full.add(worst)


@pytest.mark.parametrize("left", [SIZES, [432, 2000, 400, 1000, 300], [40, 2304, 512, 1280, 400]])
@pytest.mark.parametrize("keep", [100, 493, 1000, 2000, 2464, 3000, 4000, 4132])
def test_erk_against_a_linear_solve(keep: int, left: list[int]) -> None:
    counts = layer_counts(sizes(SHAPES), keep, "erk", left=left)
    assert sum(counts) == keep
    assert all(count <= size for count, size in zip(counts, left, strict=True))
    expected = erk_counts(left, keep)
    assert all(abs(count - x) < 1 for count, x in zip(counts, expected, strict=True))


def test_erk_counts_by_hand() -> None:
    """Sums of dimensions: 10 x 2 -> 12, 4 x 8 -> 12, 1 x 1 x 3 x 3 -> 8; 16 shared as 6, 6, 4."""
    shapes = sizes({"a": (10, 2), "b": (4, 8), "c": (1, 1, 3, 3)})
    assert layer_counts(shapes, 16, "erk") == [6, 6, 4]
    assert layer_counts(shapes, 48, "erk") == [20, 19, 9]  # c over-full first: 39 left, 19.5 each, tie to the earlier


# --- LAMP ---------------------------------------------------------------------------------------------------


def quadratic_lamp(weight: Tensor) -> Tensor:
    flat = weight.double().flatten()
    scores = torch.zeros_like(flat)
    for i in range(len(flat)):
        tail = sum(float(x) ** 2 for j, x in enumerate(flat) if abs(x) > abs(flat[i]) or j == i)
        scores[i] = float(flat[i]) ** 2 / tail
    return scores.reshape(weight.shape)


def test_lamp_against_a_quadratic_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(6, 5, generator=generator), torch.randn(4, 3, 3, 3, generator=generator) * 100]
    for ours, weight in zip(lamp([w.abs() for w in weights]), weights, strict=True):
        torch.testing.assert_close(ours, quadratic_lamp(weight), rtol=1e-12, atol=0)


def test_lamp_does_not_see_a_layers_scale_and_empties_none() -> None:
    for seed in range(20):
        scores = random_scores(seed)
        scaled = {name: score * 10.0 ** (7 * i - 14) for i, (name, score) in enumerate(scores.items())}
        for density in (0.5, 0.01, 5 / TOTAL):
            one, two = allocate(scores, density, "lamp"), allocate(scaled, density, "lamp")
            assert kept(one) == kept(two)
            assert min(kept(one)) >= 1


def test_lamp_keeps_one_weight_of_a_layer_of_zeros_that_is_partly_pruned() -> None:
    scores = {"a": torch.tensor([[0.0, 0.0, 0.0]]), "b": torch.tensor([[1.0, 2.0, 3.0]])}
    masks = Masks({"a": torch.tensor([[False, True, True]]), "b": torch.ones(1, 3, dtype=torch.bool)})
    result = allocate(scores, 2 / 6, "lamp", masks=masks)
    assert result["a"].tolist() == [[False, True, False]]
    assert result["b"].tolist() == [[False, False, True]]


def test_lamp_is_accurate_where_float32_sums_are_not() -> None:
    """A million equal weights: the score of the i-th from the top is 1/i, down to the last."""
    score = lamp([torch.full((1_000_000,), 0.1)])[0]
    expected = 1 / torch.arange(1, 1_000_001, dtype=torch.float64)
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=0)


def test_lamp_takes_scores_of_any_scale() -> None:
    huge = allocate(
        {"a": torch.tensor([1e300, 1e299], dtype=torch.float64), "b": torch.tensor([3.0, 1.0])}, 0.75, "lamp"
    )
    assert kept(huge) == [1, 2]  # 1/101 against 1/10


# --- any layers -------------------------------------------------------------------------------------------------


@st.composite
def layers(draw: st.DrawFn) -> tuple[dict[str, torch.Size], list[int], int, int]:
    """Draws shapes, what each layer has left, a number to keep and a number to keep in each."""
    dims = st.lists(st.integers(1, 6), min_size=2, max_size=4)
    shapes = {str(i): torch.Size(shape) for i, shape in enumerate(draw(st.lists(dims, min_size=1, max_size=7)))}
    left = [draw(st.integers(0, shape.numel())) for shape in shapes.values()]
    return shapes, left, draw(st.integers(0, sum(left))), draw(st.integers(0, 5))


@settings(deadline=None)
@given(layers(), st.sampled_from(["uniform", "uniform+", "erk"]))
def test_counts_are_exact_within_bounds_and_in_proportion(drawn: Any, allocation: str) -> None:
    shapes, left, keep, floor = drawn
    least = [min(floor, count) for count in left]
    try:
        counts = layer_counts(shapes, keep, allocation, left=left, least=least)
    except PlanError:
        assert allocation == "uniform+" or sum(least) > keep
        return
    assert sum(counts) == keep
    assert all(low <= count <= high for low, count, high in zip(least, counts, left, strict=True))
    if allocation == "uniform" and not any(least):
        assert all(abs(c * sum(left) - keep * part) < max(sum(left), 1) for c, part in zip(counts, left, strict=True))


@settings(deadline=None)
@given(layers(), st.integers(0, 2**32))
def test_rankings_are_exact_for_any_masks(drawn: Any, seed: int) -> None:
    shapes, left, keep, floor = drawn
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    masks = Masks(
        {
            name: noise[name].flatten().argsort().argsort().reshape(shapes[name]) < count
            for name, count in zip(shapes, left, strict=True)
        }
    )
    total = sum(shape.numel() for shape in shapes.values())
    for allocation in ("global", "lamp"):
        if sum(min(floor, count) for count in left) <= keep:
            chosen = allocate(scores, keep / total, allocation, masks=masks, min_per_layer=floor)
            assert sum(kept(chosen)) == keep
            assert all(count >= min(floor, had) for count, had in zip(kept(chosen), left, strict=True))
            assert not any(bool((chosen[name] & ~masks[name]).any()) for name in chosen)


# --- given rates --------------------------------------------------------------------------------------------


def test_given_rates_by_name_and_pattern() -> None:
    rates = {"conv?.weight": 0.5, "conv1.weight": 1.0, "fc1*": 0.25, "fc2.weight": 0.0}
    masks = allocate(random_scores(0), None, "rates", rates=rates)
    assert kept(masks) == [432, 1152, 256, 320, 0]
    total = 432 + 1152 + 256 + 320
    assert kept(allocate(random_scores(0), total / TOTAL, "rates", rates=rates)) == [432, 1152, 256, 320, 0]
    near = allocate(random_scores(0), (total + 3) / TOTAL, "rates", rates=rates)
    assert sum(kept(near)) == total + 3
    assert kept(near)[0] == 432
    assert kept(near)[4] == 0


def test_a_layer_without_a_rate_stays_dense() -> None:
    assert kept(allocate(random_scores(0), None, "rates", rates={"fc2.weight": 0.1})) == [432, 2304, 512, 1280, 40]


@pytest.mark.parametrize(
    ("rates", "density", "says"),
    [
        ({"conv1.weight": 1.5}, None, r"must lie in \[0, 1\], not 1.5"),
        ({"conv9.weight": 0.5}, None, "did you mean 'conv"),
        ({"*": 0.5}, 0.1, "ask for sparsity 0.5"),
        (None, 0.1, "go together"),
    ],
)
def test_bad_rates(rates: dict[str, float] | None, density: float | None, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        allocate(random_scores(0), density, "rates", rates=rates)


# --- min_per_layer, collapse, bad input ---------------------------------------------------------------------


@pytest.mark.parametrize("allocation", [name for name in ALLOCATIONS if name != "rates"])
def test_min_per_layer(allocation: str) -> None:
    for seed in range(20):
        scores = random_scores(seed)
        scores["fc2.weight"] *= 1e-6
        masks = allocate(scores, 0.15, allocation, min_per_layer=50)
        assert sum(kept(masks)) == round(0.15 * TOTAL)
        assert min(kept(masks)) >= 50


def test_min_per_layer_is_at_most_what_is_left() -> None:
    present = Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
    present["fc2.weight"].zero_()[0, :3] = True
    masks = allocate(random_scores(0), 0.05, "global", masks=present, min_per_layer=20)
    assert kept(masks)[4] == 3
    assert sum(kept(masks)) == round(0.05 * TOTAL)


def test_collapse_is_named() -> None:
    scores = random_scores(0)
    scores["fc1.weight"] *= 1e-6
    masks = allocate(scores, 0.05, "global")
    assert empty_layers(masks) == ["fc1.weight"]


@pytest.mark.parametrize(
    ("density", "options", "says"),
    [
        (0.5, {"allocation": "unifrom"}, "did you mean 'uniform'"),
        (1.5, {}, "density must lie in"),
        (-0.1, {}, "density must lie in"),
        (float("nan"), {}, "density must lie in"),
        (None, {}, "needs a density"),
        (0.01, {"min_per_layer": 40}, "min_per_layer 40 needs 200"),
        (0.5, {"rates": {"*": 0.5}}, "go together"),
        (0.5, {"masks": {}}, "do not fit"),
    ],
)
def test_bad_input(density: float | None, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        allocate(random_scores(0), density, **options)


def test_scores_that_are_not_finite_are_named() -> None:
    scores = random_scores(0)
    scores["fc1.weight"][3, 4] = float("nan")
    with pytest.raises(PlanError, match=r"'fc1.weight' are not finite"):
        allocate(scores, 0.5)


def test_what_is_pruned_does_not_return() -> None:
    present = allocate(random_scores(0), 0.3)
    with pytest.raises(PlanError, match="only 1478 are left"):
        allocate(random_scores(1), 0.5, masks=present)
    assert sum(kept(allocate(random_scores(1), 0.3, masks=present))) == 1478
