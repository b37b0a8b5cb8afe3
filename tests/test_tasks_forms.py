"""Tasks whose examples, outputs and tallies have other forms than one tensor: sequences, named tuples, items, nothing to count."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from pathlib import Path

import pytest
import torch
from conftest import Prune

import pruning
from pruning import data, engine, trees
from pruning.engine.session import find_task
from pruning.plan import PlanError
from pruning.record import runs
from pruning.study.compare import stability

OWN = """
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from pruning import Task

PAD = 0


class Tokens(Task):
    \"\"\"Says for each token the one that stands there in another language.\"\"\"

    metric_name = "score"
    metric_scale = 1.0
    evaluation_batch = 9

    def count(self, y):
        return (y["out"] != PAD).sum()

    def loss_sum(self, output, y):
        return F.cross_entropy(output.logits.flatten(0, 1), y["out"].flatten(), reduction="sum", ignore_index=PAD)

    def tally(self, output, y):
        real = y["out"] != PAD
        return {"right": (output.logits.argmax(-1) == y["out"])[real].sum(), "real": real.sum()}

    def metric(self, tallies, count):
        return 40 * tallies["right"] / tallies["real"]


class Variance(Task):
    \"\"\"A number for each example.\"\"\"

    metric_name = "R2"
    metric_scale = 1.0

    def loss_sum(self, output, y):
        return ((output - y) ** 2).sum()

    def tally(self, output, y):
        return ((output - y) ** 2).sum().double(), y.sum().double(), (y**2).sum().double()

    def metric(self, tallies, count):
        rest, total, squares = (float(t) for t in tallies)
        return 1 - rest / (squares - total**2 / count)


class Broken(Variance):
    def metric(self, tallies, count):
        return float("nan")


class Bare(Task):
    pass


class Said(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.middle, self.last = nn.Embedding(9, 16), nn.LazyLinear(32), nn.Linear(32, classes)

    def forward(self, source, before):
        hidden = torch.relu(self.middle(torch.cat([self.embed(source), self.embed(before)], -1)))
        return Said(self.last(hidden), hidden)


def net(classes):
    return Net(classes)


def line(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, classes))


def sentences(n, seed):
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 9, (n, 6), generator=generator)
    out = (9 - source).where(torch.rand(n, 6, generator=generator) < 0.8, PAD)
    return {"source": source, "before": source.roll(1, 1)}, {"out": out.to(torch.int32)}


class Sentences(Dataset):
    def __init__(self, n, seed):
        self.x, self.y = sentences(n, seed)

    def __len__(self):
        return len(self.y["out"])

    def __getitem__(self, i):
        return {key: value[i] for key, value in self.x.items()}, {"out": self.y["out"][i]}


def tokens():
    return {"train": sentences(200, 0), "test": sentences(50, 1), "classes": 9, "task": Tokens}


def items():
    return {"train": Sentences(200, 0), "test": Sentences(50, 1), "classes": 9, "task": "own.py:Tokens"}


def empty():
    (x, y), nothing = sentences(60, 0), sentences(20, 2)
    y["out"][:30] = PAD
    nothing[1]["out"][:] = PAD
    return {"train": (x, y), "validation": nothing, "test": (x, y), "classes": 9, "task": Tokens()}


def numbers():
    x = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = x.flatten(1)[:, :3].sum(1, keepdim=True)
    return {"train": (x[:150], y[:150]), "test": (x[150:], y[150:]), "classes": 1, "task": "own.py:Variance"}


class Pairs(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return {"source": torch.tensor([1 + i % 8]), "before": torch.tensor([1 + i % 2])}, i % 2


class Words(Pairs):
    def __getitem__(self, i):
        return {"source": "word"}, i % 2


def words():
    return {"train": Words(), "test": Words(), "classes": 2}


def pairs():
    return {"train": Pairs(), "test": Pairs(), "classes": 2}


class Flat(Net):
    def forward(self, source, before):
        return super().forward(source, before).logits[:, 0]


def flat(classes):
    return Flat(classes)
"""

SETTINGS = ("--lr", "0.5", "--set", "batch_size=20", "--device", "cpu")


@pytest.fixture
def folder(workspace: Path) -> Path:
    (workspace / "own.py").write_text(OWN)
    return workspace


def test_sequences_with_named_outputs_and_several_tallies(prune: Prune, folder: Path) -> None:
    run = prune("train", "--model", "own.py:net", "--data", "own.py:tokens", "--epochs", "8", *SETTINGS).run
    summary = runs.read_summary(run)
    assert 39 < summary["metric"] <= 40
    assert summary["input_types"] == {"source": "int64", "before": "int64"}
    assert {"score", "40.00"} <= set(prune("list", "runs").err.split())
    pruned = prune("prune", run, "--sparsity", "0.6", "--criterion", "snip", "--device", "cpu").run
    again = prune("retrain", pruned, "--epochs", "2", "--device", "cpu").run
    assert runs.read_summary(again)["metric"] > runs.read_summary(pruned)["metric"]
    assert "validation score after each epoch" in prune("show", again).err
    assert prune("flops", again, "--json").json["macs"] == 6 * (32 * 32 + 32 * 9)
    refused = prune("prune", run, "--sparsity", "0.5", "--criterion", "synflow", "--device", "cpu")
    assert "synflow' feeds ones" in refused.err


def test_items_are_the_same_with_workers_and_from_any_folder(
    prune: Prune, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("--model", f"{folder}/own.py:net", "--data", f"{folder}/own.py:items")
    run = prune("train", *names, "--epochs", "1", *SETTINGS).run
    monkeypatch.setenv("PRUNE_WORKERS", "2")
    monkeypatch.chdir(tmp_path)
    again = prune("train", *names, "--epochs", "1", *SETTINGS, "--out", tmp_path / "again").run
    whole = (folder / run / "weights.safetensors").read_bytes()
    assert whole == (tmp_path / again / "weights.safetensors").read_bytes()


def test_where_nothing_counts_nothing_is_learnt_and_the_metric_is_unknown(prune: Prune, folder: Path) -> None:
    run = prune("train", "--model", "own.py:net", "--data", "own.py:empty", "--epochs", "4", *SETTINGS).run
    assert runs.read_summary(run)["val_metric"] is None
    for record in runs.log(run):
        assert record["val_metric"] is None
        assert record["val_loss"] == 0
        assert math.isfinite(record["train_loss"])
    assert "NaN" not in (run / "summary.json").read_text() + (run / "log.jsonl").read_text()


def test_reports_have_a_section_for_each_metric(prune: Prune, folder: Path) -> None:
    first = prune("train", "--model", "own.py:line", "--data", "own.py:numbers", "--epochs", "20", "--lr", "0.05").run
    assert runs.read_summary(first)["metric"] > 0.3
    prune("train", "--model", "own.py:net", "--data", "own.py:tokens", "--epochs", "1", *SETTINGS)
    prune("train", "--model", "lenet-5", "--data", "digits", "--epochs", "1", "--device", "cpu")
    told = prune("report", "runs", "--out", "report", "--json").json
    page = Path(told["page"]).read_text()
    for heading in ("Test R2 by sparsity", "Test score by sparsity", "Test accuracy % by sparsity", "Runs by R2"):
        assert heading in page
    assert told["runs"] == 3


def test_a_data_set_of_items_with_several_inputs_is_classified(prune: Prune, folder: Path) -> None:
    run = prune("train", "--model", "own.py:flat", "--data", "own.py:pairs", "--epochs", "10", *SETTINGS).run
    assert runs.read_summary(run)["accuracy"] == 1.0
    pruned = prune("prune", run, "--sparsity", "0.5", "--criterion", "snip", "--device", "cpu").run
    sample = data.load("own.py:pairs").balanced(3, seed=0)
    assert sample[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert runs.read_summary(pruned)["task"] == "classification"
    with pytest.raises(PlanError, match="inputs and labels must be tensors, not str"):
        data.load("own.py:words")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("own.py:Bare", "Bare defines no loss_sum"),
        ("own.py:Broken", "must give a number"),
        ("own.py:line", "must be a"),
    ],
)
def test_tasks_that_say_too_little_are_refused(prune: Prune, folder: Path, task: str, words: str) -> None:
    refused = prune(
        "train", "--model", "own.py:line", "--data", "own.py:numbers", "--set", f"task={task}", "--epochs", "1", "--lr", "0.01",
    )  # fmt: skip
    assert refused.code == 1
    assert words in refused.err


def test_a_sample_without_classes_is_drawn_from_all(folder: Path) -> None:
    loaded = data.load("own.py:tokens")
    x, y = loaded.sample(30, seed=1)
    assert x["source"].shape == y["out"].shape == (30, 6)
    assert y["out"].dtype == torch.int64
    assert torch.equal(loaded.sample(30, seed=1)[0]["source"], x["source"])
    assert not torch.equal(loaded.sample(30, seed=2)[0]["source"], x["source"])
    assert trees.examples(loaded.sample(10_000, seed=0)[0]) == 180
    with pytest.raises(PlanError, match="one integer label for each example"):
        loaded.balanced(1, seed=0)
    digits = data.load("digits")
    assert digits.sample(7, seed=0)[0].shape == (7, 1, 8, 8)


def test_a_network_of_another_task_is_shrunk_and_read_back(prune: Prune, workspace: Path) -> None:
    from test_tasks import SEGMENTATION, TRAIN

    (workspace / "seg.py").write_text(SEGMENTATION)
    run = prune("train", *TRAIN[:2], *TRAIN[4:], "--data", "seg.py:squares", "--epochs", "1").run
    pruned = prune("prune", run, "--structure", "filters", "--sparsity", "0.5", "--device", "cpu").run
    assert prune("shrink", pruned).code == 0
    small = engine.load_shrunk(f"{pruned}-shrunk", trust_code=True)
    assert small(torch.randn(2, 1, 12, 12)).shape == (2, 3, 12, 12)


def test_a_task_may_be_given_as_a_class_from_python(folder: Path) -> None:
    task, name = find_task("own.py:Variance")
    assert name == "own.py:Variance"
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 1))
    x, y = data.load("own.py:numbers").sample(20, seed=0)
    one = pruning.score(network, "snip", (x, y), task=type(task))
    torch.testing.assert_close(one, pruning.score(network, "snip", (x, y), task=task))
    assert pruning.prune(network, 0.5, criterion="snip", batch=(x, y), task=task).sparsity == pytest.approx(0.5)


def test_forms_of_values_are_kept() -> None:
    point = namedtuple("point", "a b")(torch.ones(2), OrderedDict(c=torch.zeros(1)))
    made = trees.each(lambda t: t + 1, point)
    assert type(made) is type(point)
    assert type(made.b) is OrderedDict
    assert made.b["c"] == 1
    assert point.b["c"] == 0
    total = trees.add(trees.add(None, {"n": (torch.tensor(1),)}), {"n": (torch.tensor(2),)})
    assert total == {"n": (torch.tensor(3),)}
    value = {"x": torch.ones(3, 2), "ids": [torch.ones(3, 4, dtype=torch.int64)]}
    shape, kind = json.loads(json.dumps([trees.shapes(value), trees.types(value)]))
    blank = trees.blank(shape, kind, 2)
    assert trees.sizes(blank) == {"x": [2, 2], "ids": ([2, 4],)}
    assert blank["ids"][0].dtype == torch.int64


def test_stability_of_a_metric_below_zero_is_not_known() -> None:
    assert math.isnan(stability(-0.5, -0.6))
    assert stability(-0.5, -0.4) == 1.0


def test_the_bar_shows_the_metric_of_the_task() -> None:
    from pruning.cli.screen import _note

    from pruning.events import EpochDone

    record = {"epoch": 1, "train_loss": 0.5, "val_metric": 0.75, "val_accuracy": None}
    assert _note(EpochDone(record, "mean IoU"), 2) == "epoch 1/2, loss 0.5000, val. mean IoU 75.0 %"
    assert _note(EpochDone({**record, "val_metric": 27.31}, "BLEU", 1.0), 2).endswith("val. BLEU 27.3")


@pytest.mark.parametrize(
    ("key", "value"), [("input", {"x": [3, -1]}), ("input", [1] * 9), ("input", "x"), ("input_types", {"x": "load"})]
)
def test_forms_in_a_run_folder_are_read_as_input(history: Path, tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "run").mkdir()
    for file in runs.history(history)[0].iterdir():
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "run" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(PlanError, match=f"summary.json.*{key}"):
        runs.read_summary(tmp_path / "run")
