"""The examples that the help texts show, by command; a test runs every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "prune train digits",
        "prune train digits --epochs 30 --seed 1 --set optimizer=adam --set lr=0.001",
        "prune train --model resnet20 --data cifar10 --data-dir data --epochs 160 --set milestones=[80,120]",
        "prune train --model nets.py:build --data digits --epochs 20",
        "prune train digits --method gmp --sparsity 0.9 --set method_options.events=19 --finetune-epochs 5",
        "prune train digits --method dst --target-sparsity 0.5 --search 12 --set method_options.alpha=0.001",
    ),
    "adopt": (
        "prune adopt runs/RUN/weights.safetensors --model lenet-5 --data digits",
        "prune adopt checkpoint.pt --model resnet20 --data cifar10 --set epochs=160 --set lr=0.1 --set milestones=[80,120]",
        "prune adopt --pretrained default --model torchvision:resnet50 --data folder --data-dir imagenet",
    ),
    "prune": (
        "prune prune runs/RUN --sparsity 0.9",
        "prune train digits | prune prune - --sparsity 0.9 --criterion random",
    ),
    "retrain": (
        "prune retrain runs/RUN --technique lr-rewind --epochs 30",
        "prune retrain runs/RUN --technique fine-tune --schedule llr",
        "prune train digits | prune retrain - --method gsm --sparsity 0.9 --epochs 20",
    ),
    "iterate": (
        "prune iterate runs/RUN --sparsity 0.95",
        "prune iterate runs/RUN --sparsity 0.95 --cycles 3 --technique lr-rewind --epochs 10",
    ),
    "run": (
        "prune run digits",
        "prune run digits --seed 1 --set prune.sparsity=0.95 --dry-run",
        "prune run plan.toml --device cuda:0",
    ),
    "sweep": (
        "prune sweep renda-figure-1-digits --dry-run",
        "prune sweep renda-figure-1-digits --scale 0.1 --jobs 2 --dry-run",
    ),
    "compare": (
        "prune compare digits --method gmp --method dpf --sparsity 0.9 --seeds 0,1",
        "prune compare digits --method str --sparsity 0.9 --search 12 --set train.model_options.width=0.5",
    ),
    "eval": (
        "prune eval runs/RUN",
        "prune train digits | prune prune - --sparsity 0.9 | prune retrain - --epochs 10 | prune eval - --json",
    ),
    "flops": (
        "prune flops runs/RUN",
        "prune flops --model resnet20 --input 3x32x32 --set width=2",
        "prune flops --model lenet-5 --data digits",
    ),
    "shrink": ("prune train digits | prune prune - --structure filters --sparsity 0.5 | prune shrink -",),
    "export": (
        "prune export runs/RUN --out lenet.safetensors",
        "prune train digits | prune prune - --sparsity 0.9 | prune export - --format onnx",
    ),
    "show": ("prune show runs/RUN", "prune show runs/RUN --layers --plot layers.svg"),
    "schedule": (
        "prune schedule lrw slr clr llr --epochs 60 --original-epochs 200 --milestones 90,180",
        "prune schedule ft llr allr --from runs/RUN --epochs 10 --impact 0.5 --plot schedules.svg",
    ),
    "report": ("prune report runs --out report", "prune report runs/RUN --out report --json"),
    "list": (
        "prune list models",
        "prune list studies renda",
        "prune list runs --where phase=retrain --where 'sparsity>=0.9'",
    ),
    "verify": ("prune verify runs", "prune verify runs/RUN --json"),
    "doctor": ("prune doctor",),
}


MAIN_JOB = (
    "prune train digits | prune prune - --sparsity 0.9 | prune retrain - --technique lr-rewind | prune eval -",
    "prune run digits",
)


def epilog(command: str | None = None) -> str:
    """Returns the examples of a command, or the main job, as the foot of a help text."""
    if command is None:
        return "\n\n".join(["[bold]The main job, as a pipeline and as a plan[/]", *MAIN_JOB])
    return "\n\n".join(["[bold]Examples[/]", *EXAMPLES[command]])
