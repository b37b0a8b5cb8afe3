"""The commands as a user gives them: pipelines, results, dry runs, looking, completion, examples."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Prune, files
from pruning.cli import curve, formats
from pruning.cli.examples import EXAMPLES, MAIN_JOB
from pruning.cli.main import COMMANDS
from typer.main import get_command

from pruning import plan
from pruning.record import runs, writing

FAST = ("--set", "batch_size=20")


# --- the main job ---------------------------------------------------------------------------------------------------------


def test_pipeline(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, *FAST, "--epochs", 3)
    pruned = prune("prune", "-", "--sparsity", 0.9, stdin=dense.out)
    retrained = prune("retrain", "-", "--technique", "lr-rewind", "--epochs", 2, stdin=pruned.out)
    result = prune("eval", "-", "--json", stdin=retrained.out)
    assert [outcome.run.parent for outcome in (dense, pruned, retrained)] == [Path("runs")] * 3
    assert list(result.json) == list(runs.RESULT_KEYS)
    assert result.json["run"] == str(retrained.run)
    total = 16 * 8 + 8 * 3
    assert result.json["sparsity"] == 1 - round(0.1 * total) / total
    assert [runs.read_phase(folder).phase for folder in runs.history(retrained.run)] == ["train", "prune", "retrain"]


def test_a_result_on_standard_input_names_its_run(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, *FAST, "--epochs", 1, "--json")
    assert list(dense.json) == list(runs.RESULT_KEYS)
    pruned = prune("prune", "-", "--sparsity", 0.5, "--json", stdin=dense.out)
    assert pruned.json["phase"] == "prune"
    assert prune("retrain", "-", "--epochs", 1, stdin=pruned.out).run.is_dir()


def test_a_finished_command_does_nothing_but_print_again(prune: Prune, workspace: Path) -> None:
    first = prune("train", *TINY, *FAST, "--epochs", 2)
    before = files(workspace / "runs")
    again = prune("train", *TINY, *FAST, "--epochs", 2)
    assert again.out == first.out
    assert files(workspace / "runs") == before
    assert "done before" in again.err


def test_standard_error_tells_and_quiet_is_quiet(prune: Prune, workspace: Path) -> None:
    told = prune("train", *TINY, *FAST, "--epochs", 1)
    assert told.err.splitlines()[0] == f"train   {told.run}: 1 epoch, 3 steps"
    assert "accuracy" in told.err.splitlines()[1]
    quiet = prune("train", *TINY, *FAST, "--epochs", 1, "--seed", 1, "--quiet")
    assert quiet.err == ""
    assert quiet.run.is_dir()


def test_runs_go_where_out_says_and_children_lie_beside(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, *FAST, "--epochs", 1, "--out", "elsewhere")
    assert dense.run.parent == Path("elsewhere")
    assert prune("prune", dense.run, "--sparsity", 0.5).run.parent == Path("elsewhere")
    assert not (workspace / "runs").exists()


def test_iterate(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, *FAST, "--epochs", 1)
    options = ("--sparsity", 0.9, "--cycles", 3, "--epochs", 1, "--set", "retrain.optimizer_state=reset")
    last = prune("iterate", dense.run, *options)
    chain = runs.history(last.run)
    assert len(chain) == 1 + 2 * 3
    total = 16 * 8 + 8 * 3
    kept = [round((1 - runs.read_summary(folder)["sparsity"]) * total) for folder in chain[1::2]]
    assert kept == [round(total * 0.1 ** (j / 3)) for j in (1, 2, 3)]
    assert {runs.read_phase(folder).optimizer_state for folder in chain[2::2]} == {"reset"}
    assert prune("iterate", dense.run, *options).out == last.out


def test_iterate_removes_a_fifth_per_cycle_by_default(prune: Prune, history: Path) -> None:
    rows = prune("iterate", history, "--sparsity", 0.75, "--dry-run", "--json").json["phases"]
    sparsities = [row["settings"]["sparsity"] for row in rows if row["phase"] == "prune"]
    present = 0.5
    expected = [1 - present * 0.8, 1 - present * 0.8**2, 1 - present * 0.8**3, 0.75]
    assert sparsities == pytest.approx(expected, abs=1e-9)


def test_run_carries_out_a_plan(prune: Prune, workspace: Path) -> None:
    (workspace / "plan.toml").write_text(
        """
        [[phases]]
        phase = "train"
        model = "nets.py:tiny"
        data = "sets.py:blobs"
        epochs = 2
        batch_size = 20
        [[phases]]
        phase = "iterate"
        sparsity = 0.9
        cycles = 2
        retrain.epochs = 1
        """
    )
    done = prune("run", "plan.toml", "--seed", 3, "--set", "train.epochs=1", "--device", "cpu", "--trust-code")
    chain = runs.history(done.run)
    assert [runs.read_phase(folder).phase for folder in chain] == ["train", "prune", "retrain", "prune", "retrain"]
    assert (runs.train_settings(done.run).seed, runs.train_settings(done.run).epochs) == (3, 1)
    table = done.err[done.err.index("Dense, pruned, retrained") :]
    assert [line.split()[0] for line in table.splitlines()[4:9]] == [
        "dense",
        "pruned",
        "retrained",
        "pruned",
        "retrained",
    ]
    assert prune("run", "plan.toml", "--seed", 3, "--set", "train.epochs=1", "--device", "cpu", "--json").json[
        "run"
    ] == str(done.run)


# --- settings ---------------------------------------------------------------------------------------------------------------


def settings_of(prune: Prune, *args: Any) -> dict[str, Any]:
    """Returns the settings of the only phase that a command would carry out."""
    (row,) = prune(*args, "--dry-run", "--json").json["phases"]
    return row["settings"]


def test_flags_and_set_win_over_the_recipe(prune: Prune, workspace: Path) -> None:
    own = ("--model", "nets.py:tiny", "--data", "sets.py:blobs", "--device", "cpu")
    found = settings_of(
        prune, "train", "digits", *own, "--lr", 0.3, "--set", "momentum=0.5", "--set", "keep_epochs=[0]"
    )
    recipe = plan.load_plan("digits").train
    assert (found["lr"], found["momentum"], found["batch_size"]) == (0.3, 0.5, recipe.batch_size)
    assert found["model"] == "nets.py:tiny"


def test_epochs_scale_the_milestones_of_a_recipe(prune: Prune, workspace: Path) -> None:
    own = ("--model", "nets.py:tiny", "--data", "sets.py:blobs", "--device", "cpu")
    recipe = plan.load_plan("digits").train
    for option in (("--epochs", 20), ("--set", "epochs=20")):
        found = settings_of(prune, "train", "digits", *own, *option)
        assert found["milestones"] == [m * 20 / recipe.epochs for m in recipe.milestones]
    fixed = settings_of(prune, "train", "digits", *own, "--epochs", 50, "--set", "milestones=[7]")
    assert (fixed["epochs"], fixed["milestones"]) == (50, [7.0])


def test_options_of_a_model_reach_it(prune: Prune, workspace: Path) -> None:
    narrow = prune("train", *TINY, *FAST, "--epochs", 1, "--set", "model_options.width=2")
    assert prune("eval", narrow.run, "--json").json["params"] < 60


def test_flags_of_prune_and_retrain_reach_the_phase(prune: Prune, history: Path) -> None:
    dense, pruned, _ = runs.history(history)
    found = settings_of(prune, "prune", dense, "--sparsity", 0.8, "--criterion", "random", "--allocation", "uniform")
    assert (found["sparsity"], found["criterion"], found["allocation"]) == (0.8, "random", "uniform")
    found = settings_of(prune, "prune", dense, "--sparsity", 0.8, "--criterion", "synflow", "--rounds", 5)
    assert found["rounds"] == 5
    found = settings_of(prune, "prune", dense, "--sparsity", 0.8, "--exclude", "3.weight", "--ablation", "shuffle")
    assert (found["exclude"], found["ablation"]) == (["3.weight"], "shuffle")
    found = settings_of(prune, "retrain", pruned, "--technique", "fine-tune", "--schedule", "llr", "--epochs", 7)
    assert (found["technique"], found["schedule"], found["epochs"]) == ("fine-tune", "llr", 7)


# --- a dry run ----------------------------------------------------------------------------------------------------------------


def test_a_dry_run_names_the_runs_to_come_and_writes_nothing(prune: Prune, workspace: Path) -> None:
    train = ("train", *TINY, *FAST, "--epochs", 2)
    planned = prune(*train, "--dry-run")
    assert not (workspace / "runs").exists()
    assert "Plan; nothing was written" in planned.err
    (row,) = prune(*train, "--dry-run", "--json").json["phases"]
    assert (row["epochs"], row["steps"], row["macs"], row["done"]) == (2, 6, 16 * 8 + 8 * 3, False)
    done = prune(*train)
    assert done.out == planned.out
    assert prune(*train, "--dry-run", "--json").json["phases"][0]["done"] is True
    before = files(workspace / "runs")
    for command in (("prune", done.run, "--sparsity", 0.5), ("iterate", done.run, "--sparsity", 0.5)):
        assert prune(*command, "--dry-run").code == 0
    assert files(workspace / "runs") == before


# --- looking ------------------------------------------------------------------------------------------------------------------


def test_eval_measures_what_the_run_recorded(prune: Prune, history: Path) -> None:
    measured, recorded = prune("eval", history, "--json", "--device", "cpu").json, runs.read_summary(history)
    assert {k: measured[k] for k in ("accuracy", "loss", "sparsity", "macs")} == {
        k: recorded[k] for k in ("accuracy", "loss", "sparsity", "macs")
    }
    shown = prune("eval", history)
    assert shown.out == f"{history}\n"
    assert "theoretical speedup" in shown.err


def test_flops_of_a_run_and_of_a_model(prune: Prune, history: Path) -> None:
    report = prune("flops", history, "--json").json
    assert list(report) == ["macs", "sparse_macs", "speedup", "params", "nonzero", "layers", "uncounted", "unpruned"]
    assert list(report["layers"][0]) == ["name", "type", "params", "nonzero", "macs", "sparse_macs"]
    assert report["macs"] == 16 * 8 + 8 * 3
    assert report["sparse_macs"] == report["macs"] // 2
    assert prune("flops", history).out == f"{history}\n"
    model = prune("flops", "--model", "lenet-300-100", "--input", "1x28x28", "--json").json
    assert model["macs"] == 784 * 300 + 300 * 100 + 100 * 10
    assert prune("flops", "--model", "lenet-300-100", "--input", "1x28x28").out == f"{model['macs']}\n"


def test_flops_passes_options_and_convention(prune: Prune) -> None:
    wide = prune("flops", "--model", "resnet20", "--input", "3x8x8", "--set", "width=2", "--classes", 7, "--json").json
    assert wide["layers"][0]["macs"] == 3 * 9 * 32 * 64
    assert wide["layers"][-1]["macs"] == 128 * 7
    other = prune("flops", "--model", "lenet-5", "--input", "1x28x28", "--convention", "shrinkbench")
    assert other.code == 0


def test_show_tells_history_layers_and_curve(prune: Prune, history: Path) -> None:
    shown = prune("show", history)
    assert shown.out == f"{history}\n"
    for folder in runs.history(history):
        assert folder.name in shown.err
    for text in ("History", "Layers", "training loss after each epoch (train 4, retrain 2)", "keep_epochs=[0,2]"):
        assert text in shown.err
    told = prune("show", history, "--json").json
    assert [result["phase"] for result in told["history"]] == ["train", "prune", "retrain"]
    assert all(list(result) == list(runs.RESULT_KEYS) for result in told["history"])
    assert [record["epoch"] for record in told["log"]] == [1, 2, 3, 4, 1, 2]
    assert {"layers", "macs", "uncounted"} <= told.keys()


@pytest.mark.parametrize(
    "kind", ["models", "data", "criteria", "allocations", "techniques", "schedules", "methods", "ablations", "recipes"]
)
def test_list_names_everything_with_a_line_on_each(prune: Prune, kind: str) -> None:
    entries = prune("list", kind, "--json").json[kind]
    assert all(list(entry) == ["name", "summary"] and entry["summary"] for entry in entries)
    assert prune("list", kind).out.splitlines() == [entry["name"] for entry in entries]
    assert prune("list", "--json").json[kind] == entries


def test_list_runs_finds_those_that_fit(prune: Prune, history: Path) -> None:
    def found(*where: str) -> list[str]:
        options = [text for condition in where for text in ("--where", condition)]
        outcome = prune("list", "runs", "--out", history.parent, *options)
        assert outcome.code == 0, outcome.err
        return [runs.read_phase(Path(line)).phase for line in outcome.out.splitlines()]

    assert found() == ["train", "prune", "retrain"]
    assert found("phase=train") == ["train"]
    assert found("phase!=train", "sparsity>=0.5") == ["prune", "retrain"]
    assert found("epochs>0", "sparsity<0.5") == ["train"]
    assert found("done=true") == ["train", "prune", "retrain"]
    assert found("images_per_second=null") == ["prune"]
    rows = prune("list", "runs", "--out", history.parent, "--json").json["runs"]
    assert all(list(row) == ["name", "summary", "done", "parent", *runs.RESULT_KEYS] for row in rows)
    assert prune("list", "runs", "--out", "nowhere").code == 1


def test_list_runs_tells_unfinished_and_damaged_ones(prune: Prune, history: Path, tmp_path: Path) -> None:
    shutil.copytree(history.parent, tmp_path / "runs")
    dense, pruned, retrained = (tmp_path / "runs" / folder.name for folder in runs.history(history))
    (pruned / "summary.json").unlink()
    (retrained / "phase.json").write_text("{")
    listed = prune("list", "runs", "--out", tmp_path / "runs")
    assert "unfinished" in listed.err
    rows = {row["name"]: row for row in prune("list", "runs", "--out", tmp_path / "runs", "--json").json["runs"]}
    assert [rows[run.name]["done"] for run in (dense, pruned, retrained)] == [True, False, False]
    assert "phase.json is damaged" in rows[retrained.name]["summary"]
    assert prune("list", "runs", "--out", tmp_path / "runs", "--where", "done=false").out.splitlines()[0] == str(pruned)


def test_doctor(prune: Prune) -> None:
    report = prune("doctor", "--json").json
    assert report["packages"]["torch"]
    assert {"cpu", "cuda"} <= report["kernels"].keys()
    shown = prune("doctor")
    assert "Kernels" in shown.err
    assert len(shown.out.splitlines()) == 1


def test_doctor_says_what_is_loaded_and_why_not(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning import ops

    report = {
        "built": {"torch": "2.15.0", "compiler": "g++ 12", "nvcc": ""},
        "instructions": "avx2",
        "cpu": {"backend": "native-cpu", "library": "/x/_C.so", "reason": None},
        "cuda": {"backend": "reference", "library": None, "reason": "the CUDA kernels were not built: no nvcc"},
    }
    monkeypatch.setattr(ops, "report", lambda: report)
    assert prune("doctor", "--json").json["kernels"] == report
    shown = prune("doctor").err
    for text in ("native-cpu (/x/_C.so)", "not built: no nvcc", "torch 2.15.0, compiler g++ 12", "avx2"):
        assert text in shown


# --- help, completion, examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_help_explains_and_shows_examples(prune: Prune, command: str) -> None:
    outcome = prune(command, "--help")
    assert outcome.code == 0
    assert "Examples" in outcome.out
    assert "prune " + command in outcome.out
    assert prune(command, "-h").out == outcome.out


def test_help_lists_every_command(prune: Prune) -> None:
    outcome = prune("--help")
    assert outcome.code == 0
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith("│ ") and line[2].islower()] == [
        name for name, _, _ in COMMANDS
    ]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("prune ret", {"retrain"}),
        ("prune retrain x --technique l", {"lr-rewind", "low-lr-rewind"}),
        ("prune train renda-resnet20", {"renda-resnet20-cifar10", "renda-resnet20-cifar10-algorithm1"}),
        ("prune train --model lenet-", {"lenet-300-100", "lenet-5"}),
        ("prune train --data cifar", {"cifar10", "cifar100"}),
        ("prune list m", {"models", "methods"}),
        ("prune eval runs/a", {"runs/a-run"}),
        ("prune eval r", {"runs/a-run"}),
    ],
)
def test_completion(workspace: Path, words: str, offered: set[str]) -> None:
    (workspace / "runs" / "a-run").mkdir(parents=True)
    (workspace / "runs" / "a-run" / "phase.json").write_text("{}")
    asked = {"_PRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    code = "import sys; from pruning.cli.main import main; sys.argv = ['prune']; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered, done.stderr


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the engine's work: a phase becomes a run folder with a summary, and no network is trained."""
    from pruning import engine
    from pruning.study import search

    def advance(phase: Any, parent: Path | None, out: Path, **options: Any) -> Path:
        root = phase if parent is None else runs.train_settings(parent)
        name = plan.digest(phase, "" if parent is None else runs.read_record(parent)["digest"])
        folder = out / runs.folder_name(phase, root, name)
        folder.mkdir(parents=True, exist_ok=True)
        settings, beside = phase.model_dump(mode="json"), None if parent is None else parent.name
        writing.write_json(folder / runs.PHASE, {"schema": 1, "settings": settings, "parent": beside, "digest": name})
        known = {"phase": phase.phase, "sparsity": getattr(phase, "sparsity", 0.0), "accuracy": 0.9}
        writing.write_json(folder / runs.SUMMARY, {"schema": 1, **dict.fromkeys(runs.RESULT_KEYS), **known})
        return folder

    def run(work: plan.Plan | list[Any], out: Path, parent: Path | None = None, **options: Any) -> list[Path]:
        folders: list[Path] = []
        for phase in work.phases if isinstance(work, plan.Plan) else work:
            folders.append(advance(phase, folders[-1] if folders else parent, out))
        return folders

    def find(train: plan.Train, goal: float, trials: int, out: Path, **options: Any) -> search.Trial:
        return search.Trial(0.0, goal, 0.0, (advance(train, None, out),))

    def adopt(train: plan.Train, out: Path, *args: Any, **options: Any) -> Path:
        return advance(train, None, out)

    monkeypatch.setattr(engine, "adopt", adopt)
    monkeypatch.setattr(search, "find", find)
    monkeypatch.setattr(engine, "advance", advance)
    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(engine, "adopt", lambda train, out, weights, **options: advance(train, None, out))
    small = {"layers": {}, "params": [2, 1], "macs": [2, 1], "difference": 0.0, "examples": 8}
    monkeypatch.setattr(engine, "shrink_run", lambda folder, to, **options: folder)
    monkeypatch.setattr(engine, "read_shrunk", lambda folder: small)
    written = {
        "path": "x",
        "model": "m",
        "bytes": 1,
        "tensors": 1,
        "params": 1,
        "nonzero": 1,
        "sparsity": 0.0,
        "model_sparsity": 0.0,
        "pruned": 0,
    }
    written |= {"format": "onnx", "difference": 0.0, "examples": 4, "loading": "", "unchanged": False}
    monkeypatch.setattr(engine, "export_run", lambda folder, format, to, **options: written)
    monkeypatch.setattr(engine, "evaluate_run", lambda folder, **options: {**runs.read_summary(folder)})


@pytest.mark.parametrize("line", [*MAIN_JOB, *(line for lines in EXAMPLES.values() for line in lines)])
def test_every_documented_example_is_a_command(
    prune: Prune, workspace: Path, history: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    if "--plot" in line:
        pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    real = any(line.startswith(f"prune {name}") for name in ("flops", "show", "report", "list", "doctor"))
    if real:
        monkeypatch.chdir(history.parents[1])
    else:
        pretend(monkeypatch)
        (workspace / "plan.toml").write_text('[[phases]]\nphase = "train"\nmodel = "lenet-5"\ndata = "digits"\n')
    run = history.name if real else prune("train", "digits", "--set", "keep_epochs=[0]").run.name
    if not real and "retrain" in line:
        run = prune("prune", f"runs/{run}", "--sparsity", 0.5).run.name
    piped = ""
    for command in line.replace("runs/RUN", f"runs/{run}").split(" | "):
        program, *args = shlex.split(command)
        assert program == "prune"
        outcome = prune(*args, stdin=piped)
        assert outcome.code == 0, outcome.err
        piped = outcome.out
    assert piped or "--where" in line


# --- pieces -------------------------------------------------------------------------------------------------------------------


def test_numbers_are_readable() -> None:
    assert [formats.count(n) for n in (0, 512, 9999, 10_000, 537_000, 40_812_000, 4_089_184_256)] == [
        "0", "512", "9999", "10 k", "537 k", "40.8 M", "4.09 G",
    ]  # fmt: skip
    assert [formats.duration(s) for s in (0.0214, 3.21, 59.96, 250, 7500)] == [
        "21 ms", "3.2 s", "1 min 0 s", "4 min 10 s", "2 h 5 min",
    ]  # fmt: skip
    assert [formats.times(x) for x in (1.0, 9.84, 10.835, 1234.5)] == ["1x", "9.84x", "10.8x", "1234x"]
    assert [formats.percent(x) for x in (0.9, 1.0, 0.99987, None)] == ["90.0 %", "100.0 %", "99.99 %", "-"]


def test_curve_of_text() -> None:
    lines = curve.plot([0.0, 1.0], width=4, height=2, braille=False)
    assert lines == ["1 |  **", "0 |***", "   1  2"]
    flat = curve.plot([0.5] * 9, width=4, height=2)
    assert flat[0].startswith("0.5 ┤⠉⠉⠉⠉")


def test_results_hold_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    from pruning.cli.output import emit_json

    emit_json({"loss": float("nan"), "layers": [{"speedup": float("inf")}], "run": Path("runs/x")})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "layers": [{"speedup": None}], "run": "runs/x"}


def test_bars_are_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.cli.screen import Screen

    from pruning.events import EpochDone, PhaseDone, PhaseStarted, Progress, Warned

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def draw(stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with Screen(phases=2) as screen:
            screen.tell(PhaseStarted("runs/a", "train", epochs=2, steps=10))
            screen.tell(Progress(5, 10))
            screen.tell(EpochDone({"epoch": 1, "train_loss": 0.5, "val_accuracy": 0.75}))
            screen.tell(Warned("a layer [conv1] is empty"))
            screen.bars.refresh()
            screen.tell(PhaseDone("runs/a", {"phase": "train", "accuracy": 0.5, "sparsity": 0.0, "seconds": 2.0}))
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    seen = draw(Terminal())
    assert "5/10" in seen
    assert "epoch 1/2, loss 0.5000, val. acc. 75.0 %" in seen
    assert draw(io.StringIO()).splitlines() == [
        "train   runs/a: 2 epochs, 10 steps",
        "warning: a layer [conv1] is empty",
        "train   runs/a: accuracy 50.00 %, sparsity 0.0 %, 2.0 s",
    ]


def test_commands_that_train_or_prune_end_with_the_same_options() -> None:
    from pruning.cli.main import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    ends = {
        name: [p.name for p in commands[name].params][-10:] for name in ("train", "run", "prune", "retrain", "iterate")
    }
    assert set(map(tuple, ends.values())) == {
        ("out", "device", "data_dir", "download", "trust_code", "dry_run", "track", "json", "quiet", "debug")
    }
    outs = {name: next(p.default for p in commands[name].params if p.name == "out") for name in ends}
    assert outs == {"train": Path("runs"), "run": Path("runs"), "prune": None, "retrain": None, "iterate": None}
