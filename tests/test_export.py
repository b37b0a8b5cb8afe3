"""`prune export`: plain weights that other libraries load, held to the run's own network, in their place whole or not at all."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prune, files, write_code
from safetensors.torch import load_file
from torch import Tensor, nn

from pruning import engine
from pruning.engine import formats
from pruning.engine.formats import FORMATS
from pruning.engine.results import load_masks
from pruning.masks import Masks
from pruning.plan import ExportFormat, PlanError, choices
from pruning.record import runs

KEYS = {
    "run", "model", "format", "path", "bytes", "tensors", "params", "nonzero", "sparsity", "model_sparsity", "pruned", "zeros",
    "difference", "examples", "loading", "unchanged",
}  # fmt: skip

MORE = """
import torch
from torch import nn
from torch.utils.data import Dataset


class Odd(nn.Module):
    def __init__(self, classes, kind):
        super().__init__()
        self.kind, self.last = kind, nn.Linear(16, classes)
        self.middle = nn.Linear(16, 16)
        self.register_buffer("shift", torch.randn(16), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        if self.kind == "hidden":
            x = x + self.shift
        if self.kind == "batch":
            x = torch.cat([x[i : i + 1] for i in range(len(x))])
        y = self.last(torch.relu(self.middle(x)))
        if self.kind == "branching":
            return y if y.sum() > 0 else -y
        return y


def odd(shape, classes, kind):
    return Odd(classes, kind)


class Pair(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.lengths, self.last = nn.Embedding(9, 8), nn.Linear(3, 8), nn.Linear(8, classes)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, words, numbers):
        return self.last(self.other(torch.relu(self.one(self.embed(words).mean(1) + self.lengths(numbers)))))


def pair(classes):
    return Pair(classes)


def words(n=40):
    generator = torch.Generator().manual_seed(0)
    x = {"words": torch.randint(0, 9, (n, 5), generator=generator), "numbers": torch.randn(n, 3, generator=generator)}
    y = (x["words"].sum(1) % 3).long()
    return {"train": (x, y), "validation": (x, y), "test": (x, y), "classes": 3}
"""


@pytest.fixture
def place(workspace: Path) -> Path:
    """The workspace with more.py in it."""
    (workspace / "more.py").write_text(MORE)
    return workspace


def pruned(prune: Prune, *train: str, sparsity: float = 0.5) -> Path:
    """Returns a pruned run of a network that was trained for two steps."""
    dense = prune("train", *train, "--epochs", "2 steps", "--device", "cpu", "--quiet")
    return prune("prune", "-", "--sparsity", sparsity, "--device", "cpu", "--quiet", stdin=dense.out).run


def loaded(format: str, path: Path) -> dict[str, Tensor]:
    return load_file(path) if format == "safetensors" else torch.load(path, weights_only=True)


def zeros(state: dict[str, Tensor], masks: Masks) -> int:
    """Returns how many pruned entries are +0, bit for bit."""
    return sum(int((state[name][~mask].view(torch.int32) == 0).sum()) for name, mask in masks.everything().items())


def test_the_names_are_those_of_the_table() -> None:
    assert list(choices(ExportFormat)) == list(FORMATS)


# --- state dicts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["safetensors", "torch"])
@pytest.mark.parametrize("phase", ["train", "prune", "retrain"])
def test_a_plain_module_loads_what_was_written(history: Path, tmp_path: Path, format: str, phase: str) -> None:
    (run,) = [run for run in runs.history(history) if runs.read_phase(run).phase == phase]
    path = tmp_path / "deep" / f"tiny{FORMATS[format].suffixes[0]}"
    made = engine.export_run(run, format, path)
    assert made.keys() == KEYS
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model.load_state_dict(loaded(format, path))
    network = engine.load_model(run, trust_code=True)
    x = torch.randn(5, 1, 4, 4)
    assert torch.equal(model(x), network(x))
    counts = [parameter.count_nonzero().item() for parameter in model.parameters()]
    assert (made["params"], made["nonzero"], made["tensors"]) == (16 * 8 + 8 + 8 * 3 + 3, sum(counts), 4)
    assert (made["difference"], made["bytes"], made["unchanged"]) == (0.0, path.stat().st_size, False)
    masks = load_masks(run, network)
    if phase == "train":
        assert (masks, made["pruned"], made["zeros"], made["sparsity"]) == (None, 0, 0, 0.0)
    else:
        assert masks is not None
        assert made["pruned"] == made["zeros"] == zeros(model.state_dict(), masks) == 76
        assert made["sparsity"] == 0.5
    assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_several_inputs_and_weights_with_two_names(prune: Prune, place: Path, format: str) -> None:
    run = pruned(prune, "--model", "more.py:pair", "--data", "more.py:words")
    made = prune("export", run, "--format", format, "--json").json
    state = loaded(format, Path(made["path"]))
    assert torch.equal(state["one.weight"], state["other.weight"])
    assert state.keys() == engine.load_model(run).state_dict().keys()
    assert made["pruned"] == made["zeros"] == (3 * 8 + 8 * 8 + 8 * 3) // 2
    assert made["model_sparsity"] == pytest.approx(56 / (112 + 9 * 8))  # the embedding is left dense
    assert made["difference"] == 0.0


def test_state_outside_of_the_state_dict_is_noticed(prune: Prune, place: Path) -> None:
    odd = ("--model", "more.py:odd", "--data", "sets.py:blobs", "--set", "model_options.kind=hidden")
    run = pruned(prune, *odd)
    before = files(place)
    outcome = prune("export", run)
    assert (outcome.code, "its state_dict() lacks" in outcome.err) == (1, True)
    assert files(place) == before


RGB = """
import torch


def load():
    part = (torch.randn(12, 3, 32, 32), torch.arange(12) % 3)
    return part, part, part
"""


def test_torchvision_loads_a_state_dict(prune: Prune, place: Path) -> None:
    models = pytest.importorskip("torchvision.models", exc_type=Exception)
    (place / "rgb.py").write_text(RGB)
    run = pruned(prune, "--model", "torchvision:squeezenet1_1", "--data", "rgb.py:load")
    made = prune("export", run, "--format", "torch", "--json").json
    model = models.squeezenet1_1(num_classes=3).eval()
    model.load_state_dict(torch.load(made["path"], weights_only=True))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), engine.load_model(run)(x))


def test_timm_loads_a_checkpoint_path(prune: Prune, place: Path) -> None:
    timm = pytest.importorskip("timm", exc_type=Exception)
    (place / "rgb.py").write_text(RGB)
    run = pruned(prune, "--model", "timm:test_resnet", "--data", "rgb.py:load", sparsity=0.8)
    network, x = engine.load_model(run), torch.randn(2, 3, 32, 32)
    for format in ("safetensors", "torch"):
        made = prune("export", run, "--format", format, "--json").json
        model = timm.create_model("test_resnet", num_classes=3, checkpoint_path=made["path"]).eval()
        assert torch.equal(model(x), network(x))
        assert made["zeros"] == made["pruned"] > 0


# --- the place ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_the_same_again_stays_and_another_file_is_not_replaced(history: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x{FORMATS[format].suffixes[0]}"
    engine.export_run(history, format, path)
    first = path.stat()
    assert engine.export_run(history, format, path)["unchanged"]
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (first.st_mtime_ns, first.st_ino)
    before = path.read_bytes()
    other = runs.history(history)[0]
    for dry_run in (False, True):
        with pytest.raises(PlanError, match="exists and is something else"):
            engine.export_run(other, format, path, dry_run=dry_run)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_beside_the_run_unless_a_path_is_named(prune: Prune, history: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    shutil.copytree(history.parent, out)
    run = out / history.name
    assert prune("export", run).run == out / f"{history.name}.safetensors"
    assert prune("export", "-", "--format", "torch", stdin=f"{run}\n").run == out / f"{history.name}.pt"
    assert prune("verify", out).code == 0


def test_a_dry_run_writes_nothing_and_says_the_same(prune: Prune, history: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.safetensors"
    shown = prune("export", history, "--out", path, "--dry-run")
    assert shown.run == path
    assert "nothing was written" in shown.err
    told = prune("export", history, "--out", path, "--dry-run", "--json").json
    assert list(tmp_path.iterdir()) == []
    assert told == prune("export", history, "--out", path, "--json").json


def test_what_is_said(prune: Prune, history: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    outcome = prune("export", history, "--out", path)
    size = f"{path.stat().st_size / 1e6:.4g} MB in 4 tensors"
    for words in (
        str(path),
        size,
        "50.0 % of what is prunable, 50.0 % of all weights",
        "76 of 76 pruned weights",
        "0 of outputs on 4 examples",
        "load_file",
    ):
        assert words in outcome.err
    assert "the same as before" in prune("export", history, "--out", path).err
    dense = prune("export", runs.history(history)[0], "--out", tmp_path / "y.safetensors")
    assert "pruned weights" not in dense.err


def test_places_that_are_refused(prune: Prune, history: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "file").write_text("")
    for line, words in (
        (
            "--format safetensor",
            "format 'safetensor' is unknown (did you mean 'safetensors'?); allowed: safetensors, torch",
        ),
        ("--format torch --out x.safetensors", "must end in .pt or .pth or .bin"),
        ("--out x.pt", "must end in .safetensors"),
        (f"--format torch --out {tmp_path / 'folder.pt'}", "is no file"),
        (f"--format hf --out {tmp_path / 'file'}", "is no folder"),
        (f"--format hf --out {history}", "is a run folder"),
        (f"--out {tmp_path / 'file' / 'x.safetensors'}", "cannot write"),
        (
            "--format hf",
            "networks of transformers, with save_pretrained and a config, which model 'nets.py:tiny' is not",
        ),
    ):
        outcome = prune("export", history, *shlex.split(line))
        assert (outcome.code, words in outcome.err) == (1, True), outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.pt"]
    assert "no run folder" in prune("export", tmp_path / "folder.pt").err


# --- the check ------------------------------------------------------------------------------------------------------------------


def negative(state: dict[str, Tensor]) -> None:
    state["1.weight"] = torch.where(state["1.weight"] == 0, -0.0, state["1.weight"])


def nudged(state: dict[str, Tensor]) -> None:
    state["3.bias"][0] += 1e-6


def shorter(state: dict[str, Tensor]) -> None:
    del state["3.bias"]


@pytest.mark.parametrize("change", [negative, nudged, shorter])
def test_a_file_that_says_something_else_is_refused(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    def write(network: nn.Module, example: Any, path: Path) -> None:
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        change(state)
        torch.save(state, path)

    def read(fresh: nn.Module, path: Path) -> formats.Read:
        state = torch.load(path)
        fresh.load_state_dict(state, strict=False)
        return state, lambda x: fresh(x)

    monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(FORMATS["torch"], write=write, read=read))
    with pytest.raises(PlanError, match="of what was written is not that of model|what was written lacks"):
        engine.export_run(history, "torch", tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network: nn.Module, example: Any, path: Path) -> None:
        path.write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(FORMATS["torch"], write=write))
    with pytest.raises(PlanError, match=r"cannot write .*x\.pt: No space left on device"):
        engine.export_run(history, "torch", tmp_path / "new" / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_raises_is_one_line(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(network: nn.Module, example: Any, path: Path) -> None:
        raise TypeError("not\nserializable")

    monkeypatch.setitem(FORMATS, "torch", dataclasses.replace(FORMATS["torch"], write=write))
    with pytest.raises(
        PlanError, match="model 'nets.py:tiny' cannot be exported as 'torch': TypeError: not serializable"
    ):
        engine.export_run(history, "torch", tmp_path / "x.pt")


def test_code_from_elsewhere_needs_trust(
    prune: Prune, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another account"))
    path = tmp_path / "x.safetensors"
    outcome = prune("export", history, "--out", path)
    assert (outcome.code, "--trust-code" in outcome.err, path.exists()) == (1, True, False)
    assert prune("export", history, "--out", path, "--trust-code").run == path


def test_source_that_has_changed_since_is_said(prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_code(tmp_path))
    run = pruned(prune, "--model", "nets.py:tiny", "--data", "sets.py:blobs")
    (tmp_path / "nets.py").write_text((tmp_path / "nets.py").read_text() + "\n# changed\n")
    assert prune("export", run).err.count("nets.py has changed since") == 1
