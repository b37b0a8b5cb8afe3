"""The networks: weight counts pinned exactly, settings that reach the network, initialization, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning import models
from pruning.plan import PlanError

CIFAR = (3, 32, 32)


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
    ],
)
def test_weight_counts(name: str, options: dict[str, str], shape: tuple[int, int, int], expected: int) -> None:
    assert weights(models.build(name, shape, 10, options=options, seed=0)) == expected


def test_total_parameters_of_resnet56() -> None:
    assert parameters(models.build("resnet56", CIFAR, 10, seed=0)) == 853_018
    assert parameters(models.build("resnet56", CIFAR, 10, options={"shortcut": "B"}, seed=0)) == 855_770


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 29, 40)])
def test_every_model_takes_any_image(name: str, shape: tuple[int, int, int]) -> None:
    if name == "resnet110":
        pytest.skip("the same blocks as resnet20, only more of them")
    model = models.build(name, shape, 7, seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    assert model.training


@pytest.mark.parametrize("name", ["resnet20", "lenet-5", "lenet-300-100"])
def test_width_is_a_setting(name: str) -> None:
    half = models.build(name, CIFAR, 10, options={"width": 0.5}, seed=0)
    double = models.build(name, CIFAR, 10, options={"width": 2}, seed=0)
    assert weights(half) < weights(models.build(name, CIFAR, 10, seed=0)) < weights(double)


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
    ],
)
def test_refusals_name_what_is_allowed(name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        models.build(name, CIFAR, 10, options=options, seed=0)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


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

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)), x

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
    again = own("net")
    assert torch.equal(own("net")[1].weight, again[1].weight)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nothing", ["must be a torch.nn.Module", "NoneType"]),
        ("Pair", ["must return a tensor, not tuple"]),
        ("broken", ["KeyError", "no such layer", "line 26"]),
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
