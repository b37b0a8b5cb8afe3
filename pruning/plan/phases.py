"""What a phase is told: frozen pydantic models that admit no unknown key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pruning.plan.lengths import Epoch, Length, known_epochs
from pruning.plan.names import (
    FilterNorm,
    FilterRates,
    NonNegative,
    Option,
    Positive,
    Precision,
    ScoringMode,
    Sparsity,
    SplitRule,
    Structure,
    named,
)
from pruning.plan.rules import Settings, check_method, check_options
from pruning.registry import table


class Adopted(Settings):
    """Weights that were trained elsewhere: the SHA-256 of their file, and how they were taken.

    `key` names the state dict in the file; `partial`: what did not fit stayed at its initialization; `zeros`: entries that are 0
    are pruned; `schedule`: the training's settings of epochs and learning rates are those that the weights were trained with.
    """

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    key: str | None = None
    partial: bool = False
    zeros: bool = False
    schedule: bool = False


class Train(Settings):
    """Trains a network from its initialization.

    `milestones` and `warmup_epochs` are in epochs; milestone 91 means that the first step after 91 whole epochs is the
    first with the lower rate. `epochs` is a :mod:`length <pruning.plan.lengths>`. `keep_epochs` lists the epochs after
    which the state is kept for rewinding; 0 is the initialization, 1.5 half-way through the second.
    A `method` prunes during training, with `method_options` of its own: to `sparsity` of all prunable weights where it
    takes one, a goal. Weights that fit `exclude` stay dense and do not count; `include`
    names parameters that no known layer owns.
    """

    phase: Literal["train"] = "train"
    model: str
    model_options: dict[str, Option] = Field(default={})
    model_code: str | None = None  # SHA-256 of the user's source file, so that an edited model is another run
    data: str
    data_options: dict[str, Option] = Field(default={})
    data_code: str | None = None
    task: Annotated[str, named("task")] | None = None  # what is learnt; None: as the data says
    split: SplitRule = "train-10"
    augment: Literal["default", "none", "crop-flip", "crop"] = "default"
    normalize: Literal["default", "channel", "image", "none"] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Length = 160
    batch_size: Annotated[int, Field(ge=1, le=2**24)] = 128
    optimizer: Annotated[str, named("optimizer")] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4
    decay_norm_and_bias: bool = True
    schedule: Annotated[str, named("schedule")] = "stepped"
    milestones: tuple[NonNegative, ...] = ()
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    warmup_epochs: NonNegative = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    clip_norm: Positive | None = None
    precision: Precision = "float32"
    weight_init: Literal["default", "he-normal-fan-in", "he-normal-fan-out"] = "default"
    norm_init: Literal["default", "one", "uniform"] = "default"
    keep_epochs: tuple[Epoch, ...] = (0,)
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    method: Annotated[str, named("method")] = "none"
    method_options: dict[str, Option] = Field(default={})
    sparsity: Sparsity | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_reparametrized: bool = False
    adopted: Adopted | None = None  # weights from elsewhere, in place of a training
    code: dict[str, str] = Field(
        default={}
    )  # SHA-256 of the source files of what settings name as code of the user's own

    @field_validator("keep_epochs", "keep_steps")
    @classmethod
    def _sorted(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        last = known_epochs(self.epochs)  # where it is in steps, the data says more
        late = [e for e in self.keep_epochs if last is not None and e > last]
        if late and last is not None:
            raise ValueError(f"keep_epochs {late[0]:g} lies beyond the last epoch, {last:g}")
        check_options(self, "schedule", ("milestones", "gamma"))
        beyond = [m for m in self.milestones if last is not None and m >= last]
        if beyond and last is not None:
            raise ValueError(f"milestone {beyond[0]:g} lies beyond the last epoch, {last:g}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must rise, not {list(self.milestones)}")
        if last is not None and self.warmup_epochs >= last:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be less than epochs, {last:g}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        check_options(self, "optimizer", ("nesterov",))
        check_method(self, "a prune phase prunes")
        schedule, method = table("schedule").known(self.schedule), table("method").known(self.method)
        if schedule is not None and schedule.restarts and method is not None and not method.restarts:
            users = " or ".join(f"'{name}'" for name, entry in table("method").items() if entry.restarts)
            raise ValueError(
                f"schedule '{self.schedule}' restarts at the pruning events of method {users}, not of '{self.method}'"
            )
        return self


class Prune(Settings):
    """Removes weights until `sparsity` of all prunable weights are gone: an absolute goal, not a share of what is left.

    Prunable are the weights of all convolutions, linear and recurrent layers, first and last included; biases, normalization
    and embeddings are not. `exclude` holds name patterns of parameters that stay dense; they do not count in the sparsity.
    `include` adds parameters of two or more dimensions by name, embeddings or stacked experts (`PATTERN@AXIS`: their output
    units lie along that axis).
    `rounds` (re-scored each round), `scoring_mode` and `samples_per_class` None mean the criterion's own: one round but
    100 for synflow, eval mode, 10 examples of each class; a criterion that does not use one refuses it.
    `min_per_layer` weights stay in every layer; `layer_rates` {name or pattern: density} belongs to allocation "rates".
    `at_epoch` or `at_step` prunes the state that the training kept at that point (0 is the initialization) in place of its
    last. `recalibrate` "one-pass" sends the training images through the pruned network once, to renew the running
    statistics of its normalization (Zimmer et al. 2023, their code); "none" leaves them (Renda et al. 2020).

    With `structure` "filters" whole filters and neurons go, and `sparsity` is the share of those that can be removed
    without changing anything but the layers that read them; the allocation is "uniform" unless given. `filter_norm`
    (None: l1) scores a filter by its weights; `filter_rates`, with `filter_level` (None: 1), are Li et al.'s shares per
    layer in place of a sparsity and an allocation.
    """

    phase: Literal["prune"] = "prune"
    sparsity: Sparsity = 0.0  # always given, but with filter_rates
    criterion: Annotated[str, named("criterion")] = "magnitude"
    allocation: Annotated[str, named("allocation")] = "global"
    structure: Structure = "weights"
    filter_norm: FilterNorm | None = None
    filter_rates: FilterRates | None = None
    filter_level: Annotated[int, Field(ge=1)] | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_reparametrized: bool = False
    rounds: Annotated[int, Field(ge=1)] | None = None
    scoring_mode: ScoringMode | None = None
    samples_per_class: Annotated[int, Field(ge=1)] | None = None
    ablation: Annotated[str, named("ablation")] | None = None
    min_per_layer: Annotated[int, Field(ge=0)] = 0
    layer_rates: dict[str, Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]] = Field(default={})
    at_epoch: Epoch | None = None
    at_step: Annotated[int, Field(ge=0)] | None = None
    recalibrate: Literal["none", "one-pass"] = "none"
    code: dict[str, str] = Field(
        default={}
    )  # SHA-256 of the source files of what settings name as code of the user's own

    @model_validator(mode="before")
    @classmethod
    def _filters_uniform(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("structure") == "filters":
            return {"allocation": "uniform", **values}
        return values

    @model_validator(mode="after")
    def _whole(self) -> Prune:
        if self.filter_rates is None and "sparsity" not in self.model_fields_set:
            raise ValueError("'sparsity' is missing")
        if self.structure != "filters":
            for name in ("filter_norm", "filter_rates", "filter_level"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is not used by structure '{self.structure}', only by filters")
            return self
        if self.filter_rates is not None and (self.sparsity or self.allocation != "uniform"):
            given = f"sparsity {self.sparsity:g}" if self.sparsity else f"allocation '{self.allocation}'"
            raise ValueError(
                f"filter_rates '{self.filter_rates}' state how much goes from every layer; leave out {given}"
            )
        if self.filter_level is not None and self.filter_rates is None:
            raise ValueError("filter_level is not used without filter_rates")
        if self.include:
            raise ValueError(
                f"include {list(self.include)} does not apply to filters, which are of convolutions and linear layers"
            )
        if self.min_per_layer:
            raise ValueError(f"min_per_layer '{self.min_per_layer}' does not apply to filters; allowed: 0")
        for name in ("criterion", "allocation", "ablation"):
            own, allowed = getattr(self, name), [key for key, entry in table(name).items() if entry.filters]
            if own is not None and own not in allowed:
                raise ValueError(f"{name} '{own}' does not apply to filters; allowed: {', '.join(allowed)}")
        if self.criterion == "random" and self.filter_norm is not None:
            raise ValueError("filter_norm is not used by criterion 'random'")
        return self

    @model_validator(mode="after")
    def _used(self) -> Prune:
        if self.at_epoch is not None and self.at_step is not None:
            raise ValueError("give at_epoch or at_step, not both")
        allocation, criteria = table("allocation").known(self.allocation), table("criterion")
        if allocation is not None and bool(self.layer_rates) != allocation.rates:
            raise ValueError(f"allocation 'rates' and layer_rates go together; the allocation is '{self.allocation}'")
        criterion = criteria.known(self.criterion)
        for name in sorted({name for entry in criteria.values() for name in entry.options}):
            if criterion is not None and getattr(self, name) is not None and name not in criterion.options:
                users = ", ".join(other for other, entry in criteria.items() if name in entry.options)
                raise ValueError(f"{name} is not used by criterion '{self.criterion}', only by {users}")
        return self


class Retrain(Settings):
    """Trains a pruned network further, its masks held fixed; or a dense one, with a method that prunes during training.

    `method`, `method_options`, `sparsity`, `exclude` and `include` are those of a training: Zimmer et al. (2023)
    try GSM and LC from a trained network too. Optimizer, momentum and weight decay are the original training's.
    `epochs` None means the length of the original training. `technique` chooses the weights to start from and the
    learning-rate schedule; `schedule` replaces the latter. `schedule_lr` and `schedule_warmup` (a share of the steps) belong
    to the tuned schedules. `optimizer_state` "keep" takes over the momenta that belong to the weights to start from (Renda
    et al. 2020), "reset" starts from none. `rewind_step` k, of technique weight-rewind, is lottery-ticket rewinding: the
    weights of step k, trained from step k of the original schedule to its end (Frankle et al. 2021).
    """

    phase: Literal["retrain"] = "retrain"
    technique: Annotated[str, named("technique")] = "lr-rewind"
    schedule: Annotated[str, named("retraining schedule")] | None = None
    schedule_lr: Positive | None = None
    schedule_warmup: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    epochs: Length | None = None
    rewind_step: Annotated[int, Field(ge=0)] | None = None
    optimizer_state: Literal["keep", "reset"] = "keep"
    method: Annotated[str, named("method")] = "none"
    method_options: dict[str, Option] = Field(default={})
    sparsity: Sparsity | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    allow_reparametrized: bool = False
    code: dict[str, str] = Field(
        default={}
    )  # SHA-256 of the source files of what settings name as code of the user's own

    @model_validator(mode="after")
    def _methodical(self) -> Retrain:
        check_method(self, "the masks of the pruned run hold")
        if self.method != "none" and self.rewind_step is not None:
            raise ValueError("rewind_step is not used with a method: it counts from the first step of its phase")
        return self

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
        schedules = table("retraining schedule")
        own = None if self.schedule is None else schedules.known(self.schedule)
        if own is not None and own.tuned:
            if self.schedule_lr is None:
                raise ValueError(f"schedule '{self.schedule}' needs schedule_lr, its initial rate")
        elif (self.schedule is None or own is not None) and (self.schedule_lr, self.schedule_warmup) != (None, None):
            name = "schedule_lr" if self.schedule_lr is not None else "schedule_warmup"
            tuned = ", ".join(other for other, entry in schedules.items() if entry.tuned)
            given = f"schedule '{self.schedule}'" if self.schedule else f"technique '{self.technique}'"
            raise ValueError(f"{name} is not used by {given}, only by the schedules {tuned}")
        return self


Phase = Train | Prune | Retrain


PHASES: dict[str, type[Train] | type[Prune] | type[Retrain]] = {"train": Train, "prune": Prune, "retrain": Retrain}
