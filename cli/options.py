"""The options that several commands share, as Annotated types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from pruning import plan
from pruning.plan import PlanError, choices, suggest

from .declare import complete, default, flag, named, run_folders

NETWORK, TRAINING, PRUNING, RETRAINING = "Network and data", "Training", "Pruning", "Retraining"
METHODS = "Pruning during training"
PLACE, OUTPUT = "Where and how", "Output"
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
TRACKERS = ("tensorboard",)


def _device(value: str) -> str:
    if not DEVICE.fullmatch(value):
        raise PlanError(f"device '{value}' is unknown{suggest(value, DEVICES)}; allowed: {', '.join(DEVICES)}:INDEX")
    return value


def _track(value: str | None) -> str | None:
    if value is not None and value not in TRACKERS:
        raise PlanError(f"tracker '{value}' is unknown{suggest(value, TRACKERS)}; allowed: {', '.join(TRACKERS)}")
    return value


def _debug(context: typer.Context, value: bool) -> bool:
    context.meta["debug"] = value  # read by errors.Commands, which sees the context and not the command's arguments
    return value


DEVICES = ("auto", "cpu", "cuda")
OWN = "or one of your own as file.py:function or package.module:function."

Run = Annotated[
    str, Argument(metavar="RUN", help="A run folder, or - to read it from standard input.", autocompletion=run_folders)
]
Model = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help=f"A network of `prune list models`, {OWN}",
        rich_help_panel=NETWORK,
        autocompletion=complete(choices(plan.ModelName)),
    ),
]
Data = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help=f"A data set of `prune list data`, {OWN}",
        rich_help_panel=NETWORK,
        autocompletion=complete(choices(plan.DataName)),
    ),
]
Seed = Annotated[
    int | None,
    Option(
        help="Seed of the initialization, the order of the data and all else that is drawn."
        + default("the recipe's, or 0"),
        rich_help_panel=NETWORK,
    ),
]
_SPARSITY = Option(
    help="Share of the prunable weights that is gone afterwards, from 0 to below 1; 0.9 keeps one weight in ten. "
    "Prunable are the weights of all convolutions and linear layers, first and last included.",
    rich_help_panel=PRUNING,
)
Sparsity = Annotated[float, _SPARSITY]
PruneSparsity = Annotated[float | None, _SPARSITY]
Criterion = Annotated[
    str | None, named(plan.Criterion, "How weights are scored; those with the lowest scores go.", PRUNING, "magnitude")
]
Allocation = Annotated[
    str | None,
    named(plan.Allocation, "How the sparsity is shared out among the layers.", PRUNING, "global; of filters uniform"),
]
Structure = Annotated[
    str | None,
    named(
        plan.Structure, "What is removed; of filters (and neurons) --sparsity is the share of them.", PRUNING, "weights"
    ),
]
FilterNorm = Annotated[
    str | None, named(plan.FilterNorm, "How a filter is scored by its weights, with filters.", PRUNING, "l1")
]
FilterRates = Annotated[
    str | None,
    named(plan.FilterRates, "Li et al.'s shares of the filters per layer, in place of --sparsity.", PRUNING),
]
FilterLevel = Annotated[
    int | None,
    Option(metavar="N", help="Go so many times as far as those rates." + default("1"), rich_help_panel=PRUNING),
]
Rounds = Annotated[
    int | None,
    Option(
        help="Prune in this many rounds and score anew in each; for criteria that score a sample."
        + default("the criterion's own"),
        rich_help_panel=PRUNING,
    ),
]
Ablation = Annotated[
    str | None, named(plan.Ablation, "Change the masks, the scores or the weights, as a control.", PRUNING)
]
MinPerLayer = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Keep at least this many weights in every layer, so that none is emptied." + default("0"),
        rich_help_panel=PRUNING,
    ),
]
AtEpoch = Annotated[
    float | None,
    Option(
        metavar="N",
        help="Prune the state that the training kept after so many epochs (10, 0.25); 0 is the initialization.",
        rich_help_panel=PRUNING,
    ),
]
AtStep = Annotated[
    int | None, Option(help="Prune the state that the training kept after this step.", rich_help_panel=PRUNING)
]
LayerRates = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Density of each layer, for allocation rates: a TOML or JSON file of names or patterns, conv1.weight = 0.5. "
        "Layers that it does not name stay dense.",
        rich_help_panel=PRUNING,
    ),
]
Exclude = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Leave parameters whose name fits ('fc.*') dense and out of the count. Repeatable.",
        rich_help_panel=PRUNING,
    ),
]
Include = Annotated[
    list[str] | None,
    Option(
        metavar="PATTERN",
        help="Prune parameters of two or more dimensions whose name fits, too: embeddings ('*embed*'), stacked experts; "
        "PATTERN@AXIS says which axis output units lie along. Repeatable.",
        rich_help_panel=PRUNING,
    ),
]
AllowReparametrized = Annotated[
    bool,
    Option(
        "--allow-reparametrized",
        help="Also prune weights that the network transforms before it multiplies by them, as weight standardization does: "
        "pruned entries are not 0 there.",
        rich_help_panel=PRUNING,
    ),
]
Technique = Annotated[
    str | None,
    named(
        plan.Technique,
        "Which weights retraining starts from, and with which learning rates.",
        RETRAINING,
        "lr-rewind",
    ),
]
Schedule = Annotated[
    str | None,
    named(plan.RetrainSchedule, "Learning-rate schedule in place of the technique's own.", RETRAINING),
]
RetrainRate = Annotated[
    float | None,
    Option(
        "--lr",
        metavar="RATE",
        help="With fine-tune: a constant learning rate, in place of the training's last.",
        rich_help_panel=RETRAINING,
    ),
]
RetrainEpochs = Annotated[
    str | None,
    Option(
        "--epochs",
        metavar="N",
        help="Length of the retraining, in epochs (10, 0.25) or steps ('500 steps')." + default("that of the training"),
        rich_help_panel=RETRAINING,
    ),
]
Method = Annotated[
    str | None,
    named(plan.MethodName, "Method that prunes during training, with options --set method_options.KEY=VALUE.", METHODS),
]
MethodSparsity = Annotated[
    float | None,
    Option(
        help="Goal of the method, where it takes one: the share of the prunable weights that is gone at the end.",
        rich_help_panel=METHODS,
    ),
]
Search = Annotated[
    int,
    Option(
        metavar="N",
        min=0,
        help="Trainings at most, to find the setting with which a method meets the goal that it cannot be told.",
        rich_help_panel=METHODS,
    ),
]
SearchOption = Annotated[
    str | None,
    Option(
        metavar="OPTION",
        help="The method's option that the search moves." + default("s_init, s_0, alpha"),
        rich_help_panel=METHODS,
    ),
]
FinetuneEpochs = Annotated[
    str | None,
    Option(
        metavar="N",
        help="Epochs of fine-tuning after a training with a method, at its least learning rate.",
        rich_help_panel=METHODS,
    ),
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change one more setting. Repeatable.", rich_help_panel=PLACE),
]
Out = Annotated[Path, Option(metavar="DIR", help="Where run folders are made.", rich_help_panel=PLACE)]
OutBeside = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Where run folders are made; a run and its parent lie side by side." + default("beside RUN"),
        rich_help_panel=PLACE,
    ),
]
Device = Annotated[
    str,
    Option(
        metavar="NAME",
        help="auto (a GPU where there is one), cpu, cuda or cuda:INDEX.",
        rich_help_panel=PLACE,
        callback=_device,
        autocompletion=complete(DEVICES),
    ),
]
DataDir = Annotated[
    Path | None,
    Option(metavar="DIR", help="Where data sets lie." + default("$PRUNE_DATA, or data"), rich_help_panel=PLACE),
]
Download = Annotated[
    bool,
    flag(
        "--download",
        "Fetch the data set where it is missing: cifar10, cifar100, mnist, fashion-mnist (extra: vision).",
        PLACE,
    ),
]
TrustCode = Annotated[
    bool, flag("--trust-code", "Execute the model or data code that a run from elsewhere names.", PLACE)
]
Track = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help=f"Also write scalars for {' or '.join(TRACKERS)}; log.jsonl is always written.",
        rich_help_panel=OUTPUT,
        callback=_track,
        autocompletion=complete(TRACKERS),
    ),
]
DryRun = Annotated[bool, flag("--dry-run", "Show phases, run folders, epochs, steps and MACs; write nothing.", OUTPUT)]
Json = Annotated[bool, flag("--json", "Print the result as one JSON object.", OUTPUT)]
Quiet = Annotated[bool, flag("--quiet", "No progress, no tables.", OUTPUT, "-q")]
Debug = Annotated[bool, flag("--debug", "Show the traceback of an error.", OUTPUT, callback=_debug, is_eager=True)]
