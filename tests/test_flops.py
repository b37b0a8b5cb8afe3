"""MACs per layer against literal counts, torch's own counter and brute force; the model is left as it was."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from pruning import models
from pruning.flops import Report, count_macs
from pruning.masks import Masks, prunable
from pruning.plan import PlanError


def by_torch(model: nn.Module, *x: Tensor) -> int:
    """Returns the MACs that torch's own counter finds, attention's products among them."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(*x)
    torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def macs(report: Report) -> dict[str, int]:
    return {layer.name: layer.macs for layer in report.layers}


# --- named networks, both conventions -----------------------------------------------------------------------

NAMED = [
    ("resnet20", {}, 40_551_040),
    ("resnet20", {"shortcut": "TF"}, 41_075_328),
    ("resnet56", {}, 125_485_696),
    ("resnet56", {"shortcut": "TF"}, 126_009_984),
    ("resnet110", {}, 252_887_680),
    ("resnet110", {"shortcut": "TF"}, 253_411_968),
]


@pytest.mark.parametrize(("name", "options", "expected"), NAMED)
def test_named_networks(name: str, options: dict[str, Any], expected: int) -> None:
    model = models.build(name, (3, 32, 32), 10, options=options, seed=0)
    x = torch.randn(1, 3, 32, 32)
    for convention in ("true", "shrinkbench"):
        report = count_macs(model, x, convention=convention)
        assert report.macs == report.sparse_macs == expected
        assert report.speedup == 1.0
        assert report.params == report.nonzero == sum(p.numel() for p in model.parameters())
    assert by_torch(model, x) == expected


def test_resnet50_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet50()
    report = count_macs(model, torch.zeros(1, 3, 224, 224), convention="shrinkbench")
    assert report.macs == 4_089_184_256
    assert sum(layer.params for layer in report.layers) == 25_502_912


def test_lenet_by_hand() -> None:
    report = count_macs(models.build("lenet-300-100", (1, 28, 28), 10, seed=0), torch.zeros(5, 1, 28, 28))
    assert [layer.macs for layer in report.layers] == [784 * 300, 300 * 100, 100 * 10]
    assert [layer.params for layer in report.layers] == [784 * 300, 300 * 100, 100 * 10]
    assert report.params == 266_610
    assert report.uncounted == []


# --- layers -------------------------------------------------------------------------------------------------

LAYERS = [
    (nn.Conv1d(4, 6, 3), (4, 10), 4 * 6 * 3 * 8),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (4, 11), 4 * 3 * 3 * 5),
    (nn.Conv2d(4, 6, 3), (4, 9, 8), 4 * 6 * 9 * 7 * 6),
    (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding="valid"), (4, 9, 8), 4 * 6 * 15 * 4 * 4),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (4, 9, 8), 4 * 6 * 9 * 72),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 9, 8), 4 * 9 * 72),
    (nn.Conv3d(2, 4, 3, padding=1), (2, 4, 5, 6), 2 * 4 * 27 * 120),
    (nn.ConvTranspose1d(4, 6, 4, stride=2), (4, 10), 4 * 6 * 4 * 10),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5, 6), 4 * 3 * 9 * 30),
    (nn.ConvTranspose3d(2, 4, 2), (2, 3, 3, 3), 2 * 4 * 8 * 27),
    (nn.Linear(5, 3), (5,), 15),
    (nn.Linear(5, 3, bias=False), (5,), 15),
    (nn.Linear(5, 3), (7, 5), 15 * 7),
    (nn.Linear(5, 3, bias=False), (2, 7, 5), 15 * 14),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), LAYERS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("batch", [1, 3])
def test_each_layer_by_true_output_shape(layer: nn.Module, shape: tuple[int, ...], expected: int, batch: int) -> None:
    x = torch.randn(batch, *shape)
    report = count_macs(layer, x)
    assert (report.macs, report.sparse_macs) == (expected, expected)
    assert report.layers[0].params == layer.weight.numel()
    assert by_torch(layer, x[:1]) == expected


@pytest.mark.parametrize("seed", range(20))
def test_random_convolutions_agree_with_torch(seed: int) -> None:
    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    generator = torch.Generator().manual_seed(seed)
    groups, dims = draw(1, 4), draw(1, 4)
    channels, filters, transposed = groups * draw(1, 4), groups * draw(1, 4), bool(draw(0, 2))
    kinds = ((nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    layer = kinds[transposed][dims - 1](
        channels, filters, draw(1, 4), stride=draw(1, 3), padding=draw(0, 2), dilation=draw(1, 3), groups=groups
    )
    x = torch.randn(1, channels, *(draw(7, 10) for _ in range(dims)))
    assert count_macs(layer, x).macs == by_torch(layer, x)


class Several(nn.Module):
    """Modules called twice, shared, unused; a weight used by functions; what is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 6)
        self.unused = nn.Linear(2, 2)
        self.twin = nn.Linear(4, 6)
        self.twin.weight = self.fc.weight
        self.norm = nn.LayerNorm(6)
        self.own = nn.Parameter(torch.randn(6, 3))
        self.lstm = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # [N, 4, L] -> [N, L, 2]
        x = self.conv(self.conv(x)).transpose(1, 2)
        x = self.fc(x) + self.twin(x) + nn.functional.linear(x, self.fc.weight)
        return self.lstm(self.norm(x) @ self.own)[0]


def test_calls_add_up_and_what_is_not_counted_is_listed() -> None:
    report = count_macs(Several(), torch.randn(2, 4, 10))
    assert macs(report) == {"conv": 2 * 48 * 10, "fc": 3 * 24 * 10, "unused": 0, "lstm": 0}
    text = "\n".join(report.uncounted)
    assert "Several (mm): the model itself" in text
    assert "Linear, never used: unused" in text
    assert "LSTM" in text
    assert ": lstm" in text
    assert "LayerNorm: norm" in text
    assert "conv" not in text
    assert "twin" not in text


def test_attention_counts_its_projections_by_the_lengths_of_what_it_is_given() -> None:
    same = nn.MultiheadAttention(4, 2, batch_first=True)
    other = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True)
    x = torch.randn(1, 7, 4)
    report = count_macs(same, (x, x, x))
    assert macs(report) == {"": 3 * 16 * 7, "out_proj": 16 * 7}
    assert report.uncounted == ["MultiheadAttention (bmm): the model itself"]
    key = torch.randn(1, 5, 4)
    assert macs(count_macs(same, (x, key, key))) == {"": 16 * 7 + 2 * 16 * 5, "out_proj": 16 * 7}
    example = {"query": x, "key": torch.randn(1, 6, 3), "value": torch.randn(1, 6, 5)}
    assert macs(count_macs(other, example)) == {"": 16 * 7 + 12 * 6 + 20 * 6, "out_proj": 16 * 7}


def test_transformer_layers_are_counted_in_spite_of_their_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    report = count_macs(layer, torch.randn(3, 5, 8))
    assert report.macs == 5 * (4 * 64 + 2 * 8 * 16)
    assert any("scaled_dot_product" in line for line in report.uncounted)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_sequence_first_model_says_where_its_batch_is() -> None:
    attention = nn.MultiheadAttention(4, 2)
    x = torch.randn(7, 3, 4)
    assert count_macs(attention, (x, x, x), batch_dim=1).macs == 4 * 16 * 7


def test_a_parametrized_layer_is_counted_where_its_weight_is_used() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 2, 1))
    report = count_macs(model, torch.randn(1, 3, 8, 8))
    assert macs(report) == {"0": 3 * 4 * 9 * 36, "1": 8 * 36}
    assert [layer.params for layer in report.layers] == [108, 8]


def test_a_linear_layer_tied_to_an_embedding_is_counted_and_its_zeros_are_no_pruned_weights() -> None:
    embed = nn.Embedding(6, 4, padding_idx=0)
    head = nn.Linear(4, 6, bias=False)
    head.weight = embed.weight
    report = count_macs(nn.Sequential(embed, head), torch.randint(1, 6, (1, 5)))
    assert macs(report) == {"1": 24 * 5}
    assert report.sparse_macs == 20 * 5
    assert report.nonzero == report.params == 24
    assert report.uncounted == []


def test_what_is_complex_or_quantized_is_listed() -> None:
    report = count_macs(nn.Sequential(nn.Conv1d(3, 2, 1, dtype=torch.complex64)), torch.randn(1, 3, 4) + 0j)
    assert (report.macs, report.uncounted) == (0, ["Conv1d (convolution): 0"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)))
    assert count_macs(model, torch.randn(1, 3)).uncounted == ["Linear (linear_dynamic): 0"]


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            return self.fc(x)


def test_weights_that_are_cast_first_and_inference_mode_are_counted() -> None:
    assert count_macs(Autocast(), torch.randn(1, 3)).macs == 6


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,de->ne", x * self.scale, torch.ones(3, 2))


def test_custom_leaf_modules_are_listed() -> None:
    report = count_macs(nn.Sequential(nn.Linear(3, 3), Custom()), torch.randn(1, 3))
    assert report.macs == 9
    assert report.uncounted == ["Custom (bmm): 1"]


# --- zeros --------------------------------------------------------------------------------------------------


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.Flatten(2),
        nn.Linear(25, 8),
    )


@pytest.mark.parametrize("seed", range(10))
def test_sparse_macs_are_nonzeros_times_positions_and_masks_count_as_zeros_do(seed: int) -> None:
    model = mixed()
    generator = torch.Generator().manual_seed(seed)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < 0.3 for n, w in prunable(model).items()})
    x = torch.randn(2, 3, 9, 9)
    by_mask = count_macs(model, x, masks)
    masks.apply(model)
    by_value = count_macs(model, x)
    assert by_mask == by_value
    kept = {name: k for name, (k, _) in masks.counts().items()}
    assert [layer.sparse_macs for layer in by_mask.layers] == [
        kept["0.weight"] * 16, kept["2.weight"] * 16, kept["4.weight"] * 6,
    ]  # fmt: skip
    assert [layer.nonzero for layer in by_mask.layers] == list(kept.values())
    assert by_mask.params - by_mask.nonzero == masks.total - masks.kept
    assert by_mask.speedup == by_mask.macs / by_mask.sparse_macs


def test_masks_of_attention_count_by_projection() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    mask = torch.ones(12, 4, dtype=torch.bool)
    mask[:4] = False  # the query's projection
    mask[4, 0] = False  # one weight of the key's
    x, key = torch.randn(1, 7, 4), torch.randn(1, 5, 4)
    report = count_macs(attention, (x, key, key), {"in_proj_weight": mask})
    assert report.layers[0].sparse_macs == 15 * 5 + 16 * 5
    assert report.layers[0].nonzero == 31


def test_masks_fit_weights_in_channels_last() -> None:
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    mask = torch.rand(4, 3, 3, 3) < 0.5
    assert count_macs(layer, torch.randn(1, 3, 3, 3), {"weight": mask}).sparse_macs == int(mask.sum())


def test_extra_masks_count_as_zeros_of_the_model_only() -> None:
    model = mixed()
    masks = Masks(Masks.full(prunable(model)), {"1.bias": torch.tensor([False, True, False, True])})
    report = count_macs(model, torch.randn(1, 3, 9, 9), masks)
    assert report.params - report.nonzero == 2
    assert report.speedup == 1.0


def test_nothing_left_and_nothing_to_count() -> None:
    layer = nn.Linear(3, 2)
    report = count_macs(layer, torch.randn(1, 3), {"weight": torch.zeros(2, 3, dtype=torch.bool)})
    assert (report.macs, report.sparse_macs, report.speedup) == (6, 0, math.inf)
    report = count_macs(nn.BatchNorm1d(3), torch.randn(4, 3))
    assert (report.macs, report.speedup, report.params, report.nonzero) == (0, 1.0, 6, 6)


# --- the older convention -----------------------------------------------------------------------------------

OLDER = [
    (nn.Conv2d(4, 6, 3), (4, 9, 8), 4 * 6 * 9 * 9 * 8),  # as if padded
    (nn.Conv2d(4, 6, 3, stride=2), (4, 9, 8), 4 * 6 * 9 * 5 * 4),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 9, 8), 4 * 4 * 9 * 72),  # groups are ignored
    (nn.Conv2d(3, 64, 7, stride=2, padding=3), (3, 224, 224), 3 * 64 * 49 * 112 * 112),
    (nn.Linear(5, 3), (7, 5), 15),  # the length of the sequence, too
]


@pytest.mark.parametrize(("layer", "shape", "expected"), OLDER)
def test_shrinkbench_convention(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    mask = torch.rand(layer.weight.shape) < 0.5
    report = count_macs(layer, torch.randn(2, *shape), {"weight": mask}, convention="shrinkbench")
    assert report.macs == expected
    assert report.sparse_macs * mask.numel() == expected * int(mask.sum())
    assert report.convention == "shrinkbench"


def test_shrinkbench_convention_counts_nothing_else() -> None:
    x = torch.randn(1, 4, 8)
    report = count_macs(nn.Sequential(nn.Conv1d(4, 2, 1), nn.Linear(8, 3)), x, convention="shrinkbench")
    assert macs(report) == {"0": 0, "1": 24}
    assert report.uncounted == ["Conv1d (convolution): 0"]


def test_shrinkbench_convention_refuses_what_it_does_not_define() -> None:
    conv = nn.Conv2d(2, 2, 1)
    x = torch.randn(1, 2, 5, 5)
    with pytest.raises(PlanError, match="'0'.* called more than once"):
        count_macs(nn.Sequential(conv, conv), x, convention="shrinkbench")
    with pytest.raises(PlanError, match=r"'0': its dilation is \(2, 2\)"):
        count_macs(nn.Sequential(nn.Conv2d(2, 2, 2, dilation=2)), x, convention="shrinkbench")


# --- the model afterwards, and refusals ---------------------------------------------------------------------


class Restless(nn.Module):
    """Draws random numbers, counts its calls in a buffer and puts a new tensor in place of another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = x.mean(0)
        return self.fc(x) + torch.rand(3)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = nn.Sequential(Restless(), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 4 if fails else 2), nn.Linear(2, 2))
    model[1].eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    buffers = [id(b) for b in model.buffers()]
    x = torch.randn(4, 3)
    rng = torch.get_rng_state()
    if fails:
        with pytest.raises(PlanError, match=r"does not run on one example of shape \[\[1, 3\]\]"):
            count_macs(model, x)
    else:
        count_macs(model, x)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [id(b) for b in model.buffers()] == buffers
    assert torch.equal(rng, torch.get_rng_state())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_double_and_half_models_take_the_example_in_their_own_dtype() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        assert count_macs(nn.Conv2d(3, 4, 3).to(dtype), torch.randn(1, 3, 8, 8)).macs == 108 * 36


@pytest.mark.parametrize(
    ("make", "example", "options", "message"),
    [
        (lambda: nn.Linear(3, 2), torch.randn(1, 4), {}, "does not run on one example"),
        (lambda: nn.Linear(3, 2), torch.randn(0, 3), {}, "not an empty one"),
        (lambda: nn.Linear(3, 2), (), {}, "needs a tensor with a batch"),
        (lambda: nn.Linear(3, 2), torch.randn(1, 3), {"convention": "flops"}, "convention 'flops' is unknown"),
        (lambda: nn.Linear(3, 2), torch.randn(1, 3), {"convention": "shrinkbenhc"}, "did you mean 'shrinkbench'"),
        (lambda: nn.LazyLinear(2), torch.randn(1, 3), {}, "'weight' has no values yet"),
        (lambda: nn.Linear(3, 2, device="meta"), torch.randn(1, 3), {}, "'weight' has no values yet"),
        (lambda: nn.Linear(3, 2), torch.randn(1, 3), {"masks": {"w": torch.ones(2, 3).bool()}}, "the model lacks"),
    ],
)
def test_refusals(make: Any, example: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        count_macs(make(), example, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_on_cuda_the_count_is_the_same_and_its_random_numbers_stay() -> None:
    model = models.build("resnet20", (3, 32, 32), 10, seed=0)
    masks = Masks({n: torch.rand_like(w) < 0.5 for n, w in prunable(model).items()})
    x = torch.zeros(1, 3, 32, 32)
    here = count_macs(model, x, masks)
    state = torch.cuda.get_rng_state()
    assert count_macs(model.cuda(), x, masks) == here
    assert torch.equal(state, torch.cuda.get_rng_state())
