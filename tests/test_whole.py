"""Run folders hold together: what was changed, taken away or put there is named, damage never blocks, nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Prune, write_code

from pruning import engine
from pruning.engine import fitting
from pruning.events import Event, Warned
from pruning.plan import PlanError, Retrain, Train
from pruning.record import checkpoint, locking, resuming, runs, trust, verify, whole, writing

TRAIN = Train(model="lenet-300-100", data="digits", epochs=3, keep_epochs=(0, 1))


@pytest.fixture
def chain(history: Path, tmp_path: Path) -> list[Path]:
    """Copies of a dense run, its pruned child and the retrained one behind that."""
    found = runs.history(history)
    for run in found:
        shutil.copytree(run, tmp_path / "runs" / run.name)
    shutil.copy(history.parents[1] / "nets.py", tmp_path)
    return [tmp_path / "runs" / run.name for run in found]


def edit(path: Path, **changes: Any) -> None:
    writing.write_json(path, {**json.loads(path.read_text()), **changes})


def flip(path: Path) -> None:
    """Turns one bit in the middle of the tensors."""
    data = bytearray(path.read_bytes())
    data[-len(data) // 4] ^= 1
    path.write_bytes(data)


def settings(run: Path, **changes: Any) -> None:
    record = json.loads((run / runs.PHASE).read_text())
    edit(run / runs.PHASE, settings={**record["settings"], **changes})


TAMPERED: dict[str, tuple[int, Callable[[list[Path]], Any], str]] = {
    "masks deleted": (1, lambda c: (c[1] / runs.MASKS).unlink(), "masks.safetensors is missing"),
    "momenta deleted": (1, lambda c: (c[1] / runs.MOMENTA).unlink(), "momenta.safetensors is missing"),
    "weights deleted": (1, lambda c: (c[1] / runs.WEIGHTS).unlink(), "weights.safetensors is missing"),
    "weights of another": (1, lambda c: shutil.copy(c[2] / runs.WEIGHTS, c[1]), "weights.safetensors is not the file"),
    "masks of another": (0, lambda c: shutil.copy(c[1] / runs.MASKS, c[0]), "is none of the files that run"),
    "a bit of the weights": (1, lambda c: flip(c[1] / runs.WEIGHTS), "weights.safetensors is not the file"),
    "a bit of the masks": (1, lambda c: flip(c[1] / runs.MASKS), "masks.safetensors is not the file"),
    "settings": (1, lambda c: settings(c[1], sparsity=0.25), "phase.json was changed"),
    "settings of the parent": (1, lambda c: settings(c[0], lr=0.5), "phase.json was changed"),
    "settings of another": (2, lambda c: shutil.copy(c[1] / runs.PHASE, c[2]), "phase.json is of another run"),
    "the parent's name": (2, lambda c: edit(c[2] / runs.PHASE, parent=c[0].name), "phase.json was changed"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whoever_reads_a_run_notices(chain: list[Path], what: str) -> None:
    i, tamper, message = TAMPERED[what]
    tamper(chain)
    before = sorted(chain[0].parent.iterdir())
    with pytest.raises(PlanError, match=message):
        engine.evaluate_run(chain[i], device="cpu", trust_code=True)
    if i:
        with pytest.raises(PlanError, match=message):
            engine.advance(Retrain(epochs=1), chain[i], chain[i].parent, device="cpu", trust_code=True)
    assert sorted(chain[0].parent.iterdir()) == before
    assert any(found.state == "damaged" and message in found.why for found in verify.verify_all([chain[0].parent]))


def test_a_kept_state_is_compared_too(tmp_path: Path) -> None:
    dense = engine.advance(TRAIN, None, tmp_path, device="cpu")
    pruned = engine.advance(engine_prune(0.5), dense, tmp_path, device="cpu")
    flip(dense / runs.epoch_file(1))
    with pytest.raises(PlanError, match=r"epoch-0001.safetensors is not the file"):
        engine.advance(Retrain(technique="weight-rewind", epochs=2), pruned, tmp_path, device="cpu")


def engine_prune(sparsity: float) -> Any:
    from pruning.plan import Prune

    return Prune(sparsity=sparsity)


def test_verify_tells_of_a_whole_run_that_was_renamed(prune: Prune, chain: list[Path]) -> None:
    last = chain[2].rename(chain[2].with_name(f"{chain[2].name}x"))
    told = prune("verify", last.parent)
    assert told.code == 0
    assert told.out.startswith("3 whole")
    assert f"it was renamed: its settings name it '{chain[2].name}'" in " ".join(told.err.split())


def test_verify_tells_whole_unfinished_damaged_and_orphaned(prune: Prune, chain: list[Path]) -> None:
    out = chain[0].parent
    assert prune("verify", out, "--json").json["whole"] == 3
    (chain[2] / runs.SUMMARY).unlink()
    told = prune("verify", out, "--json").json
    assert (told["whole"], told["unfinished"]) == (2, 1)
    shutil.rmtree(chain[0])
    told = prune("verify", out)
    assert told.code == 1
    assert told.out.startswith("0 whole, 0 unfinished, 0 damaged, 2 orphaned")
    assert "is not beside it" in told.err
    assert prune("verify", out.parent / "nowhere").code == 1


BROKEN: dict[str, Callable[[Path], Any]] = {
    "torn": lambda run: (run / runs.RESUME).write_bytes(b"torn"),
    "empty": lambda run: (run / runs.RESUME).write_bytes(b""),
    "beyond the end": lambda run: renote(run, epoch=99),
    "a float": lambda run: renote(run, epoch=1.5),
    "a string": lambda run: renote(run, epoch="1"),
    "negative": lambda run: renote(run, epoch=-1),
    "true": lambda run: renote(run, epoch=True),
    "no epoch": lambda run: renote(run, epoch=None),
    "a tensor less": lambda run: retensor(run, lambda t: dict(list(t.items())[:-1])),
    "another shape": lambda run: retensor(run, lambda t: {k: v.flatten()[:1] for k, v in t.items()}),
    "no log": lambda run: (run / runs.LOG).unlink(),
    "a log of numbers": lambda run: (run / runs.LOG).write_text("1\n2\n3\n"),
    "a log in another code": lambda run: (run / runs.LOG).write_bytes(b"\xff\xfe{}\n{}\n"),
    "a log of another run": lambda run: (run / runs.LOG).write_text(
        '{"epoch": 2, "step": 5}\n{"epoch": 3, "step": 9}\n'
    ),
}


def renote(run: Path, **changes: Any) -> None:
    tensors, notes = checkpoint.load(run / runs.RESUME)
    notes = {key: value for key, value in {**notes, **changes}.items() if value is not None}
    checkpoint.save(run / runs.RESUME, tensors, notes)


def retensor(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    tensors, notes = checkpoint.load(run / runs.RESUME)
    checkpoint.save(run / runs.RESUME, change(tensors), notes)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished training, and the same one stopped after its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    whole_run = engine.advance(TRAIN, None, folder / "whole", device="cpu")

    def stop(event: Event) -> None:
        if type(event).__name__ == "EpochDone" and event.record["epoch"] == 2:  # type: ignore[union-attr]
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "SAVE_EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt):
            engine.advance(TRAIN, None, folder / "torn", device="cpu", tell=stop)
    return whole_run, folder / "torn" / whole_run.name


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_resume_file_or_log_never_blocks(interrupted: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    complete, torn = interrupted
    run = tmp_path / torn.name
    shutil.copytree(torn, run)
    assert (run / runs.RESUME).exists()
    BROKEN[damage](run)
    told: list[Event] = []
    engine.advance(TRAIN, None, tmp_path, device="cpu", tell=told.append)
    assert (run / runs.WEIGHTS).read_bytes() == (complete / runs.WEIGHTS).read_bytes()
    assert [record["epoch"] for record in runs.log(run)] == [1, 2, 3]
    assert any(isinstance(event, Warned) and "set aside" in event.text for event in told)
    assert not (run / whole.DAMAGED).exists()
    assert not (run / runs.RESUME).exists()


def test_an_intact_resume_file_is_used(interrupted: tuple[Path, Path], tmp_path: Path) -> None:
    complete, torn = interrupted
    shutil.copytree(torn, tmp_path / torn.name)
    first = (tmp_path / torn.name / runs.LOG).read_text().splitlines()
    engine.advance(TRAIN, None, tmp_path, device="cpu")
    assert (tmp_path / torn.name / runs.LOG).read_text().splitlines()[:2] == first[:2]
    assert (tmp_path / torn.name / runs.WEIGHTS).read_bytes() == (complete / runs.WEIGHTS).read_bytes()


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    run = engine.advance(TRAIN, None, tmp_path, device="cpu")
    (run / ".phase.json.x.part").write_bytes(b"being written")
    with locking.locked(run, lambda text: None):
        assert engine.advance(TRAIN, None, tmp_path, device="cpu") == run
        assert (run / ".phase.json.x.part").exists()
    engine.advance(TRAIN, None, tmp_path, device="cpu")
    assert not list(run.glob(".*"))
    assert not (run / locking.LOCK).exists()


def test_what_kills_leave_behind_goes(interrupted: tuple[Path, Path], tmp_path: Path) -> None:
    _, torn = interrupted
    run = tmp_path / torn.name
    shutil.copytree(torn, run)
    for name in (".weights.safetensors.x.part", ".tmpAbCdE", "resume.damaged"):
        (run / name).write_bytes(b"left")
    engine.advance(TRAIN, None, tmp_path, device="cpu")
    (run / ".tmpLater").write_bytes(b"left")
    (run / runs.RESUME).write_bytes(b"left")
    (run / "lock").write_text("process 1 on nowhere")
    engine.advance(TRAIN, None, tmp_path, device="cpu")  # reuses it
    names = {path.name for path in run.iterdir()}
    assert names == {
        "phase.json", "env.json", "log.jsonl", "summary.json", "weights.safetensors", "momenta.safetensors",
        "init.safetensors", "epoch-0001.safetensors",
    }  # fmt: skip


def test_states_reach_the_disk_after_their_log_and_names_after_their_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        order.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition("safetensors.")[0])
        fsync(handle)

    def renamed(part: Any, path: Any) -> None:
        order.append(f"rename {Path(path).name}")
        replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    run = engine.advance(TRAIN, None, tmp_path, device="cpu")
    places = [i for i, what in enumerate(order) if what == "rename resume.safetensors"]
    assert len(places) == 2
    for i in places:
        assert order[i - 2] == "sync log.jsonl"
        assert order[i - 1].startswith("sync .resume.")
        assert order[i + 1] == f"sync {run.name}"
    assert order[-2:] == ["rename summary.json", f"sync {run.name}"]


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        writing.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


DEEP = "[" * 5000 + "]" * 5000
TEXT: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "deep json": ("summary.json", lambda p: p.write_text('{"schema": 1, "a": ' + DEEP + "}")),
    "a list": ("summary.json", lambda p: p.write_text("[]")),
    "schema true": ("summary.json", lambda p: p.write_text('{"schema": true}')),
    "layers of words": ("summary.json", lambda p: edit(p, layers={"a": ["x", "y"]})),
    "accuracy a word": ("summary.json", lambda p: edit(p, accuracy="high")),
    "epochs a list": ("summary.json", lambda p: edit(p, epochs=[])),
    "files a list": ("summary.json", lambda p: edit(p, files=[])),
    "infinite": ("summary.json", lambda p: p.write_text(p.read_text().replace('"loss": ', '"loss": Infinity, "x": '))),
    "latin": ("summary.json", lambda p: p.write_bytes(b'{"schema": 1, "model": "\xe9"}')),
    "parent 5": ("phase.json", lambda p: edit(p, parent=5)),
    "parent true": ("phase.json", lambda p: edit(p, parent=True)),
    "parent itself": ("phase.json", lambda p: edit(p, parent=p.parent.name)),
    "parent above": ("phase.json", lambda p: edit(p, parent="../x")),
    "parent of lines": ("phase.json", lambda p: edit(p, parent="a\nb")),
    "settings a list": ("phase.json", lambda p: edit(p, settings=[])),
    "phase a list": ("phase.json", lambda p: edit(p, settings={"phase": []})),
    "a line of nothing": ("log.jsonl", lambda p: p.write_text("null\n" + p.read_text())),
    "a pipe": ("log.jsonl", lambda p: (p.unlink(), os.mkfifo(p))),
    "a device": ("log.jsonl", lambda p: (p.unlink(), p.symlink_to("/dev/zero"))),
    "a device for a summary": ("summary.json", lambda p: (p.unlink(), p.symlink_to("/dev/zero"))),
}


@pytest.mark.parametrize("what", TEXT)
def test_damaged_text_is_one_line_whoever_reads_it(prune: Prune, chain: list[Path], tmp_path: Path, what: str) -> None:
    file, damage = TEXT[what]
    run = chain[2]
    damage(run / file)
    for command in (
        ("show", run, "--trust-code"),
        ("eval", run, "--trust-code", "--device", "cpu"),
        ("flops", run, "--trust-code"),
        ("retrain", run, "--epochs", "1", "--device", "cpu", "--trust-code"),
        ("report", run, "--out", tmp_path / "report"),
        ("verify", run),
        ("list", "runs", "--out", run.parent),
    ):
        told = prune(*command)
        assert told.code in (0, 1), told.err
        assert "Traceback" not in told.err
        assert "Error:" not in told.err.replace("PlanError", ""), told.err
        if told.code:
            assert [line for line in told.err.splitlines() if line.startswith("error: ")][-1].count("\n") == 0
    assert prune("show", run, "--trust-code").code == 1 or file == "log.jsonl"


def test_runs_may_be_renamed_and_linked(chain: list[Path], tmp_path: Path) -> None:
    out = chain[0].parent
    child = engine.advance(Retrain(epochs=1), chain[2], out, device="cpu", trust_code=True)
    new = out / "my run é"
    chain[2].rename(new)
    record = json.loads((child / runs.PHASE).read_text())
    edit(child / runs.PHASE, **{**record, "parent": new.name})
    assert engine.evaluate_run(child, device="cpu", trust_code=True)["accuracy"] is not None
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    shutil.move(str(new), elsewhere)
    new.symlink_to(elsewhere / new.name)
    again = engine.advance(Retrain(epochs=2), new, out, device="cpu", trust_code=True)
    assert again.parent == out
    with pytest.raises(PlanError, match="characters that a line of standard output cannot carry"):
        engine.advance(TRAIN, None, tmp_path / "two\nlines", device="cpu")


def test_a_dropped_run_is_made_again_only_where_its_tensors_are_needed(tmp_path: Path) -> None:
    run = engine.advance(TRAIN, None, tmp_path, device="cpu")
    weights = (run / runs.WEIGHTS).read_bytes()
    for path in run.glob("*.safetensors"):
        path.unlink()
    engine.advance(TRAIN, None, tmp_path, device="cpu")
    assert not (run / runs.WEIGHTS).exists()
    assert verify.verify(run).state == "whole"
    engine.advance(TRAIN, None, tmp_path, device="cpu", intact=True)
    assert (run / runs.WEIGHTS).read_bytes() == weights


# --- code that never runs unasked ---------------------------------------------------------------------------------------------


def test_a_shrunk_folder_runs_nothing_unasked(tmp_path: Path) -> None:
    record = {
        "schema": 1, "run": "x", "model": "subprocess:getoutput", "model_code": None, "input": [1], "classes": 1,
        "model_options": {"cmd": f"touch {tmp_path}/owned"}, "difference": 0.0, "examples": 1, "params": [1, 1], "macs": [1, 1],
        "layers": {},
    }  # fmt: skip
    writing.write_json(tmp_path / "shrink.json", record)
    with pytest.raises(PlanError, match=r"would execute code \(subprocess:getoutput\)"):
        engine.load_shrunk(tmp_path)
    writing.write_json(tmp_path / "shrink.json", {**record, "model": ["subprocess:getoutput"]})
    with pytest.raises(PlanError, match="shrink.json is damaged: 'model'"):
        engine.load_shrunk(tmp_path, trust_code=True)
    assert not (tmp_path / "owned").exists()


STUDY = """
seeds = [0]
[[phases]]
phase = "train"
model = "nets.py:tiny"
data = "sets.py:blobs"
epochs = 1
[[phases]]
phase = "prune"
sparsity = 0.5
"""


def test_workers_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    write_code(tmp_path)
    for name in ("numpy", "safetensors", "queue", "pruning"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'owned')!r}, 'w').write({name!r})\nraise SystemExit(3)\n"
        )
    (tmp_path / "s.toml").write_text(STUDY)
    command = [
        sys.executable,
        "-P",
        "-m",
        "pruning.cli",
        "sweep",
        "s.toml",
        "--jobs",
        "1",
        "--device",
        "cpu",
        "--trust-code",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not (tmp_path / "owned").exists(), (tmp_path / "owned").read_text()
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 2


def test_code_that_a_file_names_is_allowed_once_until_it_changes(
    prune: Prune, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (workspace / "p.toml").write_text(STUDY.replace("seeds = [0]", ""))
    (workspace / "s.toml").write_text(STUDY)
    for command in (("run", "p.toml"), ("train", "p.toml"), ("compare", "p.toml"), ("sweep", "s.toml", "--dry-run")):
        refused = prune(*command, "--device", "cpu")
        assert refused.code == 1
        assert "would execute code" in refused.err
        assert str(workspace / "nets.py") in refused.err
    assert not Path("runs").exists()
    assert prune("run", "p.toml", "--device", "cpu", "--trust-code").code == 0
    assert prune("run", "p.toml", "--device", "cpu").code == 0
    assert prune("sweep", "s.toml", "--dry-run", "--device", "cpu").code == 0
    with (workspace / "nets.py").open("a") as file:
        file.write("\n# changed\n")
    assert "would execute code" in prune("run", "p.toml", "--device", "cpu").err
    named = ("train", "--model", "nets.py:tiny", "--data", "sets.py:blobs", "--epochs", "1", "--device", "cpu")
    assert prune(*named).code == 0  # typed, and so asked for


def test_a_module_is_the_one_that_was_recorded(prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        write_code(folder)
        (folder / "nets.py").rename(folder / "mynets.py")
    monkeypatch.chdir(here)
    run = prune(
        "train", "--model", "mynets:tiny", "--data", "sets.py:blobs", "--device", "cpu", "--epochs", "1"
    ).run.resolve()
    assert prune("eval", run, "--device", "cpu").code == 0
    monkeypatch.chdir(there)
    monkeypatch.delitem(sys.modules, "mynets")
    refused = prune("eval", run, "--device", "cpu")
    assert refused.code == 1
    assert "from here that module is" in refused.err


def test_the_account_key_is_whole_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key = tmp_path / "prune" / "key"
    assert len(trust.account_key()) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    with pytest.raises(PlanError, match="may be read or written by others"):
        trust.account_key()
    key.chmod(0o600)
    for content in (b"", b"short"):
        key.write_bytes(content)
        with pytest.raises(PlanError, match=rf"it has {len(content)} bytes, not 32"):
            trust.account_key()


def test_contents_tell_tensors_apart() -> None:
    import torch

    one = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    assert resuming.content(one) == resuming.content(dict(reversed(one.items())))
    assert resuming.content(one) != resuming.content({**one, "b": torch.zeros(1, dtype=torch.float64)})
    assert resuming.content(one) != resuming.content({"a": one["a"]})
    assert resuming.content(one) != resuming.content({**one, "a": one["a"] + 1})


# --- refused before any work ----------------------------------------------------------------------------------------------------


ODD = """
import torch
from torch import nn


def frozen(shape, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    return net.requires_grad_(False)


def empty(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 0), nn.Linear(0, classes))


def normed(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


def blobs(n=61):
    x = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 3
    return (x, y), (x, y), (x, y)
"""

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "frozen": (("--model", "odd.py:frozen", "--epochs", "1"), "all are frozen"),
    "empty": (("--model", "odd.py:empty", "--epochs", "1"), "has no entries, its shape is [0, 16]"),
    "one image": (
        ("--model", "odd.py:normed", "--epochs", "1", "--batch-size", "20"),
        "which holds one of 61 examples",
    ),
    "epochs": (("--model", "odd.py:normed", "--epochs", "1" + "0" * 20), "epochs takes a number"),
    "digits": (("--model", "odd.py:normed", "--set", "epochs=" + "9" * 5000), "too many digits"),
    "nested": (("--model", "odd.py:normed", "--set", "milestones=" + "[" * 5000), "nested too deeply"),
    "batch": (("--model", "odd.py:normed", "--epochs", "1", "--batch-size", "99999999"), "batch_size"),
    "layers": (("--model", "resnet8000000", "--epochs", "1"), "of no size that a network can have"),
    "units": (("--model", "lenet-0-1", "--epochs", "1"), "of no size that a network can have"),
    "truth": (("--model", "odd.py:normed", "--set", "epochs=true"), "epochs takes a number"),
    "word": (("--model", "odd.py:normed", "--set", 'batch_size="20"'), "batch_size takes a number"),
    "digest": (("--model", "odd.py:normed", "--set", "model_code=x"), "cannot be set"),
    "phase": (("--model", "odd.py:normed", "--set", "phase=prune"), "cannot be set"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_is_refused_before_any_work(prune: Prune, workspace: Path, what: str) -> None:
    (workspace / "odd.py").write_text(ODD)
    args, message = REFUSED[what]
    refused = prune("train", "--data", "odd.py:blobs", "--device", "cpu", *args)
    assert refused.code in (1, 2)
    assert message in refused.err
    assert len(refused.err.splitlines()[-1]) < 1000
    assert not Path("runs").exists()


def test_other_commands_refuse_in_one_line_too(prune: Prune, history: Path, workspace: Path) -> None:
    for args, message in (
        (("flops", "--model", "lenet-5", "--input", "²x²x²"), "is no shape"),
        (("flops", "--model", "lenet-5", "--input", "9" * 5000), "is no shape"),
        (("list", "runs", "--out", "nope"), "folder 'nope' does not exist"),
        (("prune", history, "--sparsity", "90"), "did you mean 0.9?"),
        (("train", "digitz"), "did you mean 'digits'?"),
        (("show", history.parent), "prune list runs --out"),
        (("iterate", history, "--sparsity", "0.95", "--cycles", "99999999999"), "cycles"),
        (
            ("iterate", history, "--sparsity", "0.95", "--rate", "1e-9", "--dry-run"),
            "cycles to the goal; allowed are up to 1,000",
        ),
    ):
        refused = prune(*args)
        assert refused.code in (1, 2), args
        assert message in refused.err.replace("\n", " "), refused.err
        assert len(refused.err) < 1000


def test_gradual_pruning_that_diverges_says_so(prune: Prune, workspace: Path) -> None:
    told = prune(
        "train",
        *TINY,
        "--method",
        "gmp",
        "--sparsity",
        "0.5",
        "--lr",
        "1e30",
        "--epochs",
        "5",
        "--set",
        "batch_size=10",
    )
    assert told.code == 1
    assert "training diverged" in told.err
