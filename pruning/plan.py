"""Plans as data: what a phase is told, how a plan is read from TOML, overridden, checked and named.

A plan is a list of phases; a phase is :class:`Train`, :class:`Prune` or :class:`Retrain`. All are frozen pydantic models
that admit no unknown key. Nothing here imports torch, so the command line can check a plan before the engine is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

SCHEMA = 1  # of a phase's settings and of everything in a run folder; a reader refuses what is newer

ModelName = Literal[
    "lenet-300-100", "lenet-5", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18", "resnet34",
    "vgg11", "vgg13", "vgg16", "vgg19", "wrn-16-8", "wrn-22-8", "wrn-28-10", "wrn-14-8", "wrn-20-8", "wrn-32-2",
]  # fmt: skip
DataName = Literal["digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "folder"]
Convention = Literal["true", "shrinkbench"]
Criterion = Literal["magnitude", "random", "snip", "grasp", "grasp-inverted", "grasp-magnitude", "synflow"]
Ablation = Literal["shuffle", "shuffle-across", "random-counts", "reinit", "invert", "normal-init"]
Allocation = Literal["global", "uniform", "uniform+", "erk", "lamp", "rates"]
Structure = Literal["weights"]
Technique = Literal["fine-tune", "weight-rewind", "lr-rewind", "low-lr-rewind", "reinit"]
RetrainSchedule = Literal[
    "ft", "lrw", "slr", "clr", "llr", "allr", "allr-d1", "allr-d2", "accallr", "constant", "stepped", "cosine", "linear",
    "original",
]  # fmt: skip
ScoringMode = Literal["eval", "train"]
MethodName = Literal["none", "gmp", "dpf", "gsm", "lc", "lc-original", "dnw", "str", "cs", "dst"]
LrSchedule = Literal["constant", "stepped", "linear", "cosine", "cyclic"]
Optimizer = Literal["sgd", "adam", "adamw"]
SplitRule = Literal["train-10", "test-20", "none"]
Precision = Literal["float32", "bfloat16"]
Option = bool | int | float | str

_SAMPLED = ("rounds", "scoring_mode", "samples_per_class")
CRITERION_OPTIONS: dict[str, tuple[str, ...]] = {  # the settings of Prune that a criterion uses; others are refused
    "magnitude": (),
    "random": (),
    "snip": _SAMPLED,
    "grasp": _SAMPLED,
    "grasp-inverted": _SAMPLED,
    "grasp-magnitude": _SAMPLED,
    "synflow": ("rounds",),
}
GOAL_METHODS = ("gmp", "dpf", "gsm", "lc", "lc-original", "dnw")  # the others' sparsity is an outcome of their settings

TUNED_SCHEDULES = ("constant", "stepped", "cosine", "linear")  # of retraining, with a rate and a warm-up of their own

Sparsity = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class PlanError(ValueError):
    """A plan, a setting or a name that cannot be used; the message names it and says what is allowed."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Train(_Settings):
    """Trains a network from its initialization.

    `milestones` and `warmup_epochs` are in epochs; milestone 91 means that the first step after 91 whole epochs is the
    first with the lower rate. `keep_epochs` lists the epochs whose state is kept for rewinding; 0 is the initialization.
    A `method` prunes during training, with `method_options` of its own: to `sparsity` of all prunable weights where it
    is one of GOAL_METHODS. Weights that fit `exclude` stay dense and do not count.
    """

    phase: Literal["train"] = "train"
    model: str
    model_options: dict[str, Option] = {}
    model_code: str | None = None  # SHA-256 of the user's source file, so that an edited model is another run
    data: str
    data_options: dict[str, Option] = {}
    data_code: str | None = None
    split: SplitRule = "train-10"
    augment: Literal["default", "none", "crop-flip", "crop"] = "default"
    normalize: Literal["default", "channel", "image", "none"] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Annotated[int, Field(ge=1)] = 160
    batch_size: Annotated[int, Field(ge=1)] = 128
    optimizer: Optimizer = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4
    decay_norm_and_bias: bool = True
    schedule: LrSchedule = "stepped"
    milestones: tuple[NonNegative, ...] = ()
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    warmup_epochs: NonNegative = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Positive | None = None
    precision: Precision = "float32"
    weight_init: Literal["default", "he-normal-fan-in", "he-normal-fan-out"] = "default"
    norm_init: Literal["default", "one", "uniform"] = "default"
    keep_epochs: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    method: MethodName = "none"
    method_options: dict[str, Option] = {}
    sparsity: Sparsity | None = None
    exclude: tuple[str, ...] = ()

    @field_validator("keep_epochs", "keep_steps")
    @classmethod
    def _sorted(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        late = [e for e in self.keep_epochs if e > self.epochs]
        if late:
            raise ValueError(f"keep_epochs {late[0]} lies beyond the last epoch, {self.epochs}")
        if self.schedule != "stepped" and self.milestones:
            raise ValueError(f"milestones are used by schedule 'stepped' only, not by '{self.schedule}'")
        beyond = [m for m in self.milestones if m >= self.epochs]
        if beyond:
            raise ValueError(f"milestone {beyond[0]:g} lies beyond the last epoch, {self.epochs}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must rise, not {list(self.milestones)}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be less than epochs, {self.epochs}")
        if self.nesterov and (self.momentum == 0 or self.optimizer != "sgd"):
            raise ValueError("nesterov needs optimizer 'sgd' and a momentum above 0")
        if self.method == "none" and (self.method_options or self.exclude):
            unused = (
                f"method_options {sorted(self.method_options)}" if self.method_options else f"exclude {self.exclude}"
            )
            raise ValueError(f"{unused} are not used without a method")
        if self.method in GOAL_METHODS and self.sparsity is None:
            raise ValueError(f"method '{self.method}' needs a sparsity, its goal")
        if self.method not in GOAL_METHODS and self.sparsity is not None:
            why = (
                "a prune phase prunes"
                if self.method == "none"
                else "its sparsity follows from its options; search for one"
            )
            raise ValueError(
                f"sparsity is not used by method '{self.method}': {why}; methods with a goal: {', '.join(GOAL_METHODS)}"
            )
        if self.schedule == "cyclic" and self.method != "gmp":
            raise ValueError(
                f"schedule 'cyclic' restarts at the pruning events of method 'gmp', not of '{self.method}'"
            )
        return self


class Prune(_Settings):
    """Removes weights until `sparsity` of all prunable weights are gone: an absolute goal, not a share of what is left.

    Prunable are the weights of all convolutions and linear layers, first and last included; biases, normalization and
    embeddings are not. `exclude` holds name patterns of parameters that stay dense; they do not count in the sparsity.
    `rounds` (re-scored each round), `scoring_mode` and `samples_per_class` None mean the criterion's own: one round but
    100 for synflow, eval mode, 10 examples of each class; a criterion that does not use one refuses it.
    `min_per_layer` weights stay in every layer; `layer_rates` {name or pattern: density} belongs to allocation "rates".
    `at_epoch` or `at_step` prunes the state that the training kept at that point (0 is the initialization) in place of its
    last. `recalibrate` "one-pass" sends the training images through the pruned network once, to renew the running
    statistics of its normalization (Zimmer et al. 2023, their code); "none" leaves them (Renda et al. 2020).
    """

    phase: Literal["prune"] = "prune"
    sparsity: Sparsity
    criterion: Criterion = "magnitude"
    allocation: Allocation = "global"
    structure: Structure = "weights"
    exclude: tuple[str, ...] = ()
    rounds: Annotated[int, Field(ge=1)] | None = None
    scoring_mode: ScoringMode | None = None
    samples_per_class: Annotated[int, Field(ge=1)] | None = None
    ablation: Ablation | None = None
    min_per_layer: Annotated[int, Field(ge=0)] = 0
    layer_rates: dict[str, Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]] = {}
    at_epoch: Annotated[int, Field(ge=0)] | None = None
    at_step: Annotated[int, Field(ge=0)] | None = None
    recalibrate: Literal["none", "one-pass"] = "none"

    @model_validator(mode="after")
    def _used(self) -> Prune:
        if self.at_epoch is not None and self.at_step is not None:
            raise ValueError("give at_epoch or at_step, not both")
        if bool(self.layer_rates) != (self.allocation == "rates"):
            raise ValueError(f"allocation 'rates' and layer_rates go together; the allocation is '{self.allocation}'")
        for name in sorted({name for used in CRITERION_OPTIONS.values() for name in used}):
            if getattr(self, name) is not None and name not in CRITERION_OPTIONS[self.criterion]:
                users = ", ".join(c for c, used in CRITERION_OPTIONS.items() if name in used)
                raise ValueError(f"{name} is not used by criterion '{self.criterion}', only by {users}")
        return self


class Retrain(_Settings):
    """Trains a pruned network further, its masks held fixed.

    `epochs` None means the length of the original training. `technique` chooses the weights to start from and the
    learning-rate schedule; `schedule` replaces the latter. `schedule_lr` and `schedule_warmup` (a share of the steps) belong
    to the schedules in TUNED_SCHEDULES. `optimizer_state` "keep" takes over the momenta that belong to the weights to start
    from (Renda et al. 2020), "reset" starts from none. `rewind_step` k, of technique weight-rewind, is lottery-ticket rewinding:
    the weights of step k, trained from step k of the original schedule to its end (Frankle et al. 2021).
    """

    phase: Literal["retrain"] = "retrain"
    technique: Technique = "lr-rewind"
    schedule: RetrainSchedule | None = None
    schedule_lr: Positive | None = None
    schedule_warmup: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    rewind_step: Annotated[int, Field(ge=0)] | None = None
    optimizer_state: Literal["keep", "reset"] = "keep"

    @model_validator(mode="after")
    def _rewound(self) -> Retrain:
        if self.rewind_step is None:
            return self
        if self.technique != "weight-rewind":
            raise ValueError(f"rewind_step is not used by technique '{self.technique}', only by weight-rewind")
        if self.epochs is not None or self.schedule is not None:
            raise ValueError(
                "with rewind_step the original schedule runs from that step to its end: leave out epochs and schedule"
            )
        return self

    @model_validator(mode="after")
    def _tuned(self) -> Retrain:
        if self.schedule in TUNED_SCHEDULES:
            if self.schedule_lr is None:
                raise ValueError(f"schedule '{self.schedule}' needs schedule_lr, its initial rate")
        elif self.schedule_lr is not None or self.schedule_warmup is not None:
            name = "schedule_lr" if self.schedule_lr is not None else "schedule_warmup"
            given = f"schedule '{self.schedule}'" if self.schedule else f"technique '{self.technique}'"
            raise ValueError(f"{name} is not used by {given}, only by the schedules {', '.join(TUNED_SCHEDULES)}")
        return self


Phase = Annotated[Train | Prune | Retrain, Field(discriminator="phase")]


class Iterate(_Settings):
    """Cycles of pruning and retraining up to `sparsity`: expanded into its phases when a plan is read.

    With `cycles` J the density after cycle j is d^(j/J); with `rate` p it is (1-p)^j, the last cycle ending on the goal.
    `budget` epochs are shared out over the retrainings, floor(budget / J) each and the rest to the last; `fresh_optimizer`
    resets the momenta before the first retraining alone (both as in Zimmer et al. 2023, their code).
    """

    phase: Literal["iterate"] = "iterate"
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)]
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    cycles: Annotated[int, Field(ge=1)] | None = None
    budget: Annotated[int, Field(ge=1)] | None = None
    fresh_optimizer: bool = False
    prune: dict[str, Any] = {}
    retrain: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_ladder(self) -> Iterate:
        if self.rate is not None and self.cycles is not None:
            raise ValueError("give rate or cycles, not both")
        if "sparsity" in self.prune:
            raise ValueError("the sparsity of each cycle follows from the goal; leave it out of prune")
        if self.budget is not None and "epochs" in self.retrain:
            raise ValueError("give budget or the epochs of each retraining, not both")
        if self.fresh_optimizer and "optimizer_state" in self.retrain:
            raise ValueError("give fresh_optimizer or the optimizer_state of each retraining, not both")
        return self

    def densities(self, start: float = 1.0) -> list[float]:
        """Returns the density after each cycle, from a network whose density is `start`; the last is the goal exactly."""
        goal = 1.0 - self.sparsity
        if goal >= start:
            raise PlanError(f"sparsity {self.sparsity:g} is not above the present sparsity, {1 - start:g}")
        if self.cycles is not None:
            cycles = self.cycles
            ladder = [start * (goal / start) ** (j / cycles) for j in range(1, cycles)]
        else:
            rate = 0.2 if self.rate is None else self.rate
            cycles = max(1, math.ceil(math.log(goal / start) / math.log(1.0 - rate) - 1e-9))
            ladder = [start * (1.0 - rate) ** j for j in range(1, cycles)]
        return [*ladder, goal]

    def phases(self, start: float = 1.0) -> list[Prune | Retrain]:
        """Returns prune, retrain, prune, retrain ... up to the goal."""
        out: list[Prune | Retrain] = []
        densities = self.densities(start)
        cycles = len(densities)
        if self.budget is not None and self.budget < cycles:
            raise PlanError(f"a budget of {self.budget} epochs does not go round {cycles} cycles")
        for j, density in enumerate(densities, start=1):
            retrain = _without_phase(self.retrain)
            if self.budget is not None:
                retrain["epochs"] = self.budget // cycles + (self.budget % cycles if j == cycles else 0)
            if self.fresh_optimizer and j == 1:
                retrain["optimizer_state"] = "reset"
            out.append(make(Prune, {**_without_phase(self.prune), "sparsity": round(1.0 - density, 12)}))
            out.append(make(Retrain, retrain))
        return out


def _without_phase(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "phase"}


class Plan(_Settings):
    """A named list of phases, the first of which trains, with where it comes from and what it should reach."""

    name: str
    summary: str = ""
    citation: str = ""
    phases: tuple[Phase, ...]
    expected: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ordered(self) -> Plan:
        if not self.phases or self.phases[0].phase != "train":
            raise ValueError("a plan starts with a train phase")
        if any(phase.phase == "train" for phase in self.phases[1:]):
            raise ValueError("a plan has one train phase, its first")
        sparsity = 0.0
        for phase in self.phases:
            if isinstance(phase, Prune):
                if phase.sparsity < sparsity - 1e-12:
                    raise ValueError(f"prune phases must not become less sparse: {phase.sparsity:g} after {sparsity:g}")
                sparsity = phase.sparsity
            elif isinstance(phase, Retrain) and sparsity == 0.0 and self.train.method == "none":
                raise ValueError("a retrain phase needs a prune phase before it")
        return self

    @property
    def train(self) -> Train:
        """Returns the train phase."""
        assert isinstance(self.phases[0], Train)
        return self.phases[0]


PHASES: dict[str, type[Train] | type[Prune] | type[Retrain]] = {"train": Train, "prune": Prune, "retrain": Retrain}


# --- names and digests --------------------------------------------------------------------------------------------------


def canonical(phase: Train | Prune | Retrain) -> str:
    """Returns the non-default settings as JSON with sorted keys and no spaces: equal text means equal settings."""
    settings = phase.model_dump(mode="json", exclude_defaults=True)
    settings["phase"] = phase.phase
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def digest(phase: Train | Prune | Retrain, parent: str = "") -> str:
    """Returns the run's SHA-256 (64 hex digits) over its parent's digest, the schema number and its settings.

    A setting that keeps its default does not enter, so that a new setting with a default renames nothing.
    """
    text = "\n".join([parent, str(SCHEMA), canonical(phase)])
    return hashlib.sha256(text.encode()).hexdigest()


# --- reading, overriding, checking ----------------------------------------------------------------------------------------


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the nearest allowed name, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def choices(literal: Any) -> tuple[str, ...]:
    """Returns the values of a Literal, also where it is one side of a union with None."""
    if isinstance(literal, types.UnionType) or typing.get_origin(literal) is typing.Union:
        return tuple(v for arg in typing.get_args(literal) for v in choices(arg))
    return tuple(v for v in typing.get_args(literal) if isinstance(v, str))


def explain(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """Returns pydantic's complaint as one line in the house's words, with the nearest valid name where one is near."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if part not in PHASES)
        given = item.get("input")
        if item["type"] == "extra_forbidden":
            known = sorted(kind.model_fields) if kind else []
            hint = suggest(where.rsplit(".", 1)[-1], known)
            lines.append(
                f"unknown setting '{where}'{hint}; known: {', '.join(known)}" if known else f"unknown setting '{where}'"
            )
        elif item["type"] == "missing":
            lines.append(f"'{where}' is missing")
        elif item["type"] == "literal_error":
            field = kind.model_fields.get(str(item["loc"][-1])) if kind else None
            allowed = choices(field.annotation) if field else ()
            hint = suggest(str(given), allowed)
            expected = ", ".join(allowed) if allowed else item["ctx"]["expected"]
            lines.append(f"{where} '{given}' is unknown{hint}; allowed: {expected}")
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]) if "ctx" in item else item["msg"])
        else:
            lines.append(f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}, not {given!r}")
    return "; ".join(dict.fromkeys(lines))


def make(kind: type[Any], settings: Mapping[str, Any]) -> Any:
    """Returns `kind(**settings)`; raises PlanError with a readable message where they do not fit."""
    try:
        return kind(**settings)
    except ValidationError as error:
        raise PlanError(explain(error, kind)) from None


def parse_value(text: str) -> Any:
    """Returns the TOML value that `text` spells, or `text` itself where it spells none: `0.1`, `true`, `[1, 2]`, `crop`."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        if text in ("none", "null", "None"):
            return None
        return text


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns {key: value} of `key=value` texts; raises PlanError for one without '=' or given twice."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        key = key.strip()
        if not sep or not key:
            raise PlanError(f"--set takes key=value, not '{pair}'")
        if key in out:
            raise PlanError(f"--set gives '{key}' twice")
        out[key] = parse_value(value.strip())
    return out


def override(phase: Any, changes: Mapping[str, Any]) -> Any:
    """Returns the phase with the changed settings, checked anew; `model_options.width` reaches into a table."""
    kind = type(phase)
    settings = phase.model_dump(exclude_unset=True)
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in kind.model_fields or head == "phase":
            raise PlanError(f"unknown setting '{key}'{suggest(head, kind.model_fields)}; known: {_known(kind)}")
        if rest:
            if not isinstance(settings.get(head, {}), dict) or not head.endswith("_options"):
                raise PlanError(f"'{head}' is no table of options, so '{key}' cannot be set")
            settings[head] = {**settings.get(head, {}), rest: value}
        else:
            if value is None and head in settings:
                del settings[head]
            if value is not None:
                settings[head] = value
    return make(kind, settings)


def _known(kind: type[BaseModel]) -> str:
    return ", ".join(sorted(name for name in kind.model_fields if name != "phase"))


def with_epochs(phase: Train, epochs: int) -> Train:
    """Returns the training shortened or lengthened to `epochs`, its milestones, warm-up and kept epochs in proportion."""
    if epochs < 1:
        raise PlanError(f"epochs must be at least 1, not {epochs}")
    ratio = epochs / phase.epochs
    return override(
        phase,
        {
            "epochs": epochs,
            "milestones": [m * ratio for m in phase.milestones],
            "warmup_epochs": phase.warmup_epochs * ratio,
            "keep_epochs": sorted({round(e * ratio) for e in phase.keep_epochs}),
        },
    )


def adjust(phase: Any, changes: Mapping[str, Any]) -> Any:
    """Returns the phase with all changes at once; new `epochs` of a training scale its milestones along, unless given."""
    if isinstance(phase, Train) and type(changes.get("epochs")) is int and "milestones" not in changes:
        phase = with_epochs(phase, changes["epochs"])
    return override(phase, changes)


def override_plan(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Returns the plan with changes applied: `train.lr`, `prune.sparsity`, `retrain.epochs` reach every phase of that kind,
    `phases.3.epochs` the phase with that 0-based index; `train.epochs` scales the milestones along."""
    phases = list(plan.phases)
    wanted: dict[int, dict[str, Any]] = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head == "phases":
            index, _, rest = rest.partition(".")
            if not index.isdigit() or int(index) >= len(phases) or not rest:
                raise PlanError(
                    f"'{key}' names no phase of '{plan.name}': phases.0 to phases.{len(phases) - 1}, then a setting"
                )
            targets = [int(index)]
        elif head in PHASES and rest:
            targets = [i for i, phase in enumerate(phases) if phase.phase == head]
            if not targets:
                raise PlanError(f"'{key}': plan '{plan.name}' has no {head} phase")
        else:
            raise PlanError(
                f"unknown setting '{key}'{suggest(head, [*PHASES, 'phases'])}; "
                "write train.KEY, prune.KEY, retrain.KEY or phases.INDEX.KEY"
            )
        for i in targets:
            wanted.setdefault(i, {})[rest] = value
    for i, settings in wanted.items():
        phases[i] = adjust(phases[i], settings)
    return make(Plan, {**plan.model_dump(exclude_unset=True, exclude={"phases"}), "phases": phases})


def load_plan(name_or_path: str) -> Plan:
    """Returns the plan of a built-in recipe's name or of a TOML file; raises PlanError with the nearest name."""
    return make_plan(*read_plan(name_or_path))


def read_plan(name_or_path: str) -> tuple[dict[str, Any], str, str]:
    """Returns (table, name, source) of a recipe's name or of a TOML file: the plan as it is written, nothing expanded."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"plan '{name_or_path}' cannot be read: {error}") from None
        return read_toml(text, f"plan '{name_or_path}'"), path.stem, name_or_path
    if name_or_path not in recipe_names():
        raise PlanError(
            f"recipe '{name_or_path}' is unknown{suggest(name_or_path, recipe_names())}; "
            f"allowed: {', '.join(recipe_names())}, or a path that ends in .toml"
        )
    text = resources.files("pruning.recipes").joinpath(f"{name_or_path}.toml").read_text()
    source = f"recipe '{name_or_path}'"
    return read_toml(text, f"plan '{source}'"), name_or_path, source


def parse_plan(text: str, name: str, source: str) -> Plan:
    """Returns the plan that a TOML text states; `iterate` phases are expanded."""
    return make_plan(read_toml(text, f"plan '{source}'"), name, source)


def read_toml(text: str, what: str) -> dict[str, Any]:
    """Returns the table that a TOML text states; raises PlanError, which says `what` it is that cannot be read."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{what} is not valid TOML: {error}") from None


def make_plan(table: Mapping[str, Any], name: str, source: str) -> Plan:
    """Returns the plan of a table as it stands in TOML; `iterate` phases are expanded."""
    table = dict(table)
    entries = table.pop("phases", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PlanError(f"plan '{source}': phases must be a list of tables, [[phases]]")
    phases: list[Any] = []
    density = 1.0
    try:
        for i, entry in enumerate(entries):
            kind = entry.get("phase")
            allowed = [*PHASES, "iterate"]
            if kind not in allowed:
                raise PlanError(
                    f"phases.{i}: phase '{kind}' is unknown{suggest(str(kind), allowed)}; allowed: {', '.join(allowed)}"
                )
            if kind == "iterate":
                iterate = make(Iterate, entry)
                phases += iterate.phases(density)
                density = 1.0 - iterate.sparsity
                continue
            phase = make(PHASES[kind], entry)
            density = 1.0 - phase.sparsity if isinstance(phase, Prune) else density
            phases.append(phase)
        return make(Plan, {"name": name, **table, "phases": phases})
    except PlanError as error:
        raise PlanError(f"plan '{source}': {error}") from None
    except ValidationError as error:
        raise PlanError(f"plan '{source}': {explain(error)}") from None


def recipe_names() -> list[str]:
    """Returns the names of the built-in recipes, sorted."""
    return sorted(f.name[:-5] for f in resources.files("pruning.recipes").iterdir() if f.name.endswith(".toml"))
