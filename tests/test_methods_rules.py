"""Each update rule on literal numbers against its formula, worked by hand: masks, gradients, momentum, weight decay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.masks import Masks
from pruning.plan import PlanError
from pruning.training.methods import METHODS
from pruning.training.methods.base import Budget, Method
from pruning.training.methods.reparametrized import plain_names
from pruning.training.methods.step_function import step_derivative
from pruning.training.optim import MaskedSGD
from pruning.training.ramps import cubic_ramp, pruning_events
from pruning.training.schedules import dense


class Row(nn.Module):
    """One linear layer without bias, so that the loss sum(w x) has the gradient x."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.fc = nn.Linear(len(weights), 1, bias=False)
        self.fc.weight.data.copy_(torch.tensor([weights]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns [1]."""
        return self.fc(x)


class Drive:
    """A method on a Row with an optimizer, stepped by hand."""

    def __init__(
        self, name: str, weights: tuple[float, ...], *, steps: int = 8, sparsity: float | None = 0.5, lr: float = 0.1,
        momentum: float = 0.0, decay: float = 0.0, optimizer: type[torch.optim.Optimizer] = MaskedSGD, **options: Any,
    ) -> None:  # fmt: skip
        kind = METHODS[name].load()
        task = Budget(steps, 1, decay, sparsity)
        self.model = Row(*weights)
        self.method = kind(task, kind.OPTIONS(**options))
        extra = self.method.attach(self.model)
        ours = {id(p) for g in extra for p in g["params"]}
        groups = [{"params": [p for p in self.model.parameters() if id(p) not in ours]}, *extra]
        more = {"momentum": momentum} if optimizer is MaskedSGD else {}
        self.optimizer = optimizer(groups, lr=lr, weight_decay=decay, **more)
        for g in self.optimizer.param_groups:
            g["lr"] = lr * g.get("lr_factor", 1.0)
        self.method.bind(self.model, self.optimizer)
        self.number = 0

    @property
    def stored(self) -> list[float]:
        fc: Any = self.model.fc
        held = fc.parametrizations.weight.original if hasattr(fc, "parametrizations") else fc.weight
        held = self.method.hidden().get("fc.weight", held)
        return [round(v, 6) for v in held.detach().flatten().tolist()]

    @property
    def used(self) -> list[float]:
        return [round(v, 6) for v in self.model.fc.weight.detach().flatten().tolist()]

    def backward(self, *gradient: float) -> float:
        """Returns the loss sum(w x) + penalty after its backward pass and the method's changes."""
        loss = self.model(torch.tensor(gradient)).sum()
        if (extra := self.method.penalty()) is not None:
            loss = loss + extra
        self.optimizer.zero_grad()
        loss.backward()
        self.method.after_backward(self.number)
        return loss.item()

    def step(self, *gradient: float) -> None:
        self.backward(*gradient)
        self.optimizer.step()
        self.method.after_step(self.number)
        self.number += 1

    @property
    def gradient(self) -> list[float]:
        fc: Any = self.model.fc
        held = fc.parametrizations.weight.original if hasattr(fc, "parametrizations") else fc.weight
        return [round(v, 6) for v in held.grad.flatten().tolist()]


# --- ramps ------------------------------------------------------------------------------------------------------------


def test_events_lie_between_equal_parts() -> None:
    assert pruning_events(3, 8) == [2, 4, 6]
    assert pruning_events(19, 200 * 352) == [10 * 352 * k for k in range(1, 20)]  # every 10 of 200 epochs
    assert pruning_events(7, 8) == [1, 2, 3, 4, 5, 6, 7]
    for number in (0, 8, 9):
        with pytest.raises(PlanError, match=f"{number} pruning events do not fit 8 steps; allowed: 1 to 7"):
            pruning_events(number, 8)


def test_the_ramp_is_cubic_and_ends_on_the_goal() -> None:
    assert [cubic_ramp(k, 4, 0.8) for k in range(5)] == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8], abs=1e-12)
    assert cubic_ramp(4, 4, 0.9) == 0.9


def test_a_cyclic_rate_restarts_at_every_event() -> None:
    lr = dense("cyclic", lr=0.4, total_steps=8, steps_per_epoch=1, restarts=[2, 6])
    assert [round(lr(t), 6) for t in range(8)] == [0.4, 0.2, 0.4, 0.3, 0.2, 0.1, 0.4, 0.2]


# --- GMP ----------------------------------------------------------------------------------------------------------------


def test_hard_gmp_prunes_for_good() -> None:
    """Four weights, goal 1/2, events before steps 1 and 2 of 3: sparsities .4375 (round(2.25) = 2 kept) and .5."""
    d = Drive("gmp", (0.5, -0.2, 0.3, 0.1), steps=3, events=2, mode="hard", momentum=0.5)
    assert d.method.density() == 1.0
    d.step(0.0, 0.0, 0.0, 1.0)  # 0.1 -> 0.0
    assert d.used == [0.5, 0.0, 0.3, 0.0]
    assert d.method.density() == 0.5
    d.step(0.0, -9.0, 0.0, -9.0)  # gradients of pruned weights change nothing, nor does their momentum
    assert d.used == [0.5, 0.0, 0.3, 0.0]
    momentum = d.optimizer.state[d.model.fc.weight]["momentum_buffer"]
    assert momentum.flatten().tolist() == [0.0, 0.0, 0.0, 0.0]
    masks = d.method.finish()
    assert masks is not None
    assert masks["fc.weight"].flatten().tolist() == [True, False, True, False]


def test_soft_gmp_lets_a_weight_return() -> None:
    """The pruned 0.2 is frozen, without decay, and returns when 0.3 falls below it."""
    d = Drive("gmp", (0.5, -0.2, 0.3, 0.1), steps=3, events=2, mode="soft", momentum=0.5)
    d.step(0.0, 0.0, 0.0, 1.0)
    assert d.stored == [0.5, -0.2, 0.3, 0.0]
    assert d.used == [0.5, 0.0, 0.3, 0.0]
    buffer = d.optimizer.state[d.method.weights["fc.weight"]]["momentum_buffer"]
    assert buffer.flatten().tolist() == [0.0, 0.0, 0.0, 0.0]  # 1 of the pruned fourth, set to 0 at the event
    d.step(0.0, 5.0, 2.0, 5.0)  # the second event: 0.3 -> 0.1
    assert d.gradient == [0.0, 0.0, 2.0, 0.0]  # none reaches a pruned weight
    assert d.stored == [0.5, -0.2, 0.1, 0.0]
    assert d.used == [0.5, -0.2, 0.0, 0.0]
    assert buffer.flatten().tolist() == [0.0, 0.0, 0.0, 0.0]  # 2 of the third, pruned now


def test_soft_gmp_decays_pruned_weights() -> None:
    """wd .5, lr .1, momentum .5: g = .5 w; v = g; w 1 -> .95, then v = .5 v + g with the momentum reset by the event."""
    d = Drive("gmp", (4.0, 1.0), steps=4, events=1, mode="soft", momentum=0.5, decay=0.5)
    d.step(0.0, 0.0)
    d.step(0.0, 0.0)  # the event, before step 2: 1 -> .95 (v .5) -> .95 - .1 (.25 + .475) = .8775
    assert d.stored[1] == 0.8775
    assert d.used[1] == 0.0
    d.step(0.0, 7.0)  # v = 0 + .43875
    assert d.stored[1] == 0.833625


def test_uniform_gmp_counts_layer_by_layer() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 2))
    kind = METHODS["gmp"].load()
    method = kind(Budget(10, 1, 0.0, 0.75), kind.OPTIONS(events=1, selection="uniform", mode="hard"))
    method.attach(model)
    method.bind(model, MaskedSGD(model.parameters(), lr=0.1))
    for step in range(10):
        method.after_step(step)
    assert method.masks is not None
    assert method.masks.counts() == {"0.weight": (25, 100), "1.weight": (5, 20)}


# --- DPF, DNW -----------------------------------------------------------------------------------------------------------


def test_dpf_moves_the_dense_weights_by_the_sparse_gradient() -> None:
    """Refresh every 2 steps, one event before step 2 of 4 to sparsity 1/2; momentum and decay act on all stored weights."""
    d = Drive("dpf", (0.4, -0.3, 0.2, 0.1), steps=4, events=1, refresh=2, momentum=0.5, decay=0.1)
    assert d.used == [0.4, -0.3, 0.2, 0.1]
    d.step(1.0, 0.0, 0.0, 0.0)  # g = x + .1 w = (1.04, -.03, .02, .01)
    assert d.stored == [0.296, -0.297, 0.198, 0.099]
    assert d.method.density() == 1.0  # step 1 is neither event nor refresh
    d.step(0.0, 0.0, 0.0, -2.0)  # v = .5 v + g = (.5496, -.0447, .0298, -1.9851)
    assert d.stored == [0.24104, -0.29253, 0.19502, 0.29751]
    assert d.used == [0.0, -0.29253, 0.0, 0.29751]
    d.step(-3.0, 0.0, 0.0, 0.0)  # the gradient reaches the pruned first weight in full
    assert d.gradient == [-3.0, 0.0, 0.0, 0.0]
    assert d.used[0] == 0.0
    d.step(0.0, 0.0, 0.0, 0.0)  # step 4 is a refresh: it is back
    assert d.used[0] == d.stored[0] > 0.5


def test_dnw_ranks_before_every_forward_pass() -> None:
    d = Drive("dnw", (0.4, -0.3, 0.2, 0.1), rate="global", decay=0.1, momentum=0.5)
    assert d.used == [0.4, -0.3, 0.0, 0.0]
    d.step(0.0, 0.0, -2.0, 0.0)  # straight through: g = x + .1 w
    assert d.gradient == [0.0, 0.0, -2.0, 0.0]
    assert d.stored == [0.396, -0.297, 0.398, 0.099]
    assert d.used == [0.396, 0.0, 0.398, 0.0]
    assert d.method.density() == 0.5


def test_dnw_keeps_the_same_share_of_each_layer() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 2))
    kind = METHODS["dnw"].load()
    method = kind(Budget(1, 1, 0.0, 0.9), kind.OPTIONS())
    method.attach(model)
    masks = method.finish()
    assert masks is not None
    assert masks.counts() == {"0.weight": (10, 100), "1.weight": (2, 20)}


# --- GSM, LC ------------------------------------------------------------------------------------------------------------


def test_gsm_keeps_the_gradients_that_matter() -> None:
    """|w g| = (.4, .6, .1, .3): the first two keep their gradient, all decay, momentum as in SGD."""
    d = Drive("gsm", (0.4, -0.3, 0.1, 0.3), momentum=0.5, decay=0.1)
    d.backward(1.0, 2.0, 1.0, 1.0)
    assert d.gradient == [1.0, 2.0, 0.0, 0.0]
    d.step(1.0, 2.0, 1.0, 1.0)
    assert d.stored == [0.296, -0.497, 0.099, 0.297]  # w - .1 (g + .1 w)
    d.step(0.0, 0.0, 1.0, 1.0)  # |w g| = (0, 0, .099, .297): v3 = .5 * .01 + 1 + .0099
    assert d.stored[2] == pytest.approx(0.099 - 0.1 * 1.0149, abs=1e-6)
    masks = d.method.finish()
    assert masks is not None
    assert d.used[1] != 0.0
    assert masks["fc.weight"].sum() == 2
    assert masks.violations(d.model.state_dict()) == []


@pytest.mark.parametrize(("rank", "kept"), [("all", [0.0, 0.0, 0.0, 4.0]), ("prunable", [0.0, 0.0, 3.0, 4.0])])
def test_gsm_ranks_what_it_is_told_to(rank: str, kept: list[float]) -> None:
    """k = 2 follows from the weights; in the ranking of all parameters the bias takes one of the places."""
    model = nn.Linear(4, 1)
    model.weight.data.fill_(1.0)
    model.bias.data.fill_(10.0)
    kind = METHODS["gsm"].load()
    method = kind(Budget(1, 1, 0.0, 0.5), kind.OPTIONS(rank=rank))
    method.attach(model)
    method.bind(model, MaskedSGD(model.parameters(), lr=0.1))
    model(torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    method.after_backward(0)
    assert model.weight.grad is not None
    assert model.weight.grad.flatten().tolist() == kept


def test_lc_takes_the_decay_off_the_largest() -> None:
    d = Drive("lc", (0.4, -0.3, 0.2, 0.1), decay=0.5)
    d.backward(1.0, 1.0, 1.0, 1.0)
    assert d.gradient == [0.8, 1.15, 1.0, 1.0]  # g - .5 w of the two largest
    d.step(0.0, 0.0, 0.0, 0.0)
    assert d.stored == [0.4, -0.3, 0.19, 0.095]  # decayed by .1 * .5 w: only the two smallest


def test_lc_heeds_groups_without_decay() -> None:
    model = nn.Linear(2, 1)
    model.bias.data.fill_(5.0)
    kind = METHODS["lc"].load()
    method = kind(Budget(1, 1, 0.5, 0.0), kind.OPTIONS())
    method.attach(model)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    method.bind(model, MaskedSGD(groups, lr=0.1, weight_decay=0.5))
    model(torch.zeros(2)).sum().backward()
    method.after_backward(0)
    assert model.bias.grad is not None
    assert model.bias.grad.tolist() == [1.0]


def test_lc_original_alternates() -> None:
    """mu .5, growth 2, 2 alternations in 3 steps: L steps end after steps 1 and 2 (0-based); goal 1/2 of (1, .4)."""
    d = Drive("lc-original", (1.0, 0.4), steps=3, alternations=2, mu=0.5, growth=2.0)
    d.backward(0.0, 0.0)
    assert d.gradient == [0.0, 0.2]  # mu (w - Delta) - lambda, Delta = (1, 0), lambda = 0
    d.step(0.0, 0.0)
    assert d.stored == [1.0, 0.38]
    d.step(0.0, 0.0)  # .38 - .1 * .19; then Delta = (1, 0), lambda = -(.5)(0, .361)
    assert d.stored == [1.0, 0.361]
    method: Any = d.method
    assert [round(v, 6) for v in method.multipliers[0].flatten().tolist()] == [0.0, -0.1805]
    d.backward(0.0, 0.0)  # mu is 1 now: 1 * .361 + .1805
    assert d.gradient == [0.0, 0.5415]
    d.step(3.0, 0.0)  # w = (.7, .30685); w - lambda/mu = (.7, .48735): Delta = (.7, 0)
    masks = d.method.finish()
    assert masks is not None
    assert d.used == [0.7, 0.0]


# --- STR, CS, DST -------------------------------------------------------------------------------------------------------


def test_str_shrinks_and_learns_its_threshold() -> None:
    s = math.log(0.25 / 0.75)  # sigmoid(s) = .25
    d = Drive("str", (0.5, -0.75, 0.2, -0.1), sparsity=None, s_init=s, decay=0.1)
    assert d.used == [0.25, -0.5, 0.0, 0.0]
    d.backward(1.0, 2.0, 3.0, 4.0)
    assert d.gradient == [1.0, 2.0, 0.0, 0.0]
    parameter = d.method.formulas["fc.weight"].s
    assert float(parameter.grad) == pytest.approx((-1 * 1.0 + 1 * 2.0) * 0.25 * 0.75)  # -sum sign(w) g sigmoid'(s)
    d.step(0.0, 0.0, 0.0, 0.0)
    assert parameter.item() == pytest.approx(s * (1 - 0.1 * 0.1))  # decay pulls the threshold towards 1/2
    masks = d.method.finish()
    assert masks is not None
    assert masks["fc.weight"].flatten().tolist() == [True, True, False, False]
    assert d.used[0] == pytest.approx(0.5 * 0.99 - 1 / (1 + math.exp(-s * 0.99)), abs=1e-6)  # the shrunk weight
    assert not torch.signbit(d.model.fc.weight[0, 3])


@pytest.mark.parametrize(("given", "decay"), [(None, 0.3), (0.0, 0.0), (0.7, 0.7)])
def test_str_states_the_decay_of_its_thresholds(given: float | None, decay: float) -> None:
    d = Drive("str", (1.0, 2.0), sparsity=None, decay=0.3, threshold_decay=given, threshold_lr=0.5)
    assert d.optimizer.param_groups[1]["weight_decay"] == decay
    assert d.optimizer.param_groups[1]["lr"] == pytest.approx(0.05)


def test_cs_gates_weights() -> None:
    d = Drive("cs", (2.0, -4.0), sparsity=None, steps=2, s_0=0.0, l1=0.5, beta=9.0)
    gates = d.method.formulas["fc.weight"].m
    assert d.used == [2.0, -4.0]  # w sigmoid(m) / sigmoid(s_0) at m = s_0
    loss = d.backward(1.0, 1.0)
    assert loss == pytest.approx(-2.0 + 0.5 * (0.5 + 0.5))
    assert d.gradient == [1.0, 1.0]
    # dL/dm = x w beta sigmoid' / sigmoid(s_0) + lambda beta sigmoid' = +-(..) with sigmoid'(0) = 1/4
    assert gates.grad.flatten().tolist() == pytest.approx([2 / 4 / 0.5 + 0.125, -4 / 4 / 0.5 + 0.125])
    d.step(1.0, 1.0)  # m = -.1 (1.125, -1.875)
    assert gates.flatten().tolist() == pytest.approx([-0.1125, 0.1875])
    assert d.method.temperature.beta == pytest.approx(3.0)  # 9^(1/2)
    assert d.used[1] == pytest.approx(-4.1 / (1 + math.exp(-3 * 0.1875)) / 0.5, abs=1e-5)
    assert d.method.density() == 0.5
    d.step(0.0, 0.0)
    assert d.method.temperature.beta == 9.0
    soft = d.used
    masks = d.method.finish()
    assert masks is not None
    assert d.used == [0.0, soft[1]]


def test_cs_anneals_by_epoch() -> None:
    kind = METHODS["cs"].load()
    method: Any = kind(Budget(6, 2, 0.0), kind.OPTIONS(beta=16.0, anneal="epoch"))
    betas = []
    for step in range(6):
        betas.append(method.temperature.beta)
        method.after_step(step)
    assert betas == [1.0, 1.0, 4.0, 4.0, 16.0, 16.0]
    assert method.temperature.beta == 16.0


def test_decay_in_the_loss_is_a_setting() -> None:
    for name in ("cs", "dst"):
        plain = Drive(name, (2.0, 1.0), sparsity=None).backward(0.0, 0.0)
        decayed = Drive(name, (2.0, 1.0), sparsity=None, decay_in_loss=0.1).backward(0.0, 0.0)
        assert decayed - plain == pytest.approx(0.1 / 2 * 5)


def test_the_step_s_surrogate_derivative() -> None:
    u = torch.tensor([0.0, 0.1, -0.1, 0.4, 0.41, -1.0, 1.01, -3.0])
    assert step_derivative(u).tolist() == pytest.approx([2.0, 1.6, 1.6, 0.4, 0.4, 0.4, 0.0, 0.0])


def test_dst_learns_thresholds_of_units() -> None:
    d = Drive("dst", (0.5, -0.2, 0.1), sparsity=None, alpha=0.01, lr=0.1)
    t = d.method.formulas["fc.weight"].t
    assert t.shape == (1, 1)
    t.data.fill_(0.15)
    assert d.used == [0.5, -0.2, 0.0]
    loss = d.backward(1.0, 2.0, 3.0)
    assert loss == pytest.approx(0.1 + 0.01 * math.exp(-0.15))
    slope = [2 - 4 * 0.35, 2 - 4 * 0.05, 2 - 4 * 0.05]  # at u = .35, .05, -.05
    # dL/dw = g (step(u) + |w| step'(u))
    expected = [1 * (1 + 0.5 * slope[0]), 2 * (1 + 0.2 * slope[1]), 3 * (0 + 0.1 * slope[2])]
    assert d.gradient == pytest.approx(expected, abs=1e-5)
    # dL/dt = -sum g w step'(u) - alpha exp(-t)
    through = 1 * 0.5 * slope[0] - 2 * 0.2 * slope[1] + 3 * 0.1 * slope[2]
    assert float(t.grad) == pytest.approx(-through - 0.01 * math.exp(-0.15), abs=1e-6)


@pytest.mark.parametrize(("options", "least"), [({}, 2), ({"reset_at": 0.03}, 4), ({"reset_at": 0.0}, 1)])
def test_dst_starts_again_where_a_tensor_is_all_but_empty(options: dict[str, float], least: int) -> None:
    """Of 100 weights `least` may stay; with one less the thresholds are 0 again. 1 % unless told, as in both papers."""
    d = Drive("dst", tuple(0.01 * i for i in range(1, 101)), sparsity=None, alpha=0.0, lr=0.0, **options)
    t = d.method.formulas["fc.weight"].t
    t.data.fill_(1.005 - 0.01 * least)
    d.method.after_step(0)
    assert float(t) == pytest.approx(1.005 - 0.01 * least)
    t.data.fill_(1.015 - 0.01 * least)
    d.method.after_step(1)
    assert float(t) == 0.0


def test_dst_units_of_a_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(4, 5, 2))
    kind = METHODS["dst"].load()
    method: Any = kind(Budget(1, 1, 0.0), kind.OPTIONS())
    method.attach(model)
    assert [tuple(f.t.shape) for f in method.formulas.values()] == [(4, 1, 1, 1), (1, 5, 1, 1)]


# --- how a network becomes plain again -----------------------------------------------------------------------------------


class Tied(nn.Module):
    """Two layers with one weight, and an attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, kdim=4, vdim=4)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, 3, 4]."""
        x = self.b(self.a(x))
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("name", ["gmp", "dpf", "dnw", "str", "cs", "dst"])
def test_baking_leaves_the_network_that_was(name: str) -> None:
    """Names, order and identity of the parameters, shared ones too, are as before; the outputs stay the same to the bit."""
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(2, 3, 4)
    before = dict(model.named_parameters())
    order, keys = [n for n, _ in model.named_parameters()], list(model.state_dict())
    classes = [type(m) for m in model.modules()]
    kind = METHODS[name].load()
    goal = 0.5 if name in ("gmp", "dpf", "dnw") else None
    own = {"gmp": {"events": 3}, "dpf": {"events": 3}, "str": {"s_init": -2.0}}.get(name, {})
    method: Any = kind(Budget(8, 1, 0.0, goal), kind.OPTIONS(**own))
    extra = method.attach(model)
    ours = {id(p) for g in extra for p in g["params"]}
    optimizer = MaskedSGD([{"params": [p for p in model.parameters() if id(p) not in ours]}, *extra], lr=0.1)
    method.bind(model, optimizer)
    for step in range(8):
        model(x).square().sum().backward()
        optimizer.step()
        method.after_step(step)
    model.eval()
    plain = plain_names(model.state_dict())
    assert {k: v.shape for k, v in plain.items()} == {k: before.get(k, before["a.weight"]).shape for k in keys}
    with torch.no_grad():
        expected = model(x)
    masks = method.finish()
    assert [n for n, _ in model.named_parameters()] == order
    assert list(model.state_dict()) == keys
    assert all(p is before[n] for n, p in model.named_parameters())
    assert model.b.weight is model.a.weight
    assert [type(m) for m in model.modules()] == classes
    assert masks.violations(model.state_dict()) == []
    assert 0 < masks.kept < masks.total or name in ("dst", "cs")
    with torch.no_grad():
        assert torch.equal(model(x), expected) or name == "cs"  # whose small gates are cut


def test_plain_names() -> None:
    stored = {
        "conv.parametrizations.weight.original": torch.ones(1),
        "conv.parametrizations.weight.0.mask": torch.ones(1),
        "momentum_buffer:conv.parametrizations.weight.original": torch.ones(2),
        "momentum_buffer:conv.parametrizations.weight.0.s": torch.ones(2),
        "parametrizations.weight.original": torch.ones(3),
        "conv.bias": torch.ones(4),
    }
    assert {k: len(v) for k, v in plain_names(stored).items()} == {
        "conv.weight": 1, "momentum_buffer:conv.weight": 2, "weight": 3, "conv.bias": 4,
    }  # fmt: skip


def test_fixed_masks_are_those_of_the_optimizer() -> None:
    model = Row(1.0, 2.0)
    for optimizer in (MaskedSGD(model.parameters(), lr=0.1), torch.optim.AdamW(model.parameters(), lr=0.1)):
        method = Method(Masks({"fc.weight": torch.tensor([[True, False]])}))
        method.bind(model, optimizer)
        model(torch.ones(2)).sum().backward()
        optimizer.step()
        assert model.fc.weight[0, 1] == 0
        assert method.density() == 0.5
