"""Plans end to end on a tiny network: done means skip, prefixes are shared, nothing leaks, resume equals never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kills import PLAN, Moment, run_plan, work

from pruning import engine
from pruning.engine import fitting
from pruning.events import EpochDone, Event, PhaseDone, PhaseStarted
from pruning.masks import Masks
from pruning.plan import Iterate, Plan, PlanError, Prune, Retrain, Train
from pruning.record import checkpoint, locking, runs
from pruning.training import optim

pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")

TRAIN = Train(
    model="lenet-300-100", data="digits", epochs=3, batch_size=256, lr=0.1, milestones=(2,), keep_epochs=(0, 1, 2)
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture(scope="module")
def dense(shared: Path) -> Path:
    return engine.advance(TRAIN, None, shared, device="cpu")


@pytest.fixture(scope="module")
def pruned(shared: Path, dense: Path) -> Path:
    return engine.advance(Prune(sparsity=0.9), dense, shared, device="cpu")


def tensors(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {p.name: checkpoint.load(p)[0] for p in sorted(run.glob("*.safetensors")) if p.name != runs.MASKS}


def assert_same(a: Path, b: Path) -> None:
    """The two folders hold the same bits, but for times."""
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].keys() == right[name].keys()
        for key in left[name]:
            assert torch.equal(left[name][key], right[name][key]), (name, key)
    timing = ("seconds", "images_per_second", "run", "train_seconds")
    drop = lambda record: {k: v for k, v in record.items() if k not in timing}  # noqa: E731
    assert drop(runs.read_summary(a)) == drop(runs.read_summary(b))
    assert [drop(r) for r in runs.log(a)] == [drop(r) for r in runs.log(b)]


def assert_no_leak(run: Path) -> None:
    """Every pruned weight and momentum in every file of the run is +0, to the bit."""
    masks = Masks.load(run / runs.MASKS)
    seen = 0
    for file, content in tensors(run).items():
        if file == runs.epoch_file(0):
            continue
        for name, tensor in content.items():
            mask = masks.get(name.partition(":")[2] or name)
            if mask is not None and tensor.ndim:
                pruned = tensor[~mask]
                assert not pruned.any(), (file, name)
                assert not torch.signbit(pruned).any(), (file, name)
                seen += 1
    assert seen >= len(masks)


def test_folder_names_and_files(dense: Path, pruned: Path) -> None:
    assert dense.name.startswith("lenet-300-100-digits-s0-train-")
    assert {p.name for p in dense.iterdir()} == {
        "phase.json", "env.json", "log.jsonl", "summary.json", "weights.safetensors", "momenta.safetensors",
        "init.safetensors", "epoch-0001.safetensors", "epoch-0002.safetensors",
    }  # fmt: skip
    assert (pruned / runs.MASKS).exists()
    assert runs.history(pruned) == [dense, pruned]


def test_results_have_the_keys_of_the_contract(dense: Path, pruned: Path) -> None:
    for run in (dense, pruned):
        assert set(runs.RESULT_KEYS) <= runs.read_summary(run).keys()
    summary = runs.read_summary(pruned)
    total = sum(n for _, n in summary["layers"].values())
    assert sum(k for k, _ in summary["layers"].values()) == round(0.1 * total)
    assert summary["sparse_macs"] == round(0.1 * total)  # an MLP: one MAC a weight
    assert summary["macs"] == total


def test_a_finished_command_does_nothing(shared: Path, dense: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in dense.iterdir()}
    events: list[Event] = []
    assert engine.advance(TRAIN, None, shared, device="cpu", tell=events.append) == dense
    assert {p: p.stat().st_mtime_ns for p in dense.iterdir()} == before
    assert [type(e) for e in events] == [PhaseStarted, PhaseDone]
    assert all(e.reused for e in events if isinstance(e, PhaseStarted | PhaseDone))


def test_first_losses_are_pinned(dense: Path) -> None:
    """A change here is a change of what every seed gives: initialization, order of the data, or arithmetic.

    Loosely, because another CPU or torch rounds otherwise; what must be the same to the bit is so on one machine, below.
    """
    losses = [record["train_loss"] for record in runs.log(dense)]
    assert losses == [pytest.approx(value, rel=1e-4) for value in (2.2169887, 1.6051343, 0.8809876)]


TWICE = f"""
import sys
from pathlib import Path
import torch
from pruning import engine
from pruning.plan import Prune, Retrain, Train
torch.set_num_threads(1)
run, out = None, Path(sys.argv[1])
for phase in (Train(**{TRAIN.model_dump()!r}), Prune(sparsity=0.9), Retrain(technique="weight-rewind", epochs=1)):
    run = engine.advance(phase, run, out, device="cpu")
"""


def digests(run: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of tensors, and of the log without times."""
    timing = ("seconds", "images_per_second", "train_seconds")
    lines = [json.dumps({k: v for k, v in record.items() if k not in timing}) for record in runs.log(run)]
    contents = {file.name: file.read_bytes() for file in run.glob("*.safetensors")}
    contents[runs.LOG] = "\n".join(lines).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


@pytest.mark.parametrize("kernels", ["as they are", "none"])
def test_the_same_settings_give_the_same_bits(
    shared: Path, dense: Path, pruned: Path, tmp_path: Path, kernels: str
) -> None:
    """Another process, with another order of its sets, gives the same files: to the bit, and not to a tolerance.

    Without the native kernels too, where there is one right answer: what is trained dense, masks, and what they leave. The
    masked step is that of a plain loop to rounding only.
    """
    environment = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "12345"} | (
        {"PRUNE_NATIVE": "0"} if kernels == "none" else {}
    )
    subprocess.run([sys.executable, "-c", TWICE, str(tmp_path)], check=True, env={**os.environ, **environment})
    retrained = engine.advance(Retrain(technique="weight-rewind", epochs=1), pruned, shared, device="cpu")
    backend = runs.read_summary(tmp_path / dense.name)["backend"]
    assert backend == ("reference" if kernels == "none" else runs.read_summary(dense)["backend"])
    for run in (dense, pruned) if kernels == "none" else (dense, pruned, retrained):
        assert digests(tmp_path / run.name) == digests(run)
    if kernels == "none":
        masks = (Masks.load(folder / retrained.name / runs.MASKS) for folder in (tmp_path, shared))
        assert all(torch.equal(a, b) for a, b in zip(*(m.values() for m in masks), strict=True))
        for left, right in zip(*(runs.log(folder / retrained.name) for folder in (tmp_path, shared)), strict=True):
            assert left["train_loss"] == pytest.approx(right["train_loss"], rel=1e-5)


@pytest.mark.parametrize("technique", ["fine-tune", "weight-rewind", "lr-rewind", "low-lr-rewind", "reinit"])
def test_techniques_end_sparse_and_leak_nothing(shared: Path, pruned: Path, technique: str) -> None:
    run = engine.advance(Retrain(technique=technique, epochs=1), pruned, shared, device="cpu")
    assert_no_leak(run)
    assert runs.read_summary(run)["sparsity"] == runs.read_summary(pruned)["sparsity"]
    assert runs.read_summary(run)["epochs"] == (4 if technique == "reinit" else 1)


EXPECTED = {  # technique: (file of the dense run that the weights are of, epochs, the schedule's steps; None = held at the end)
    "fine-tune": (runs.WEIGHTS, 1, [17] * 6),
    "lr-rewind": (runs.WEIGHTS, 1, range(12, 18)),
    "weight-rewind": (runs.epoch_file(2), 1, range(12, 18)),
    "low-lr-rewind": (runs.epoch_file(2), 1, [17] * 6),
    "reinit": (None, 4, [*range(18), *[17] * 6]),
}


@pytest.mark.parametrize("technique", EXPECTED)
def test_where_each_technique_starts(
    tmp_path: Path, dense: Path, pruned: Path, technique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, BatchNorm statistics and momenta of the right epoch, masked, and the right rates (Renda et al. 2020, 2.3)."""
    for run in (dense, pruned):
        shutil.copytree(run, tmp_path / run.name)
    seen: dict[str, object] = {}

    def record(network, data, optimizer, lr, *, total_steps, **rest):  # type: ignore[no-untyped-def]
        seen["weights"] = {k: v.clone() for k, v in network.state_dict().items()}
        seen["momenta"] = fitting.optimizer_state(optimizer, network)
        seen["rates"] = [lr(step) for step in range(total_steps)]
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.loop, "fit", record)
    with pytest.raises(KeyboardInterrupt):
        engine.advance(Retrain(technique=technique, epochs=1), tmp_path / pruned.name, tmp_path, device="cpu")
    file, epochs, steps = EXPECTED[technique]
    rate = engine.dense_schedule(TRAIN, 6)
    assert seen["rates"] == [rate(step) for step in steps]
    assert len(seen["rates"]) == 6 * epochs  # type: ignore[arg-type]
    masks = Masks.load(pruned / runs.MASKS)
    weights: dict[str, torch.Tensor] = seen["weights"]  # type: ignore[assignment]
    momenta: dict[str, torch.Tensor] = seen["momenta"]  # type: ignore[assignment]
    if file is None:
        init = checkpoint.load(dense / runs.epoch_file(0))[0]
        assert not torch.equal(weights["fc.bias"], init["fc.bias"])
        assert momenta == {}
    else:
        source = checkpoint.load(dense / file)[0]
        if file == runs.WEIGHTS:
            source |= checkpoint.load(dense / runs.MOMENTA)[0]
        for name, value in (weights | momenta).items():
            mask = masks.get(name.partition(":")[2] or name)
            assert torch.equal(value, source[name] if mask is None else source[name].where(mask, 0)), name
        assert momenta.keys() == {k for k in source if ":" in k}
    assert not masks.violations(weights)


def test_no_step_leaves_a_pruned_weight_or_momentum(
    shared: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    class Watched(optim.MaskedSGD):
        def step(self, closure: object = None) -> None:
            nonlocal steps
            super().step()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.ndim == 2:
                        gone = parameter.detach()[~by_shape[parameter.shape]]
                        moved = self.state[parameter]["momentum_buffer"][~by_shape[parameter.shape]]
                        for values in (gone, moved):
                            assert not values.any()
                            assert not torch.signbit(values).any()
                            steps += 1

    by_shape = {mask.shape: mask for mask in Masks.load(pruned / runs.MASKS).values()}
    monkeypatch.setattr(optim, "MaskedSGD", Watched)
    engine.advance(Retrain(technique="lr-rewind", epochs=2), pruned, shared, device="cpu")
    assert steps == 2 * 6 * len(by_shape) * 2


def test_a_rewind_that_was_not_kept_says_how_to_get_it(shared: Path) -> None:
    bare = engine.advance(TRAIN.model_copy(update={"keep_epochs": (0,)}), None, shared, device="cpu")
    pruned = engine.advance(Prune(sparsity=0.5), bare, shared, device="cpu")
    before = sorted(shared.iterdir())
    with pytest.raises(PlanError, match=r"epoch 2 of .* was not kept \(kept: 0\); train with --set keep_epochs=\[2\]"):
        engine.advance(Retrain(technique="weight-rewind", epochs=1), pruned, shared, device="cpu")
    assert sorted(shared.iterdir()) == before
    full = engine.advance(Retrain(technique="weight-rewind"), pruned, shared, device="cpu")
    assert runs.read_summary(full)["epochs"] == 3


def test_twenty_cycles_keep_exact_counts(tmp_path: Path, dense: Path, shared: Path) -> None:
    ladder = Iterate(sparsity=1 - 0.8**20, rate=0.2, retrain={"technique": "fine-tune", "epochs": 1})
    run, total = dense, sum(n for _, n in runs.read_summary(dense)["layers"].values())
    previous = None
    for j, phase in enumerate(ladder.phases(), start=1):
        if isinstance(phase, Retrain):
            continue  # counts do not depend on the retraining; it has tests of its own
        run = engine.advance(phase, run, shared, device="cpu")
        masks = Masks.load(run / runs.MASKS)
        assert masks.kept == round(0.8 ** ((j + 1) // 2) * total)
        if previous is not None:
            assert all(bool((previous[n] | ~masks[n]).all()) for n in masks)
        previous = masks


def test_run_shares_what_is_done(shared: Path, dense: Path, pruned: Path) -> None:
    plan = Plan(name="p", phases=(TRAIN, Prune(sparsity=0.9), Retrain(technique="fine-tune", epochs=1)))
    events: list[Event] = []
    folders = engine.run(plan, shared, device="cpu", tell=events.append)
    assert folders[:2] == [dense, pruned]
    assert not any(isinstance(e, EpochDone) for e in events[:4])


def test_preview_names_the_folders_and_writes_nothing(tmp_path: Path) -> None:
    plan = [TRAIN, Prune(sparsity=0.9), Retrain(epochs=2)]
    rows = engine.preview(plan, None, tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()
    folders = engine.run(Plan(name="p", phases=tuple(plan)), tmp_path / "runs", device="cpu")
    assert [row["run"] for row in rows] == [str(f) for f in folders]
    assert [row["epochs"] for row in rows] == [3, 0, 2]
    assert [row["steps"] for row in rows] == [3 * 6, 0, 2 * 6]
    again = engine.preview(plan, None, tmp_path / "runs", device="cpu")
    assert all(row["done"] for row in again)


def test_evaluation_from_the_files_gives_the_recorded_result(pruned: Path) -> None:
    again, stored = engine.evaluate_run(pruned, device="cpu"), runs.read_summary(pruned)
    for key in set(runs.RESULT_KEYS) - {"run", "seconds", "images_per_second"}:
        assert again[key] == stored[key], key


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Retrain(), "is not pruned"),
        (Prune(sparsity=0.5, exclude=("nothing*",)), "nothing"),
    ],
)
def test_refusals_leave_nothing_behind(shared: Path, dense: Path, phase: Prune | Retrain, message: str) -> None:
    before = sorted(shared.iterdir())
    with pytest.raises(PlanError, match=message):
        engine.advance(phase, dense, shared, device="cpu")
    assert sorted(shared.iterdir()) == before


def test_pruning_to_less_is_refused(shared: Path, pruned: Path) -> None:
    with pytest.raises(PlanError, match=r"sparsity 0.5 is less than the present sparsity, 0.9"):
        engine.advance(Prune(sparsity=0.5), pruned, shared, device="cpu")


# Each killed where it says, all in one folder: what a process counts begins with the process.
KILLS = {
    "before the first resume file": (
        Moment("torn", runs.PHASE),
        Moment("named", runs.PHASE),
        Moment("torn", runs.epoch_file(0)),
        Moment("step", count=5),
        Moment("torn line"),
    ),
    "in training": (
        Moment("step", count=16),  # in the second epoch, from which the next goes on
        Moment("torn line"),
        Moment("written", runs.epoch_file(2)),
        Moment("torn", runs.RESUME),
        Moment("written", runs.RESUME, 2),
        Moment("named", runs.RESUME),
    ),
    "where phases end and begin": (
        Moment("torn", runs.WEIGHTS),
        Moment("named", runs.WEIGHTS),  # and no summary
        Moment("torn", runs.SUMMARY),
        Moment("named", runs.SUMMARY),
        Moment("named", runs.MASKS),
        Moment("written", runs.SUMMARY),
        Moment("named", runs.SUMMARY),
        Moment("named", runs.PHASE),
    ),
    "in retraining": (
        Moment("step", count=50),
        Moment("line"),
        Moment("step", count=16),
        Moment("named", runs.MOMENTA),
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the plan, never stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert work(run_plan, PLAN, out) == 0
    return out


@pytest.mark.parametrize("where", KILLS)
def test_killed_and_continued_equals_never_stopped(tmp_path: Path, whole: Path, where: str) -> None:
    for moment in KILLS[where]:
        assert work(run_plan, PLAN, tmp_path, at=moment) == -signal.SIGKILL, moment
    assert work(run_plan, PLAN, tmp_path) == 0
    assert {run.name for run in tmp_path.iterdir()} == {run.name for run in whole.iterdir()}
    for run in sorted(whole.iterdir()):
        assert_same(run, tmp_path / run.name)
        files = {file.name for file in (tmp_path / run.name).iterdir()}
        assert files - {locking.LOCK} == {
            file.name for file in run.iterdir()
        }  # a lock that nobody holds is worth nothing
        assert json.loads((tmp_path / run.name / runs.PHASE).read_text())["schema"] == 1
