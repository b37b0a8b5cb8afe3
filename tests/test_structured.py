"""Filters: scores, exact counts, masks over all that is theirs, Li et al.'s rates, and networks without them."""

from __future__ import annotations

import copy
import random
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning import models
from pruning.deciding.filters import (  # fmt: skip
    LI,
    POOLS,
    allocate_filters,
    densities,
    eligible,
    filters_kept,
    find_units,
    li_counts,
    neuron_collapse,
    pool,
    prune_filters,
    refit,
    shrink,
    shrink_with_library,
)
from pruning.flops import count_macs
from pruning.masks import Masks, empty_layers, prunable
from pruning.plan import PlanError

FAMILIES: dict[str, dict[str, Any]] = {
    "lenet-30-20": {},
    "lenet-5": {"width": 0.2},
    "resnet8": {"width": 0.5},
    "resnet14": {"shortcut": "TF", "width": 0.5},
    "vgg11": {"width": 0.125, "bias": True},
    "resnet18": {"width": 0.125},
    "wrn-16-1": {"form": "meliketoy"},
    "wrn-14-1": {},
}


def network(name: str, seed: int = 0) -> nn.Module:
    """Returns a network in float64 whose normalizations do something."""
    model = models.build(name, (3, 16, 16), 10, options=FAMILIES.get(name, {}), seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def image(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# --- what units are -----------------------------------------------------------------------------------------


def test_units_of_a_residual_network() -> None:
    units = find_units(models.build("resnet20", (3, 32, 32), 10, seed=0))
    assert len(units) == 20
    internal = {name: u for name, u in units.items() if u.internal}
    assert list(internal) == [f"layer{s}.{b}.conv1.weight" for s in (1, 2, 3) for b in (0, 1, 2)]
    first = internal["layer2.1.conv1.weight"]
    assert (first.layer, first.number, first.norm, first.readers) == (
        "layer2.1.conv1", 32, "layer2.1.bn1", ["layer2.1.conv2"],
    )  # fmt: skip
    assert units["conv1.weight"].norm == "bn1"
    assert units["fc.weight"].output
    assert list(eligible(units, "all")) == [name for name in units if name != "fc.weight"]


@pytest.mark.parametrize(
    ("name", "internal"), [("lenet-30-20", 2), ("lenet-5", 3), ("vgg11", 8), ("resnet18", 8), ("wrn-16-1", 6)]
)
def test_numbers_of_internal_layers(name: str, internal: int) -> None:
    assert len(eligible(find_units(network(name)))) == internal


class Odd(nn.Module):
    """Layers whose filters cannot be removed by themselves, one for each reason."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.before_groups = nn.Conv2d(3, 4, 1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.joined = nn.Conv2d(4, 4, 1)
        self.before_transposed = nn.Conv2d(8, 4, 1)
        self.transposed = nn.ConvTranspose2d(4, 4, 1)
        self.normed = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.before_groups(self.twice(self.twice(x))))
        x = self.transposed(self.before_transposed(torch.cat([self.joined(x), x], 1)))
        return self.fc(self.norm(self.normed(x.mean((2, 3)))))


def test_what_cannot_be_removed_by_itself_is_not_internal() -> None:
    units = find_units(Odd())
    assert "twice.weight" not in units
    assert "transposed.weight" not in units
    assert not any(u.internal for u in units.values())
    with pytest.raises(PlanError, match="no filters that can be removed"):
        prune_filters(Odd(), 0.5)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


def test_a_network_that_cannot_be_traced_says_so() -> None:
    with pytest.raises(PlanError, match=r"torch.fx does not trace it") as caught:
        prune_filters(Untraceable(), 0.5)
    assert "\n" not in str(caught.value)


# --- scores and counts --------------------------------------------------------------------------------------


def test_pooled_scores_by_hand() -> None:
    weight = torch.tensor([[[[3.0, -4.0]]], [[[-1.0, 0.0]]]])
    assert pool({"w": weight}, "l1")["w"].tolist() == [7.0, 1.0]
    assert pool({"w": weight}, "l2")["w"].tolist() == [5.0, 1.0]
    assert pool({"w": weight}, "mean")["w"].tolist() == [3.5, 0.5]
    with pytest.raises(PlanError, match="pooling 'l3' is unknown.* allowed: l1, l2, mean"):
        pool({"w": weight}, "l3")


def test_allocations_by_hand() -> None:
    scores = {
        "a": torch.tensor([1.0, 5.0, 3.0, 3.0]),
        "b": torch.tensor([9.0, 8.0]),
        "c": torch.tensor([2.0, 7.0, 0.0]),
    }
    uniform = allocate_filters(scores, 0.5, "uniform")
    assert {name: kept.tolist() for name, kept in uniform.items()} == {
        "a": [False, True, True, False], "b": [True, False], "c": [False, True, False],
    }  # fmt: skip
    overall = allocate_filters(scores, 4 / 9, "global")
    assert {name: kept.tolist() for name, kept in overall.items()} == {
        "a": [False, True, True, False], "b": [True, True], "c": [False, True, False],
    }  # fmt: skip
    with pytest.raises(PlanError, match="no filter of 'a' would be left"):
        allocate_filters(scores, 6 / 9, "global")
    with pytest.raises(PlanError, match="no filter of 'b' would be left"):
        allocate_filters(scores, 0.8, "uniform")
    with pytest.raises(PlanError, match="allocation 'erk' does not apply to filters; allowed: global, uniform"):
        allocate_filters(scores, 0.5, "erk")
    with pytest.raises(PlanError, match="scores of the filters of 'a' are not finite"):
        allocate_filters({"a": torch.tensor([1.0, float("nan")])}, 0.5)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("pooling", [*POOLS, "random"])
@pytest.mark.parametrize("seed", range(20))
def test_counts_are_exact_and_the_best_stay(allocation: str, pooling: str, seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(a, b, 1) for a, b in ((6, 8), (8, 5), (5, 9), (9, 7))]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(7, 3))
    sparsity = 0.02 * seed
    generator = torch.Generator().manual_seed(seed)
    refused = ""
    try:
        masks = prune_filters(model, sparsity, pooling=pooling, allocation=allocation, generator=generator)
    except PlanError as error:
        refused = str(error)
    if refused:  # only the ranking of all together can want all filters of a layer
        assert "would be left" in refused
        assert allocation == "global"
        return
    targets = [f"{i}.weight" for i in range(4)]
    counts = filters_kept({name: masks[name] for name in targets})
    assert sum(k for k, _ in counts.values()) == round((1 - sparsity) * 29)
    assert bool(masks["5.weight"].all())
    if allocation == "uniform":
        assert all(abs(k - (1 - sparsity) * n) < 1 for k, n in counts.values())
    if pooling != "random":
        scores = pool({name: model.get_parameter(name) for name in targets}, pooling)
        pairs = [(scores[n], masks[n].flatten(1).any(1)) for n in targets]
        if allocation == "global":
            pairs = [(torch.cat([s for s, _ in pairs]), torch.cat([m for _, m in pairs]))]
        assert all(s[m].min() >= s[~m].max() for s, m in pairs if not bool(m.all()))


def test_what_is_pruned_stays_so_and_counts() -> None:
    model = network("resnet8")
    first = prune_filters(model, 0.3)
    first.apply(model)
    second = prune_filters(model, 0.6, masks=first)
    for name, mask in first.everything().items():
        assert not bool((second.everything()[name] & ~mask).any())
    targets = eligible(find_units(model))
    counts = filters_kept({name: second[name] for name in targets}).values()
    assert sum(k for k, _ in counts) == round(0.4 * sum(n for _, n in counts))
    with pytest.raises(PlanError, match="are left"):
        prune_filters(model, 0.1, masks=first)


@pytest.mark.parametrize("layers", ["internal", "all"])
def test_a_filter_takes_its_bias_and_normalization_along_and_gives_exactly_zero(layers: str) -> None:
    model = network("vgg11")
    masks = prune_filters(model, 0.5, layers=layers)
    masks.apply(model)
    units = find_units(model)
    given: dict[str, Tensor] = {}
    for u in units.values():
        if u.norm is not None:
            model.get_submodule(u.norm).register_forward_hook(lambda m, a, out, u=u: given.update({u.weight: out}))
    model.eval()(image())
    for name, out in given.items():
        dead = ~masks[name].flatten(1).any(1)
        assert bool(dead.any())
        assert not bool(out[:, dead].any())
    norm = units["features.0.conv.weight"].norm
    assert {"features.0.conv.bias", f"{norm}.weight", f"{norm}.bias"} <= set(masks.extra)
    assert masks.total == sum(w.numel() for w in prunable(model).values())


def test_refusals_of_prune_filters() -> None:
    model = network("resnet8")
    for bad, message in [
        ({}, "by a sparsity or by named rates"),
        ({"sparsity": 0.5, "rates": "resnet56-a"}, "by a sparsity or by named rates"),
        ({"sparsity": 0.5, "layers": "al"}, r"layers 'al' is unknown \(did you mean 'all'\?\)"),
        ({"sparsity": 0.5, "pooling": "random"}, "need a generator"),
        ({"sparsity": 1.0}, "would be left"),
        ({"sparsity": 0.5, "exclude": ["nothing"]}, "fits no prunable weight"),
        ({"rates": "resnet56-a"}, "network with 55 convolutions; this one has 7"),
        (
            {"rates": "resnet56-c"},
            r"'resnet56-c' are unknown \(did you mean 'resnet56-a'\?\)|did you mean 'resnet56-b'",
        ),
    ]:
        with pytest.raises(PlanError, match=message):
            prune_filters(model, **bad)


def test_excluded_layers_keep_their_filters() -> None:
    masks = prune_filters(network("resnet8"), 0.5, exclude=["layer1", "fc"])
    assert list(masks) == ["conv1.weight", *(f"layer{s}.0.conv{c}.weight" for s in (2, 3) for c in (1, 2))]


# --- Li et al.'s rates --------------------------------------------------------------------------------------

# Densities with the next layer's inputs at levels 1-5 as Renda et al. report them.
REPORTED = {
    "resnet56-a": (0.9209, 0.8453, 0.7780, 0.7163, 0.6644),
    "resnet56-b": (0.8712, 0.7763, 0.6999, 0.6381, 0.5879),
    "resnet110-a": (0.9773, 0.9659, 0.9602, 0.9574, 0.9562),
    "resnet110-b": (0.6876, 0.4790, 0.3384, 0.2468, 0.1831),
    "resnet34-a": (0.9246, 0.8720, 0.8355, 0.8094, 0.7914),
    "resnet34-b": (0.8937, 0.8332, 0.7987, 0.7783, 0.7667),
}


@pytest.mark.parametrize("name", [name for name in REPORTED if not name.startswith("resnet34")])
def test_rates_give_the_reported_densities_but_for_two_differences(name: str) -> None:
    """Exactly what was reported is: the masks' own count, with the layers that are emptied there, and less the inputs of
    the projection after a stage whose last block lost filters, although it reads the block's sum and none of these."""
    number, rates = LI[name]
    model = models.build(name.partition("-")[0], (3, 32, 32), 10, options={"shortcut": "TF"}, seed=0)
    total = sum(w.numel() for w in prunable(model).values())
    per_stage = (number - 1) // 3
    for level, reported in enumerate(REPORTED[name], start=1):
        draw = random.Random(0)
        gone = theirs = 0
        for i, rate in rates.items():
            width = 16 << (i - 2) // per_stage
            share = width * (1 - (1 - rate) ** level)
            filters = int(share) + (draw.random() < share - int(share))
            inputs = width // 2 if i > 2 and (i - 2) % per_stage == 0 else width
            weights = 9 * inputs + 9 * width  # of its own, of the next layer
            gone += min(filters, width - 1) * weights
            projection = 2 * width if (i - 2) % per_stage == per_stage - 2 and i < number - 1 else 0
            theirs += filters * (weights + projection)
        assert round(1 - theirs / total, 4) == reported
        filters_alone, both = densities(model, prune_filters(model, rates=name, level=level))
        assert round(both * total) == total - gone
        assert both < filters_alone < 1


@pytest.mark.parametrize("name", ["resnet34-a", "resnet34-b"])
def test_rates_of_resnet34_give_nearly_the_reported_densities(name: str) -> None:
    """Within .0003, which is more than rounding: neither projections, nor 1,001 classes, nor another order explain it."""
    model = models.build("resnet34", (3, 64, 64), 1000, options={"stem": "7x7"}, seed=0)
    for level, reported in enumerate(REPORTED[name], start=1):
        assert densities(model, prune_filters(model, rates=name, level=level))[1] == pytest.approx(reported, abs=3e-4)


def test_vgg_a_widths() -> None:
    model = models.build("vgg16", (3, 32, 32), 10, seed=0)
    kept = filters_kept(prune_filters(model, rates="vgg16-a"))
    assert [k for k, _ in kept.values()] == [32, 64, 128, 128, *[256] * 9, 10]


def test_counts_of_filters_that_go() -> None:
    widths = {f"conv{i}": 16 if i < 20 else 32 if i < 38 else 64 for i in range(1, 56)}
    counts = li_counts("resnet56-a", widths)
    assert set(counts) == {f"conv{i}" for i in range(2, 55, 2) if i not in (16, 20, 38, 54)}
    assert all(counts[f"conv{i}"] in (1, 2) for i in range(2, 19, 2) if i != 16)
    assert li_counts("resnet56-a", widths) == counts
    assert {name: len(rates) for name, (_, rates) in LI.items()} == {
        "resnet56-a": 23, "resnet56-b": 21, "resnet110-a": 17, "resnet110-b": 51, "resnet34-a": 8, "resnet34-b": 8, "vgg16-a": 7,
    }  # fmt: skip
    with pytest.raises(PlanError, match="level must be at least 1"):
        li_counts("resnet56-a", widths, 0)


# --- shrinking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_shrunk_networks_give_the_same(name: str, sparsity: float) -> None:
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    masks = prune_filters(model, sparsity)
    small, difference = shrink(model, masks, image())
    assert difference < 1e-12
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    masks.apply(model)
    torch.testing.assert_close(small(image(5)), model.eval()(image(5)), rtol=1e-9, atol=1e-11)
    for layer, (kept, _) in filters_kept({n: masks[n] for n in eligible(find_units(model))}).items():
        assert small.get_parameter(layer).shape[0] == kept
    dense = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters()) < (1 - 0.3 * sparsity) * dense
    assert count_macs(small, image()).macs < count_macs(model, image(), masks).sparse_macs * 1.01
    small.train()(image())
    assert isinstance(copy.deepcopy(small), nn.Module)


def test_a_shrunk_network_is_saved_and_read() -> None:
    model = network("vgg11")
    small, _ = shrink(model, prune_filters(model, 0.5), image())
    again = network("vgg11", seed=3).eval()
    refit(again, small.state_dict())
    assert torch.equal(again(image()), small(image()))
    assert str(again) == str(small)
    state = small.state_dict()
    with pytest.raises(PlanError, match="does not come from"):
        refit(network("vgg11"), {**state, "fc.bias": torch.zeros(11)})
    with pytest.raises(PlanError, match="lacks 'other.weight'"):
        refit(network("vgg11"), {**state, "other.weight": torch.zeros(1)})
    with pytest.raises(PlanError, match="state lacks 'fc.bias'"):
        refit(network("vgg11"), {k: v for k, v in state.items() if k != "fc.bias"})


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 5, 3, bias=bias), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5 * 36, 4), nn.Tanh(), nn.Linear(4, 2, bias=bias),
    ).double()  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
def test_what_dead_filters_still_give_is_folded_into_biases(bias: bool) -> None:
    """Without masks of biases and normalizations, and with a sigmoid, which gives 1/2 for 0."""
    model = mlp(bias)
    nn.init.normal_(model[1].bias)
    model[1].running_mean.normal_()
    masks = Masks(dict(prune_filters(model, 0.4)))
    assert masks.extra == {}
    small, difference = shrink(model, masks, image())
    assert difference < 1e-12
    assert small[0].out_channels < 6
    assert small[3].bias is not None


def test_a_shift_that_cannot_be_folded_is_stated() -> None:
    model = network("resnet8")
    masks = Masks(dict(prune_filters(model, 0.5)))
    small, difference = shrink(model, masks, image())
    masks.apply(model)
    assert difference > 1e-3
    assert difference == pytest.approx(float((small(image()) - model.eval()(image())).abs().max().detach()))


def test_a_dead_layer_keeps_one_filter_and_residual_widths_stay() -> None:
    model = network("resnet8")
    masks = Masks.full(prunable(model))
    masks["layer1.0.conv1.weight"][:] = False
    masks["conv1.weight"][3] = False
    small, difference = shrink(model, masks, image())
    assert difference > 0  # what the emptied filters' normalization still gives, at the borders
    assert small.get_parameter("layer1.0.conv1.weight").shape[0] == 1
    assert small.get_parameter("conv1.weight").shape[0] == 8


def test_unstructured_masks_shrink_by_what_they_happen_to_empty() -> None:
    model = network("lenet-30-20")
    masks = Masks.full(prunable(model))
    masks["hidden.0.weight"][[2, 5, 7]] = False
    small, difference = shrink(model, masks, image())
    assert difference < 1e-12
    assert small.get_parameter("hidden.0.weight").shape == (27, 768)
    assert small.get_parameter("hidden.1.weight").shape == (20, 27)


# --- by the library ----------------------------------------------------------------------------------------


def dead_everywhere(model: nn.Module, layers: list[str], norms: list[str], channels: list[int]) -> Masks:
    """Returns masks without those channels in all of the layers and normalizations that share a width."""
    masks = Masks.full(prunable(model))
    for layer in layers:
        masks[f"{layer}.weight"][channels] = False
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] in norms:
            masks.extra[name] = torch.ones_like(parameter, dtype=torch.bool)
            masks.extra[name][channels] = False
    return masks


def test_the_library_shrinks_residual_widths_too() -> None:
    pytest.importorskip("torch_pruning", reason="the extra 'structured' is not installed")
    model = network("resnet14")
    layers = ["layer1.0.shortcut.0", "layer1.0.conv2", "layer1.1.conv2"]
    norms = ["layer1.0.shortcut.1", "layer1.0.bn2", "layer1.1.bn2"]
    masks = dead_everywhere(model, layers, norms, [1, 4])
    small, difference = shrink_with_library(model, masks, image())
    assert difference < 1e-12
    assert small.get_parameter("layer1.0.conv2.weight").shape[0] == 6
    assert small.get_parameter("layer2.0.conv1.weight").shape[1] == 6
    # dead in one of the layers that share the width is not dead
    masks = dead_everywhere(model, layers[:-1], norms, [1, 4])
    small, difference = shrink_with_library(model, masks, image())
    assert difference == 0.0
    assert small.get_parameter("layer1.0.conv2.weight").shape[0] == 8


def test_the_library_shrinks_what_is_not_traced_and_leaves_the_output() -> None:
    pytest.importorskip("torch_pruning", reason="the extra 'structured' is not installed")

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4)
            self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.norm(self.a(x)))
            return self.d(self.c(x).relu()) if x.numel() else x

    model = Branching().double()
    masks = Masks.full(prunable(model))
    masks["a.weight"][1] = masks["c.weight"][:2] = masks["d.weight"][0] = False
    masks.extra["c.bias"] = torch.tensor([False, False, True, True])
    masks.extra["a.bias"] = torch.tensor([True, False, True, True, True])
    small, difference = shrink_with_library(model, masks, torch.randn(2, 6, dtype=torch.float64))
    assert difference < 1e-12
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "a.weight": (5, 6), "norm.weight": (5,), "b.weight": (4, 5), "c.weight": (2, 4), "d.weight": (3, 2),
    }  # fmt: skip


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model = network("lenet-30-20")
    with pytest.raises(PlanError, match=r"pip install 'pruning\[structured\]'"):
        shrink_with_library(model, prune_filters(model, 0.5), image())


# --- reports ------------------------------------------------------------------------------------------------


def test_reports_of_structure_by_hand() -> None:
    masks = Masks({
        "conv.weight": torch.tensor([[[[True, False]]], [[[False, False]]], [[[True, True]]]]),
        "gone.weight": torch.zeros(2, 3, dtype=torch.bool),
        "fc.weight": torch.ones(5, 2, dtype=torch.bool),
        "up.weight": torch.tensor([[[True], [False]], [[True], [False]]]),
    })  # fmt: skip
    assert filters_kept(masks, {"up.weight": 1}) == {
        "conv.weight": (2, 3), "gone.weight": (0, 2), "fc.weight": (5, 5), "up.weight": (1, 2),
    }  # fmt: skip
    assert empty_layers(masks) == ["gone.weight"]
    assert neuron_collapse(masks, {"up.weight": 1}) == pytest.approx(4 / 12)


def test_densities_count_the_rows_and_what_reads_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    masks = prune_filters(model, 0.5)
    filters, both = densities(model, masks)
    assert filters == (2 * 9 + 48) / (36 + 48)
    assert both == (2 * 9 + 24) / (36 + 48)


def test_activations_may_be_functions_or_modules() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)
            self.act = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.leaky_relu(self.a(x), 0.1), 2)
            return self.c(torch.flatten(F.adaptive_avg_pool2d(self.act(self.b(x)), 1), 1))

    model = Mixed().double()
    small, difference = shrink(model, prune_filters(model, 0.5), image())
    assert difference < 1e-12
    assert small.b.weight.shape == (4, 4, 3, 3)
