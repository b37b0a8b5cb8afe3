"""What a user can get wrong, through the command line: the exit code, the one line that says so, and that nothing was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Prune, files, write_code

from pruning.record import runs

# command line -> exit code, and what the one line on standard error says. DENSE, PRUNED and RETRAINED stand for run folders.
CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    # usage: exit code 2
    "trian digits": (2, ("No such command 'trian'", "Did you mean 'train'")),
    "train": (2, ("name a RECIPE, or give --model and --data",)),
    "train --model lenet-5": (2, ("name a RECIPE, or give --model and --data",)),
    "train digits --modle lenet-5": (2, ("No such option: --modle", "--model")),
    "train digits --epochs many": (1, ("epochs takes a number of epochs above 0", "'many'")),
    "train digits --epochs 500images": (1, ("epochs takes a number of epochs above 0", "500 steps", "'500images'")),
    "train digits --epochs nan": (1, ("epochs takes a number of epochs above 0", "not nan")),
    "train digits --epochs 20steps": (1, ("keep_epochs 10, milestones 20 in epochs of 21 steps", "set keep_epochs and milestones")),
    "train digits digits": (2, ("unexpected extra argument",)),
    "prune DENSE": (2, ("Missing option '--sparsity'",)),
    "prune --sparsity 0.5": (2, ("Missing argument 'RUN'",)),
    "prune DENSE --sparsity most": (2, ("--sparsity", "number")),
    "iterate DENSE --sparsity 0.9 --rate 0.2 --cycles 3": (2, ("--rate or --cycles, not both",)),
    "flops": (2, ("name a RUN, or give --model and --input",)),
    "flops DENSE --model lenet-5": (2, ("name a RUN, or give --model and --input",)),
    "flops --model lenet-5": (2, ("--input", "3x32x32")),
    "list models --where epochs=3": (2, ("--where is for `prune list runs`",)),
    # names, with the nearest one
    "train digit": (1, ("recipe 'digit' is unknown", "did you mean 'digits'?", "allowed:")),
    "run digts": (1, ("recipe 'digts' is unknown", "did you mean 'digits'?")),
    "run absent.toml": (1, ("plan 'absent.toml' cannot be read", "No such file")),
    "train --model resnet21 --data digits --epochs 1": (1, ("resnet21", "20")),
    "train --model lenet5 --data digits --epochs 1": (1, ("model 'lenet5' is unknown", "did you mean 'lenet-5'?")),
    "train --model lenet-5 --data digit --epochs 1": (1, ("data 'digit' is unknown", "did you mean 'digits'?")),
    "train digits --method grpwth": (1, ("method 'grpwth' is unknown", "allowed: none")),
    "train digits --device gpu": (1, ("device 'gpu' is unknown", "allowed: auto, cpu, cuda")),
    "train digits --device cuda:99": (1, ("device 'cuda:99' is not there",)),
    "train digits --track tensorbord": (1, ("tracker 'tensorbord'", "did you mean 'tensorboard'?")),
    "prune DENSE --sparsity 0.5 --criterion magnitud": (1, ("criterion 'magnitud'", "did you mean 'magnitude'?")),
    "prune DENSE --sparsity 0.5 --allocation globl": (1, ("allocation 'globl'", "did you mean 'global'?")),
    "prune DENSE --sparsity 0.5 --structure weight": (1, ("structure 'weight'", "did you mean 'weights'?")),
    "prune DENSE --sparsity 0.5 --ablation shufle": (1, ("ablation 'shufle'", "did you mean 'shuffle'?")),
    "retrain PRUNED --technique lr-rewnd": (1, ("technique 'lr-rewnd'", "did you mean 'lr-rewind'?")),
    "retrain PRUNED --schedule lr": (1, ("schedule 'lr' is unknown", "allowed: ft, lrw")),
    "flops --model lenet-5 --input 1x28x28 --convention thop": (1, ("convention 'thop'", "true, weights, shrinkbench")),
    "list modles": (1, ("kind 'modles' is unknown", "did you mean 'models'?")),
    "list runs --where sparsty=0.9": (1, ("key 'sparsty'", "did you mean 'sparsity'?")),
    "list runs --where sparsity": (1, ("--where takes KEY=VALUE", "'sparsity'")),
    # numbers
    "prune DENSE --sparsity 1.5": (1, ("sparsity", "less than 1", "1.5")),
    "prune DENSE --sparsity 1": (1, ("sparsity", "less than 1")),
    "prune DENSE --sparsity -0.1": (1, ("sparsity", "greater than or equal to 0", "-0.1")),
    "prune DENSE --sparsity nan": (1, ("sparsity", "nan")),
    "iterate DENSE --sparsity 1.5": (1, ("sparsity", "1.5")),
    "iterate DENSE --sparsity 0.9 --rate 1": (1, ("rate", "less than 1")),
    "iterate DENSE --sparsity 0.9 --cycles 0": (1, ("cycles", "greater than or equal to 1")),
    "train digits --epochs 0": (1, ("epochs takes a number of epochs above 0", "0")),
    "train digits --epochs -1": (1, ("epochs takes a number of epochs above 0", "-1")),
    "train digits --batch-size 0": (1, ("batch_size", "greater than or equal to 1")),
    "train digits --lr 0": (1, ("lr", "greater than 0")),
    "train digits --lr inf": (1, ("lr", "inf")),
    "train digits --seed -1": (1, ("seed", "-1")),
    "retrain PRUNED --epochs 0": (1, ("epochs takes a number of epochs above 0",)),
    "prune DENSE --sparsity 0.5 --criterion snip --rounds 0": (1, ("rounds", "greater than or equal to 1")),
    "flops --model lenet-5 --input 28": (1, ("input '28' is no image", "3x32x32")),
    "flops --model lenet-5 --input 1x0x28": (1, ("input '1x0x28' is no shape", "3x32x32")),
    # --set
    "train digits --set lr": (1, ("--set takes key=value, not 'lr'",)),
    "train digits --set epocs=3": (1, ("unknown setting 'epocs'", "did you mean 'epochs'?")),
    "train digits --set momentum=high": (1, ("momentum", "number", "'high'")),
    "train digits --set nesterov=perhaps": (1, ("nesterov", "bool", "'perhaps'")),
    "train digits --set epochs=many": (1, ("epochs takes a number", "'many'")),
    "train digits --set lr=1 --set lr=2": (1, ("--set gives 'lr' twice",)),
    "train digits --lr 1 --set lr=2": (1, ("'lr' is given by --lr and by --set",)),
    "train digits --epochs 10 --set keep_epochs=[20]": (1, ("keep_epochs 20", "the last epoch, 10")),
    "train digits --set model_options.widht=2": (1, ("option 'widht'", "did you mean 'width'?")),
    "train digits --set lr.x=2": (1, ("'lr' is no table of options",)),
    "run digits --set lr=2": (1, ("unknown setting 'lr'", "train.KEY")),
    "run digits --set prune.sparcity=0.5": (1, ("unknown setting 'sparcity'", "did you mean 'sparsity'?")),
    "run digits --set phases.9.epochs=3": (1, ("phases.9.epochs", "phases.0 to phases.2")),
    "iterate DENSE --sparsity 0.9 --set epochs=3": (1, ("unknown setting 'epochs'", "retrain.KEY")),
    "iterate DENSE --sparsity 0.9 --set prune.criterion=x": (1, ("criterion 'x' is unknown",)),
    "iterate DENSE --sparsity 0.9 --criterion snip --set prune.criterion=random": (1, ("by --criterion and by --set",)),
    "prune DENSE --sparsity 0.5 --rounds 3": (1, ("rounds is not used by criterion 'magnitude'",)),
    # runs
    "prune runs/absent --sparsity 0.5": (1, ("run 'runs/absent' does not exist",)),
    "eval .": (1, ("'.' is no run folder: it has no phase.json",)),
    "show runs": (1, ("'runs' is no run folder",)),
    "retrain DENSE": (1, ("is not pruned", "prune prune RUN --sparsity S")),
    "prune PRUNED --sparsity 0.2": (1, ("sparsity 0.2 is less than the present sparsity, 0.5",)),
    "iterate DENSE --sparsity 0.99 --cycles 3 --structure filters": (1, ("no filter of", "would be left", "prune less")),
    "iterate DENSE --sparsity 0.99 --cycles 3 --set prune.min_per_layer=99": (1, ("min_per_layer 99 needs 123 weights",)),
    "prune DENSE --sparsity 0.5 --set recalibrate=one-pass": (1, ("recalibrate 'one-pass'", "has none; allowed: none")),
    "prune DENSE --sparsity 0.5 --structure filters --ablation invert": (1, ("'invert' does not", "allowed: reinit")),
    "train digits --set schedule=linear --set milestones=[] --set gamma=0.5": (1, ("gamma is used", "not by 'linear'")),
    "schedule accallr": (1, ("'accallr' needs --impact", "from 0 to 1")),
    "schedule allr --from DENSE": (1, ("'allr' needs --impact", "--from with a pruned RUN")),
    "iterate PRUNED --sparsity 0.3": (1, ("sparsity 0.3 is not above the present sparsity",)),
    "prune DENSE --sparsity 0.5 --exclude *": (1, ("exclude", "prun")),
    "prune DENSE --sparsity 0.5 --out elsewhere": (1, ("does not lie in 'elsewhere'", "side by side")),
    "retrain PRUNED --technique weight-rewind --epochs 1": (1, ("epoch 3", "not kept", "keep_epochs")),
    "retrain PRUNED --technique weight-rewind --epochs 1 --dry-run": (1, ("epoch 3", "not kept", "keep_epochs")),
    "prune - --sparsity 0.5": (1, ("standard input is empty",)),
    # one's own code
    "train --model absent.py:tiny --data sets.py:blobs": (1, ("absent.py", "no file")),
    "train --model nets.py:tinny --data sets.py:blobs": (1, ("has no function 'tinny'", "did you mean 'tiny'?")),
    "train --model nets.py:no_module --data sets.py:blobs": (1, ("nets.py:no_module", "Module")),
    "train --model nets.py:no_tensor --data sets.py:blobs": (1, ("nets.py:no_tensor", "must return a tensor, not tuple")),
    "train --model nets.py:five_classes --data sets.py:blobs": (1, ("five_classes", "[2, 3]", "3 classes", "not [2, 5]")),
    "train --model nets.py:fails --data sets.py:blobs": (1, ("RuntimeError: no weights to be had", "nets.py")),
    "train --model nets.py:nothing_to_prune --data sets.py:blobs": (1, ("prun",)),
    "train --model nets.py:five_classes --data digits": (1, ("five_classes", "does not run on images of 1x8x8")),
    "train --model nets.py:tiny --data sets.py:empty": (1, ("train is empty",)),
    "train --model nets.py:tiny --data sets.py:strange_labels": (1, ("test has label 3", "train has 3 classes")),
    "train --model nets.py:tiny --data sets.py:other_size": (1, ("test has values of [1, 5, 5]",)),
    "train --model nets.py:tiny --data sets.py:broken": (1, ("train", "not finite")),
    "train --model nets.py:tiny --data sets.py:one_part": (1, ("must return (train, validation, test)",)),
    "train --model lenet-5 --data cifar10 --data-dir absent": (1, ("cifar10", "absent", "data_batch")),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nets.py, sets.py and the three runs of the tiny history in runs/, to be left as it is."""
    folder = write_code(tmp_path_factory.mktemp("bad"))
    shutil.copytree(history.parent, folder / "runs")
    return folder


@pytest.mark.parametrize("line", CASES)
def test_bad_input(prune: Prune, place: Path, history: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(place)
    dense, pruned, retrained = (f"runs/{folder.name}" for folder in runs.history(history))
    named = {"DENSE": dense, "PRUNED": pruned, "RETRAINED": retrained}
    before = files(place)
    outcome = prune(*(named.get(word, word) for word in line.split()))
    code, parts = CASES[line]
    assert outcome.code == code, outcome
    (message,) = outcome.err.splitlines()
    assert message.startswith("error: ")
    for part in parts:
        assert part in message
    assert outcome.out == ""
    assert files(place) == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


# --- plans from files ---------------------------------------------------------------------------------------------------------

TRAIN = '[[phases]]\nphase = "train"\nmodel = "lenet-5"\ndata = "digits"\nepochs = 3\n'
PLANS = {
    "phases = [": ("not valid TOML",),
    "": ("a plan starts with a train phase",),
    "phases = 3": ("phases must be a list of tables",),
    '[[phases]]\nphase = "prune"\nsparsity = 0.5': ("a plan starts with a train phase",),
    '[[phases]]\nphase = "trane"': ("phase 'trane' is unknown", "did you mean 'train'?"),
    '[[phases]]\nphase = "train"\nmodel = "lenet-5"': ("'data' is missing",),
    f'{TRAIN}[[phases]]\nphase = "retrain"': ("a retrain phase needs a prune phase before it",),
    f'{TRAIN}[[phases]]\nphase = "prune"\nsparsity = 0.9\n[[phases]]\nphase = "prune"\nsparsity = 0.5': ("0.5 after 0.9",),
    f'{TRAIN}milestones = [5]': ("milestone 5", "the last epoch, 3"),
    f'{TRAIN}[[phases]]\nphase = "iterate"\nsparsity = 0.9\nrate = 0.2\ncycles = 2': ("rate or cycles, not both",),
    f'{TRAIN}[[phases]]\nphase = "prune"\nsparsity = 0.5\ncriterion = "snap"': ("criterion 'snap'", "did you mean 'snip'?"),
    f'colour = "red"\n{TRAIN}': ("colour",),
}  # fmt: skip


@pytest.mark.parametrize("text", PLANS)
def test_bad_plans(prune: Prune, workspace: Path, text: str) -> None:
    (workspace / "plan.toml").write_text(text)
    before = files(workspace)
    outcome = prune("run", "plan.toml")
    assert outcome.code == 1
    (message,) = outcome.err.splitlines()
    assert message.startswith("error: plan 'plan.toml'")
    for part in PLANS[text]:
        assert part in message
    assert files(workspace) == before


def test_a_plan_that_rewinds_to_an_epoch_it_does_not_keep(prune: Prune, workspace: Path) -> None:
    phases = '[[phases]]\nphase = "prune"\nsparsity = 0.5\n[[phases]]\nphase = "retrain"\ntechnique = "weight-rewind"\nepochs = 1\n'
    (workspace / "plan.toml").write_text(TRAIN + phases)
    before = files(workspace)
    for option in ((), ("--dry-run",)):
        outcome = prune("run", "plan.toml", *option)
        assert outcome.code == 1
        assert "epoch 2" in outcome.err
        assert "keep_epochs" in outcome.err
    assert files(workspace) == before


# --- standard input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("\n", "standard input is empty"),
        ("nothing/here\n", "run 'nothing/here' does not exist"),
        ("{broken\n", "neither a path nor a JSON object"),
        ('{"runs": "x"}\n', "no key 'run'"),
        ('{"run": null}\n', "no key 'run'"),
    ],
)
def test_bad_standard_input(prune: Prune, workspace: Path, text: str, part: str) -> None:
    outcome = prune("prune", "-", "--sparsity", 0.5, stdin=text)
    assert (outcome.code, outcome.out) == (1, "")
    assert part in outcome.err


# --- damaged and foreign run folders --------------------------------------------------------------------------------------------


def truncated(name: str) -> Callable[[Path], object]:
    """Returns a function that cuts a run's file in half."""
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[: (run / name).stat().st_size // 2])


def edited(name: str, **changes: object) -> Callable[[Path], object]:
    """Returns a function that changes keys of a run's JSON file."""
    return lambda run: (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **changes}))


def without(name: str) -> Callable[[Path], object]:
    """Returns a function that removes a run's file."""
    return lambda run: (run / name).unlink()


def with_a_nan(run: Path) -> None:
    """Writes a NaN into the first weight."""
    from pruning.record import checkpoint

    tensors, notes = checkpoint.load(run / runs.WEIGHTS)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    checkpoint.save(run / runs.WEIGHTS, tensors, notes)


def with_revived_weights(run: Path) -> None:
    """Sets every weight to 1, the pruned ones too."""
    from pruning.record import checkpoint

    tensors, notes = checkpoint.load(run / runs.WEIGHTS)
    checkpoint.save(run / runs.WEIGHTS, {name: t.fill_(1) for name, t in tensors.items()}, notes)


def with_another_shape(run: Path) -> None:
    """Gives one tensor a row less."""
    from pruning.record import checkpoint

    tensors, notes = checkpoint.load(run / runs.WEIGHTS)
    checkpoint.save(run / runs.WEIGHTS, {name: t[:-1] for name, t in tensors.items()}, notes)


DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "weights truncated": (truncated("weights.safetensors"), ("weights.safetensors", "is not the file")),
    "weights missing": (without("weights.safetensors"), ("weights.safetensors", "is missing")),
    "masks truncated": (truncated("masks.safetensors"), ("masks.safetensors",)),
    "phase.json truncated": (truncated("phase.json"), ("phase.json", "damaged")),
    "summary.json truncated": (truncated("summary.json"), ("summary.json", "damaged")),
    "newer schema": (edited("phase.json", schema=2), ("phase.json", "schema 2", "reads schema 1")),
    "parent outside": (edited("phase.json", parent="../../etc"), ("phase.json", "damaged", "../../etc")),
    "parent missing": (edited("phase.json", parent="gone"), ("needs its parent 'gone' beside it",)),
    "unfinished": (without("summary.json"), ("has not finished",)),
    "NaN weights": (with_a_nan, ("weights.safetensors", "not finite")),
    "revived weights": (with_revived_weights, ("pruned weights", "masks and weights disagree")),
    "other shapes": (with_another_shape, ("weights.safetensors", "does not fit")),
}


UNTIED = ("NaN weights", "revived weights", "other shapes")  # seen even where no digest tells of another file


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize(
    "command", [("eval",), ("show",), ("prune", "--sparsity", "0.9"), ("retrain", "--epochs", "1")]
)
def test_damaged_runs(prune: Prune, history: Path, tmp_path: Path, command: tuple[str, ...], name: str) -> None:
    shutil.copytree(history.parent, tmp_path / "runs")
    run = tmp_path / "runs" / history.name
    damage, parts = DAMAGE[name]
    damage(run)
    if name in UNTIED:
        edited("summary.json", files=None)(run)
    before = files(tmp_path)
    outcome = prune(command[0], run, *command[1:])
    assert (outcome.code, outcome.out) == (1, ""), outcome.err
    (message,) = outcome.err.splitlines()
    for part in parts:
        assert part in message
    assert files(tmp_path) == before


def test_code_of_a_run_from_elsewhere_is_not_executed(
    prune: Prune, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another account"))
    for command in (("eval",), ("show",), ("flops",), ("prune", "--sparsity", "0.9"), ("retrain",)):
        outcome = prune(command[0], history, *command[1:])
        assert outcome.code == 1
        assert "nets.py" in outcome.err
        assert "--trust-code" in outcome.err
    assert prune("eval", history, "--trust-code").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes where it likes")
def test_a_folder_that_cannot_be_written(prune: Prune, workspace: Path) -> None:
    (workspace / "runs").mkdir(mode=0o500)
    outcome = prune("train", *TINY, "--epochs", 1)
    assert outcome.code == 1
    assert "cannot write runs" in outcome.err


def test_a_file_where_the_folder_should_be(prune: Prune, workspace: Path) -> None:
    (workspace / "runs").write_text("")
    outcome = prune("train", *TINY, "--epochs", 1)
    assert outcome.code == 1
    assert outcome.err.startswith("error: cannot write runs")


def test_debug_shows_the_traceback(prune: Prune, workspace: Path) -> None:
    plain, debug = prune("train", "digit"), prune("train", "digit", "--debug")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)
    assert debug.code == 1


def test_what_was_not_foreseen_is_one_line_too(prune: Prune, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning import engine

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("CUDA error:\n  device-side assert")

    monkeypatch.setattr(engine, "run", fail)
    outcome = prune("train", "digits")
    said = (
        "error: prune train: RuntimeError: CUDA error: device-side assert "
        "(a fault of prune's own: please report it with what --debug prints)\n"
    )
    assert (outcome.code, outcome.err) == (1, said)
    debug = prune("train", "digits", "--debug")
    assert debug.err.startswith("Traceback")
    assert debug.err.endswith(said)


@pytest.mark.parametrize("kind", [MemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
def test_too_little_memory_is_no_fault_of_the_programs(
    prune: Prune, workspace: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    from pruning import engine

    def fail(*args: object, **options: object) -> None:
        raise kind("tried to allocate 80 GiB")

    monkeypatch.setattr(engine, "run", fail)
    outcome = prune("train", "digits")
    assert (outcome.code, outcome.err) == (1, f"error: {kind.__name__}: tried to allocate 80 GiB\n")
