"""The command line on networks with recurrent layers, parameters of no known layer and transformed weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Prune

CODE = """
import torch
from torch import nn


class Mixed(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.experts = nn.Parameter(torch.randn(2, 6, 12) / 3)
        self.head = nn.Linear(12, classes)

    def forward(self, x):  # [N, 1, 4, 4]
        return self.head(self.rnn(x[:, 0])[0][:, -1] @ self.experts.sum(0))


class Standardized(nn.Linear):
    def forward(self, x):
        w = self.weight
        return nn.functional.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True), self.bias)


def mixed(shape, classes):
    return Mixed(classes)


def standardized(shape, classes):
    return nn.Sequential(nn.Flatten(), Standardized(16, 16), nn.ReLU(), nn.Linear(16, classes))
"""
TRAIN = ("--data", "sets.py:blobs", "--epochs", "1", "--set", "batch_size=20", "--device", "cpu")
RNN, EXPERTS, HEAD = 3 * 6 * (4 + 6), 2 * 6 * 12, 12 * 3


@pytest.fixture
def odd(workspace: Path) -> Path:
    (workspace / "odd.py").write_text(CODE)
    return workspace


def trained(prune: Prune, name: str, *more: str) -> str:
    made = prune("train", "--model", f"odd.py:{name}", *TRAIN, *more)
    assert made.code == 0, made.err
    return made.out.strip()


def summary(run: str) -> dict:
    return json.loads((Path(run) / "summary.json").read_text())


def test_what_is_left_dense_is_told_recorded_and_shown(odd: Path, prune: Prune) -> None:
    dense = trained(prune, "mixed")
    made = prune("prune", dense, "--sparsity", "0.8")
    run = made.out.strip()
    total, kept = RNN + HEAD, round(0.2 * (RNN + HEAD))
    assert "left dense: Mixed experts (144)" in made.err
    stored = summary(run)
    assert stored["unpruned"] == [
        {"module": "", "type": "Mixed", "weights": EXPERTS, "why": "", "parameters": ["experts"]}
    ]
    assert stored["model_sparsity"] == pytest.approx((total - kept) / (total + EXPERTS))
    both = f"80.1 % ({100 * stored['model_sparsity']:.1f} % of all)"
    assert both in made.err
    assert both in prune("show", run).err
    assert both in prune("list", "runs").err
    assert "left dense: Mixed experts (144)" in prune("flops", run).err
    assert prune("flops", run, "--json").json["unpruned"] == prune("show", run, "--json").json["unpruned"]
    assert prune("eval", run, "--json").json["model_sparsity"] == stored["model_sparsity"]
    assert summary(dense)["model_sparsity"] == 0.0
    again = prune("prune", run, "--sparsity", "0.9")
    assert "left dense" not in again.err.replace(both, "")


def test_include_prunes_by_name_and_must_stay_the_same(odd: Path, prune: Prune) -> None:
    dense = trained(prune, "mixed")
    made = prune("prune", dense, "--sparsity", "0.8", "--include", "experts@2", "--json")
    assert made.code == 0, made.err
    assert "left dense" not in made.err
    assert made.json["sparsity"] == made.json["model_sparsity"]
    run = made.json["run"]
    assert summary(run)["layers"]["experts"][1] == EXPERTS
    shown = prune("show", run, "--layers", "--json").json["structure"]["layers"]
    assert next(layer["filters"] for layer in shown if layer["name"] == "experts") == 12
    other = prune("prune", run, "--sparsity", "0.9")
    assert other.code == 1
    assert "include [] leave" in other.err
    assert prune("prune", dense, "--sparsity", "0.5", "--include", "expert").code == 1
    wrong = prune("prune", dense, "--sparsity", "0.5", "--structure", "filters", "--include", "experts")
    assert "does not apply to filters" in wrong.err
    assert "are not used without a method" in prune("train", "digits", "--set", "include=['fc']").err


@pytest.mark.parametrize("method", ["gmp", "str"])
def test_methods_prune_what_is_included_and_tell_what_is_not(odd: Path, prune: Prune, method: str) -> None:
    goal = ("--sparsity", "0.5", "--set", "method_options.events=2") if method == "gmp" else ()
    run = trained(prune, "mixed", "--method", method, *goal, "--set", "include=['experts']")
    assert list(summary(run)["layers"]) == ["experts", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    made = prune("train", "--model", "odd.py:mixed", *TRAIN, "--method", method, *goal)
    assert "left dense: Mixed experts (144)" in made.err


def test_transformed_weights_are_refused_before_work_and_counted_as_they_are(odd: Path, prune: Prune) -> None:
    dense = trained(prune, "standardized")
    refused = prune("prune", dense, "--sparsity", "0.5")
    assert refused.code == 1
    assert "transforms '1.weight' before it multiplies by them (Standardized)" in refused.err
    assert len(list(Path("runs").iterdir())) == 1
    method = ("--method", "gmp", "--sparsity", "0.5", "--set", "method_options.events=2")
    assert "transforms '1.weight'" in prune("train", "--model", "odd.py:standardized", *TRAIN, *method).err
    made = prune("prune", dense, "--sparsity", "0.5", "--allow-reparametrized", "--json").json
    stored = summary(made["run"])
    assert stored["reparametrized"] == ["1.weight"]
    kept = stored["layers"]["3.weight"][0]
    assert made["model_sparsity"] == pytest.approx((48 - kept) / (256 + 48))
    assert made["sparse_macs"] >= 200 + kept  # the standardized layer multiplies by nearly all of its 256 weights


def test_zeros_of_a_sparse_network_without_masks_are_not_freed(odd: Path, prune: Prune) -> None:
    (odd / "sparse.py").write_text(
        "from torch import nn\ndef net(shape, classes):\n    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))\n"
        "    model[1].weight.data[:, :10] = 0\n    model[1].weight.requires_grad_(False)\n    return model\n"
    )
    made = prune("train", "--model", "sparse.py:net", *TRAIN)
    refused = prune("prune", made.out.strip(), "--sparsity", "0.5")
    assert refused.code == 1
    assert "0.625 of the prunable weights are 0 already" in refused.err
    assert prune("prune", made.out.strip(), "--sparsity", "0.75").code == 0
