"""The contract of every during-training method: it trains, reaches its sparsity, ends plain, resumes, fits every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import engine, models
from pruning.engine import fitting
from pruning.events import EpochDone, Event
from pruning.masks import Masks, keep_count, prunable
from pruning.plan import MethodName, Plan, PlanError, Prune, Retrain, Train, choices, make
from pruning.record import checkpoint, runs
from pruning.training.methods import METHODS

# Every method's own settings on a training of 12 steps.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "none": [{}],
    "gmp": [
        {"events": 3, "mode": "hard"},
        {"events": 5, "mode": "soft", "selection": "uniform"},
        {"events": 2, "mode": "hard", "selection": "uniform+"},
    ],
    "dpf": [{"events": 3, "refresh": 2}],
    "gsm": [{}, {"rank": "prunable"}],
    "lc": [{}],
    "lc-original": [{"alternations": 3, "mu": 0.1, "growth": 2.0}],
    "dnw": [{}, {"rate": "global"}],
    "str": [{"s_init": -3.0}],
    "cs": [{"s_0": 0.0, "l1": 1e-5, "beta": 50.0}],
    "dst": [{"alpha": 0.05}],
}
CASES = [(name, settings) for name, table in SETTINGS.items() for settings in table]
STABLE = {"none", "gmp", "dpf", "dnw", "str", "dst"}  # whose last forward pass used what the plain network has

# One small member of every family of models that needs no other library.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet-5": ("lenet-5", {"width": 0.5}),
    r"lenet-(\d+(?:-\d+)+)": ("lenet-12-8", {}),
    r"resnet(18|34)": ("resnet18", {"width": 0.0625}),
    r"resnet(\d+)": ("resnet8", {"width": 0.25}),
    r"vgg(\d+)": ("vgg11", {"width": 0.0625}),
    r"wrn-(\d+)-(\d+)": ("wrn-10-1", {}),
}

SETS = """
import torch


def _part(n, seed, size):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 3, size, size, generator=generator)
    x[torch.arange(n), y] += 1.0
    return x, y


def small():
    return _part(24, 0, 8), _part(15, 1, 8), _part(15, 2, 8)


def large():
    return _part(8, 0, 32), _part(6, 1, 32), _part(6, 2, 32)
"""

NETS = """
from torch import nn


def net(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * (shape[1] - 4) ** 2, 10), nn.ReLU(), nn.Linear(10, classes),
    )


def bare(shape, classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(classes))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with sets.py and nets.py as the current one, and one thread."""
    (tmp_path / "sets.py").write_text(SETS)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def train(name: str, options: dict[str, Any], **changes: Any) -> Train:
    """Returns a training of 4 epochs of 3 steps."""
    goal = {"sparsity": 0.8} if METHODS[name].goal else {}
    settings = {
        "model": "nets.py:net", "data": "sets.py:small", "epochs": 4, "batch_size": 8, "lr": 0.05, "schedule": "linear",
        "keep_epochs": (0, 2), "method": name, "method_options": options, **goal, **changes,
    }  # fmt: skip
    return make(Train, settings)


def advance(
    phase: Train | Prune | Retrain, parent: Path | None = None, tell: Callable[[Event], None] = lambda e: None
) -> Path:
    return engine.advance(phase, parent, Path("runs"), device="cpu", tell=tell)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / runs.WEIGHTS)[0]


def same(a: Path, b: Path) -> bool:
    """Returns whether two runs hold the same bits, but for times."""
    timing = ("run", "seconds", "images_per_second", "train_seconds")
    drop = lambda record: {key: value for key, value in record.items() if key not in timing}  # noqa: E731
    assert drop(runs.read_summary(a)) == drop(runs.read_summary(b))
    assert [drop(r) for r in runs.log(a)] == [drop(r) for r in runs.log(b)]
    names = sorted(p.name for p in a.glob("*.safetensors"))
    assert names == sorted(p.name for p in b.glob("*.safetensors"))
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    return True


def test_every_method_has_settings_and_every_family_a_member() -> None:
    assert list(SETTINGS) == list(METHODS) == list(choices(MethodName))
    assert set(NETWORKS) == {p for p, _ in models.FAMILIES if not p.startswith(("torchvision", "timm", "transformers"))}
    assert [name for name, entry in METHODS.items() if not entry.goal and not entry.drives] == ["none"]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_contract(name: str, options: dict[str, Any]) -> None:
    """It reaches its sparsity to the weight, ends as a plain network, evaluates as it did, is pruned on and retrained."""
    run = advance(train(name, options))
    summary, log, state = runs.read_summary(run), runs.log(run), tensors(run)
    network = models.build("nets.py:net", (3, 8, 8), 3, seed=0)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    for kept in ("init.safetensors", "epoch-0002.safetensors"):
        weights = {k: v for k, v in checkpoint.load(run / kept)[0].items() if ":" not in k}
        assert weights.keys() == state.keys()
    momenta = checkpoint.load(run / runs.MOMENTA)[0]
    assert set(momenta) == {f"momentum_buffer:{key}" for key, _ in network.named_parameters()}

    again = engine.evaluate_run(run, device="cpu")
    for key in ("accuracy", "loss", "val_accuracy", "sparsity", "nonzero"):
        assert again[key] == summary[key]
    if name in STABLE:
        assert log[-1]["val_accuracy"] == summary["val_accuracy"]
    if name == "none":
        assert "accuracy_before_prune" not in summary
        assert not (run / runs.MASKS).exists()
        return
    masks = Masks.load(run / runs.MASKS)
    assert list(masks) == list(prunable(network))
    assert masks.violations(state) == []
    assert not any(momenta[f"momentum_buffer:{n}"][~m].any() for n, m in masks.items())
    if name in STABLE:
        assert log[-1]["density"] == masks.density
        assert summary["accuracy_before_prune"] == summary["accuracy"]
    if (name, options) == ("dnw", {}):
        assert all(kept == keep_count(total, 0.8) for kept, total in masks.counts().values())
    elif METHODS[name].goal:
        assert masks.kept == keep_count(masks.total, 0.8)
    assert 0 < masks.kept < masks.total

    pruned = advance(Prune(sparsity=max(0.9, summary["sparsity"] + 0.01)), run)
    tuned = advance(Retrain(technique="fine-tune", epochs=1), run)
    assert runs.read_summary(tuned)["sparsity"] == summary["sparsity"]
    assert Masks.load(pruned / runs.MASKS).kept < masks.kept


class Stop(Exception):
    """Ends a training from within, right after a state was saved."""


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_resumes_to_the_same_bits(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY", -1.0)
    phase = train(name, options, schedule="cyclic" if name == "gmp" else "linear")
    whole = advance(phase).rename("whole")

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.record["epoch"] in (1, 3):
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            advance(phase, tell=stop)
    run = advance(phase)
    assert same(whole.parent / "whole", run)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] != "none"], ids=str)
def test_from_a_trained_network(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense run trained on with a method ends plain, resumes to the same bits, and is retrained under its masks."""
    monkeypatch.setattr(fitting, "SAVE_EVERY", -1.0)
    dense = advance(train("none", {}, weight_decay=1e-3))
    goal = {"sparsity": 0.8} if METHODS[name].goal else {}
    settings = {"technique": "lr-rewind", "epochs": 4, "method": name, "method_options": options, **goal}
    phase = make(Retrain, settings)
    whole = advance(phase, dense).rename("whole")
    assert runs.history(dense) == [dense]

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.record["epoch"] in (1, 3):
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            advance(phase, dense, tell=stop)
    run = advance(phase, dense)
    assert same(whole.parent / "whole", run)
    assert runs.history(run) == [dense, run]
    summary, state = runs.read_summary(run), tensors(run)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in tensors(dense).items()}
    masks = Masks.load(run / runs.MASKS)
    assert masks.violations(state) == []
    assert 0 < masks.kept < masks.total
    if METHODS[name].goal and name != "dnw":
        assert masks.kept == keep_count(masks.total, 0.8)
    again = engine.evaluate_run(run, device="cpu")
    assert (again["accuracy"], again["nonzero"]) == (summary["accuracy"], summary["nonzero"])
    assert summary["epochs"] == 4
    if name in STABLE:
        assert summary["accuracy_before_prune"] == again["accuracy"]
    tuned = advance(Retrain(technique="fine-tune", epochs=1), run)
    assert runs.read_summary(tuned)["sparsity"] == summary["sparsity"]


def test_a_method_starts_from_the_weights_and_momenta_of_the_run() -> None:
    """At a rate of all but 0 nothing moves: GSM leaves the dense run's weights, cut by their global magnitude."""
    dense = advance(train("none", {}))
    still = {"schedule": "constant", "schedule_lr": 1e-30, "epochs": 1, "method": "gsm", "sparsity": 0.8}
    run = advance(make(Retrain, {"technique": "fine-tune", **still}), dense)
    before, after, masks = tensors(dense), tensors(run), Masks.load(run / runs.MASKS)
    sizes = torch.cat([before[name].abs().flatten() for name in masks])
    cut = sizes.sort(descending=True).values[masks.kept - 1]
    for name, mask in masks.items():
        assert torch.equal(mask, before[name].abs() >= cut)
        assert torch.equal(after[name], before[name].where(mask, 0.0))
    # v3 = mu^3 v0 + what three gradients add: momenta that were taken over differ from those that were not
    reset = advance(make(Retrain, {"technique": "fine-tune", "optimizer_state": "reset", **still}), dense)
    kept, fresh = (checkpoint.load(folder / runs.MOMENTA)[0] for folder in (run, reset))
    start = checkpoint.load(dense / runs.MOMENTA)[0]
    name = "8.bias"
    gained = kept[f"momentum_buffer:{name}"] - fresh[f"momentum_buffer:{name}"]
    assert torch.allclose(gained, 0.9**3 * start[f"momentum_buffer:{name}"], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gsm"}, "method 'gsm' needs a sparsity, its goal"),
        ({"sparsity": 0.9}, "sparsity is not used by method 'none': the masks of the pruned run hold"),
        ({"method": "cs", "sparsity": 0.9}, "sparsity is not used by method 'cs'"),
        ({"method_options": {"rank": "all"}}, "method_options .* not used without a method"),
        ({"method": "cs", "technique": "weight-rewind", "rewind_step": 3}, "rewind_step is not used with a method"),
    ],
)
def test_retrainings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(Retrain, settings)


def test_what_a_retraining_with_a_method_refuses() -> None:
    """Everything is refused before a folder is made, and in a preview."""
    dense = advance(train("none", {}, milestones=(1,), schedule="stepped"))
    there = sorted(Path("runs").iterdir())
    for settings, message in [
        ({"method": "gmp", "sparsity": 0.5, "epochs": 2}, "20 pruning events do not fit 6 steps"),
        ({"method": "gsm", "sparsity": 0.5, "method_options": {"events": 3}}, "method 'gsm': unknown setting 'events'"),
        ({"method": "dnw", "sparsity": 0.5, "exclude": ("nothing",)}, "exclude 'nothing' fits no prunable weight"),
        ({}, "is not pruned; retrain continues a pruned run .prune prune RUN --sparsity S., or takes --method"),
    ]:
        with pytest.raises(PlanError, match=message):
            advance(make(Retrain, settings), dense)
        with pytest.raises(PlanError, match=message):
            engine.preview([make(Retrain, settings)], dense, Path("runs"), device="cpu")
    with pytest.raises(PlanError, match="schedule 'allr' follows from a pruning, and run .* is not pruned"):
        advance(make(Retrain, {"method": "gsm", "sparsity": 0.5, "schedule": "allr"}), dense)
    assert sorted(Path("runs").iterdir()) == there
    (row,) = engine.preview([make(Retrain, {"method": "gsm", "sparsity": 0.5})], dense, Path("runs"), device="cpu")
    assert (row["phase"], row["epochs"], row["done"]) == ("retrain", 4, False)
    pruned = advance(Prune(sparsity=0.5), dense)
    with pytest.raises(PlanError, match="is pruned; retrain with method 'gsm' starts from a dense run"):
        advance(make(Retrain, {"method": "gsm", "sparsity": 0.9}), pruned)
    gsm = make(Retrain, {"method": "gsm", "sparsity": 0.9})
    with pytest.raises(PlanError, match="a retrain phase with method 'gsm' starts from a dense network"):
        make(Plan, {"name": "x", "phases": [train("none", {}), Prune(sparsity=0.5), gsm]})
    with pytest.raises(PlanError, match="needs a prune phase before it, or a method"):
        make(Plan, {"name": "x", "phases": [train("none", {}), Retrain()]})
    assert make(Plan, {"name": "x", "phases": [train("none", {}), gsm, Retrain()]}).phases[1] == gsm


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "none"])
def test_every_family(name: str, family: str) -> None:
    """Two steps in float32 and two under bfloat16 autocast leave a finite, plain, sparse network."""
    model, options = NETWORKS[family]
    own = {
        **SETTINGS[name][0],
        **({"events": 1} if name in ("gmp", "dpf") else {}),
        **({"alternations": 1} if name == "lc-original" else {}),
    }
    for precision in ("float32", "bfloat16"):
        phase = train(
            name, own, model=model, model_options=options, data="sets.py:large", epochs=1, batch_size=4,
            keep_epochs=(0,), precision=precision,
        )  # fmt: skip
        summary = runs.read_summary(advance(phase))
        assert 0 < summary["sparsity"] < 1
        if METHODS[name].goal and name != "dnw":
            total = sum(n for _, n in summary["layers"].values())
            assert sum(kept for kept, _ in summary["layers"].values()) == keep_count(total, 0.8)


@pytest.mark.parametrize("name", ["gmp", "dpf", "dnw", "str", "cs", "dst", "lc-original"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers(name: str, optimizer: str) -> None:
    run = advance(train(name, SETTINGS[name][0], optimizer=optimizer, lr=0.002))
    masks = Masks.load(run / runs.MASKS)
    moments = checkpoint.load(run / runs.MOMENTA)[0]
    assert not any(
        v[~masks[k.partition(":")[2]]].any() for k, v in moments.items() if k.partition(":")[2] in masks and v.ndim
    )


def test_excluded_weights_stay_dense() -> None:
    for name in ("gmp", "gsm", "lc-original", "dnw", "dst"):
        run = advance(train(name, SETTINGS[name][0], exclude=("0", "8.*")))
        masks = Masks.load(run / runs.MASKS)
        assert list(masks) == ["3.weight", "6.weight"]
        assert bool((tensors(run)["0.weight"] != 0).all())


def test_methods_differ_from_plain_training() -> None:
    """Every method and every option that is tried leaves other weights than plain training and than the others."""
    found: dict[bytes, str] = {}
    more = [
        ("str", {"s_init": -3.0, "threshold_decay": 0.3}),
        ("str", {"s_init": -3.0, "threshold_lr": 5.0}),
        ("cs", {"s_0": 0.0, "l1": 1e-5, "beta": 50.0, "anneal": "epoch"}),
        ("cs", {"s_0": 0.0, "l1": 1e-5, "beta": 50.0, "gate_decay": 0.3}),
        ("cs", {"s_0": 0.0, "l1": 1e-5, "beta": 50.0, "decay_in_loss": 0.3}),
        ("dst", {"alpha": 0.05, "decay_in_loss": 0.3}),
        ("dst", {"alpha": 0.05, "threshold_decay": 0.3}),
    ]
    for name, options in [*CASES, *more]:
        bits = tensors(advance(train(name, options)))["0.weight"].numpy().tobytes()
        assert bits not in found, (name, options, found.get(bits))
        found[bits] = f"{name} {options}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gmp", "method_options": {}}, "method 'gmp' needs a sparsity, its goal"),
        ({"method": "str", "sparsity": 0.9}, "sparsity is not used by method 'str'"),
        ({"method": "none", "sparsity": 0.9}, "sparsity is not used by method 'none'"),
        ({"method": "none", "exclude": ("0",)}, "exclude .* not used without a method"),
        ({"method": "gnp"}, "method 'gnp' is unknown .did you mean 'gmp'"),
        ({"method": "dnw", "sparsity": 0.9, "schedule": "cyclic"}, "schedule 'cyclic' restarts at the pruning events"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(Train, {"model": "lenet-5", "data": "digits", **settings})


@pytest.mark.parametrize(
    ("name", "options", "changes", "message"),
    [
        ("gmp", {"event": 3}, {}, "method 'gmp': unknown setting 'event' .did you mean 'events'"),
        ("gsm", {"events": 3}, {}, "method 'gsm': unknown setting 'events'; known: rank"),
        (
            "gmp",
            {"mode": "herd"},
            {},
            "method 'gmp': mode 'herd' is unknown .did you mean 'hard'..; allowed: hard, soft",
        ),
        ("gmp", {"events": 12}, {}, "method 'gmp': 12 pruning events do not fit 12 steps; allowed: 1 to 11"),
        ("gmp", {"events": 0}, {}, "method 'gmp': events: input should be greater than or equal to 1"),
        ("gmp", {"events": True}, {}, "method 'gmp': events: input should be a valid integer"),
        ("lc-original", {}, {}, "method 'lc-original': 40 alternations do not fit 12 steps"),
        (
            "gmp",
            {"events": 2, "selection": "uniform+"},
            {"sparsity": 0.99},
            "uniform.*keeps its first convolution dense",
        ),
        ("gsm", {}, {"optimizer": "adam"}, "method 'gsm' is not defined for optimizer 'adam'; allowed: sgd"),
        ("lc", {}, {"optimizer": "adamw"}, "method 'lc' is not defined for optimizer 'adamw'; allowed: sgd, adam"),
        ("dnw", {}, {"exclude": ("nothing",)}, "exclude 'nothing' fits no prunable weight"),
        ("str", {}, {"model": "nets.py:bare"}, "no convolution, linear or recurrent layer"),
    ],
)
def test_refused_before_the_folder_is_made(
    name: str, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        advance(train(name, options, **changes))
    assert not Path("runs").exists()
