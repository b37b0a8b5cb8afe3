"""Filters from the command line to the smaller network: exact counts, both densities, refusals, shrinking, structure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY, Outcome, Prune

from pruning import engine, plan
from pruning.deciding.filters import LI, POOLS
from pruning.masks import Masks
from pruning.plan import PlanError, Retrain, Train, make
from pruning.record import runs

NORMED = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def build(shape, classes):
    return Net(shape[0], classes)
"""


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of two convolutions, 14 filters, with a normalization behind the first."""
    from conftest import write_code

    folder = write_code(tmp_path_factory.mktemp("filters"))
    (folder / "normed.py").write_text(NORMED)
    train = Train(model=f"{folder}/normed.py:build", data=f"{folder}/sets.py:blobs", epochs=2, batch_size=20)
    return engine.advance(train, None, folder / "runs", device="cpu")


def pruned(dense: Path, **settings: object) -> Path:
    return engine.advance(make(plan.Prune, {"structure": "filters", **settings}), dense, dense.parent, device="cpu")


def left(run: Path) -> list[int]:
    """Returns how many filters of each convolution have a weight left."""
    return [layer["filters_kept"] for layer in engine.structure(run)["layers"][:2]]


@pytest.mark.parametrize("norm", [*POOLS, "random"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
def test_exact_counts(dense: Path, norm: str, sparsity: float) -> None:
    own = {"criterion": "random"} if norm == "random" else {"filter_norm": norm}
    assert sum(left(pruned(dense, sparsity=sparsity, **own))) == round((1 - sparsity) * 14)
    if sparsity == 0.3:  # more of it empties a layer here, which is refused
        own["allocation"] = "global"
        assert sum(left(pruned(dense, sparsity=sparsity, **own))) == round((1 - sparsity) * 14)


def test_what_goes_with_a_filter_stays_gone_through_retraining(dense: Path) -> None:
    first = pruned(dense, sparsity=0.5)
    again = engine.advance(Retrain(epochs=2), first, dense.parent, device="cpu")
    masks, network = Masks.load(again / runs.MASKS), engine.load_model(again, trust_code=True)
    assert left(first) == left(again) == [4, 3]
    assert set(masks.extra) == {"conv1.bias", "bn1.weight", "bn1.bias", "conv2.bias"}
    for name, mask in masks.everything().items():
        assert not network.get_parameter(name)[~mask].any()
        assert network.get_parameter(name)[mask].any()
    summary = runs.read_summary(again)
    weights = 8 * 9 + 6 * 8 * 9 + 3 * 6
    assert summary["sparsity"] == pytest.approx(1 - (4 * 9 + 3 * 8 * 9 + 3 * 6) / weights)
    assert summary["sparsity_with_inputs"] == pytest.approx(1 - (4 * 9 + 3 * 4 * 9 + 3 * 3) / weights)
    third = pruned(again, sparsity=0.7)
    assert sum(left(third)) == 4
    both = engine.advance(plan.Prune(sparsity=0.9), third, dense.parent, device="cpu")
    assert Masks.load(both / runs.MASKS).extra.keys() == masks.extra.keys()
    assert "sparsity_with_inputs" in runs.read_summary(both)


def test_reinit_draws_anew_what_is_left(dense: Path) -> None:
    run, control = pruned(dense, sparsity=0.5), pruned(dense, sparsity=0.5, ablation="reinit")
    a, b = Masks.load(run / runs.MASKS), Masks.load(control / runs.MASKS)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(
        engine.load_model(run, trust_code=True).conv2.weight, engine.load_model(control, trust_code=True).conv2.weight
    )


@pytest.mark.parametrize("trained", [False, True])
def test_shrunk_network_is_smaller_and_computes_the_same(dense: Path, tmp_path: Path, trained: bool) -> None:
    run = pruned(dense, sparsity=0.5)
    if trained:
        run = engine.advance(Retrain(epochs=2), run, dense.parent, device="cpu")
    folder = engine.shrink_run(run, tmp_path / "small", trust_code=True)
    record = engine.read_shrunk(folder)
    assert record["params"] == [8 * 10 + 16 + 6 * 73 + 3 * 7, 4 * 10 + 8 + 3 * 37 + 3 * 4]
    assert record["layers"]["conv2.weight"] == [[6, 8, 3, 3], [3, 4, 3, 3]]
    assert record["difference"] < 1e-5
    with pytest.raises(PlanError, match="would execute code"):
        engine.load_shrunk(folder)
    small, masked = engine.load_shrunk(folder, trust_code=True), engine.load_model(run, trust_code=True)
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(small(x), masked(x), atol=1e-5)
    assert {p.name for p in folder.iterdir()} == {"shrink.json", "weights.safetensors"}
    assert engine.shrink_run(run, tmp_path / "small", trust_code=True) == folder  # made anew


def test_shrinking_refuses_what_it_cannot_do(dense: Path, tmp_path: Path) -> None:
    weights = engine.advance(plan.Prune(sparsity=0.1), dense, dense.parent, device="cpu")
    (tmp_path / "there").mkdir()
    for run, to, message in (
        (dense, None, "is not pruned"),
        (weights, None, "no dead filter"),
        (pruned(dense, sparsity=0.5), tmp_path / "there", "is no shrunk network; name another folder"),
    ):
        with pytest.raises(PlanError, match=message):
            engine.shrink_run(run, to, trust_code=True)
    with pytest.raises(PlanError, match=r"no shrink\.json"):
        engine.load_shrunk(tmp_path)


def test_li_rates_name_the_registry_and_need_their_network(dense: Path) -> None:
    assert set(plan.choices(plan.FilterRates)) == set(LI)
    assert set(plan.choices(plan.FilterNorm)) == set(POOLS)
    with pytest.raises(PlanError, match="network with 13 convolutions; this one has 2"):
        pruned(dense, filter_rates="vgg16-a")
    with pytest.raises(PlanError, match="no filter of 'conv2.weight' would be left|would be left"):
        pruned(dense, sparsity=0.95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "'sparsity' is missing"),
        ({"sparsity": 0.5, "filter_norm": "l2"}, "filter_norm is not used by structure 'weights'"),
        ({"filter_rates": "vgg16-a"}, "filter_rates is not used by structure 'weights'"),
        ({"structure": "filters", "sparsity": 0.5, "filter_rates": "vgg16-a"}, "leave out sparsity 0.5"),
        ({"structure": "filters", "allocation": "global", "filter_rates": "vgg16-a"}, "leave out allocation 'global'"),
        ({"structure": "filters", "sparsity": 0.5, "filter_level": 2}, "not used without filter_rates"),
        (
            {"structure": "filters", "sparsity": 0.5, "filter_norm": "l3"},
            "filter_norm 'l3' is unknown; allowed: l1, l2, mean",
        ),
        ({"structure": "filters", "filter_rates": "resnet56-c"}, "did you mean 'resnet56-"),
        ({"structure": "filters", "sparsity": 0.5, "criterion": "snip"}, "'snip' does not apply to filters"),
        ({"structure": "filters", "sparsity": 0.5, "allocation": "erk"}, "'erk' does not apply to filters"),
        (
            {"structure": "filters", "sparsity": 0.5, "criterion": "random", "filter_norm": "l1"},
            "by criterion 'random'",
        ),
        (
            {"structure": "filters", "sparsity": 0.5, "min_per_layer": 1},
            "min_per_layer '1' does not apply to filters; allowed: 0",
        ),
        (
            {"structure": "filters", "sparsity": 0.5, "ablation": "shuffle"},
            "'shuffle' does not apply to filters; allowed: reinit",
        ),
        ({"structure": "filters", "sparsity": 0.5, "rounds": 3}, "rounds is not used"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        make(plan.Prune, settings)


def test_settings_survive_being_written_down() -> None:
    for settings in ({"sparsity": 0.5}, {"filter_rates": "resnet56-b", "filter_level": 3}):
        phase = make(plan.Prune, {"structure": "filters", **settings})
        assert phase.allocation == "uniform"
        assert make(plan.Prune, json.loads(phase.model_dump_json())) == phase


# --- the command line -------------------------------------------------------------------------------------------------------


def start(prune: Prune) -> Outcome:
    outcome = prune("train", *TINY, "--epochs", 2, "--set", "batch_size=20")
    return prune("prune", outcome.run, "--structure", "filters", "--sparsity", 0.5)


def test_commands(prune: Prune, workspace: Path) -> None:
    run = start(prune).run
    shown = prune("show", run, "--layers", "--json").json["structure"]
    assert [(layer["filters_kept"], layer["filters"]) for layer in shown["layers"]] == [(4, 8), (3, 3)]
    assert shown["layers_gone"] == []
    assert shown["neuron_collapse"] == pytest.approx(4 / 11)
    assert shown["sparsity_with_inputs"] == pytest.approx(0.5)
    told = prune("show", run, "--layers")
    assert "neuron collapse 36.4 %" in told.err
    assert "4 of 8" in told.err
    small = prune("shrink", run)
    assert small.run == Path(f"{run}-shrunk")
    assert "8x16  4x16" in re.sub(" +", "  ", small.err)
    assert prune("shrink", run, "--to", "small", "--json").json["params"] == [8 * 17 + 3 * 9, 4 * 17 + 3 * 5]
    assert prune("list", "runs", "--json").json["runs"]  # the shrunk one beside them is no run
    missing = prune("prune", run)
    assert (missing.code, missing.out) == (2, "")
    assert "--filter-rates" in missing.err


def test_figure_of_the_layers(prune: Prune, workspace: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    run = start(prune).run
    assert prune("show", run, "--plot", "layers.svg").run == run
    text = Path("layers.svg").read_text()
    assert "weights kept (%)" in text
    assert ">1</text>" in text
