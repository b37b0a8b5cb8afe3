"""Damage and misfortune: broken files are named, a full disk is an error and no loss, strangers' code does not run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import work
from safetensors.torch import load_file, save_file

from pruning import engine
from pruning.masks import Masks
from pruning.plan import PlanError, Prune, Retrain, Train
from pruning.record import checkpoint, runs, whole, writing

TRAIN = Train(model="lenet-300-100", data="digits", epochs=1)


@pytest.fixture
def pruned(history: Path, tmp_path: Path) -> Path:
    """A copy of a pruned run and its parent, to be damaged."""
    chain = runs.history(history)[:2]
    for run in chain:
        shutil.copytree(run, tmp_path / "runs" / run.name)
    return tmp_path / "runs" / chain[1].name


def retrain(run: Path) -> Path:
    return engine.advance(Retrain(technique="fine-tune", epochs=1), run, run.parent, device="cpu")


def forget_files(run: Path) -> None:
    """Leaves the summary as a version wrote it that recorded no files, so that what is in them has to be looked at."""
    summary = json.loads((run / runs.SUMMARY).read_text())
    del summary["files"]
    writing.write_json(run / runs.SUMMARY, summary)


def rewrite(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    tensors, notes = checkpoint.load(path)
    checkpoint.save(path, change(tensors), notes)


def other_shape(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    return tensors | {name: tensors[name][:-1]}


def not_a_number(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    return tensors | {name: tensors[name] * float("nan")}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / runs.WEIGHTS).write_bytes((run / runs.WEIGHTS).read_bytes()[:-7]),
            "weights.safetensors is damaged",
        ),
        (lambda run: (run / runs.WEIGHTS).write_bytes(b""), "weights.safetensors is damaged"),
        (lambda run: (run / runs.WEIGHTS).unlink(), "weights.safetensors does not exist"),
        (lambda run: rewrite(run / runs.WEIGHTS, other_shape), "does not fit the model"),
        (
            lambda run: rewrite(run / runs.WEIGHTS, lambda t: t | {"new": torch.zeros(1)}),
            "has 'new', which the model lacks",
        ),
        (lambda run: rewrite(run / runs.WEIGHTS, lambda t: dict(list(t.items())[1:])), "it lacks '"),
        (lambda run: rewrite(run / runs.WEIGHTS, not_a_number), "holds values that are not finite"),
        (
            lambda run: rewrite(run / runs.WEIGHTS, lambda t: {k: v + 1 for k, v in t.items()}),
            "masks and weights disagree",
        ),
        (
            lambda run: rewrite(run / runs.WEIGHTS, lambda t: {k: -v for k, v in t.items()}),
            "masks and weights disagree",
        ),
        (lambda run: (run / runs.MASKS).write_bytes(b"no masks"), "masks.safetensors is damaged"),
        (
            lambda run: Masks({"other.weight": torch.ones(3, dtype=torch.bool)}).save(run / runs.MASKS),
            "masks.safetensors",
        ),
        (lambda run: (run / runs.PHASE).write_text("{"), "phase.json is damaged"),
        (
            lambda run: writing.write_json(
                run / runs.PHASE, json.loads((run / runs.PHASE).read_text()) | {"schema": 7}
            ),
            "schema 7",
        ),
        (lambda run: save_file(load_file(run / runs.WEIGHTS), run / runs.WEIGHTS), "has schema None"),
        (lambda run: shutil.rmtree(runs.history(run)[0]), "needs its parent"),
    ],
)
def test_damage_is_named_and_nothing_is_made(pruned: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    forget_files(pruned)
    damage(pruned)
    before = sorted(pruned.parent.iterdir())
    with pytest.raises(PlanError, match=message):
        retrain(pruned)
    assert sorted(pruned.parent.iterdir()) == before


def retrain_where_files_end(run: Path, room: int, said: Path, err: Path) -> None:
    """Retrains where no file may grow beyond `room` bytes; the error goes to a file, and standard error to another."""
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        retrain(run)
    except PlanError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        said.write_text(str(error))
        sys.exit(1)


@pytest.mark.parametrize("room", [100, 900])
def test_a_full_disk_is_an_error_and_no_loss(pruned: Path, room: int, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing past it fails in the same way."""
    assert work(retrain_where_files_end, pruned, room, tmp_path / "said", tmp_path / "err") == 1
    assert (tmp_path / "said").read_text().startswith("cannot write ")
    assert (tmp_path / "err").read_text() == ""
    run = retrain(pruned)
    assert runs.is_done(run)
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("what", ["log", "digest"])
def test_a_disk_that_fails_anywhere_is_an_error_that_names_the_file(
    pruned: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    module, name, message = {
        "log": (os, "fsync", "cannot write .*log.jsonl: Input/output error"),
        "digest": (whole, "sha256", "cannot be read: Input/output error"),
    }[what]
    work, run = (runs.sync_log, runs.history(pruned)[0]) if what == "log" else (retrain, pruned)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(PlanError, match=message):
            work(run)
    assert runs.is_done(retrain(pruned))


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_any_call_that_a_broken_disk_fails_is_one_error_and_no_loss(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count, calls = getattr(os, call), 0, 0
    while calls >= count:  # fails each call in turn, until a run makes fewer
        count, calls = count + 1, 0

        def failing(*args: Any, count: int = count, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                raise OSError(errno.EIO, os.strerror(errno.EIO), *args[: 0 if isinstance(args[0], int) else 1])
            return original(*args, **options)

        out = tmp_path / str(count)
        with monkeypatch.context() as patched, contextlib.suppress(PlanError):
            patched.setattr(os, call, failing)
            engine.advance(TRAIN, None, out, device="cpu")
        assert runs.is_done(engine.advance(TRAIN, None, out, device="cpu"))
        assert not list(out.glob("*/.*"))
    assert count > 5


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="cannot write"):
        engine.advance(TRAIN, None, tmp_path / "file" / "runs", device="cpu")


def test_runs_with_code_of_another_account_are_refused(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-account"))
    calls = (lambda: retrain(pruned), lambda: engine.evaluate_run(pruned), lambda: engine.load_model(pruned))
    for call in calls:
        with pytest.raises(PlanError, match=r"nets.py.*not made by this account.*--trust-code"):
            call()
    assert engine.evaluate_run(pruned, trust_code=True, device="cpu")["sparsity"] == 0.5


def test_a_stranger_cannot_name_code_in_a_run_of_built_in_names(tmp_path: Path) -> None:
    """A run folder's settings are text that anybody can write: naming code there must not run it."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef build(shape, classes): pass\n")
    train = Train(model=f"{trap}:build", model_code="0" * 64, data="digits")
    run = tmp_path / "runs" / "x-digits-s0-train-00000000"
    run.mkdir(parents=True)
    record = {"schema": 1, "settings": train.model_dump(mode="json"), "parent": None, "digest": "0" * 64, "code": {}}
    writing.write_json(run / runs.PHASE, record)
    summary = dict.fromkeys(runs.RESULT_KEYS) | {"schema": 1, "input": [1, 8, 8], "classes": 10, "sparsity": 0.0}
    writing.write_json(run / runs.SUMMARY, summary)
    for call in (
        lambda: engine.evaluate_run(run, device="cpu"),
        lambda: engine.load_model(run),
        lambda: engine.preview([Prune(sparsity=0.5)], run, run.parent, device="cpu"),
        lambda: engine.advance(Prune(sparsity=0.5), run, run.parent, device="cpu"),
    ):
        with pytest.raises(PlanError, match="--trust-code"):
            call()
    without = {**record, "settings": record["settings"] | {"model_code": None}}
    writing.write_json(run / runs.PHASE, without)
    with pytest.raises(PlanError, match="--trust-code"):
        engine.load_model(run)
    assert not (tmp_path / "sprung").exists()
