"""What is learnt is the task's affair: a small segmentation of one's own runs through the same loop, commands and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Prune
from torch import nn

import pruning
from pruning import trees
from pruning.plan import PlanError
from pruning.record import runs
from pruning.training import loop
from pruning.training.tasks import TASKS
from pruning.training.tasks.classification import Classification

SEGMENTATION = """
import torch
import torch.nn.functional as F
from torch import nn
from pruning.training.tasks.base import Task

VOID = 255


class Segmentation(Task):
    \"\"\"One of three classes for each pixel.\"\"\"

    metric_name = "mean IoU"
    evaluation_batch = 7

    def count(self, y):
        return (y != VOID).sum()

    def loss_sum(self, output, y):
        return F.cross_entropy(output, y, reduction="sum", ignore_index=VOID)

    def tally(self, output, y):
        seen = y != VOID
        return torch.bincount(3 * y[seen] + output.argmax(1)[seen], minlength=9).view(3, 3)

    def metric(self, tally, count):
        both = tally.diag().double()
        either = tally.sum(0) + tally.sum(1) - tally.diag()
        return float((both / either)[either > 0].mean())


def squares(seed=0):
    return {"train": _part(160, 0), "validation": _part(40, 1), "test": _part(40, 2), "classes": 3, "task": Segmentation}


def named():
    return {**squares(), "task": "seg.py:Segmentation"}


def scattered():
    return {"train": Items(160, 0), "test": Items(40, 2), "validation": None, "classes": 3, "task": Segmentation}


def _part(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(n, 1, 12, 12, generator=generator)
    y = torch.zeros(n, 12, 12, dtype=torch.int64)
    for i in range(n):
        for kind, level in ((1, 1.0), (2, -1.0)):
            top, left = torch.randint(8, (2,), generator=generator).tolist()
            x[i, 0, top : top + 4, left : left + 4] += level
            y[i, top : top + 4, left : left + 4] = kind
    y[:, 0] = VOID
    return x, y


class Items(torch.utils.data.Dataset):
    def __init__(self, n, seed):
        self.x, self.y = _part(n, seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.01 * torch.randn(1, 12, 12), self.y[i]


def net(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, classes, 1),
    )


def coarse(shape, classes):
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3, stride=2))


def two_inputs(kind="dict"):
    x, y = _part(90, 0)
    other = torch.randn(90, 3, generator=torch.Generator().manual_seed(5))
    label = (x.flatten(1).mean(1) > 0).long()
    inputs = {"image": x, "facts": other} if kind == "dict" else (x, other)
    return {"train": (inputs, label), "test": (inputs, label), "validation": None, "classes": 2}


class Two(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.image, self.facts = nn.Linear(144, 8), nn.Linear(3, 8)
        self.last = nn.Linear(8, classes)

    def forward(self, image, facts):
        return self.last(torch.relu(self.image(image.flatten(1)) + self.facts(facts)))


def two(shape, classes):
    return Two(classes)
"""

TRAIN = ("--model", "seg.py:net", "--epochs", "5", "--lr", "0.1", "--set", "batch_size=16", "--device", "cpu")


@pytest.fixture
def folder(workspace: Path) -> Path:
    (workspace / "seg.py").write_text(SEGMENTATION)
    return workspace


def test_a_segmentation_is_trained_pruned_and_retrained(prune: Prune, folder: Path) -> None:
    dense = prune("train", *TRAIN, "--data", "seg.py:squares")
    assert "mean IoU" in dense.err
    whole = runs.read_summary(dense.run)
    assert whole["metric"] > 0.9
    assert (whole["metric_name"], whole["metric_scale"], whole["accuracy"], whole["val_accuracy"]) == (
        "mean IoU", 100.0, None, None,
    )  # fmt: skip
    last = runs.log(dense.run)[-1]
    assert last["val_metric"] == whole["val_metric"]
    assert last["val_accuracy"] is None
    assert last["train_loss"] < runs.log(dense.run)[0]["train_loss"]
    pruned = prune("prune", dense.run, "--sparsity", "0.9", "--device", "cpu").run
    assert runs.read_summary(pruned)["metric"] < 0.9 * whole["metric"]
    shown = prune("retrain", pruned, "--epochs", "4", "--device", "cpu", "--json").json
    assert shown["metric"] > runs.read_summary(pruned)["metric"] + 0.1
    assert shown["sparsity"] == pytest.approx(0.9, abs=0.01)
    again = prune("eval", shown["run"], "--device", "cpu", "--json").json
    assert (again["metric"], again["loss"]) == (shown["metric"], shown["loss"])
    assert "mean IoU" in prune("eval", shown["run"], "--device", "cpu").err
    assert "mean IoU" in prune("show", shown["run"]).err
    assert "mean IoU" in prune("list", "runs").err
    told = prune("report", "runs", "--out", "report", "--json").json
    page = Path(told["page"]).read_text()
    assert "Test mean IoU % by sparsity" in page


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_criteria_take_the_loss_of_the_task(prune: Prune, folder: Path, criterion: str) -> None:
    run = prune("train", *TRAIN[:2], *TRAIN[4:], "--data", "seg.py:squares", "--epochs", "1").run
    pruned = prune("prune", run, "--sparsity", "0.5", "--criterion", criterion, "--device", "cpu")
    assert pruned.code == 0, pruned.err
    assert runs.read_summary(pruned.run)["sparsity"] == pytest.approx(0.5, abs=0.01)


def test_snip_of_a_task_is_that_of_its_loss(folder: Path) -> None:
    entry = TASKS.find("seg.py:Segmentation")
    task = entry.load()()
    assert entry.summary == "One of three classes for each pixel."
    torch.manual_seed(0)
    network = nn.Conv2d(1, 3, 3, padding=1)
    x, y = torch.randn(6, 1, 12, 12), torch.randint(3, (6, 12, 12))
    y[:, :5] = 255
    scores = pruning.score(network, "snip", (x, y), task=task, micro_batch=2)
    loss = nn.functional.cross_entropy(network(x), y, ignore_index=255)
    loss.backward()
    torch.testing.assert_close(scores["weight"], (network.weight * network.weight.grad).abs().detach())


@pytest.mark.parametrize("size", [1, 7, 40])
def test_tallies_sum_whatever_the_batches(folder: Path, size: int) -> None:
    task = TASKS.find("seg.py:Segmentation").load()()
    torch.manual_seed(0)
    network = nn.Conv2d(1, 3, 3, padding=1).eval()
    x, y = torch.randn(40, 1, 12, 12), torch.randint(3, (40, 12, 12))
    y[::2, 3:5] = 255
    metric, loss = loop.evaluate(network, zip(x.split(size), y.split(size), strict=True), task, torch.device("cpu"))
    whole, wanted = loop.evaluate(network, [(x, y)], task, torch.device("cpu"))
    assert metric == whole
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_items_and_a_named_task_learn_too_and_resume(prune: Prune, folder: Path) -> None:
    first = prune("train", *TRAIN, "--data", "seg.py:scattered").run
    assert runs.read_summary(first)["metric"] > 0.85
    second = prune("train", *TRAIN, "--data", "seg.py:scattered", "--out", "again").run
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    named = prune("train", *TRAIN, "--data", "seg.py:named").run
    assert runs.read_summary(named)["task"] == "seg.py:Segmentation"


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_model_may_take_several_inputs(prune: Prune, folder: Path, kind: str) -> None:
    run = prune(
        "train", "--model", "seg.py:two", "--data", "seg.py:two_inputs", "--set", f"data_options.kind={kind}",
        "--epochs", "30", "--lr", "0.05", "--device", "cpu",
    ).run  # fmt: skip
    summary = runs.read_summary(run)
    assert summary["accuracy"] == summary["metric"] > 0.6
    pruned = prune("prune", run, "--sparsity", "0.8", "--criterion", "snip", "--device", "cpu").run
    again = prune("retrain", pruned, "--epochs", "1", "--device", "cpu").run
    assert runs.read_summary(again)["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert runs.read_summary(again)["macs"] == 144 * 8 + 3 * 8 + 8 * 2
    assert prune("flops", again, "--json").code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ("--model", "seg.py:coarse", "--data", "seg.py:squares"),
            ("seg.py:coarse' returns", "'Segmentation' cannot"),
        ),
        (
            ("--model", "seg.py:net", "--data", "seg.py:squares", "--set", "task=classification"),
            ("must return [2, 3] for two images",),
        ),
        (
            ("--model", "seg.py:net", "--data", "digits", "--set", "task=segmentation"),
            ("task 'segmentation' is unknown",),
        ),
        (("--model", "seg.py:net", "--data", "seg.py:squares", "--set", "task=seg.py:net"), ("must be a",)),
        (
            ("--model", "seg.py:net", "--data", "seg.py:squares", "--set", "augment=crop"),
            ("augment 'crop' is for images",),
        ),
        (
            ("--model", "seg.py:net", "--data", "seg.py:squares", "--set", "label_smoothing=0.1"),
            ("label_smoothing is not",),
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    prune: Prune, folder: Path, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused = prune("train", *args, "--epochs", "1", "--device", "cpu")
    assert refused.code == 1
    assert all(word in refused.err for word in words), refused.err
    assert not (folder / "runs").exists()


def test_runs_of_a_version_without_metrics_are_read(prune: Prune, history: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    for folder in runs.history(history):
        target = run / folder.name
        target.mkdir(parents=True)
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        summary = json.loads((folder / "summary.json").read_text())
        for key in ("metric", "metric_name", "metric_scale", "val_metric", "task"):
            del summary[key]
        (target / "summary.json").write_text(json.dumps(summary))
        lines = (
            [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
            if (folder / "log.jsonl").exists()
            else []
        )
        for line in lines:
            del line["train_metric"], line["val_metric"]
        (target / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = runs.read_summary(run / history.name)
    assert summary["metric"] == summary["accuracy"]
    assert prune("report", run, "--out", tmp_path / "report").code == 0
    assert "accuracy" in prune("show", run / history.name, "--trust-code").err


def test_classification_counts_as_ever() -> None:
    task = Classification()
    output, y = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1])
    assert task.metric(task.tally(output, y), task.count(y)) == pytest.approx(2 / 3)
    torch.testing.assert_close(task.loss_sum(output, y) / 3, task.loss(output, y))
    with pytest.raises(PlanError, match=r"returns \[3, 2\] for 3 images of 5 classes"):
        task.check(output, y, 5, "the model")


def test_trees_of_tensors() -> None:
    value = {"a": torch.ones(2, 3), "b": [torch.zeros(2), (torch.ones(2, 1),)]}
    assert trees.shapes(value) == {"a": (3,), "b": ((), ((1,),))}
    assert trees.examples(value) == 2
    assert len(list(trees.tensors(value))) == 3
