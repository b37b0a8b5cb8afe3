"""Learning rates as pure functions of the step: of the dense training, and of the retraining that follows a pruning.

Steps are iterations, counted from 0. :func:`dense` gives the schedule of the original training, :func:`retraining`
those that Renda et al. (2020, section 2.3: FT, LRW) and Zimmer et al. (2023, sections 2.1 and C.1: SLR, CLR, LLR,
ALLR, AccALLR) compare, for a retraining of N steps after an original training of T steps, S its schedule:

- eta_1 is the greatest rate of S, eta_min the least after the dense warm-up.
- SLR, CLR, LLR and the ALLR family warm up over the first W = floor(N/10) steps along a cosine from 0: the first step
  runs at rate 0, step W at the full rate. The tuned schedules (constant, stepped, cosine, linear) warm up in the same
  shape over a given share of N.
- A retraining longer than the original training is defined for every name. FT stays constant. LRW runs the N - T
  steps that S does not have at the first rate after the dense warm-up and inserts them right there. The control
  "original" runs S from its beginning and then holds its last rate. The others stretch to any N; the lower bound of
  ALLR, min(N/T, 1), is then 1.

Deviations from the code of Zimmer et al.: SLR looks up list[floor(u L / (N - W))] from u = 0 on, where theirs counts
from 1.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from pruning.plan import TUNED_SCHEDULES as TUNED
from pruning.plan import PlanError, suggest

Schedule = Callable[[int], float]

DENSE_SCHEDULES: dict[str, str] = {
    "constant": "one rate throughout",
    "stepped": "multiplied by gamma at every milestone",
    "linear": "falls linearly to 0 over the steps after the warm-up",
    "cosine": "falls to 0 along half a cosine over the steps after the warm-up",
    "cyclic": "falls linearly to 0 from pruning event to pruning event, starting anew at each (method gmp)",
}

RETRAIN_SCHEDULES: dict[str, str] = {
    "ft": "the least rate of the original schedule, constant (fine-tuning)",
    "lrw": "the last N rates of the original schedule (learning-rate rewinding, Renda et al. 2020)",
    "slr": "the whole original schedule compressed into N steps, after a warm-up (Le & Hua 2021)",
    "clr": "cosine from the greatest original rate to the least, after a warm-up (Le & Hua 2021)",
    "llr": "linear from the greatest original rate to 0, after a warm-up (Zimmer et al. 2023)",
    "allr": "linear to 0 from a rate that adapts to the norm lost and the budget (Zimmer et al. 2023, eq. 1)",
    "allr-d1": "like allr, from the norm lost alone",
    "allr-d2": "like allr, from the budget alone",
    "accallr": "like allr, with the training accuracy lost in place of the norm (Zimmer et al. 2023, eq. 3)",
    "constant": "a given rate, constant",
    "stepped": "the original schedule compressed into N steps and scaled to a given first rate",
    "cosine": "cosine from a given rate to 0",
    "linear": "linear from a given rate to 0",
    "original": "the original schedule from its beginning, held at its last rate",
}

IMPACT = {"allr": "norm", "allr-d1": "norm", "accallr": "accuracy"}  # what `impact` has to be computed from


def dense(
    kind: str,
    *,
    lr: float,
    total_steps: int,
    steps_per_epoch: int,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
    restarts: Sequence[int] = (),
) -> Schedule:
    """Returns the schedule step -> rate of a dense training of `total_steps`; beyond them the last rate is held.

    The warm-up is linear from 0, lr * step / W over W = round(warmup_epochs * steps_per_epoch) steps. Milestones are in
    epochs, counted from step 0, the warm-up included: the rate drops at step round(milestone * steps_per_epoch).
    `restarts` are the steps at which a cyclic schedule starts anew (:func:`pruning_events`).
    """
    if kind not in DENSE_SCHEDULES:
        raise PlanError(
            f"schedule '{kind}' is unknown{suggest(kind, DENSE_SCHEDULES)}; allowed: {', '.join(DENSE_SCHEDULES)}"
        )
    warmup = round(warmup_epochs * steps_per_epoch)
    drops = [round(milestone * steps_per_epoch) for milestone in milestones]
    span = max(total_steps - warmup, 1)
    edges = [0, *restarts, total_steps]

    def schedule(step: int) -> float:
        step = min(step, total_steps - 1)
        if kind == "stepped":
            rate = lr * gamma ** sum(step >= drop for drop in drops)
        elif kind == "linear":
            rate = lr * (1 - max(step - warmup, 0) / span)
        elif kind == "cosine":
            rate = lr * (1 + math.cos(math.pi * max(step - warmup, 0) / span)) / 2
        elif kind == "cyclic":
            i = bisect.bisect_right(edges, step)
            rate = lr * (edges[i] - step) / (edges[i] - edges[i - 1])
        else:
            rate = lr
        return rate * step / warmup if step < warmup else rate

    return schedule


def retraining(
    name: str,
    original: Schedule,
    *,
    total_steps: int,
    steps: int,
    impact: float | None = None,
    warmup_steps: int = 0,
    lr: float | None = None,
    warmup: float = 0.0,
) -> Schedule:
    """Returns the schedule step -> rate of a retraining of `steps` (N) steps, by one of the names of RETRAIN_SCHEDULES.

    `original` is the schedule of the dense training of `total_steps` (T) steps, the first `warmup_steps` of which are
    its warm-up. `impact` is d1 of Zimmer et al., equation 1 or 3 (:func:`norm_impact`, :func:`accuracy_impact`); the
    names in IMPACT need it. `lr` and `warmup`, the initial rate and the share of N to warm up over, belong to the
    names in TUNED.
    """
    _check(name, total_steps, steps, impact, warmup_steps, lr, warmup)
    unread = ("lrw", "original", "constant", "cosine", "linear")
    rates = [] if name in unread else [original(step) for step in range(total_steps)]
    first = max(rates, default=0.0)
    least = min(rates[warmup_steps:], default=0.0)
    if name == "ft":
        return lambda step: least
    if name == "original":
        return lambda step: original(min(step, total_steps - 1))
    if name == "lrw":
        return _rewound(original, total_steps, steps, warmup_steps)

    start = first if lr is None else lr
    shortest = min(steps / total_steps, 1.0)  # d2
    if name in ("allr", "accallr"):
        start = first * min(max(impact or 0.0, shortest), 1.0)
    elif name == "allr-d1":
        start = first * min(impact or 0.0, 1.0)
    elif name == "allr-d2":
        start = first * shortest
    ramp = int(warmup * steps + 1e-9) if name in TUNED else steps // 10
    tail = steps - ramp

    def schedule(step: int) -> float:
        if step < ramp:
            return start * (1 - math.cos(math.pi * step / ramp)) / 2
        u = min(step - ramp, tail)
        if name == "constant":
            return start
        if name in ("slr", "stepped"):
            entry = min(u * total_steps // tail, total_steps - 1)
            return start * (rates[entry] / first if entry >= warmup_steps else 1.0)
        if name in ("clr", "cosine"):
            floor = least if name == "clr" else 0.0
            return floor + (start - floor) * (1 + math.cos(math.pi * u / tail)) / 2
        return start * (1 - u / tail)

    return schedule


def _rewound(original: Schedule, total_steps: int, steps: int, warmup_steps: int) -> Schedule:
    extra = steps - total_steps

    def schedule(step: int) -> float:
        if extra <= 0 or step >= warmup_steps + extra:
            return original(step - extra)
        return original(min(step, warmup_steps))

    return schedule


def _check(
    name: str,
    total_steps: int,
    steps: int,
    impact: float | None,
    warmup_steps: int,
    lr: float | None,
    warmup: float,
) -> None:
    if name not in RETRAIN_SCHEDULES:
        hint = suggest(name, RETRAIN_SCHEDULES)
        raise PlanError(f"retraining schedule '{name}' is unknown{hint}; allowed: {', '.join(RETRAIN_SCHEDULES)}")
    if steps < 1 or total_steps < 1:
        raise PlanError(
            f"a retraining schedule needs at least 1 step of each training, not {steps} after {total_steps}"
        )
    if not 0 <= warmup_steps < total_steps:
        raise PlanError(
            f"warmup_steps must lie in [0, {total_steps}), the original training's steps, not {warmup_steps}"
        )
    if name in IMPACT and (impact is None or not math.isfinite(impact) or impact < 0):
        raise PlanError(
            f"retraining schedule '{name}' needs the impact d1 of the pruning, a number from 0 to 1, not {impact}"
        )
    if name in TUNED:
        if lr is None or not (math.isfinite(lr) and lr > 0):
            raise PlanError(f"retraining schedule '{name}' needs an initial rate above 0, not {lr}")
        if not 0 <= warmup < 1:
            raise PlanError(f"the warm-up of a retraining schedule is a share of its steps in [0, 1), not {warmup}")
    elif lr is not None or warmup:
        raise PlanError(f"an initial rate and a warm-up are not used by '{name}', only by {', '.join(TUNED)}")


def norm_impact(before: float, after: float, removed: float) -> float:
    """Returns d1 of Zimmer et al. (2023), equation 1: ||W - W^p|| / (||W|| sqrt(s)), at most 1, and 0 where s is 0.

    `before` and `after` are the 2-norms of the weights around one pruning, `removed` (s) is the share of the weights
    left before it that it removed, not the goal. As pruned entries are the only ones that change, the numerator is
    sqrt(| ||W||^2 - ||W^p||^2 |).
    """
    if removed <= 0 or before <= 0:
        return 0.0
    return min(math.sqrt(abs(before**2 - after**2)) / (before * math.sqrt(removed)), 1.0)


def accuracy_impact(dense: float, sparse: float) -> float:
    """Returns d1 of Zimmer et al. (2023), equation 3: the relative loss of training accuracy, clipped to [0, 1]."""
    if dense <= 0:
        return 0.0
    return min(max((dense - sparse) / dense, 0.0), 1.0)


def pruning_events(number: int, total_steps: int) -> list[int]:
    """Returns the steps before which gradual pruning prunes: event k of n before step floor(k T / (n + 1)), k = 1 .. n.

    The last event leaves as many steps as lie between two, as in Zimmer et al.'s code, where an interval of I epochs in
    E gives floor(E / I) - 1 events.
    """
    if not 1 <= number < total_steps:
        raise PlanError(f"{number} pruning events do not fit {total_steps} steps; allowed: 1 to {total_steps - 1}")
    return [k * total_steps // (number + 1) for k in range(1, number + 1)]


def cubic_ramp(event: int, number: int, goal: float) -> float:
    """Returns the sparsity after `event` of `number` events, s_f (1 - (1 - k/n)^3): Zhu & Gupta (2017), equation 1, s_i = 0."""
    return goal * (1 - (1 - event / number) ** 3)
