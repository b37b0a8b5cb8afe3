"""During-training methods by name; each is a class of hooks (:mod:`pruning.training.methods.base`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruning.errors import PlanError
from pruning.plan import Train, make
from pruning.plan.lengths import in_steps
from pruning.registry import Function, Registry
from pruning.training.ramps import pruning_events

if TYPE_CHECKING:
    from pruning.training.methods.base import Method, Options


@dataclass(frozen=True)
class Drive:
    """How an option moves a sparsity that is an outcome: the first step away from its start, by adding or by a factor; its sign."""

    step: float
    factor: bool  # the step multiplies
    rises: bool  # a greater value gives a sparser network


@dataclass(frozen=True)
class MethodEntry(Function):
    """A method's class, and how its sparsity comes about.

    With a `goal` it is told the sparsity; otherwise that is an outcome, driven by the options in `drives`, the first of which a
    search moves unless told. `restarts` says that the learning rate may start anew at its pruning events.
    """

    goal: bool = False
    drives: Mapping[str, Drive] = field(default_factory=dict)
    restarts: bool = False


_HERE = "pruning.training.methods"
METHODS = Registry(
    "method",
    MethodEntry,
    {
        "none": MethodEntry(f"{_HERE}.base:Method", summary="plain dense training"),
        "gmp": MethodEntry(
            f"{_HERE}.gmp:GMP",
            summary="gradual magnitude pruning: a cubic ramp of events, hard or soft (Zhu & Gupta 2017)",
            goal=True,
            restarts=True,
        ),
        "dpf": MethodEntry(
            f"{_HERE}.dpf:DPF",
            summary="dynamic pruning with feedback: gradients of the sparse network move dense weights (Lin et al. 2020)",
            goal=True,
        ),
        "gsm": MethodEntry(
            f"{_HERE}.gsm:GSM",
            summary="global sparse momentum: only the most salient entries get a gradient (Ding et al. 2019)",
            goal=True,
        ),
        "lc": MethodEntry(
            f"{_HERE}.lc:LC",
            summary="learning-compression as Zimmer et al. (2023) ran it: decay for the smallest weights only",
            goal=True,
        ),
        "lc-original": MethodEntry(
            f"{_HERE}.lc_original:LCOriginal",
            summary="learning-compression as an augmented Lagrangian (Carreira-Perpinan & Idelbayev 2018)",
            goal=True,
        ),
        "dnw": MethodEntry(
            f"{_HERE}.dnw:DNW",
            summary="discovering neural wirings: the largest weights of every step, straight-through (Wortsman et al. 2019)",
            goal=True,
        ),
        "str": MethodEntry(
            f"{_HERE}.soft_threshold:STR",
            summary="soft thresholds learned per tensor; sparsity follows from s_init (Kusupati et al. 2020)",
            drives={
                "s_init": Drive(2.0, factor=False, rises=True),
                # pulls thresholds that start below 1/2 up to it
                "threshold_decay": Drive(2.0, factor=True, rises=True),
            },
        ),
        "cs": MethodEntry(
            f"{_HERE}.continuous:CS",
            summary="continuous sparsification: gates per weight; sparsity follows from s_0 and l1 (Savarese et al. 2020)",
            drives={"s_0": Drive(0.05, factor=False, rises=False), "l1": Drive(10.0, factor=True, rises=True)},
        ),
        "dst": MethodEntry(
            f"{_HERE}.dst:DST",
            summary="dynamic sparse training: thresholds per output unit; sparsity follows from alpha (Liu et al. 2020)",
            drives={"alpha": Drive(10.0, factor=True, rises=True)},
        ),
    },
)


def for_training(train: Train, steps_per_epoch: int) -> Method:
    """Returns the method of the training's settings; raises PlanError where it cannot be used with them."""
    from pruning.training.methods.base import Budget, Method

    entry = METHODS.find(train.method)
    kind = entry.load()
    if kind is Method:
        return Method()
    if train.optimizer not in kind.optimizers:
        raise PlanError(
            f"method '{train.method}' is not defined for optimizer '{train.optimizer}'; allowed: {', '.join(kind.optimizers)}"
        )
    if entry.goal and train.sparsity is None:
        raise PlanError(f"method '{train.method}' needs a sparsity, its goal")
    if not entry.goal and train.sparsity is not None:
        raise PlanError(f"sparsity is not used by method '{train.method}': its sparsity follows from its options")
    budget = Budget(
        total_steps=in_steps(train.epochs, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        weight_decay=train.weight_decay,
        sparsity=train.sparsity,
        exclude=train.exclude,
        include=train.include,
    )
    own = options(train)
    try:
        method: Method = kind(budget, own)
    except PlanError as error:
        raise PlanError(f"method '{train.method}': {error}") from None
    return method


def options(train: Train) -> Options:
    """Returns the method's options, defaults filled in; raises PlanError for one that it does not have."""
    kind: Any = METHODS.find(train.method).load()
    try:
        own: Options = make(kind.OPTIONS, train.method_options)
    except PlanError as error:
        raise PlanError(f"method '{train.method}': {error}") from None
    return own


def restarts(train: Train, steps_per_epoch: int) -> list[int]:
    """Returns the steps at which the training's learning rate restarts: gmp's events under schedule "cyclic", else none."""
    from pruning.training.schedules import SCHEDULES

    if not SCHEDULES.find(train.schedule).restarts:
        return []
    own: Any = options(train)
    return pruning_events(own.events, in_steps(train.epochs, steps_per_epoch))
