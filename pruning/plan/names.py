"""The names that can be chosen, as Literals: a test holds them equal to the registries beside the things they name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from pruning import usercode
from pruning.errors import suggest
from pruning.registry import table

SCHEMA = 1  # of a phase's settings and of everything in a run folder; a reader refuses what is newer

ModelName = Literal[
    "lenet-300-100", "lenet-5", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18", "resnet34",
    "vgg11", "vgg13", "vgg16", "vgg19", "wrn-16-8", "wrn-22-8", "wrn-28-10", "wrn-14-8", "wrn-20-8", "wrn-32-2",
]  # fmt: skip
DataName = Literal["digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "folder", "tinyimagenet"]
Convention = Literal["true", "weights", "shrinkbench"]
ExportFormat = Literal["safetensors", "torch", "hf", "onnx"]
Criterion = Literal["magnitude", "random", "snip", "grasp", "grasp-inverted", "grasp-magnitude", "synflow"]
Ablation = Literal["shuffle", "shuffle-across", "random-counts", "reinit", "invert", "normal-init"]
Allocation = Literal["global", "uniform", "uniform+", "erk", "lamp", "rates"]
Structure = Literal["weights", "filters"]
FilterNorm = Literal["l1", "l2", "mean"]
FilterRates = Literal["resnet56-a", "resnet56-b", "resnet110-a", "resnet110-b", "resnet34-a", "resnet34-b", "vgg16-a"]
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


def named(kind: str) -> AfterValidator:
    """Returns the check that a setting names an entry of the table of that kind, or code of the user's own (not loaded here)."""

    def check(value: str, info: ValidationInfo) -> str:
        entries = table(kind)
        if value not in entries and not usercode.is_code(value):
            allowed = ", ".join(entries)
            raise ValueError(f"{info.field_name} '{value}' is unknown{suggest(value, entries)}; allowed: {allowed}")
        return value

    return AfterValidator(check)


CODED = {  # the settings of phases that may name code of the user's own, beside model and data, and the kind of what they name
    "train": {"task": "task", "optimizer": "optimizer", "schedule": "schedule", "method": "method"},
    "prune": {"criterion": "criterion", "allocation": "allocation", "ablation": "ablation"},
    "retrain": {"technique": "technique", "schedule": "retraining schedule", "method": "method"},
}

Sparsity = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

PHASE_NAMES = ("train", "prune", "retrain")
