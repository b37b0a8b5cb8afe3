"""What is prunable, and masks: exact counts, +0 and nothing else, files that tell their damage."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

from pruning import ops
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import PlanError


class Tied(nn.Module):
    """An embedding whose weight is a linear layer's too, and two linear layers that share theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def every_layer() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, groups=2), nn.Conv2d(2, 4, 3, dilation=2), nn.Conv3d(2, 4, 1),
        nn.ConvTranspose1d(2, 4, 3), nn.ConvTranspose2d(2, 4, 3), nn.ConvTranspose3d(2, 4, 1),
        nn.Linear(3, 2), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Embedding(3, 2), nn.LSTM(2, 2), nn.Bilinear(2, 2, 2),
        nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
    )  # fmt: skip


def random_masks(model: nn.Module, seed: int, density: float = 0.5) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return Masks({n: torch.rand(w.shape, generator=generator) < density for n, w in prunable(model).items()})


# --- what is prunable ---------------------------------------------------------------------------------------


def test_prunable_are_convolutions_linear_recurrent_layers_and_the_projections_of_attention_in_order() -> None:
    model = every_layer()
    names = [f"{i}.weight" for i in range(7)]
    names += ["10.weight_ih_l0", "10.weight_hh_l0", "11.weight"]
    names += ["12.in_proj_weight", "12.out_proj.weight"]
    names += ["13.q_proj_weight", "13.k_proj_weight", "13.v_proj_weight", "13.out_proj.weight"]
    weights = prunable(model)
    assert list(weights) == names
    assert weights["0.weight"] is model[0].weight
    assert weights["12.in_proj_weight"] is model[12].in_proj_weight


def test_shared_weights_count_once_under_their_first_name_and_an_embedding_is_none() -> None:
    assert list(prunable(Tied())) == ["first.weight"]
    assert list(prunable(nn.Linear(2, 2))) == ["weight"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["0.0.weight"], ["0.1.weight", "1.weight"]),
        (["1"], ["0.0.weight", "0.1.weight"]),
        (["0"], ["1.weight"]),
        (["0.*"], ["1.weight"]),
        (["*.1", "1"], ["0.0.weight"]),
        ("1", ["0.0.weight", "0.1.weight"]),
    ],
)
def test_exclude_means_parameters_modules_and_what_is_in_them(exclude: list[str], left: list[str]) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(prunable(model, exclude)) == left


def test_exclude_of_a_shared_weight_holds_for_all_its_names() -> None:
    model = Tied()
    model.third = nn.Linear(4, 2)
    assert list(prunable(model, ["second"])) == ["third.weight"]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["fc2"], "exclude 'fc2' fits no prunable weight (did you mean 'fc'?)"),
        (["norm"], "exclude 'norm' fits no prunable weight"),
        (["fc.bias"], "exclude 'fc.bias' fits no prunable weight"),
        (["*"], "the model has no prunable weight: all are excluded"),
    ],
)
def test_patterns_that_fit_nothing_or_everything_are_refused(exclude: list[str], message: str) -> None:
    model = nn.ModuleDict({"fc": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    with pytest.raises(PlanError, match=re.escape(message)):
        prunable(model, exclude)


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def half_attention() -> nn.Module:
    attention = nn.MultiheadAttention(4, 2)
    parametrize.register_parametrization(attention, "in_proj_weight", Half())
    return attention


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 2))


def same_memory() -> nn.Module:
    pair = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    pair[1].weight = nn.Parameter(pair[0].weight.data)
    return pair


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.LazyLinear(3), ["'layer.weight'", "LazyLinear", "not initialized"]),
        (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), ["'layer.weight'", "computed from others"]),
        (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 2, 1)), ["'layer.weight'", "computed from others"]),
        (lambda: old_weight_norm(nn.Linear(2, 2)), ["'layer.weight'", "weight_g, weight_v"]),
        (lambda: torch_prune.l1_unstructured(nn.Linear(2, 2), "weight", 1), ["'layer.weight'", "weight_orig"]),
        (half_attention, ["'layer.in_proj_weight'", "computed from others"]),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), ["'layer.weight'", "complex64"]),
        (lambda: nn.Linear(2, 2, device="meta"), ["'layer.weight'", "meta"]),
        (lambda: torch.ao.nn.quantized.Linear(2, 2), ["'layer.weight'", "quantized"]),
        (scripted, ["'layer.0'", "ScriptModule"]),
        (same_memory, ["'layer.1.weight'", "'layer.0.weight'", "share memory"]),
        (lambda: nn.BatchNorm2d(3), ["no prunable weight", "no convolution, linear or recurrent layer"]),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(make, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError) as caught:
        prunable(nn.ModuleDict({"layer": make()}))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_pruned_can_be_excluded() -> None:
    model = nn.ModuleDict({"odd": parametrizations.weight_norm(nn.Linear(2, 2)), "fc": nn.Linear(2, 2)})
    assert list(prunable(model, ["odd"])) == ["fc.weight"]


@pytest.mark.parametrize(
    ("total", "sparsity", "kept"),
    [
        (1000, 0.9, 100),
        (268_336, 0.98, 5367),
        (10, 0.0, 10),
        (10, 1.0, 0),
        (0, 0.5, 0),
        (3, 0.5, 2),
        (7, 1 - 0.8**20, 0),
    ],
)
def test_keep_count(total: int, sparsity: float, kept: int) -> None:
    assert keep_count(total, sparsity) == kept


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, math.nan])
def test_keep_count_refuses_what_is_no_sparsity(sparsity: float) -> None:
    with pytest.raises(PlanError, match=r"sparsity must lie in \[0, 1\]"):
        keep_count(10, sparsity)


# --- masks --------------------------------------------------------------------------------------------------


def test_counts_are_exact_and_the_extra_masks_are_in_none() -> None:
    masks = Masks(
        {"b": torch.tensor([[True, False, True]]), "a": torch.zeros(2, 2, dtype=torch.bool)},
        extra={"b.bias": torch.tensor([False])},
    )
    assert list(masks) == ["b", "a"]
    assert masks.counts() == {"b": (2, 3), "a": (0, 4)}
    assert (masks.kept, masks.total) == (2, 7)
    assert (masks.density, masks.sparsity, masks.compression) == (2 / 7, 1 - 2 / 7, 3.5)
    assert list(masks.everything()) == ["b", "a", "b.bias"]
    assert "2 of 7" in repr(masks)
    empty = Masks({"a": torch.zeros(2, dtype=torch.bool)})
    assert (empty.density, empty.compression) == (0.0, math.inf)


def test_full_masks_keep_all() -> None:
    model = every_layer()
    masks = Masks.full(prunable(model))
    before = copy.deepcopy(model.state_dict())
    masks.apply(model)
    assert masks.density == 1.0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("seed", range(10))
def test_apply_writes_exactly_plus_zero_and_touches_nothing_else(seed: int) -> None:
    torch.manual_seed(seed)
    model = every_layer()
    masks = random_masks(model, seed)
    with torch.no_grad():  # what a product with a mask would not make +0
        model[1].weight[:] = torch.tensor([math.nan, math.inf, -math.inf, -1.0]).view(4, 1, 1, 1)
    before = copy.deepcopy(model.state_dict())
    assert masks.violations(model.state_dict()) == list(masks)
    masks.apply(model)
    assert masks.violations(model.state_dict()) == []
    for name, value in model.state_dict().items():
        expected = before[name].where(masks[name], 0.0) if name in masks else before[name]
        assert value.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("value", [-0.0, math.nan, 1e-40, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_violations_are_all_that_is_not_plus_zero(value: float, dtype: torch.dtype) -> None:
    value = 1e-7 if value == 1e-40 and dtype == torch.float16 else value  # the least numbers are no zeros
    masks = Masks({"a": torch.tensor([True, False]), "b": torch.tensor([False]), "c": torch.tensor([True])})
    state = {"a": torch.tensor([1.0, 0.0], dtype=dtype), "b": torch.tensor([value], dtype=dtype)}
    assert masks.violations(state) == ["b"]
    with pytest.raises(PlanError, match=r"'a' is \[2\], the weight \[3\]"):
        masks.violations({"a": torch.zeros(3)})


def test_masks_are_bool_and_one_for_each_name() -> None:
    with pytest.raises(PlanError, match="'a' must be a bool tensor, not torch.float32"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(PlanError, match="'a' has two masks"):
        Masks({"a": torch.ones(2).bool()}, {"a": torch.ones(2).bool()})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"0.weigth": (2, 3)}, r"name '0.weigth', which the model lacks \(did you mean '0.weight'\?\)"),
        ({"0.weight": (3, 2)}, r"mask of '0.weight' is \[3, 2\], the weight \[2, 3\]"),
        ({"0.weight": (2, 3), "1.weight": (2, 3)}, "'1.weight' is one parameter with another name that has a mask too"),
    ],
)
def test_masks_of_another_model_are_refused_and_nothing_is_written(
    masks: dict[str, tuple[int, ...]], message: str
) -> None:
    layer = nn.Linear(3, 2)
    model = nn.Sequential(layer, nn.Linear(3, 2))
    model[1].weight = layer.weight
    before = layer.weight.detach().clone()
    odd = Masks({name: torch.zeros(shape, dtype=torch.bool) for name, shape in masks.items()})
    with pytest.raises(PlanError, match=message):
        odd.check(model)
    with pytest.raises(PlanError, match=message):
        odd.apply(model)
    assert torch.equal(layer.weight, before)


def test_a_shared_weight_is_masked_under_any_of_its_names() -> None:
    model = Tied()
    Masks({"second.weight": torch.zeros(4, 4, dtype=torch.bool)}).apply(model)
    assert not model.first.weight.any()


def test_masks_survive_copies_and_pickles() -> None:
    masks = random_masks(every_layer(), 0)
    for other in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks)), masks.to("cpu")):
        assert isinstance(other, Masks)
        assert all(torch.equal(other[name], masks[name]) for name in masks)


# --- files --------------------------------------------------------------------------------------------------


@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_file_gives_back_every_bit_and_the_order(shapes: list[list[int]], seed: int, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    made = {f"{9 - i}.weight": torch.rand(shape, generator=generator) < 0.5 for i, shape in enumerate(shapes)}
    extra = {"0.bias": torch.rand(3, generator=generator) < 0.5}
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    Masks(made, extra).save(path)
    read = Masks.load(path)
    assert list(read) == list(made)
    assert list(read.extra) == ["0.bias"]
    assert all(torch.equal(read.everything()[name], mask) for name, mask in {**made, **extra}.items())


def test_a_file_takes_one_bit_per_weight_and_is_the_same_every_time(tmp_path: Path) -> None:
    masks = {f"{i}.w": torch.arange(80_000).view(8, -1) % (i + 2) == 0 for i in range(5)}
    Masks(masks, {"b": masks["0.w"]}).save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    assert len(data) == 60_600
    assert hashlib.sha256(data).hexdigest() == "01ef2688736cd287aee136389b41fa0d0610afd18cea087fb46fa2816357ee6d"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_channels_last_mask_is_saved_in_the_order_of_its_shape(tmp_path: Path) -> None:
    mask = (torch.rand(4, 3, 2, 2) < 0.5).to(memory_format=torch.channels_last)
    Masks({"w": mask}).save(tmp_path / "m")
    assert torch.equal(Masks.load(tmp_path / "m")["w"], mask)


def test_a_folder_that_is_not_there_or_a_full_one_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot write"):
        Masks({"w": torch.ones(3).bool()}).save(tmp_path / "none" / "m")
    with pytest.raises(PlanError, match="does not exist"):
        Masks.load(tmp_path / "none")


def damaged(change: str, path: Path) -> None:
    """Writes a file of masks with one thing wrong."""
    good = {"schema": 1, "shapes": {"w": [2, 3]}, "extra": []}
    packed = {"w": torch.tensor([0b101101], dtype=torch.uint8)}
    texts = {
        "schema": {**good, "schema": 99},
        "no schema": {"shapes": {"w": [2, 3]}, "extra": []},
        "shape": {**good, "shapes": {"w": [3, 3]}},
        "negative": {**good, "shapes": {"w": [-2, -3]}},
        "huge": {**good, "shapes": {"w": [2**62, 2**62]}},
        "a word": {**good, "shapes": {"w": "2x3"}},
        "names": {**good, "shapes": {"v": [2, 3]}},
        "extra": {**good, "extra": ["v"]},
        "a list": [1, 2],
    }
    if change == "bits beyond":
        packed = {"w": torch.tensor([0b1101101], dtype=torch.uint8)}
    if change == "dtype":
        packed = {"w": torch.zeros(1)}
    metadata = {"masks": json.dumps(texts.get(change, good))}
    if change == "no json":
        metadata = {"masks": "{"}
    if change == "no masks":
        metadata = {"other": ""}
    save_file(packed, path, metadata)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    if change == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schema", "has schema 99; this version reads schema 1"), ("no schema", "schema None"), ("shape", "is damaged"),
        ("negative", "is damaged"), ("huge", "is damaged"), ("a word", "is damaged"), ("names", "'v' has a shape"),
        ("extra", "is damaged"), ("a list", "is damaged"), ("bits beyond", "beyond its 6 weights"), ("dtype", "is damaged"),
        ("no json", "is damaged"), ("no masks", "holds no masks"), ("cut", "is damaged"), ("empty", "is damaged"),
    ],
)  # fmt: skip
def test_every_damage_to_a_file_is_told(change: str, message: str, tmp_path: Path) -> None:
    damaged("none", tmp_path / "good")
    assert Masks.load(tmp_path / "good")["w"].tolist() == [[True, False, True], [True, False, True]]
    damaged(change, tmp_path / "m")
    with pytest.raises(PlanError, match=message) as caught:
        Masks.load(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)


def test_a_file_names_its_bits_as_ops_pack_has_them(tmp_path: Path) -> None:
    mask = torch.rand(5, 7) < 0.3
    Masks({"w": mask}).save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert torch.equal(file.get_tensor("w"), ops.pack(mask))
