"""Plans as data: what a phase is told, how a plan is read from TOML, overridden, checked and named.

A plan is a list of phases; a phase is :class:`Train`, :class:`Prune` or :class:`Retrain`. Nothing here imports torch, so the
command line can check a plan before the engine is loaded.
"""

from pruning.errors import PlanError, suggest
from pruning.plan.checks import choices, explain, make
from pruning.plan.digests import canonical, digest
from pruning.plan.names import (
    CODED,
    PHASE_NAMES,
    SCHEMA,
    Ablation,
    Allocation,
    Convention,
    Criterion,
    DataName,
    ExportFormat,
    FilterNorm,
    FilterRates,
    LrSchedule,
    MethodName,
    ModelName,
    NonNegative,
    Optimizer,
    Option,
    Positive,
    Precision,
    RetrainSchedule,
    ScoringMode,
    Sparsity,
    SplitRule,
    Structure,
    Technique,
)
from pruning.plan.overrides import adjust, override, override_plan, parse_set, parse_value, with_epochs
from pruning.plan.phases import PHASES, Phase, Prune, Retrain, Train
from pruning.plan.plans import Iterate, Plan
from pruning.plan.reading import load_plan, make_plan, parse_plan, read_plan, read_toml, recipe_names
from pruning.plan.rules import Settings

__all__ = [
    "CODED", "PHASES", "PHASE_NAMES", "SCHEMA", "Ablation",
    "Allocation", "Convention", "Criterion", "DataName", "ExportFormat", "FilterNorm",
    "FilterRates", "Iterate", "LrSchedule", "MethodName", "ModelName",
    "NonNegative", "Optimizer", "Option", "Phase", "Plan", "PlanError", "Positive", "Precision", "Prune", "Retrain",
    "RetrainSchedule", "ScoringMode", "Settings", "Sparsity", "SplitRule", "Structure", "Technique", "Train",
    "adjust", "canonical", "choices", "digest", "explain", "load_plan", "make", "make_plan", "override",
    "override_plan", "parse_plan", "parse_set", "parse_value", "read_plan", "read_toml", "recipe_names", "suggest",
    "with_epochs",
]  # fmt: skip
