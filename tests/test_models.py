"""The networks: weight counts pinned exactly, settings that reach the network, initialization, refusals."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from pruning import models
from pruning.flops import count_macs
from pruning.plan import PlanError

CIFAR = (3, 32, 32)


def blank(name: str, shape: tuple[int, ...], classes: int, options: dict[str, object]) -> nn.Module:
    """Returns the network without drawing its weights, which for a wide one takes longer than all else."""
    with torch.device("meta"):
        return models.family(name)(shape, classes, **options)


def weights(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "shape", "expected"),
    [
        ("resnet20", {}, CIFAR, 268_336),
        ("resnet56", {}, CIFAR, 848_944),
        ("resnet110", {}, CIFAR, 1_719_856),
        ("resnet20", {"shortcut": "B"}, CIFAR, 270_896),
        ("resnet56", {"shortcut": "B"}, CIFAR, 851_504),
        ("resnet110", {"shortcut": "B"}, CIFAR, 1_722_416),
        ("resnet20", {"shortcut": "TF"}, CIFAR, 271_152),
        ("resnet56", {"shortcut": "TF"}, CIFAR, 851_760),
        ("resnet110", {"shortcut": "TF"}, CIFAR, 1_722_672),
        ("lenet-300-100", {}, (1, 28, 28), 266_200),
        ("lenet-5", {}, (1, 28, 28), 430_500),
        ("vgg11", {}, CIFAR, 9_222_848),
        ("vgg16", {}, CIFAR, 14_715_584),
        ("vgg16", {"bias": True, "last_pool": "avg"}, CIFAR, 14_715_584),
        ("vgg19", {}, CIFAR, 20_024_000),
        ("resnet18", {}, CIFAR, 11_164_352),
        ("wrn-16-8", {}, CIFAR, 10_954_160),
        ("wrn-14-8", {}, CIFAR, 11_084_160),
        ("wrn-32-2", {}, CIFAR, 1_855_584),
    ],
)
def test_weight_counts(name: str, options: dict[str, object], shape: tuple[int, int, int], expected: int) -> None:
    assert weights(blank(name, shape, 10, options)) == expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet56", {}, 853_018),
        ("resnet56", {"shortcut": "B"}, 855_770),
        ("resnet18", {}, 11_173_962),
        ("wrn-28-10", {}, 36_479_194),  # Zagoruyko & Komodakis 2016, Table 3: 36.5 M
    ],
)
def test_counts_of_all_parameters(name: str, options: dict[str, object], expected: int) -> None:
    assert parameters(blank(name, CIFAR, 10, options)) == expected


TINY = (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "options", "shape", "classes", "count", "macs"),
    [
        ("resnet20", {}, CIFAR, 10, 268_336, 40_551_040),
        ("resnet20", {"shortcut": "TF"}, CIFAR, 10, 271_152, 41_075_328),
        ("resnet56", {}, CIFAR, 10, 848_944, 125_485_696),
        ("resnet110", {}, CIFAR, 10, 1_719_856, 252_887_680),
        ("vgg16", {}, CIFAR, 10, 14_715_584, 313_201_664),
        ("resnet18", {}, CIFAR, 10, 11_164_352, 555_422_720),
        ("resnet18", {}, TINY, 200, 11_261_632, 2_221_772_800),
        ("resnet18", {"stem": "7x7"}, TINY, 200, 11_269_312, 148_148_224),
        ("wrn-28-10", {"form": "meliketoy"}, CIFAR, 100, 36_518_832, 5_951_175_168),
        ("wrn-28-10", {}, CIFAR, 100, 36_518_832, 5_243_386_368),
    ],
)
def test_dense_macs(name, options, shape, classes: int, count: int, macs: int) -> None:
    model = blank(name, shape, classes, options).to_empty(device="cpu")
    assert weights(model) == count
    for convention in ("true", "shrinkbench"):  # equal where every convolution is padded by half its kernel
        assert count_macs(model, torch.zeros(1, *shape), convention=convention).macs == macs


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in ("wrn-28-10", "wrn-22-8", "wrn-20-8")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 29, 40)])
def test_every_model_takes_any_image(name: str, shape: tuple[int, int, int]) -> None:
    model = models.build(name, shape, 7, options={} if name.startswith("wrn") else {"width": 0.25}, seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert model.training


@pytest.mark.parametrize("name", ["resnet20", "lenet-5", "lenet-300-100", "vgg11", "resnet18"])
def test_width_is_a_setting(name: str) -> None:
    half, one, double = (weights(blank(name, CIFAR, 10, {"width": width})) for width in (0.5, 1.0, 2.0))
    assert half < one < double


def test_names_carry_depths() -> None:
    assert sum(isinstance(m, nn.Conv2d) for m in models.build("resnet26", CIFAR, 10, seed=0).modules()) == 25
    assert weights(models.build("lenet-50-40-30", (1, 8, 8), 10, seed=0)) == 64 * 50 + 50 * 40 + 40 * 30 + 30 * 10


def test_odd_channels_are_padded_on_both_sides() -> None:
    block = models.build("resnet20", CIFAR, 10, options={"width": 0.3}, seed=0)  # 5, 10, 19 channels
    assert (block.layer3[0].shortcut.before, block.layer3[0].shortcut.after) == (4, 5)
    x = torch.rand(1, 10, 5, 5)
    out = block.layer3[0].shortcut(x)
    assert out.shape == (1, 19, 3, 3)
    assert torch.equal(out[:, 4:14], x[:, :, ::2, ::2])
    assert out[:, :4].count_nonzero() == out[:, 14:].count_nonzero() == 0


def test_the_seed_decides_the_weights_and_nothing_else_moves() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (models.build("resnet20", CIFAR, 10, seed=s).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_trying_a_network_leaves_its_statistics() -> None:
    model = models.build("resnet20", CIFAR, 10, seed=0)
    assert float(model.bn1.running_mean.abs().max()) == 0
    assert float(model.bn1.running_var.min()) == float(model.bn1.running_var.max()) == 1
    assert int(model.bn1.num_batches_tracked) == 0


def test_he_normal_has_the_stated_variance() -> None:
    fan_in = models.build("resnet20", CIFAR, 10, weight_init="he-normal-fan-in", seed=0).layer3[0].conv1.weight
    fan_out = models.build("resnet20", CIFAR, 10, weight_init="he-normal-fan-out", seed=0).layer3[0].conv1.weight
    assert float(fan_in.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
    assert float(fan_out.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_norm_init() -> None:
    uniform = models.build("resnet20", CIFAR, 10, norm_init="uniform", seed=0)
    gammas = torch.cat([m.weight for m in uniform.modules() if isinstance(m, nn.BatchNorm2d)])
    assert 0 <= float(gammas.detach().min()) < 0.05
    assert 0.95 < float(gammas.detach().max()) <= 1
    one = models.build("resnet20", CIFAR, 10, norm_init="one", seed=0)
    assert all((m.weight == 1).all() for m in one.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet21", {}, ["6n+2", "resnet20"]),
        ("resnet50", {}, ["torchvision:resnet50"]),
        ("resnt20", {}, ["did you mean 'resnet20'", "lenet-5"]),
        ("resnet20", {"shortcuts": "A"}, ["no option 'shortcuts'", "did you mean 'shortcut'"]),
        ("resnet20", {"shortcut": "C"}, ["allowed: A, B, TF"]),
        ("resnet20", {"shortcut": 3}, ["type str"]),
        ("resnet20", {"width": "wide"}, ["type float"]),
        ("resnet20", {"width": True}, ["type float"]),
        ("resnet20", {"width": -1.0}, ["width"]),
        ("resnet20", {"classes": 3}, ["no option 'classes'"]),
        ("vgg17", {}, ["vgg11, vgg13, vgg16, vgg19"]),
        ("vgg16", {"last_pool": "min"}, ["allowed: max, avg"]),
        ("vgg16", {"linear_layers": 3}, ["must be 1 or 2"]),
        ("resnet18", {"stem": "5x5"}, ["allowed: 3x3, 7x7"]),
        ("wrn-27-10", {}, ["6n+4"]),
        ("wrn-28-0", {}, ["6n+4"]),
        ("wrn-16-8", {"form": "standart"}, ["did you mean 'standard'"]),
        ("wrn-16-8", {"dropout": 1.0}, ["dropout"]),
        ("wrn-14-8", {"dropout": 0.3}, ["neither dropout nor form"]),
    ],
)
def test_refusals_name_what_is_allowed(name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        models.build(name, CIFAR, 10, options=options, seed=0)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_wide_resnets_put_the_stride_where_their_form_does() -> None:
    standard, other = (
        models.build("wrn-10-2", CIFAR, 10, options={"form": f}, seed=0) for f in ("standard", "meliketoy")
    )
    assert (standard.layer2[0].conv1.stride, standard.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (other.layer2[0].conv1.stride, other.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert standard.conv1.bias is None
    assert other.conv1.bias is not None


def test_vgg_with_two_linear_layers() -> None:
    model = models.build("vgg16", CIFAR, 10, options={"linear_layers": 2}, seed=0)
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)) == 14_977_728
    plain = models.build("vgg16", CIFAR, 10, options={"width": 0.1}, seed=0)
    assert not any(name.startswith("hidden") for name in plain.state_dict())


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_blocks_start_as_their_shortcuts(name: str) -> None:
    settings = {"width": 0.2, "zero_last_gamma": True}
    model = models.build(name, CIFAR, 10, options=settings, seed=0)
    plain = models.build(name, CIFAR, 10, options={"width": 0.2}, seed=0).state_dict()
    zeros = [n for n, p in model.state_dict().items() if not torch.equal(p, plain[n])]
    assert len(zeros) == (9 if name == "resnet20" else 8)
    assert all(n.endswith("bn2.weight") and not model.state_dict()[n].any() for n in zeros)
    with pytest.raises(PlanError, match="zero_last_gamma"):
        models.build(name, CIFAR, 10, options=settings, norm_init="one", seed=0)


def test_torchvisions_blocks_start_as_their_shortcuts() -> None:
    pytest.importorskip("torchvision")
    model = models.build("torchvision:resnet34", CIFAR, 10, options={"zero_init_residual": True}, seed=0)
    assert sum(n.endswith("bn2.weight") and not p.any() for n, p in model.named_parameters()) == 16
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}  # a decay of .9


def test_torchvision_models() -> None:
    pytest.importorskip("torchvision")
    resnet50 = blank("torchvision:resnet50", (3, 224, 224), 1000, {}).to_empty(device="cpu")
    assert weights(resnet50) == 25_502_912
    assert count_macs(resnet50, torch.zeros(1, 3, 224, 224)).macs == 4_089_184_256
    small = models.build("torchvision:squeezenet1_1", (3, 64, 64), 5, options={"dropout": 0.1}, seed=0)
    assert small(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    googlenet = models.build("torchvision:googlenet", (3, 64, 64), 5, options={"init_weights": False}, seed=0)
    assert googlenet(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("torchvision:resnet19", {}, ["no classification model 'resnet19'", "did you mean 'resnet1"]),
        ("torchvision:fcn_resnet50", {}, ["no classification model"]),
        ("torchvision:resnet18", {"depth": 3}, ["depth"]),
        ("torchvision:alexnet", {}, ["does not run on images of 3x32x32"]),
    ],
)
def test_torchvision_models_refused(name: str, options: dict[str, object], words: list[str]) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(PlanError) as caught:
        models.build(name, CIFAR, 5, options=options, seed=0)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_timm_models() -> None:
    pytest.importorskip("timm")
    model = models.build("timm:resnet18", (1, 32, 32), 5, seed=0)
    assert model.conv1.in_channels == 1
    with pytest.raises(PlanError, match=r"timm has no classification model 'resnet_18'"):
        models.build("timm:resnet_18", CIFAR, 5, seed=0)
    with pytest.raises(PlanError, match="random weights"):
        models.build("timm:resnet18", CIFAR, 5, options={"pretrained": True}, seed=0)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [library, "torchvision.models"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PlanError, match=f"pip install {library}"):
        models.build(f"{library}:resnet18", CIFAR, 10, seed=0)


OWN = """
import torch
from torch import nn

def net(shape, classes, hidden=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], hidden), nn.Linear(hidden, classes))

def bare():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def lazy(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def nothing():
    return None

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        out = self.fc(x.flatten(1))
        return (out, out) if self.training else out

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)), x

def tokens(classes):
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.LazyLinear(classes))

def broken():
    raise KeyError("no such layer")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return lambda function, **options: models.build(f"own.py:{function}", (1, 8, 8), 10, options=options, seed=0)


def test_own_model(own) -> None:
    assert own("net")[1].out_features == 8
    assert own("net", hidden=3)[1].out_features == 3
    assert own("bare")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert own("lazy")[1].in_features == 64
    again = own("net", hidden=8)
    words = models.build("own.py:tokens", (7,), 3, seed=0)
    assert words(torch.zeros(1, 7, dtype=torch.int64)).shape == (1, 3)
    assert torch.equal(own("net")[1].weight, again[1].weight)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nothing", ["must be a torch.nn.Module", "NoneType"]),
        ("Pair", ["must return a tensor, not tuple"]),
        ("Two", ["in training mode, must return a tensor, not tuple"]),
        ("broken", ["KeyError", "no such layer", "line 38"]),
        ("absent", ["no function 'absent'"]),
    ],
)
def test_own_model_refused(own, function: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        own(function)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_own_model_of_the_wrong_size(own) -> None:
    with pytest.raises(PlanError, match="does not run on images of 1x9x9"):
        models.build("own.py:bare", (1, 9, 9), 10, seed=0)
    with pytest.raises(PlanError, match=r"must return \[2, 4\]"):
        models.build("own.py:bare", (1, 8, 8), 4, seed=0)
    with pytest.raises(PlanError, match=r"no option 'hiden'.*did you mean 'hidden'"):
        own("net", hiden=3)
