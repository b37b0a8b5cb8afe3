"""From a checkpoint of somebody else's training to files that their libraries load: adopted, pruned, retrained, exported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Prune
from torch import Tensor, nn

from pruning import engine, trees
from pruning.engine.results import load_masks
from pruning.record import runs

DATA = """
import torch


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 3, 32, 32, generator=generator)
    for label in range(3):
        x[y == label, label] += 1.0  # a class is a colour
    return x, y


def sentences(n, seed):
    ids = torch.randint(3, 20, (n, 8), generator=torch.Generator().manual_seed(seed))
    y = torch.arange(n) % 3
    ids[:, 0] = y  # a class is the first word
    ids[:, 4] = y
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, y


def pictures():
    return images(96, 0), images(30, 1), images(60, 2)


def texts():
    return {"train": sentences(96, 0), "validation": sentences(30, 1), "test": sentences(60, 2), "classes": 3}
"""


@pytest.fixture
def own(workspace: Path) -> Any:
    """The workspace's own.py, whose data are learnt from here and there."""
    (workspace / "own.py").write_text(DATA)
    spec = importlib.util.spec_from_file_location("own_data_of_test", workspace / "own.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logits(model: nn.Module, x: Any) -> Tensor:
    given = trees.apply(model, x)
    return given if isinstance(given, Tensor) else given.logits


def trained(model: nn.Module, x: Any, y: Tensor, steps: int, lr: float) -> nn.Module:
    """Returns the model after a plain loop of somebody else's, in evaluation mode."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(len(y), (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(logits(model, trees.each(lambda t: t[index], x)), y[index]).backward()  # noqa: B023
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Any, y: Tensor) -> float:
    return int((logits(model.eval(), x).argmax(1) == y).sum()) / len(y)


def pruned_and_retrained(prune: Prune, adopted: Path, *retraining: str) -> Path:
    """Returns the run that `prune prune --sparsity 0.8` and `prune retrain` make of an adopted one."""
    pruned = prune("prune", adopted, "--sparsity", "0.8", "--device", "cpu")
    return prune("retrain", "-", "--epochs", "4", "--device", "cpu", *retraining, stdin=pruned.out).run


def check(run: Path, model: nn.Module, x: Any, made: dict[str, Any]) -> None:
    """Compares a network that its own library loaded with the run's: outputs, and every pruned weight."""
    network = engine.load_model(run)
    with torch.no_grad():
        assert torch.equal(logits(model.eval(), x), logits(network, x))
    masks, state = load_masks(run, network), model.state_dict()
    assert masks is not None
    total = sum(mask.numel() for mask in masks.values())
    assert masks.kept == round(0.2 * total)
    prefix = "" if set(masks) <= set(state) else next(iter(masks)).split(".")[0] + "."
    gone = [state[name.removeprefix(prefix)][~mask] for name, mask in masks.items()]
    assert sum(len(weights) for weights in gone) == made["pruned"] == made["zeros"] == total - masks.kept
    assert all(not weights.view(torch.int32).any() for weights in gone)  # +0


def test_a_network_of_timm(prune: Prune, workspace: Path, own: Any) -> None:
    timm = pytest.importorskip("timm", exc_type=Exception)
    torch.manual_seed(0)
    model = trained(timm.create_model("test_resnet", num_classes=3), *own.images(96, 0), steps=20, lr=3e-3)
    torch.save({"epoch": 3, "arch": "test_resnet", "state_dict": model.state_dict()}, "checkpoint.pth.tar")

    adopted = prune(
        "adopt", "checkpoint.pth.tar", "--model", "timm:test_resnet", "--data", "own.py:pictures", "--device", "cpu",
        "--set", "batch_size=32",
    ).run  # fmt: skip
    x, y = own.images(60, 2)
    assert runs.read_summary(adopted)["metric"] == accuracy(model, x, y) > 0.6
    assert torch.equal(engine.load_model(adopted)(x), model(x))
    run = pruned_and_retrained(prune, adopted, "--technique", "fine-tune", "--lr", "0.01")
    assert runs.read_summary(run)["metric"] > 0.6

    for format in ("safetensors", "torch"):
        made = prune("export", run, "--format", format, "--json").json
        check(run, timm.create_model("test_resnet", num_classes=3, checkpoint_path=made["path"]), x, made)


def test_an_encoder_of_transformers(prune: Prune, workspace: Path, own: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=20,
        max_position_embeddings=8, num_labels=3, architectures=["BertForSequenceClassification"],
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    trained(model, *own.sentences(96, 0), steps=40, lr=5e-3).save_pretrained("theirs")

    adopted = prune(
        "adopt", "theirs/model.safetensors", "--model", "transformers:theirs", "--data", "own.py:texts", "--device", "cpu",
        "--set", "batch_size=32",
    ).run  # fmt: skip
    x, y = own.sentences(60, 2)
    assert runs.read_summary(adopted)["metric"] == accuracy(model, x, y) > 0.6
    run = pruned_and_retrained(prune, adopted, "--technique", "fine-tune", "--lr", "0.01")
    assert runs.read_summary(run)["metric"] > 0.6

    made = prune("export", run, "--format", "hf", "--json").json
    check(run, transformers.AutoModelForSequenceClassification.from_pretrained(made["path"]), x, made)
