"""During-training methods by name."""

from __future__ import annotations

from pruning.plan import GOAL_METHODS, PlanError, Train, make
from pruning.training.methods.base import Method, Options, Task
from pruning.training.methods.continuous import CS
from pruning.training.methods.dnw import DNW
from pruning.training.methods.dpf import DPF
from pruning.training.methods.dst import DST
from pruning.training.methods.gmp import GMP
from pruning.training.methods.gsm import GSM
from pruning.training.methods.lc import LC
from pruning.training.methods.lc_original import LCOriginal
from pruning.training.methods.soft_threshold import STR
from pruning.training.schedules import pruning_events

METHODS: dict[str, type[Method]] = {
    "none": Method,
    "gmp": GMP,
    "dpf": DPF,
    "gsm": GSM,
    "lc": LC,
    "lc-original": LCOriginal,
    "dnw": DNW,
    "str": STR,
    "cs": CS,
    "dst": DST,
}
SUMMARIES = {
    "none": "plain dense training",
    "gmp": "gradual magnitude pruning: a cubic ramp of events, hard or soft (Zhu & Gupta 2017)",
    "dpf": "dynamic pruning with feedback: gradients of the sparse network move dense weights (Lin et al. 2020)",
    "gsm": "global sparse momentum: only the most salient entries get a gradient (Ding et al. 2019)",
    "lc": "learning-compression as Zimmer et al. (2023) ran it: decay for the smallest weights only",
    "lc-original": "learning-compression as an augmented Lagrangian (Carreira-Perpinan & Idelbayev 2018)",
    "dnw": "discovering neural wirings: the largest weights of every step, straight-through (Wortsman et al. 2019)",
    "str": "soft thresholds learned per tensor; sparsity follows from s_init (Kusupati et al. 2020)",
    "cs": "continuous sparsification: gates per weight; sparsity follows from s_0 and l1 (Savarese et al. 2020)",
    "dst": "dynamic sparse training: thresholds per output unit; sparsity follows from alpha (Liu et al. 2020)",
}

__all__ = ["GOAL_METHODS", "METHODS", "SUMMARIES", "Method", "for_training", "restarts"]


def for_training(train: Train, steps_per_epoch: int) -> Method:
    """Returns the method of the training's settings; raises PlanError where it cannot be used with them."""
    kind = METHODS[train.method]
    if kind is Method:
        return Method()
    if train.optimizer not in kind.optimizers:
        raise PlanError(
            f"method '{train.method}' is not defined for optimizer '{train.optimizer}'; allowed: {', '.join(kind.optimizers)}"
        )
    task = Task(
        total_steps=train.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        weight_decay=train.weight_decay,
        sparsity=train.sparsity,
        exclude=train.exclude,
    )
    own = options(train)
    try:
        return kind(task, own)  # type: ignore[call-arg, arg-type]
    except PlanError as error:
        raise PlanError(f"method '{train.method}': {error}") from None


def options(train: Train) -> Options:
    """Returns the method's options, defaults filled in; raises PlanError for one that it does not have."""
    try:
        return make(METHODS[train.method].OPTIONS, train.method_options)
    except PlanError as error:
        raise PlanError(f"method '{train.method}': {error}") from None


def restarts(train: Train, steps_per_epoch: int) -> list[int]:
    """Returns the steps at which the training's learning rate restarts: gmp's events under schedule "cyclic", else none."""
    if train.schedule != "cyclic":
        return []
    return pruning_events(options(train).events, train.epochs * steps_per_epoch)  # type: ignore[attr-defined]
