"""Scores against explicit formulas in float64; that scoring leaves no trace; what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning
from pruning import plan, seeds
from pruning.deciding.criteria import CRITERIA
from pruning.plan import PlanError

DATA = [name for name, entry in CRITERIA.items() if entry.needs == "labels"]


class Block(nn.Module):
    """A residual network in small: convolution, BatchNorm with statistics of its own, a shortcut, a classifier."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4, 3)
        self.activation = activation
        nn.init.uniform_(self.bn1.weight, 0.5, 1.5)
        nn.init.normal_(self.bn1.bias)
        nn.init.normal_(self.bn1.running_mean)
        nn.init.uniform_(self.bn1.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:  # [n, 2, H, W] -> [n, 3]
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.drop(x + self.activation(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


WEIGHTS = ["conv1.weight", "conv2.weight", "fc.weight"]


def network(seed: int = 0, **options: Any) -> Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Block(**options)


def sample(seed: int = 0, per_class: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(per_class)
    return torch.randn(len(labels), 2, 5, 5, generator=generator), labels


def by_hand(
    model: nn.Module, inputs: Tensor, labels: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all weights, their gradient and the dense Hessian of the mean loss, float64 [n], [n], [n, n]."""
    model = deepcopy(model).double().eval()
    shapes = [(name, dict(model.named_parameters())[name].shape) for name in WEIGHTS]
    flat = torch.cat([dict(model.named_parameters())[name].detach().flatten() for name in WEIGHTS])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for _, shape in shapes])
        state = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        logits = torch.func.functional_call(model, state, (inputs.double(),)) / temperature
        return -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()

    gradient = torch.autograd.functional.jacobian(loss, flat)
    hessian = torch.autograd.functional.hessian(loss, flat)
    return flat, gradient, hessian


def flattened(scores: dict[str, Tensor]) -> Tensor:
    assert list(scores) == WEIGHTS
    return torch.cat([score.flatten() for score in scores.values()])


def test_the_registry_has_the_names_of_the_plan() -> None:
    assert set(CRITERIA) == set(plan.choices(plan.Criterion))


# --- against explicit formulas ------------------------------------------------------------------------------


def test_magnitude() -> None:
    model = network()
    expected = torch.cat([dict(model.named_parameters())[name].flatten().abs() for name in WEIGHTS])
    assert torch.equal(flattened(pruning.score(model, "magnitude")), expected)


def test_random_is_uniform_and_of_the_seed_alone() -> None:
    model = nn.Linear(300, 300)
    one, two = pruning.score(model, "random", seed=3)["weight"], pruning.score(model, "random", seed=3)["weight"]
    assert torch.equal(one, two)
    assert not torch.equal(one, pruning.score(model, "random", seed=4)["weight"])
    assert 0 <= float(one.min()) < 0.001
    assert 0.999 < float(one.max()) < 1
    assert float(one.mean()) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("activation", [F.relu, torch.tanh])
def test_snip_against_the_gradient_written_out(activation: Callable[[Tensor], Tensor]) -> None:
    model = network(activation=activation).double()
    inputs, labels = sample()
    weights, gradient, _ = by_hand(model, inputs, labels)
    scores = pruning.score(model, "snip", batch=(inputs, labels))
    torch.testing.assert_close(flattened(scores), (weights * gradient).abs(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("activation", [F.relu, torch.tanh])
def test_grasp_against_a_dense_hessian(activation: Callable[[Tensor], Tensor]) -> None:
    model = network(activation=activation).double()
    inputs, labels = sample()
    weights, gradient, hessian = by_hand(model, inputs, labels, temperature=200.0)
    kept_high = weights * (hessian @ gradient)  # the original removes the highest -w Hg
    scale = float(kept_high.abs().max())
    for name, expected in (
        ("grasp", kept_high),
        ("grasp-inverted", -kept_high),
        ("grasp-magnitude", kept_high.abs()),
    ):
        scores = pruning.score(model, name, batch=(inputs, labels))
        torch.testing.assert_close(flattened(scores), expected, rtol=1e-9, atol=1e-12 * scale)


def test_grasp_removes_the_highest_of_the_original_score() -> None:
    model = network(activation=torch.tanh).double()
    inputs, labels = sample()
    weights, gradient, hessian = by_hand(model, inputs, labels, temperature=200.0)
    z = -weights * (hessian @ gradient)
    masks = pruning.prune(model, 0.4, "grasp", batch=(inputs, labels))
    mask = flattened(dict(masks))
    assert z[mask].max() < z[~mask].min()


def test_the_temperature_matters() -> None:
    """Without it the Hessian sees another softmax: the rankings differ."""
    model = network().double()
    inputs, labels = sample()
    weights, gradient, hessian = by_hand(model, inputs, labels, temperature=1.0)
    plain = weights * (hessian @ gradient)
    scores = flattened(pruning.score(model, "grasp", batch=(inputs, labels)))
    assert not torch.equal(plain.argsort(), scores.argsort())


def test_synflow_against_the_flow_written_out() -> None:
    model = network()
    copy = deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.is_floating_point():
                tensor.abs_()
    copy(torch.ones(1, 2, 5, 5, dtype=torch.float64)).sum().backward()
    named = dict(copy.named_parameters())
    expected = torch.cat([(named[name] * named[name].grad).flatten() for name in WEIGHTS]).detach()
    scores = flattened(pruning.score(model, "synflow", batch=torch.randn(7, 2, 5, 5)))
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=0)


def test_synflow_of_two_layers_by_hand() -> None:
    """R = sum_kji |b_kj| |a_ji|: a_ji scores |a_ji| sum_k |b_kj|, b_kj scores |b_kj| sum_i |a_ji|."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[-4.0, 5.0]]))
    scores = pruning.score(model, "synflow", batch=torch.zeros(1, 2))
    assert scores["0.weight"].tolist() == [[4.0, 8.0], [15.0, 0.0]]
    assert scores["2.weight"].tolist() == [[12.0, 15.0]]


def test_synflow_holds_where_float32_overflows() -> None:
    model = nn.Sequential(*[nn.Linear(32, 32) for _ in range(40)])
    for layer in model:
        nn.init.constant_(layer.weight, 1.0)
    scores = pruning.score(model, "synflow", batch=torch.zeros(1, 32))
    assert all(bool(score.isfinite().all()) for score in scores.values())
    assert float(scores["0.weight"].max()) > 1e40


# --- samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", DATA)
def test_micro_batches_change_nothing(criterion: str) -> None:
    model = network().double()
    batch = sample(per_class=5)
    whole = flattened(pruning.score(model, criterion, batch=batch))
    for size in (1, 2, 7, 15):
        parts = flattened(pruning.score(model, criterion, batch=batch, micro_batch=size))
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12 * float(whole.abs().max()))


@pytest.mark.parametrize("criterion", DATA)
def test_train_mode_sees_the_batch_statistics_and_dropout_of_its_own_stream(criterion: str) -> None:
    model, batch = network(dropout=0.5), sample()
    eval_scores = flattened(pruning.score(model, criterion, batch=batch))
    torch.manual_seed(1)
    one = flattened(pruning.score(model, criterion, batch=batch, mode="train"))
    torch.manual_seed(2)
    two = flattened(pruning.score(model, criterion, batch=batch, mode="train"))
    other = flattened(pruning.score(model, criterion, batch=batch, mode="train", seed=1))
    assert torch.equal(one, two)
    assert not torch.allclose(one, eval_scores)
    assert not torch.allclose(one, other)


def test_grasp_in_train_mode_is_of_one_network() -> None:
    """With dropout, g and H belong to the same thinned network."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    batch = (torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat(3))
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    scores = pruning.score(model, "grasp", batch=batch, mode="train")["1.weight"]
    assert len(seen) == 1
    expected = pruning.score(model[1], "grasp", batch=(seen[0], batch[1]))["weight"]
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("micro_batch", [None, 6, 5])
def test_train_mode_in_micro_batches_against_a_dense_hessian(micro_batch: int | None) -> None:
    """The loss is the mean over the sample, each micro-batch normalized by its own statistics; g is that of the whole."""
    model = network(activation=torch.tanh).double()
    inputs, labels = sample()  # 12 examples: in micro-batches of 5 at most there are three of 4
    count = {None: 1, 6: 2, 5: 3}[micro_batch]
    shapes = [(name, dict(model.named_parameters())[name].shape) for name in WEIGHTS]
    flat = torch.cat([dict(model.named_parameters())[name].detach().flatten() for name in WEIGHTS])

    def loss(vector: Tensor, temperature: float) -> Tensor:
        parts = vector.split([shape.numel() for _, shape in shapes])
        state = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        total = vector.new_zeros(())
        for i in range(count):
            x, y = inputs[i::count].double(), labels[i::count]
            x = F.conv2d(x, state["conv1.weight"], padding=1)
            x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
            x = torch.tanh(x * model.bn1.weight.view(-1, 1, 1) + model.bn1.bias.view(-1, 1, 1))
            x = x + torch.tanh(F.conv2d(x, state["conv2.weight"], model.conv2.bias, padding=1, groups=2))
            logits = F.linear(x.mean((2, 3)), state["fc.weight"], model.fc.bias) / temperature
            total = total - logits.log_softmax(1)[torch.arange(len(y)), y].sum()
        return total / len(labels)

    watched = Watched(model)
    for criterion, temperature in (("snip", 1.0), ("grasp", 200.0)):
        scaled = partial(loss, temperature=temperature)
        gradient = torch.autograd.functional.jacobian(scaled, flat)
        expected = (flat * gradient).abs()
        if criterion == "grasp":
            expected = flat * (torch.autograd.functional.hessian(scaled, flat) @ gradient)
        scores = pruning.score(model, criterion, batch=(inputs, labels), mode="train", micro_batch=micro_batch)
        torch.testing.assert_close(flattened(scores), expected, rtol=1e-8, atol=1e-11 * float(expected.abs().max()))
        watched.check(model)  # running statistics among all else


def test_grasp_in_train_mode_is_of_one_network_over_micro_batches() -> None:
    """Both passes, that of the whole gradient and that of its product with the Hessian, drop the same activations."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))
    batch = (torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat(3))
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    scores = pruning.score(model, "grasp", batch=batch, mode="train", micro_batch=4)["1.weight"]
    assert [len(x) for x in seen] == [3] * 6
    assert torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))
    labels = torch.cat([batch[1][i::3] for i in range(3)])
    expected = pruning.score(model[1], "grasp", batch=(torch.cat(seen[:3]), labels))["weight"]
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_callers_gradient_mode_does_not_matter(criterion: str) -> None:
    model = network()
    expected = pruning.score(model, criterion, **arguments(criterion))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            scores = pruning.score(model, criterion, **arguments(criterion))
        assert torch.equal(flattened(scores), flattened(expected))


def test_the_sample_matters() -> None:
    model = network()
    one, two = (pruning.score(model, "snip", batch=sample(seed)) for seed in (0, 1))
    assert not torch.allclose(flattened(one), flattened(two))


# --- no trace -----------------------------------------------------------------------------------------------


class Watched:
    """Everything of a model that scoring could touch: bits, identity, gradients, flags, modes, random state."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
        self.gradients = {
            name: p.grad if p.grad is None else (p.grad, p.grad.clone()) for name, p in model.named_parameters()
        }
        self.flags = {name: p.requires_grad for name, p in model.named_parameters()}
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.random = torch.get_rng_state()

    def check(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict(keep_vars=True).items():
            before, bits = self.state[name]
            assert tensor is before
            assert tensor.dtype == bits.dtype
            assert torch.equal(tensor.flatten().view(torch.uint8), bits.flatten().view(torch.uint8)), name
        for name, p in model.named_parameters():
            kept = self.gradients[name]
            assert (p.grad is None) == (kept is None)
            assert kept is None or (p.grad is kept[0] and torch.equal(p.grad, kept[1]))
        assert {name: p.requires_grad for name, p in model.named_parameters()} == self.flags
        assert {name: module.training for name, module in model.named_modules()} == self.modes
        assert torch.equal(torch.get_rng_state(), self.random)


def arguments(criterion: str, model_seed: int = 0) -> dict[str, Any]:
    return {} if CRITERIA[criterion].needs == "nothing" else {"batch": sample(model_seed)}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scoring_leaves_no_trace(criterion: str, dtype: torch.dtype) -> None:
    model = network(dropout=0.3).to(dtype)
    model.train()
    model.bn1.eval()
    model.conv2.bias.requires_grad_(False)
    model.fc.weight.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    watched = Watched(model)
    scores = pruning.score(model, criterion, **arguments(criterion))
    watched.check(model)
    assert all(bool(score.any()) and not score.requires_grad for score in scores.values())
    if "scoring_mode" in CRITERIA[criterion].options:
        pruning.score(model, criterion, mode="train", **arguments(criterion))
        watched.check(model)


@pytest.mark.parametrize("criterion", [name for name, entry in CRITERIA.items() if entry.needs != "nothing"])
def test_no_trace_where_the_model_fails_half_way(criterion: str) -> None:
    model = network().train()

    def fail(module: nn.Module, inputs: Any) -> None:
        torch.rand(3)
        raise RuntimeError("out of order\nsecond line")

    model.fc.register_forward_pre_hook(fail)
    watched = Watched(model)
    with pytest.raises(PlanError, match=r"cannot run the model on inputs of shape \[\d+, 2, 5, 5\].*: out of order$"):
        pruning.score(model, criterion, **arguments(criterion))
    watched.check(model)


def test_bfloat16_weights_are_scored_in_float32() -> None:
    model = network().bfloat16()
    scores = pruning.score(model, "snip", batch=sample())
    expected = pruning.score(deepcopy(model).float(), "snip", batch=sample())
    assert torch.equal(flattened(scores), flattened(expected))
    assert flattened(scores).dtype == torch.float32


# --- other models -------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))


def test_a_shared_weight_gets_the_gradient_of_all_its_uses() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    inputs, labels = torch.randn(6, 6, dtype=torch.float64), torch.arange(3).repeat(2)
    F.cross_entropy(model(inputs), labels).backward()
    expected = (model.one.weight * model.one.weight.grad).abs().detach()
    scores = pruning.score(model, "snip", batch=(inputs, labels))
    assert set(scores) == {"one.weight", "out.weight"}
    torch.testing.assert_close(scores["one.weight"], expected)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:  # [n, length, 8] -> [n, 3]
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_attention(criterion: str) -> None:
    torch.manual_seed(0)
    model = Attention()
    batch = (torch.randn(6, 4, 8), torch.arange(3).repeat(2))
    scores = pruning.score(model, criterion, batch=batch)
    assert set(scores) == {"attention.in_proj_weight", "attention.out_proj.weight", "out.weight"}
    assert all(bool(score.isfinite().all()) for score in scores.values())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("criterion", [name for name, entry in CRITERIA.items() if entry.needs != "nothing"])
def test_a_layer_that_nothing_uses_is_told_by_name(criterion: str) -> None:
    batch = (torch.randn(6, 4), torch.arange(3).repeat(2))
    with pytest.warns(UserWarning, match="score 0 in 'idle.weight'"):
        scores = pruning.score(Unused(), criterion, batch=batch)
    assert not bool(scores["idle.weight"].any())


# --- refusals -----------------------------------------------------------------------------------------------


def test_scores_that_are_not_finite_are_named() -> None:
    model = network()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(PlanError, match=r"criterion 'magnitude' gives scores that are not finite in 'conv2.weight'"):
        pruning.score(model, "magnitude")
    with pytest.raises(PlanError, match="criterion 'synflow' gives scores that are not finite"):
        pruning.score(model, "synflow", batch=sample())


def test_scores_that_are_all_zero_are_an_error() -> None:
    model = network()
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.conv1.weight)
    nn.init.zeros_(model.conv2.weight)
    for criterion in CRITERIA:
        if criterion != "random":
            with pytest.raises(PlanError, match=f"'{criterion}' gives every weight the score 0"):
                pruning.score(model, criterion, **arguments(criterion))


@pytest.mark.parametrize(
    ("criterion", "options", "says"),
    [
        ("synflw", {}, "did you mean 'synflow'"),
        ("snip", {}, r"'snip' scores a sample: give it as batch=\(inputs, labels\)"),
        ("snip", {"batch": torch.zeros(3, 2, 5, 5)}, "batch="),
        ("synflow", {}, "batch=inputs"),
        ("synflow", {"batch": torch.zeros(3, 2, 5, 5, dtype=torch.int64)}, "needs floating inputs"),
        ("synflow", {"batch": torch.zeros(3, 5, 5, 5)}, "cannot run the model on inputs of shape"),
        ("snip", {"batch": (torch.zeros(3, 2, 5, 5), torch.zeros(2, dtype=torch.int64))}, "3 inputs and 2 labels"),
        ("snip", {"batch": (torch.zeros(3, 2, 5, 5), torch.tensor([0, 1, 9]))}, "finds no loss"),
        ("grasp", {"batch": (torch.zeros(3, 2, 5, 5), torch.zeros(3, 2, dtype=torch.int64))}, "finds no loss"),
        ("snip", {"batch": (torch.zeros(0, 2, 5, 5), torch.zeros(0, dtype=torch.int64))}, "batch is empty"),
        ("snip", {"batch": sample(), "mode": "test"}, "mode 'test' is unknown"),
        ("snip", {"batch": sample(), "micro_batch": 0}, "micro_batch must be at least 1"),
        ("magnitude", {"mode": "eval"}, "mode is not used by criterion 'magnitude'"),
        ("synflow", {"batch": sample(), "mode": "train"}, "mode is not used by criterion 'synflow'"),
        ("snip", {"batch": sample(), "exclude": ["*"]}, "no prunable weight"),
    ],
)
def test_bad_input(criterion: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        pruning.score(network(), criterion, **options)


def test_a_model_that_returns_no_tensor_or_uses_no_weight() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return x, x

    class Idle(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x

    batch = (torch.randn(3, 3), torch.arange(3))
    for criterion in ("snip", "grasp", "synflow"):
        with pytest.raises(PlanError, match="returns a tensor, not tuple"):
            pruning.score(Pair(3, 3), criterion, batch=batch)
        with pytest.raises(PlanError, match="depends on no prunable weight"):
            pruning.score(Idle(3, 3), criterion, batch=batch)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"criterion": "magnitude", "rounds": 5}, "rounds is not used by criterion 'magnitude', only by snip"),
        ({"criterion": "synflow", "samples_per_class": 5}, "samples_per_class is not used by criterion 'synflow'"),
        ({"criterion": "random", "scoring_mode": "train"}, "scoring_mode is not used by criterion 'random'"),
        ({"criterion": "snip", "rounds": 0}, "rounds"),
        ({"allocation": "rates"}, "go together"),
        ({"layer_rates": {"fc": 0.5}}, "go together"),
        ({"ablation": "shufle"}, "did you mean 'shuffle'"),
    ],
)
def test_the_plan_refuses_what_a_criterion_does_not_use(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan.make(plan.Prune, {"sparsity": 0.5, **settings})


def test_a_generator_of_ones_own() -> None:
    model = network()
    one = pruning.score(model, "random", generator=seeds.generator(5, "scores"))
    assert torch.equal(flattened(one), flattened(pruning.score(model, "random", seed=5)))


@pytest.mark.gpu
@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_on_a_gpu_rank_as_on_the_cpu(criterion: str) -> None:
    model = network().double()
    batch = tuple(t.double() if t.is_floating_point() else t for t in sample())
    cpu = flattened(pruning.score(model, criterion, batch=batch))
    gpu = flattened(pruning.score(model.cuda(), criterion, batch=batch))  # the sample is moved to the weights
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-9, atol=1e-12 * float(cpu.abs().max()))
