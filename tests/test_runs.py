"""The run folder as text: atomic writing, damage, locks, trust."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pruning.plan import PlanError, Prune, Train
from pruning.record import locking, runs, writing
from pruning.record.text import read_object

TRAIN = Train(model="lenet-5", data="digits")


def make_run(out: Path, name: str, parent: str | None = None, **record: object) -> Path:
    run = out / name
    run.mkdir(parents=True)
    phase = TRAIN if parent is None else Prune(sparsity=0.5)
    base = {"schema": 1, "settings": phase.model_dump(mode="json"), "parent": parent, "digest": "d" * 64, "code": {}}
    writing.write_json(run / runs.PHASE, {**base, **record})
    return run


@pytest.mark.parametrize(
    ("spec", "slug"),
    [
        ("resnet20", "resnet20"),
        ("nets/mine.py:build", "mine_build"),
        ("package.module:function", "package.module_function"),
        ("torchvision:resnet18", "torchvision_resnet18"),
    ],
)
def test_slug(spec: str, slug: str) -> None:
    assert runs.slug(spec) == slug


def test_folder_name() -> None:
    assert runs.folder_name(Prune(sparsity=0.5), TRAIN, "1f3a9c02" + "0" * 56) == "lenet-5-digits-s0-prune-1f3a9c02"


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    writing.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        writing.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot write"):
        writing.write_json(tmp_path / "missing" / "a.json", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("[]", "holds no JSON object"),
        ('{"schema": 2}', "has schema 2; this version reads schema 1"),
        ("{}", "None"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PlanError, match=message) as error:
        read_object(tmp_path / "a.json")
    assert "a.json" in str(error.value)


def test_history_and_its_errors(tmp_path: Path) -> None:
    a = make_run(tmp_path, "a")
    b = make_run(tmp_path, "b", parent="a")
    assert runs.history(b) == [a, b]
    assert runs.train_settings(b) == TRAIN
    orphan = make_run(tmp_path, "c", parent="gone")
    with pytest.raises(PlanError, match="needs its parent 'gone'"):
        runs.history(orphan)
    with pytest.raises(PlanError, match="is no folder name"):
        runs.history(make_run(tmp_path, "d", parent="../a"))


def test_check_run(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="does not exist"):
        runs.check_run(tmp_path / "x")
    with pytest.raises(PlanError, match="is no run folder"):
        runs.check_run(tmp_path)
    with pytest.raises(PlanError, match="has not finished"):
        runs.check_run(make_run(tmp_path, "a"))


def test_a_torn_last_log_line_is_passed_over_and_trimmed(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        runs.append_log(tmp_path, {"epoch": epoch})
    with (tmp_path / runs.LOG).open("a") as file:
        file.write('{"epo')
    assert [r["epoch"] for r in runs.log(tmp_path)] == [1, 2, 3]
    runs.trim_log(tmp_path, 2)
    assert (tmp_path / runs.LOG).read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def test_kept_epochs(tmp_path: Path) -> None:
    for epoch in (12, 0, 3):
        (tmp_path / runs.epoch_file(epoch)).touch()
    assert runs.kept_epochs(tmp_path) == [0, 3, 12]


def _hold(run: Path, order: Path) -> None:
    with locking.locked(run, lambda text: order.with_suffix(".notice").write_text(text)), order.open("a") as file:
        file.write(f"{os.getpid()} in\n")
        file.flush()
        time.sleep(0.2)
        file.write(f"{os.getpid()} out\n")


def test_the_second_process_waits_and_says_for_whom(tmp_path: Path) -> None:
    order = tmp_path / "order.txt"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hold, args=(tmp_path, order)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    lines = [line.split() for line in order.read_text().splitlines()]
    assert [word for _, word in lines] == ["in", "out"] * 3
    assert all(lines[i][0] == lines[i + 1][0] for i in (0, 2, 4))
    assert "is held by" in order.with_suffix(".notice").read_text()
    assert not (tmp_path / locking.LOCK).exists()
