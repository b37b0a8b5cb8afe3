"""Studies: expansion by the literal, shared phases once, failures that stop only what hangs on them, kills that change nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Prune as CommandLine
from kills import Moment, context, work
from pruning.cli.main import main
from studies import Inline, bits

from pruning.plan import PlanError, Prune, Retrain, Train
from pruning.record import runs
from pruning.study import sweep
from pruning.study.sweep import phase_graph as graphs

PHASES = """
[[phases]]
phase = "train"
model = "lenet-300-100"
data = "digits"
epochs = 4
batch_size = 256
milestones = [2]
[[phases]]
phase = "prune"
sparsity = 0.5
[[phases]]
phase = "retrain"
epochs = 2
"""
GRID = """
[axes]
"retrain.technique" = ["fine-tune", "weight-rewind", "lr-rewind"]
"prune.sparsity" = { ladder = { start = 0.8, ratio = 0.8, count = 4 }, density = true }
"""


def study(text: str, head: str = "", phases: str = PHASES) -> sweep.Study:
    return sweep.parse_study(head + phases + text, "test")


def expanded(text: str, head: str = "", phases: str = PHASES, scale: float = 1.0) -> list[sweep.Point]:
    return sweep.expand(study(text, head, phases), scale)


def train(point: sweep.Point) -> Train:
    assert isinstance(point.phases[0], Train)
    return point.phases[0]


# --- expansion --------------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_with_every_seed() -> None:
    points = expanded(GRID, "seeds = [3, 5]\n")
    assert len(points) == 3 * 4 * 2
    assert [p.seed for p in points[:4]] == [3, 5, 3, 5]
    assert points[0].labels == {"retrain.technique": "fine-tune", "prune.sparsity": 0.2}
    assert [p.labels["prune.sparsity"] for p in points[:8:2]] == [0.2, 0.36, 0.488, 0.5904]
    pruning, retraining = points[-1].phases[1:]
    assert isinstance(pruning, Prune)
    assert pruning.sparsity == 0.5904
    assert isinstance(retraining, Retrain)
    assert retraining.technique == "lr-rewind"


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("[10, 30]", [10, 30]),
        ("{ range = [10, 50, 20] }", [10, 30, 50]),
        ("{ range = [10, 49, 20] }", [10, 30]),
        ("{ range = [5, 5, 1] }", [5]),
    ],
)
def test_lists_and_ranges(spec: str, values: list[int]) -> None:
    points = expanded(f'[axes]\n"retrain.epochs" = {spec}\n')
    assert [p.labels["retrain.epochs"] for p in points] == values


def test_training_keeps_what_every_retraining_of_the_study_rewinds_to() -> None:
    points = expanded(GRID + '"retrain.epochs" = [1, 3]\n', "seeds = [0, 1]\n")
    assert {train(p).keep_epochs for p in points} == {(0, 1, 3)}
    assert len({str(p.phases[0]) for p in points}) == 2  # one per seed


def test_cases_set_several_things_and_bring_phases_of_their_own() -> None:
    text = """
[[axes.method]]
label = "rewinding"
"retrain.technique" = "lr-rewind"
"retrain.epochs" = 3
[[axes.method]]
label = "twice"
phases = [
  { phase = "train", model = "lenet-5", data = "digits", epochs = 2 },
  { phase = "iterate", sparsity = 0.75, cycles = 2, retrain = { epochs = 1 } },
]
"""
    rewinding, twice = expanded(text)
    assert rewinding.phases[2] == Retrain(epochs=3, technique="lr-rewind")
    assert [phase.phase for phase in twice.phases] == ["train", "prune", "retrain", "prune", "retrain"]
    assert [p.sparsity for p in twice.phases if isinstance(p, Prune)] == [0.5, 0.75]


def test_iterate_settings_are_set_before_it_is_expanded() -> None:
    phases = (
        PHASES.split('[[phases]]\nphase = "prune"')[0] + '[[phases]]\nphase = "iterate"\nsparsity = 0.5\nrate = 0.2\n'
    )
    text = '[axes]\n"iterate.sparsity" = { ladder = { start = 0.8, ratio = 0.8, count = 3 }, density = true }\n'
    points = expanded(text, phases=phases)
    assert [len(p.phases) for p in points] == [3, 5, 7]
    assert points[0].phases == points[2].phases[:3]  # a prefix, and so shared
    assert points[1].phases == points[2].phases[:5]


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ('"retrain.technique" = "fine-tune"', 8),
        ('"retrain.technique" = ["fine-tune", "lr-rewind"]', 4),
        ('"retrain.technique" = "fine-tune"\n"prune.sparsity" = { above = 0.4 }', 10),
        ('"prune.sparsity" = { at_most = 0.36 }', 6),
        ('"retrain.technique" = { not = "fine-tune" }', 4),
        ('retrain.technique = "fine-tune"', 8),
    ],
)
def test_conditions_drop_combinations(condition: str, count: int) -> None:
    assert len(expanded(GRID + f"[[drop]]\n{condition}\n")) == count


def test_states_that_prunings_and_rewindings_start_from_are_kept() -> None:
    phases = PHASES.replace("epochs = 2\n", "")
    text = (
        '[axes]\n"prune.at_epoch" = [0, 2]\n"retrain.technique" = ["weight-rewind"]\n"retrain.rewind_step" = [0, 3]\n'
    )
    assert {(train(p).keep_epochs, train(p).keep_steps) for p in expanded(text, phases=phases)} == {((0, 2), (3,))}
    short = expanded(text, phases=phases, scale=0.5)
    assert {(train(p).keep_epochs, train(p).keep_steps) for p in short} == {((0, 1), (2,))}


def test_axes_with_names_of_their_own_stand_where_the_phases_say() -> None:
    phases = PHASES.replace("sparsity = 0.5", 'sparsity = "$density"').replace("epochs = 2\n", 'epochs = "$time"\n')
    points = expanded("[axes]\ndensity = { values = [0.5, 0.1], density = true }\ntime = [1, 3]\n", phases=phases)
    places = [(p.phases[1].sparsity, p.phases[2].epochs) for p in points]  # type: ignore[union-attr]
    assert places == [(0.5, 1), (0.5, 3), (0.9, 1), (0.9, 3)]
    with pytest.raises(PlanError, match="'.tim' stands for no axis .did you mean 'time'"):
        expanded("[axes]\ndensity = [0.5]\ntime = [1]\n", phases=phases + 'x = "$tim"\n')
    with pytest.raises(PlanError, match="unknown setting 'time'"):
        expanded("[axes]\ntime = [1]\n")


def test_scale_shortens_epochs_and_leaves_sparsities() -> None:
    points = expanded('[axes]\n"prune.sparsity" = [0.5, 0.9]\n"train.epochs" = [20]\n', scale=0.25)
    assert [(train(p).epochs, train(p).milestones) for p in points] == [(5, (2.5,))] * 2
    assert [p.phases[1].sparsity for p in points if isinstance(p.phases[1], Prune)] == [0.5, 0.9]
    assert [p.phases[2].epochs for p in points if isinstance(p.phases[2], Retrain)] == [1, 1]


def test_scaled_steps_stay_within_a_training_whose_epochs_are_rounded_down() -> None:
    """160 epochs of 391 steps times 0.0155 are 2 epochs: the last of 62,560 steps is then the last of 782, and not the 970th."""
    points = [point for point in sweep.expand(sweep.load_study("frankle-figure-7-resnet20-cifar10"), 0.0155)]
    assert {train(p).epochs for p in points} == {2}
    assert {max(train(p).keep_steps) for p in points} == {782}
    last = [phase for p in points if p.labels["time"] == 62560 for phase in p.phases]
    assert {p.at_step for p in last if isinstance(p, Prune)} == {
        782,
        None,
    }  # None: lottery ticket rewinding prunes the end
    assert {p.rewind_step for p in last if isinstance(p, Retrain)} == {782, None}
    assert len(points) == 390


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[axes]\n"prune.sparsty" = [0.5]\n', "did you mean 'prune.sparsity'"),
        ('[axes]\n"prun.sparsity" = [0.5]\n', "did you mean 'prune.sparsity'"),
        ('[axes]\n"sparsity" = [0.5]\n', ".sparsity'?); write train.KEY"),
        ('[axes]\n"prune.sparsity" = []\n', "axis 'prune.sparsity' is empty"),
        ('[axes]\n"retrain.epochs" = { range = [10, 5, 1] }\n', "axis 'retrain.epochs' is empty"),
        ('[axes]\n"retrain.epochs" = { rnge = [1, 5, 1] }\n', "'rnge' is unknown"),
        ('[axes]\n"retrain.epochs" = { range = [1, 5, 0] }\n', "a step above 0"),
        ('[axes]\n"retrain.epochs" = [1, 1]\n', "holds '1' twice"),
        ('[axes]\n"retrain.epochs" = [1]\n[[axes.a]]\nlabel = "x"\n"retrain.epochs" = 2\n', "a setting has one axis"),
        ('[set]\n"retrain.epochs" = 1\n[axes]\n"retrain.epochs" = [1]\n', "by [set]; a setting has one axis"),
        ('[axes]\nretrain.epochs = [1]\n', "write the path in quotes"),
        (GRID + "[[drop]]\n", "drop all 12 combinations"),
        (GRID + '[[drop]]\n"retrain.epoch" = 1\n', "no axis sets"),
        (GRID + '[[drop]]\n"prune.sparsity" = { over = 1 }\n', "'over' is unknown; allowed: above"),
        ('[axes]\n"retrain.technique" = ["lr-rewnd"]\n', "did you mean 'lr-rewind'"),
        ('[axes]\n"train.model" = ["lenet5"]\n', "model 'lenet5' is unknown (did you mean 'lenet-5'?)"),
        ('[axes]\n"iterate.rate" = [0.2]\n', "has no iterate phase"),
        ('[axes]\n"phases.7.epochs" = [1]\n', "phases.0 to phases.2"),
    ],
)  # fmt: skip
def test_bad_axes_are_refused_with_what_is_meant(text: str, message: str) -> None:
    with pytest.raises(PlanError) as error:
        expanded(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("seeds = []\n", "seeds"),
        ("seeds = [1, 1]\n", "names one twice"),
        ('base = "digits"\n', "give one of base, phases"),
        ('best_over = ["retrain.epochs"]\n', "is no axis"),
        ('axis = 1\n', "unknown setting 'axis'"),
        ('run = "no-such-run"\n', "run 'no-such-run' does not exist"),
        ('needs = ["imagenet", "digits"]\n', "needs imagenet, which this version does not have"),
        ("x = [\n", "not valid TOML"),
    ],
)  # fmt: skip
def test_bad_studies_are_refused(head: str, message: str) -> None:
    with pytest.raises(PlanError) as error:
        expanded("", head)
    assert message in str(error.value)


def test_an_unknown_study_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="study 'no-such-study' is unknown"):
        sweep.load_study("no-such-study")


# --- what is shared ------------------------------------------------------------------------------------------


def test_shared_phases_are_one(tmp_path: Path) -> None:
    graph = sweep.build(expanded(GRID, "seeds = [0, 1]\n"), tmp_path)
    kinds = [node.phase.phase for node in graph.nodes.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"train": 2, "prune": 8, "retrain": 24}
    assert graph.asked == 72
    assert not list(tmp_path.iterdir())


def test_shares_are_the_whole_and_do_not_overlap() -> None:
    points = expanded(GRID, "seeds = [0, 1]\n")
    for count in (1, 2, 3, 24):
        shares = [sweep.share(points, i, count) for i in range(count)]
        assert sorted(str(p) for part in shares for p in part) == sorted(map(str, points))
    assert {p.seed for p in sweep.share(points, 0, 2)} == {0}  # cut along the dense networks
    with pytest.raises(PlanError, match="--share"):
        sweep.parse_share("2/2")


# --- running -------------------------------------------------------------------------------------------------

pytest.importorskip("sklearn", reason="the digits need scikit-learn (extra demo)")


def carry_out(spec: sweep.Study, out: Path, jobs: int = 0, retry: bool = False) -> tuple[sweep.Outcome, list[Any]]:
    points = sweep.expand(spec)
    graph = sweep.build(points, out)
    work = sweep.Sweep(spec, graph, out, retry_failed=retry)
    sweep.write_record(spec, points, graph, out, 1.0)
    told: list[Any] = []
    return work.carry_out(sweep.LocalExecutor(jobs) if jobs else Inline(), {"device": "cpu"}, told.append), told


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    outcome, told = carry_out(study(GRID, "seeds = [0, 1]\n"), out)
    assert not outcome.failed
    assert len(outcome.ran) == 34
    statuses = [event for event in told if isinstance(event, sweep.Status)]
    assert statuses[0].epochs_done == 0
    assert (statuses[-1].done, statuses[-1].epochs_done, statuses[-1].seconds_left) == (34, 56, 0.0)
    return out


def test_a_finished_study_runs_nothing_again(undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    outcome, _ = carry_out(study(GRID, "seeds = [0, 1]\n"), undisturbed)
    assert outcome.ran == []
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before


def test_the_record_names_each_result_and_its_goal(undisturbed: Path) -> None:
    record = json.loads((undisturbed / "studies" / "test.json").read_text())
    assert record["axes"]["prune.sparsity"] == [0.2, 0.36, 0.488, 0.5904]
    assert len(record["points"]) == 24
    point = record["points"][-1]
    assert point["goals"] == [{"sparsity": 0.5904, "cycles": 1, "retrain_epochs": 2}]
    assert runs.read_summary(undisturbed / point["results"][0])["seed"] == point["seed"] == 1


def run_study(text: str, out: Path) -> None:
    """Carries a study out in this very process."""
    torch.set_num_threads(1)
    carry_out(sweep.parse_study(text, "test"), out)


def test_kills_at_files_steps_and_between_phases_change_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    text = "seeds = [0, 1]\n" + PHASES + GRID
    for moment in (
        Moment("torn", "test.json"),  # the study's record
        Moment("step", count=20),  # in the first training
        Moment("named", runs.SUMMARY),  # done, but nobody heard of it
        Moment("torn", runs.SUMMARY, 2),
        Moment("torn", runs.WEIGHTS, 5),
        Moment("step", count=40),
        Moment("named", runs.PHASE, 9),
    ):
        assert work(run_study, text, tmp_path, at=moment) == -signal.SIGKILL, moment
    marks = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/summary.json")}
    assert 10 < len(marks) < 34
    outcome, _ = carry_out(study(GRID, "seeds = [0, 1]\n"), tmp_path)
    assert len(outcome.ran) == 34 - len(marks)
    assert {p: p.stat().st_mtime_ns for p in marks} == marks  # what was done was not done again
    assert bits(tmp_path) == bits(undisturbed)


def test_three_sweeps_side_by_side_lose_nothing_and_train_nothing_twice(undisturbed: Path, tmp_path: Path) -> None:
    text = 'seeds = [0, 1]\nkeep = "none"\n' + PHASES + GRID
    others = [context.Process(target=run_study, args=(text, tmp_path)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join(120)
        assert process.exitcode == 0
    logs = {run.name: [record["epoch"] for record in runs.log(run)] for run in tmp_path.iterdir() if runs.is_run(run)}
    assert len(logs) == 34
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in logs.values())
    assert not list(tmp_path.glob("*/*.safetensors"))
    assert not list((tmp_path / "failed").glob("*")) if (tmp_path / "failed").exists() else True
    for run in undisturbed.iterdir():
        if runs.is_run(run):
            drop = ("seconds", "images_per_second", "run")
            mine, other = (runs.read_summary(folder) for folder in (tmp_path / run.name, run))
            assert {k: v for k, v in mine.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


def sweep_until(args: list[str], kind: str, count: int, pids: Path) -> None:
    """Runs `prune sweep`, which is killed just before it hears the `count`-th message of that kind of its workers."""
    heard = 0
    poll = sweep.LocalExecutor.poll

    def listen(pool: sweep.LocalExecutor, seconds: float) -> list[dict[str, Any]]:
        nonlocal heard
        messages = poll(pool, seconds)
        heard += sum(message["kind"] == kind for message in messages)
        if heard >= count:
            pids.write_text(" ".join(str(worker.process.pid) for worker in pool._workers if worker))
            os.kill(os.getpid(), signal.SIGKILL)
        return messages

    sweep.LocalExecutor.poll = listen  # type: ignore[method-assign]
    sys.argv = ["prune", *args]
    main()


def gone(pid: str) -> bool:
    """Returns whether the process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_sweep_that_is_killed_leaves_no_worker_and_goes_on_to_the_same_bits(
    undisturbed: Path, tmp_path: Path, prune: CommandLine
) -> None:
    file, out, pids = tmp_path / "test.toml", tmp_path / "out", tmp_path / "pids"
    file.write_text("seeds = [0, 1]\n" + PHASES + GRID)
    command = ["sweep", str(file), "--out", str(out), "--device", "cpu", "--jobs"]
    done = []
    for kind, count in (("done", 3), ("epoch", 20)):  # between phases, and in one
        assert work(sweep_until, [*command, "2"], kind, count, pids) == -signal.SIGKILL
        workers, until = pids.read_text().split(), time.monotonic() + 60
        assert len(workers) == 2
        while not all(map(gone, workers)):
            assert time.monotonic() < until, "a worker outlives its sweep"
            time.sleep(0.01)
        done.append(len(list(out.glob("*/summary.json"))))
    assert 3 <= done[0] < done[1] < 34
    marks = {p: p.stat().st_mtime_ns for p in out.glob("*/summary.json")}
    told = json.loads(prune(*command, 1, "--json").out)
    assert (told["runs"], told["phases"], told["done"], told["failed"]) == (24, 34, 34, 0)
    assert len(told["ran"]) == 34 - len(marks)
    assert {p: p.stat().st_mtime_ns for p in marks} == marks  # what was done was not done again
    assert len(list(out.glob("*-train-*"))) == 2
    assert bits(out) == bits(undisturbed)


BROKEN = """
def net(shape, classes, **options):
    from pathlib import Path
    import torch
    if Path({flag!r}).exists():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    {what}
"""


@pytest.mark.parametrize(
    ("what", "message", "jobs"),
    [
        ("raise ZeroDivisionError('no such net')", "no such net", 0),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL", 1),
    ],
)
def test_a_failure_is_recorded_and_stops_only_what_hangs_on_it(
    what: str, message: str, jobs: int, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "net.py").write_text(BROKEN.format(flag=str(flag), what=what))
    spec = study(f'[axes]\n"train.model" = ["{tmp_path}/net.py:net", "lenet-300-100"]\n')
    out = tmp_path / "out"
    outcome, _ = carry_out(spec, out, jobs=jobs)
    assert [message in error for error in outcome.failed.values()] == [True]
    assert len(outcome.blocked) == 2
    assert len(outcome.ran) == 3
    record = next((out / "failed").glob("*.json"))
    assert message in json.loads(record.read_text())["error"]
    again, told = carry_out(spec, out, jobs=jobs)
    assert again.ran == []
    assert again.failed == outcome.failed
    assert "failed before" in next(e.text for e in told if isinstance(e, sweep.Message))
    flag.touch()
    retried, _ = carry_out(spec, out, jobs=jobs, retry=True)
    assert len(retried.ran) == 3
    assert not retried.failed
    assert not record.exists()


@pytest.mark.parametrize(("keep", "left"), [("points", 3), ("dense", 1), ("none", 0)])
def test_tensors_that_are_not_kept_go_and_come_again_when_needed(keep: str, left: int, tmp_path: Path) -> None:
    grid = '[axes]\n"retrain.technique" = ["fine-tune", "weight-rewind"]\n'
    outcome, _ = carry_out(study(grid, f'keep = "{keep}"\n'), tmp_path)
    assert len(outcome.ran) == 4
    assert len(list(tmp_path.glob("*/weights.safetensors"))) == left
    assert len(list(tmp_path.glob("*/summary.json"))) == 4
    assert carry_out(study(grid, f'keep = "{keep}"\n'), tmp_path)[0].ran == []
    more = '[axes]\n"retrain.technique" = ["fine-tune", "weight-rewind", "lr-rewind"]\n'
    again, _ = carry_out(study(more, f'keep = "{keep}"\n'), tmp_path)
    assert len(again.ran) == {"points": 2, "dense": 2, "none": 3}[keep]


def test_a_study_goes_on_from_a_run(undisturbed: Path) -> None:
    dense = next(undisturbed.glob("*-s0-train-*"))
    text = f"""run = "{dense}"
[[phases]]
phase = "prune"
sparsity = 0.2
[[phases]]
phase = "retrain"
epochs = 2
[axes]
"retrain.technique" = ["fine-tune", "lr-rewind"]
"""
    points = sweep.expand(sweep.parse_study(text, "over-a-run"))
    graph = sweep.build(points, undisturbed)
    assert len(graph.nodes) == 3
    assert all(runs.is_done(undisturbed / folder) for folder in graph.nodes)  # the very runs of the grid
    rewound = sweep.parse_study(text.replace('"fine-tune"', '"weight-rewind"').replace("epochs = 2", "epochs = 1"), "x")
    with pytest.raises(PlanError, match="was not kept"):
        sweep.build(sweep.expand(rewound), undisturbed)


def test_the_time_left_is_known_from_finished_runs(undisturbed: Path) -> None:
    spec = study(GRID, "seeds = [0, 1, 2]\n")
    graph = sweep.build(sweep.expand(spec), undisturbed)
    status = sweep.Sweep(spec, graph, undisturbed).status(2)
    assert (status.phases, status.done, status.epochs) == (51, 34, 28)
    assert status.seconds_left is not None
    assert status.seconds_left > 0


def test_nothing_left_open(undisturbed: Path) -> None:
    assert graphs.failures(sweep.build(sweep.expand(study(GRID)), undisturbed), undisturbed) == {}
    assert not list(undisturbed.glob("*/resume*"))


def test_slurm_script_is_valid_shell_and_names_the_shares(tmp_path: Path) -> None:
    text = sweep.script("x", ["prune", "sweep", "a b.toml"], 4, threads=2, gpu=True)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=True).returncode == 0
    assert "#SBATCH --array=0-3" in text
    assert "'a b.toml'" in text
    assert '--share "$SLURM_ARRAY_TASK_ID/4"' in text
