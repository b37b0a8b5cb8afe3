"""ONNX files: run by onnxruntime on batches of any size, every parameter as it is and under its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prune, files
from test_export import MORE, pruned

from pruning import engine, trees
from pruning.engine import onnx_format
from pruning.engine.results import load_masks

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def place(workspace: Path) -> Path:
    """The workspace with more.py in it."""
    (workspace / "more.py").write_text(MORE)
    return workspace


def outputs(path: str, x: Any) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    feed = {n: x[n].numpy() for n in names} if isinstance(x, dict) else {names[0]: x.numpy()}
    return torch.from_numpy(session.run(None, feed)[0])


def weights(path: str) -> dict[str, torch.Tensor]:
    stored = onnx.load(path).graph.initializer
    return {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in stored}


def test_batches_of_any_size_and_weights_by_name(prune: Prune, workspace: Path) -> None:
    run = pruned(prune, "--model", "nets.py:build", "--data", "sets.py:blobs", sparsity=0.75)
    outcome = prune("export", run, "--format", "onnx", "--json")
    made = outcome.json
    assert outcome.err == ""
    network = engine.load_model(run)
    for number in (1, 2, 7):
        x = torch.randn(number, 1, 4, 4)
        torch.testing.assert_close(outputs(made["path"], x), network(x), rtol=1e-5, atol=1e-6)
    stored, masks = weights(made["path"]), load_masks(run, network)
    assert masks is not None
    for name, parameter in network.named_parameters():
        assert torch.equal(stored[name], parameter)
    for name, mask in masks.items():
        assert not stored[name][~mask].view(torch.int32).any()
    assert made["zeros"] == made["pruned"] == masks.total - masks.kept
    assert 0 <= made["difference"] < 1e-5
    ((given,), (gives,)) = made["inputs"], made["outputs"]
    assert (given["shape"], given["type"], gives["shape"]) == (["batch", 1, 4, 4], "float", ["batch", 3])
    raw = Path(made["path"]).read_bytes()
    assert str(workspace).encode() not in raw  # no traces of the source
    assert b"site-packages" not in raw


def test_inputs_by_name_and_tied_weights(prune: Prune, place: Path) -> None:
    run = pruned(prune, "--model", "more.py:pair", "--data", "more.py:words")
    made = prune("export", run, "--format", "onnx", "--json").json
    assert {(end["name"], end["type"]) for end in made["inputs"]} == {("words", "int64"), ("numbers", "float")}
    x = {"words": torch.randint(0, 9, (3, 5)), "numbers": torch.randn(3, 3)}
    expected = trees.apply(engine.load_model(run), x)
    torch.testing.assert_close(outputs(made["path"], x), expected, rtol=1e-5, atol=1e-6)
    assert (made["tensors"], made["zeros"]) == (9, made["pruned"])
    assert prune("export", run, "--format", "onnx", "--json").json["unchanged"]


def test_a_shrunk_network(prune: Prune, workspace: Path) -> None:
    dense = prune("train", "--model", "nets.py:tiny", "--data", "sets.py:blobs", "--epochs", "1", "--device", "cpu")
    run = prune("prune", dense.run, "--structure", "filters", "--sparsity", "0.5", "--device", "cpu")
    small = prune("shrink", "-", stdin=run.out)
    made = prune("export", "-", "--format", "onnx", "--trust-code", "--json", stdin=small.out).json
    assert (made["params"], made["sparsity"], made["pruned"]) == (4 * 17 + 3 * 5, None, 0)
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(
        outputs(made["path"], x), engine.load_shrunk(small.run, trust_code=True)(x), rtol=1e-5, atol=1e-6
    )
    assert "--trust-code" in prune("export", small.run, "--format", "onnx").err
    refused = prune("export", small.run)
    assert (refused.code, "is a shrunk network" in refused.err, "allowed: onnx" in refused.err) == (1, True, True)


@pytest.mark.parametrize(("kind", "words"), [("branching", "data-dependent"), ("batch", "onnxruntime does not run")])
def test_networks_that_onnx_cannot_hold(prune: Prune, place: Path, kind: str, words: str) -> None:
    odd = ("--model", "more.py:odd", "--data", "sets.py:blobs", "--set", f"model_options.kind={kind}")
    run = pruned(prune, *odd)
    before = files(place)
    outcome = prune("export", run, "--format", "onnx")
    assert (outcome.code, words in outcome.err) == (1, True), outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert files(place) == before


def test_a_missing_library_and_too_large_a_network(
    prune: Prune, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.onnx"
    with monkeypatch.context() as patch:
        patch.setattr(onnx_format, "LARGEST", 100)
        assert "holds 2 GB" in prune("export", history, "--format", "onnx", "--out", path).err
    real = importlib.import_module

    def load(name: str, *args: Any) -> Any:
        if name == "onnxscript":
            raise ImportError("No module named 'onnxscript'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", load)
    outcome = prune("export", history, "--format", "onnx", "--out", path)
    assert (outcome.code, "pip install 'pruning[onnx]'" in outcome.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
