"""Folders for transformers: config.json and model.safetensors, which from_pretrained reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Prune, files
from test_export import pruned

from pruning import engine

transformers = pytest.importorskip("transformers")

NETWORK = """
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from pruning import Task

SIZES = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20,
             max_position_embeddings=8)


class Wrapped(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner = BertForSequenceClassification(BertConfig(num_labels=classes, **SIZES))

    def forward(self, input_ids, attention_mask):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits


class More(Wrapped):
    def __init__(self, classes):
        super().__init__(classes)
        self.scale = nn.Parameter(torch.ones(1))


def wrapped(classes):
    return Wrapped(classes)


def more(classes):
    return More(classes)


def itself(classes):
    return BertForSequenceClassification(BertConfig(num_labels=classes, **SIZES))


class Sentences(Task):
    def loss_sum(self, output, y):
        return F.cross_entropy(output.logits, y, reduction="sum")

    def tally(self, output, y):
        return (output.logits.argmax(1) == y).sum()

    def metric(self, tally, count):
        return tally.item() / count


def tokens(n=24):
    ids = torch.randint(1, 20, (n, 8), generator=torch.Generator().manual_seed(0))
    part = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] % 3).long())
    return {"train": part, "validation": part, "test": part, "classes": 3}
"""


@pytest.fixture
def place(workspace: Path) -> Path:
    """The workspace with bert.py in it."""
    (workspace / "bert.py").write_text(NETWORK)
    return workspace


@pytest.mark.parametrize(("name", "task"), [("wrapped", ()), ("itself", ("--set", "task=bert.py:Sentences"))])
def test_from_pretrained_loads_the_folder(prune: Prune, place: Path, name: str, task: tuple[str, ...]) -> None:
    run = pruned(prune, "--model", f"bert.py:{name}", "--data", "bert.py:tokens", *task, sparsity=0.8)
    outcome = prune("export", run, "--format", "hf", "--json")
    assert outcome.err == ""  # none of the library's bars
    made = outcome.json
    folder = Path(made["path"])
    assert folder == run.with_name(f"{run.name}-hf")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.randint(1, 20, (3, 8))
    x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given = engine.load_model(run)(**x)
    assert torch.equal(model(**x).logits, given if isinstance(given, torch.Tensor) else given.logits)
    assert (made["difference"], made["zeros"]) == (0.0, made["pruned"])
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert zeros == made["params"] - made["nonzero"] >= made["pruned"] > 0
    assert made["loading"] == f'BertForSequenceClassification.from_pretrained("{folder}")'
    assert prune("export", run, "--format", "hf", "--json").json["unchanged"]
    (folder / "notes.txt").write_text("mine")
    refused = prune("export", run, "--format", "hf")
    assert (refused.code, "exists and is something else" in refused.err) == (1, True)


def test_a_network_with_more_than_the_library_saves_is_refused(prune: Prune, place: Path) -> None:
    run = pruned(prune, "--model", "bert.py:more", "--data", "bert.py:tokens")
    before = files(place)
    outcome = prune("export", run, "--format", "hf")
    assert (outcome.code, "which model 'bert.py:more' is not; it can be: safetensors, torch, onnx" in outcome.err) == (
        1,
        True,
    )
    assert files(place) == before
