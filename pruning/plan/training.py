"""What a training is told, or in its place the adoption of trained weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pruning.plan.lengths import Epoch, Length, known_epochs
from pruning.plan.names import (
    NonNegative,
    Option,
    Positive,
    Precision,
    Sparsity,
    SplitRule,
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

    `milestones` and `warmup_epochs` are in epochs; the warm-up is linear from 0 or exponential from a hundredth of the rate
    (Renda et al. 2020, Table 2, GNMT). Milestone 91 means that the first step after 91 whole epochs is the
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
    augment: Literal["default", "none", "crop-flip", "crop", "rotate-crop-flip"] = "default"
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
    warmup_form: Literal["linear", "exponential"] = "linear"
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
        if self.warmup_form != "linear" and not self.warmup_epochs:
            raise ValueError(f"warmup_form '{self.warmup_form}' is not used without warmup_epochs")
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
