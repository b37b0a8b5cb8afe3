"""Which weights of the layers that networks are made of can be pruned, what is left dense, and that it is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruning
from pruning import PlanError
from pruning.events import Event, Warned
from pruning.masks import Masks, model_sparsity, output_axes, prunable, unpruned
from pruning.masks.reparametrized import reparametrized
from pruning.masks.unpruned import sentence


class Recurrent(nn.Module):
    """One of each recurrent layer behind an embedding, and a bilinear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3, batch_first=True)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.cell = nn.LSTMCell(5, 7)
        self.head = nn.Bilinear(7, 5, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, length] -> [N, 10]
        h = self.gru(self.lstm(self.embed(x))[0])[0][:, -1]
        return self.head(self.cell(h)[0], h)


class Experts(nn.Module):
    """Two stacked experts of which the first is used, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.up = nn.Parameter(torch.randn(2, 8, 16))
        self.down = nn.Parameter(torch.randn(2, 16, 8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N] -> [N, 10]
        return self.head(F.relu(self.embed(x) @ self.up[0]) @ self.down[0])


class Standardized(nn.Conv2d):
    """A convolution by its weight standardized over each filter (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Scaled(nn.Conv2d):
    """A convolution by its weight times 2, whose zeros stay zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, 2 * self.weight, self.bias, self.stride, self.padding)


class Around(nn.Module):
    """A module that transforms the weight of the layer in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inner.weight.softmax(1).T


def quiet(event: Event) -> None:
    """Drops the event."""


def told(model: nn.Module, *args: Any, **options: Any) -> tuple[Masks, list[str]]:
    events: list[Event] = []
    masks = pruning.prune(model, *args, tell=events.append, **options)
    return masks, [event.text for event in events if isinstance(event, Warned)]


# --- what is prunable ---------------------------------------------------------------------------------------


def test_the_matrices_of_recurrent_layers_and_cells_are_prunable() -> None:
    model = Recurrent()
    names = [
        f"lstm.weight_{kind}_l{layer}{way}"
        for layer in (0, 1)
        for way in ("", "_reverse")
        for kind in ("ih", "hh", "hr")
    ]
    names += ["gru.weight_ih_l0", "gru.weight_hh_l0", "cell.weight_ih", "cell.weight_hh", "head.weight"]
    assert sorted(prunable(model)) == sorted(names)
    matrices = sum(p.numel() for n, p in model.named_parameters() if "bias" not in n and "embed" not in n)
    masks = pruning.prune(model, 0.9, tell=quiet)
    assert (masks.total, masks.kept) == (matrices, round(0.1 * matrices))
    assert not masks.violations(model.state_dict())
    assert model(torch.zeros(2, 3, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_recurrent_layers_are_scored_through_what_they_compute(criterion: str) -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    batch = (torch.randint(0, 10, (8, 5)), torch.arange(8))
    scores = pruning.score(model, criterion, batch, tell=quiet)
    if criterion == "snip":
        weight = model.gru.weight_hh_l0
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        wanted = (weight * weight.grad).abs()
        found = scores["gru.weight_hh_l0"]
        torch.testing.assert_close((found / found.sum()).to(wanted.dtype), wanted / wanted.sum(), rtol=1e-3, atol=1e-7)
    assert all(bool(scores[name].any()) for name in ("lstm.weight_hr_l1_reverse", "gru.weight_hh_l0", "head.weight"))


def test_masks_hold_in_recurrent_layers_under_masked_sgd_and_a_parametrizing_method() -> None:
    torch.manual_seed(0)
    model = Recurrent()
    masks = pruning.prune(model, 0.8, tell=quiet)
    optimizer = pruning.MaskedSGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.set_masks(model, masks)
    x, y = torch.randint(0, 10, (16, 5)), torch.randint(0, 10, (16,))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert not masks.violations(model.state_dict())
    dense = {name: p.detach().clone() for name, p in Recurrent().named_parameters()}
    assert any(not torch.equal(p, dense[name]) for name, p in model.named_parameters())


def test_conv1d_of_transformers_is_a_linear_layer_whose_outputs_lie_along_its_second_axis() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    layer = nn.ModuleDict({"fc": Conv1D(6, 4), "up": nn.ConvTranspose1d(2, 3, 1), "down": nn.Linear(2, 2)})
    assert list(prunable(layer)) == ["fc.weight", "up.weight", "down.weight"]
    assert output_axes(layer) == {"fc.weight": 1, "up.weight": 1}
    config = transformers.GPT2Config(vocab_size=100, n_embd=16, n_layer=2, n_head=2, n_positions=16, pad_token_id=0,
                                     bos_token_id=1, eos_token_id=2)  # fmt: skip
    model = transformers.GPT2ForSequenceClassification(config)
    masks, _ = told(model, 0.9)
    assert masks.total == 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 2 * 16


# --- included by name ---------------------------------------------------------------------------------------


def test_include_adds_parameters_by_name_and_exclude_takes_out_of_them() -> None:
    model = Experts()
    assert list(prunable(model)) == ["head.weight"]
    assert list(prunable(model, include=["up", "embed"])) == ["up", "embed.weight", "head.weight"]
    assert list(prunable(model, include="*")) == ["up", "down", "embed.weight", "head.weight"]
    assert list(prunable(model, exclude=["down", "head"], include=["up", "down"])) == ["up"]
    masks, said = told(model, 0.75, include=["up", "down", "embed"], min_per_layer=1)
    assert masks.total == 2 * 8 * 16 * 2 + 80 + 80
    assert masks.kept == round(0.25 * masks.total)
    assert said == []


def test_a_tied_embedding_is_included_under_either_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.fc = nn.Embedding(5, 4), nn.Linear(4, 5), nn.Linear(4, 4)
            self.head.weight = self.embed.weight

    assert list(prunable(Tied())) == ["fc.weight"]
    for pattern in ("embed", "head.weight"):
        assert list(prunable(Tied(), include=[pattern])) == ["embed.weight", "fc.weight"]


def test_the_axis_of_output_units_is_stated_with_a_pattern() -> None:
    model = Experts()
    assert output_axes(model, ["up@2", "embed"]) == {"up": 2}
    assert list(prunable(model, include=["up@2"])) == ["up", "head.weight"]


@pytest.mark.parametrize(
    ("include", "says"),
    [
        (
            ["embed.weigt"],
            r"include 'embed.weigt' fits no parameter of two or more dimensions \(did you mean 'embed.weight'\?\)",
        ),
        (["head.bias"], "include 'head.bias' fits no parameter of two or more dimensions"),
        (["up@3"], r"include 'up@3': 'up' is \[2, 8, 16\], which has no axis 3"),
        (["up@x"], "after @ stands an axis"),
        ([3], "include, each pattern, must be a name, not 3"),
    ],
)
def test_what_cannot_be_included_is_refused(include: list[Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        pruning.prune(Experts(), 0.5, include=include)


# --- what is left dense -------------------------------------------------------------------------------------


def test_what_has_no_mask_is_named_in_one_warning_with_its_share() -> None:
    model = Experts()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = pruning.prune(model, 0.9)
    (said,) = [str(w.message) for w in caught]
    assert said == (
        "80 of 672 parameters with two or more dimensions are prunable (11.9 %); "
        "left dense: Experts up/down (512), Embedding embed (80)"
    )
    left = unpruned(model, masks)
    assert left == [
        {"module": "", "type": "Experts", "weights": 512, "why": "", "parameters": ["up", "down"]},
        {"module": "embed", "type": "Embedding", "weights": 80, "why": "embedding", "parameters": ["embed.weight"]},
    ]
    assert model_sparsity(model, masks.counts()) == pytest.approx(72 / 672)
    _, again = told(model, 0.95, masks=masks)
    assert not any("left dense" in text for text in again)


def test_a_network_that_is_pruned_in_full_and_what_was_excluded_by_name_give_no_warning() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    assert told(model, 0.5)[1] == []
    masks, said = told(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), 0.5, exclude=["1"])
    assert said == []
    assert unpruned(model, masks) == [
        {"module": "1", "type": "Linear", "weights": 32, "why": "", "parameters": ["1.weight"]}
    ]
    assert told(Experts(), 0.5, exclude=["head"], include=["up"])[1] == [
        "336 of 672 parameters with two or more dimensions are prunable (50 %); left dense: "
        "Experts down (256), Embedding embed (80)"
    ]


def test_a_long_list_of_what_is_left_is_cut() -> None:
    left = [{"module": f"m{i}", "type": "Odd", "weights": 20_000 - i, "parameters": [f"m{i}.weight"]} for i in range(9)]
    text = sentence(left, 200_000)
    assert text.startswith("20 k of 200 k parameters")
    assert "Odd m5 (20 k), 3 more (60 k)" in text


def test_adapters_of_peft_are_left_out_and_named() -> None:
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"]))
    weights = prunable(model)
    assert not [name for name in weights if "lora" in name]
    assert [tuple(w.shape) for w in weights.values()] == [(16, 16), (4, 16)]
    masks, said = told(model, 0.5)
    assert "lora_A.default (32), Linear base_model.model.0.lora_B.default (32)" in said[0]
    assert {entry["why"] for entry in unpruned(model, masks)} == {"adapter"}
    assert any("lora_A" in name for name in prunable(model, include=["*lora_A*"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.1)
    merged = model.merge_and_unload()
    held = Masks(
        {"0.weight": masks["base_model.model.0.base_layer.weight"], "2.weight": masks["base_model.model.2.weight"]}
    )
    assert held.violations(merged.state_dict()) == ["0.weight"]
    held.apply(merged)
    assert not held.violations(merged.state_dict())


# --- a checkpoint that is sparse already --------------------------------------------------------------------


def test_masks_from_zeros_prune_further_and_less_is_refused_without_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    first = pruning.prune(model, 0.7)
    zeros = {name: p.detach().clone() == 0 for name, p in model.named_parameters() if p.dim() == 2}
    with pytest.raises(
        PlanError, match=r"0\.7 of the prunable weights are 0 already .* masks=Masks\.from_zeros\(model\)"
    ):
        pruning.prune(model, 0.5)
    found = Masks.from_zeros(model)
    assert all(torch.equal(found[name], ~zeros[name]) for name in zeros)
    assert found.kept == first.kept
    more = pruning.prune(model, 0.9, masks=found)
    assert all(not bool((more[name] & zeros[name]).any()) for name in zeros)
    assert more.kept == round(0.1 * more.total)
    freed = pruning.prune(model, 0.5, masks=Masks.full(prunable(model)), tell=quiet)
    assert freed.kept == round(0.5 * freed.total)


def test_a_few_zeros_of_an_initialization_are_no_sparse_checkpoint() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4))
    nn.init.zeros_(model[1].weight)
    assert pruning.prune(model, 0.0, tell=quiet).sparsity == 0.0


# --- weights that are transformed before they are used ------------------------------------------------------


def convolutions(kind: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), kind(4, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 36, 5))


def test_standardized_weights_are_found_by_their_effect_and_refused() -> None:
    model = convolutions(Standardized).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    assert reparametrized(model, prunable(model)) == ["1.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())
    with pytest.raises(PlanError, match=r"transforms '1\.weight' before it multiplies by them \(Standardized\)"):
        pruning.prune(model, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert pruning.prune(model, 0.5, exclude=["1"], tell=quiet).sparsity == pytest.approx(0.5, abs=1e-3)
    masks = pruning.prune(model, 0.5, allow_reparametrized=True)
    assert masks.kept == round(0.5 * masks.total)


def test_a_forward_that_keeps_zeros_is_none() -> None:
    model = convolutions(Scaled)
    assert reparametrized(model, prunable(model), lambda m: m(torch.randn(2, 3, 8, 8))) == []


def test_an_example_shows_what_a_module_around_does_to_a_weight() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Around(), nn.Linear(6, 2))
    assert reparametrized(model, prunable(model)) == []
    assert reparametrized(model, prunable(model), lambda m: m(torch.randn(6, 6))) == ["1.inner.weight"]
    with pytest.raises(PlanError, match=r"1\.inner\.weight"):
        pruning.prune(model, 0.5, "snip", batch=(torch.randn(6, 6), torch.arange(6) % 2))


def test_weight_standardized_networks_of_timm_are_found() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("nf_resnet26")
    found = reparametrized(model, prunable(model))
    kinds = {type(model.get_submodule(name.removesuffix(".weight"))).__name__ for name in found}
    assert kinds == {"ScaledStdConv2d"}
    rest = [m for n, m in model.named_modules() if type(m).__name__ == "ScaledStdConv2d" and f"{n}.weight" not in found]
    assert all(not bool(m.gain.any()) for m in rest)  # those of gain 0 multiply by nothing yet
