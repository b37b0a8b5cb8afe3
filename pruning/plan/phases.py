"""What a phase is told: frozen pydantic models that admit no unknown key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning.plan.lengths import Epoch, Length
from pruning.plan.names import (
    FilterNorm,
    FilterRates,
    Option,
    Positive,
    ScoringMode,
    Sparsity,
    Structure,
    named,
)
from pruning.plan.rules import Settings, check_method
from pruning.plan.training import Train
from pruning.registry import table


class Prune(Settings):
    """Removes weights until `sparsity` of all prunable weights are gone: an absolute goal, not a share of what is left.

    Prunable are the weights of all convolutions, linear and recurrent layers, first and last included; biases, normalization
    and embeddings are not. `exclude` holds name patterns of parameters that stay dense; they do not count in the sparsity.
    `include` adds parameters of two or more dimensions by name, embeddings or stacked experts (`PATTERN@AXIS`: their output
    units lie along that axis).
    `rounds` (re-scored each round), `scoring_mode` and `samples_per_class` None mean the criterion's own: one round but
    100 for synflow, eval mode, 10 examples of each class; a criterion that does not use one refuses it. `scoring_batch`
    examples go through the network at once, at most. In eval mode that changes rounding alone, and None is what fits. In train
    mode BatchNorm normalizes each micro-batch by its own statistics, so the scores depend on it, and None is the whole sample.
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
    scoring_batch: Annotated[int, Field(ge=1)] | None = None
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
    weights of step k, trained from step k of the original schedule to its end; with `schedule` "original" over the whole
    schedule, from its first step (Frankle et al. 2021, section 3).
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
        if self.epochs is not None or self.schedule not in (None, "original"):
            given = "epochs" if self.epochs is not None else f"schedule '{self.schedule}'"
            raise ValueError(
                "with rewind_step the original schedule runs from that step to its end, or with schedule 'original' the whole "
                f"of it: leave out {given}"
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
