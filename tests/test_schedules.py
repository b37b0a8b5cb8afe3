"""Schedules against hand-computed literals, and what they do at their edges."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pruning import plan
from pruning.plan import PlanError
from pruning.training import schedules
from pruning.training.schedules import accuracy_impact, dense, norm_impact, retraining


def values(schedule: schedules.Schedule, steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


def test_the_registries_have_the_names_of_the_plan() -> None:
    assert set(schedules.RETRAIN_SCHEDULES) == set(plan.choices(plan.RetrainSchedule))
    assert set(schedules.SCHEDULES) == set(plan.choices(plan.LrSchedule))


# --- dense --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (35_580, 0.1), (35_581, 0.01), (53_175, 0.01), (53_176, 0.001), (71_161, 0.001), (80_000, 0.001)],
)
def test_renda_cifar_schedule(step: int, rate: float) -> None:
    """182 epochs of 391 steps, drops at epochs 91 and 136."""
    schedule = dense("stepped", lr=0.1, total_steps=182 * 391, steps_per_epoch=391, milestones=(91, 136))
    assert schedule(step) == pytest.approx(rate, rel=1e-12)


def test_exponential_warmup_and_halvings_are_those_of_gnmt() -> None:
    epoch = 8000  # Renda et al. 2020, Table 2: 0.002 * 0.01^(1 - 8t) up to t = 0.125, halved at 3.75, 4.165 and 4.58
    rate = dense(
        "stepped", lr=0.002, total_steps=5 * epoch, steps_per_epoch=epoch, milestones=(3.75, 4.165, 4.58), gamma=0.5,
        warmup_epochs=0.125, warmup_form="exponential",
    )  # fmt: skip
    for t in (0, 0.05, 0.1, 0.1249):
        assert rate(round(t * epoch)) == pytest.approx(0.002 * 0.01 ** (1 - 8 * round(t * epoch) / epoch), rel=1e-12)
    expected = {0.125: 0.002, 3.7499: 0.002, 3.75: 0.001, 4.165: 0.0005, 4.58: 0.00025, 4.9999: 0.00025}
    assert {t: rate(round(t * epoch)) for t in expected} == pytest.approx(expected, rel=1e-12)


def test_imagenet_warmup_counts_in_the_milestones() -> None:
    schedule = dense(
        "stepped", lr=0.4, total_steps=112_590, steps_per_epoch=1251, milestones=(30, 60, 80), warmup_epochs=5
    )
    table = {0: 0.0, 1251: 0.08, 6254: 0.4 * 6254 / 6255, 6255: 0.4, 37_529: 0.4, 37_530: 0.04, 75_060: 0.004}
    for step, rate in {**table, 100_080: 0.0004}.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.0, 0.5, 1.0, 0.8535533905932737, 0.5, 0.14644660940672624]),
        ("stepped", [0.0, 0.5, 1.0, 0.5, 0.5, 0.25]),
    ],
)
def test_dense_kinds_with_warmup(kind: str, expected: list[float]) -> None:
    marks = (1.5, 2.5) if kind == "stepped" else ()
    schedule = dense(kind, lr=1.0, total_steps=6, steps_per_epoch=2, milestones=marks, gamma=0.5, warmup_epochs=1)
    assert values(schedule, 6) == pytest.approx(expected, abs=1e-15)
    assert schedule(100) == schedule(5)


def test_milestones_have_no_float_progress() -> None:
    """Every whole epoch drops at exactly its first step, for step counts where epoch * steps / total would round."""
    for steps_per_epoch in (1, 3, 7, 49, 352, 391, 1251):
        for epoch in range(1, 60):
            schedule = dense(
                "stepped", lr=1.0, total_steps=60 * steps_per_epoch, steps_per_epoch=steps_per_epoch, milestones=[epoch]
            )
            assert schedule(epoch * steps_per_epoch - 1) == 1.0
            assert schedule(epoch * steps_per_epoch) == 0.1


# --- retraining ---------------------------------------------------------------------------------------------

STEPPED = [1.0] * 10 + [0.1] * 5 + [0.01] * 5  # T = 20
WARM = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1]  # T = 8, of which 2 warm up


def make(name: str, original: list[float], steps: int, **options: Any) -> list[float]:
    schedule = retraining(name, original=lambda step: original[step], total_steps=len(original), steps=steps, **options)
    return values(schedule, steps)


RAMP = [0.0, 0.5]  # cosine warm-up over 2 steps
HALF_COSINE = [(1 + math.cos(math.pi * u / 18)) / 2 for u in range(18)]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ft", {}, [0.01] * 20),
        ("lrw", {}, STEPPED),
        ("llr", {}, [*RAMP, *((18 - u) / 18 for u in range(18))]),
        ("clr", {}, [*RAMP, *(0.01 + 0.99 * c for c in HALF_COSINE)]),
        ("slr", {}, [*RAMP, *[1.0] * 9, *[0.1] * 5, *[0.01] * 4]),
        ("allr", {"impact": 0.3}, [*RAMP, *((18 - u) / 18 for u in range(18))]),
        ("allr-d1", {"impact": 0.3}, [0.0, 0.15, *(0.3 * (18 - u) / 18 for u in range(18))]),
        ("allr-d2", {}, [*RAMP, *((18 - u) / 18 for u in range(18))]),
        ("constant", {"lr": 0.2}, [0.2] * 20),
        ("constant", {"lr": 0.2, "warmup": 0.1}, [0.0, 0.1, *[0.2] * 18]),
        ("linear", {"lr": 0.2}, [0.2 * (20 - u) / 20 for u in range(20)]),
        ("cosine", {"lr": 0.2, "warmup": 0.1}, [0.0, 0.1, *(0.2 * c for c in HALF_COSINE)]),
        ("stepped", {"lr": 0.2}, [0.2 * rate for rate in STEPPED]),
    ],
)
def test_as_long_as_the_original(name: str, options: dict[str, float], expected: list[float]) -> None:
    assert make(name, STEPPED, 20, **options) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ft", {}, [0.01] * 10),
        ("lrw", {}, [0.1] * 5 + [0.01] * 5),
        ("slr", {}, [0.0, *[1.0] * 5, 0.1, 0.1, 0.01, 0.01]),  # entries 0 2 4 6 8 | 11 13 | 15 17 of the list
        ("llr", {}, [0.0, *((9 - u) / 9 for u in range(9))]),
        ("allr", {"impact": 0.3}, [0.0, *(0.5 * (9 - u) / 9 for u in range(9))]),  # d2 = 1/2 is the lower bound
        ("allr", {"impact": 0.8}, [0.0, *(0.8 * (9 - u) / 9 for u in range(9))]),
        ("allr", {"impact": 1.0}, [0.0, *((9 - u) / 9 for u in range(9))]),
        ("accallr", {"impact": 0.8}, [0.0, *(0.8 * (9 - u) / 9 for u in range(9))]),
        ("allr-d1", {"impact": 0.3}, [0.0, *(0.3 * (9 - u) / 9 for u in range(9))]),
        ("allr-d2", {}, [0.0, *(0.5 * (9 - u) / 9 for u in range(9))]),
    ],
)
def test_half_as_long(name: str, options: dict[str, float], expected: list[float]) -> None:
    assert make(name, STEPPED, 10, **options) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ft", [0.1] * 11),
        ("lrw", [0.0, 0.5, 1.0, 1.0, 1.0, *WARM[2:]]),  # 3 steps at the first full rate, right after the warm-up
        ("slr", [0.0, *[1.0] * 8, 0.1, 0.1]),  # list entries 0 0 1 2 3 4 4 5 | 6 7: the dense warm-up reads as 1.0
        ("allr-d2", [0.0, *((10 - u) / 10 for u in range(10))]),
    ],
)
def test_longer_than_an_original_with_warmup(name: str, expected: list[float]) -> None:
    assert make(name, WARM, 11, warmup_steps=2) == pytest.approx(expected, abs=1e-15)


def test_lrw_longer_without_warmup_prepends_the_first_rate() -> None:
    assert make("lrw", STEPPED, 23) == [1.0] * 3 + STEPPED


def test_lrw_of_full_length_replays_the_warmup() -> None:
    assert make("lrw", WARM, 8, warmup_steps=2) == WARM
    assert make("lrw", WARM, 7, warmup_steps=2) == WARM[1:]


def test_one_step_and_the_shortest_ramp() -> None:
    for name in schedules.RETRAIN_SCHEDULES:
        options = {"lr": 0.5} if name in schedules.tuned() else {"impact": 0.4}
        assert 0 < make(name, STEPPED, 1, **options)[0] <= 1.0  # no warm-up below 10 steps
    assert make("llr", STEPPED, 10)[:2] == [0.0, 1.0]


def test_ft_of_a_linear_schedule_barely_moves() -> None:
    linear = dense("linear", lr=1.0, total_steps=100, steps_per_epoch=10)
    assert retraining("ft", original=linear, total_steps=100, steps=5)(3) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("alr", {}, "did you mean 'allr'"),
        ("allr", {}, "'allr' needs the impact"),
        ("allr-d1", {"impact": math.nan}, "impact"),
        ("accallr", {"impact": -0.1}, "impact"),
        ("constant", {}, "'constant' needs an initial rate"),
        ("linear", {"lr": 0.1, "warmup": 1.0}, "warm-up"),
        ("llr", {"lr": 0.1}, "not used by 'llr'"),
        ("llr", {"warmup_steps": 20}, "warmup_steps"),
    ],
)
def test_errors_name_the_thing(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        make(name, STEPPED, 10, **options)


def test_no_steps_is_an_error() -> None:
    with pytest.raises(PlanError, match="at least 1 step"):
        make("ft", STEPPED, 0)
    with pytest.raises(PlanError, match="did you mean 'cosine'"):
        dense("cosin", lr=0.1, total_steps=1, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schedule": "linear"}, "needs schedule_lr"),
        ({"schedule": "llr", "schedule_lr": 0.1}, "schedule_lr is not used by schedule 'llr'"),
        ({"schedule_warmup": 0.1}, "schedule_warmup is not used by technique 'lr-rewind'"),
    ],
)
def test_the_plan_refuses_what_a_schedule_does_not_use(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan.make(plan.Retrain, settings)


# --- impact -------------------------------------------------------------------------------------------------


def test_norm_impact_by_hand() -> None:
    """Weights 3, 4 and two entries of norm 0.6 and 0.8 pruned of four: sqrt(1 / 26) / sqrt(1/2)."""
    assert norm_impact(math.sqrt(26), 5.0, 0.5) == pytest.approx(math.sqrt(2 / 26))
    assert norm_impact(2.0, 2.0, 0.5) == 0.0
    assert norm_impact(2.0, 0.0, 0.5) == 1.0
    assert norm_impact(2.0, 2.0, 0.0) == 0.0
    assert norm_impact(0.0, 0.0, 0.5) == 0.0


def test_accuracy_impact_by_hand() -> None:
    assert accuracy_impact(0.8, 0.6) == pytest.approx(0.25)
    assert accuracy_impact(0.8, 0.9) == 0.0
    assert accuracy_impact(0.0, 0.0) == 0.0
