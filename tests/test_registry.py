"""Names from outside: everything that a table holds can be added to by one call, or named as code of the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Prune
from torch import nn

import pruning
from pruning import plan, registry
from pruning.deciding.criteria import CRITERIA
from pruning.plan import PlanError
from pruning.record import runs
from pruning.registry import TABLES, table

OWN = '''
import torch
from pruning.deciding.allocation import Allocation
from pruning.deciding.criteria import Criterion
from pruning.plan.techniques import Technique
from pruning.training.methods import MethodEntry
from pruning.training.methods.end_pruned import EndPruned
from pruning.training.schedules import DenseSchedule, RetrainSchedule


def smallest(model, weights, sample):
    """The smallest magnitudes stay."""
    return {name: -weight.abs() for name, weight in weights.items()}


def _sensitive(model, weights, sample):
    return {name: weight.abs() * len(sample.labels) for name, weight in weights.items()}


sensitive = Criterion(_sensitive, summary="needs a sample", needs="labels")


def halving(layers):
    """Half as much of each layer as of the one before."""
    return [size / 2**i for i, size in enumerate(layers.left)], {}


def stairs(course):
    """Two rates."""
    return lambda step: course.lr if 2 * step < course.total_steps else course.lr / 10


def gentle(given):
    """A tenth of the greatest rate."""
    return lambda step: given.greatest / 10


back = Technique("rewound", "llr", summary="earlier weights, a linear schedule")


class Plain(EndPruned):
    """Trains as ever and prunes at the end."""

    def __init__(self, budget, options):
        super().__init__(budget, EndPruned.OPTIONS())


plain = MethodEntry(Plain, summary="prunes at the end", goal=True)


def plain_sgd(groups, train):
    """Gradient descent and no more."""
    return torch.optim.SGD(groups, lr=train.lr)


nothing = 3
'''


@pytest.fixture
def own(workspace: Path) -> Path:
    (workspace / "mine.py").write_text(OWN)
    return workspace


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Takes out of every table what a test has added."""
    held = {kind: list(table(kind)) for kind in TABLES}
    yield
    for kind, names in held.items():
        for name in set(table(kind)) - set(names):
            del table(kind)._table[name]


def test_a_registered_criterion_is_used_by_its_name_and_listed(prune: Prune, own: Path) -> None:
    def largest(model: nn.Module, weights: dict[str, Any], sample: Any) -> dict[str, Any]:
        """The magnitude, by another name."""
        return {name: weight.abs() for name, weight in weights.items()}

    pruning.register("criterion", "largest", largest)
    network = nn.Linear(8, 8)
    expected = pruning.prune(network, 0.5, "magnitude")
    masks = pruning.prune(network, 0.5, "largest")
    assert torch.equal(masks["weight"], expected["weight"])
    assert {"name": "largest", "summary": "The magnitude, by another name."} in prune(
        "list", "criteria", "--json"
    ).json["criteria"]
    run = prune("train", *TINY, "--epochs", "1").run
    first, second = (
        prune("prune", run, "--sparsity", "0.5", "--set", f"criterion={name}", "--device", "cpu").run
        for name in ("magnitude", "largest")
    )
    assert (first / "masks.safetensors").read_bytes() == (second / "masks.safetensors").read_bytes()


def test_every_kind_of_code_of_ones_own_works_from_the_command_line(prune: Prune, own: Path) -> None:
    dense = prune(
        "train", *TINY, "--epochs", "4", "--set", "schedule=mine.py:stairs", "--set", "optimizer=mine.py:plain_sgd",
        "--set", "keep_epochs=[2]",
    ).run  # fmt: skip
    assert [record["lr"] for record in runs.log(dense)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    small = prune("prune", dense, "--sparsity", "0.5", "--criterion", "mine.py:smallest", "--device", "cpu").run
    large = prune("prune", dense, "--sparsity", "0.5", "--device", "cpu").run
    one, two = (pruning.Masks.load(run / "masks.safetensors") for run in (small, large))
    assert one.kept == two.kept
    assert any(not torch.equal(one[name], two[name]) for name in one)
    fair = prune(
        "prune", dense, "--sparsity", "0.5", "--criterion", "mine.py:sensitive", "--allocation", "mine.py:halving",
        "--set", "samples_per_class=2", "--device", "cpu",
    ).run  # fmt: skip
    counts = pruning.Masks.load(fair / "masks.safetensors").counts()
    shares = [kept / total for kept, total in counts.values()]
    assert shares[0] > shares[1]
    gone = prune("retrain", large, "--schedule", "mine.py:gentle", "--epochs", "2", "--device", "cpu").run
    assert [record["lr"] for record in runs.log(gone)] == pytest.approx([0.01, 0.01])
    rewound = prune("retrain", large, "--technique", "mine.py:back", "--epochs", "2", "--device", "cpu").run
    assert runs.log(rewound)[-1]["lr"] < 0.1
    sparse = prune("train", *TINY, "--epochs", "1", "--method", "mine.py:plain", "--sparsity", "0.75").run
    assert runs.read_summary(sparse)["sparsity"] == pytest.approx(0.75, abs=0.01)


def test_code_of_ones_own_names_the_run_and_runs_from_anywhere(
    prune: Prune, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = prune("train", *TINY, "--epochs", "1", "--set", "schedule=mine.py:stairs").run.resolve()
    pruned = prune("prune", dense, "--sparsity", "0.5", "--criterion", "mine.py:smallest", "--device", "cpu").run
    settings = json.loads((pruned / "phase.json").read_text())
    assert settings["code"] == {"criterion": str(own / "mine.py")}
    assert len(settings["settings"]["code"]["criterion"]) == 64
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = prune("retrain", pruned, "--epochs", "1", "--technique", "lr-rewind", "--device", "cpu")
    assert again.code == 0, again.err
    monkeypatch.chdir(own)
    (own / "mine.py").write_text(OWN.replace("-weight.abs()", "-weight.abs().sqrt()"))
    other = prune("prune", dense, "--sparsity", "0.5", "--criterion", "mine.py:smallest", "--device", "cpu").run
    assert other != pruned


def test_a_run_from_elsewhere_that_names_a_schedule_of_code_is_not_trusted(prune: Prune, own: Path) -> None:
    train = ("train", "--model", "lenet-300-100", "--data", "digits", "--device", "cpu", "--epochs", "1")
    dense = prune(*train, "--set", "schedule=mine.py:stairs").run
    record = json.loads((dense / "phase.json").read_text())
    (dense / "phase.json").write_text(json.dumps({**record, "seal": "0" * 64}))
    refused = prune("prune", dense, "--sparsity", "0.5", "--device", "cpu")
    assert refused.code == 1
    assert "would execute code" in refused.err
    assert "mine.py" in refused.err
    assert prune("prune", dense, "--sparsity", "0.5", "--device", "cpu", "--trust-code").code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--criterion", "mine.py:nothing"), ("mine.py:nothing' is no criterion", "Criterion, a function or a class")),
        (("--criterion", "mine.py:plain"), ("is a MethodEntry, not a Criterion",)),
        (("--criterion", "mine.py:smalest"), ("no function 'smalest'", "did you mean 'smallest'?")),
        (
            ("--criterion", "mine.py:smallest", "--set", "rounds=3"),
            ("rounds is not used by criterion", "mine.py:smallest'"),
        ),
        (("--allocation", "absent.py:f"), ("there is no file",)),
    ],
)
def test_code_that_is_not_what_it_should_be_is_refused_by_name(
    prune: Prune, own: Path, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    dense = prune("train", *TINY, "--epochs", "1").run
    before = sorted(dense.parent.iterdir())
    refused = prune("prune", dense, "--sparsity", "0.5", "--device", "cpu", *args)
    assert refused.code == 1
    assert all(word in refused.err for word in words), refused.err
    assert sorted(dense.parent.iterdir()) == before


def test_bad_registrations_are_refused() -> None:
    def f() -> None: ...

    with pytest.raises(PlanError, match=r"kind 'criterium' is unknown \(did you mean 'criterion'\?\)"):
        pruning.register("criterium", "x", f)
    with pytest.raises(PlanError, match="criterion 'snip' exists already"):
        pruning.register("criterion", "snip", f)
    with pytest.raises(PlanError, match="'a:b' is no name for a criterion"):
        pruning.register("criterion", "a:b", f)
    with pytest.raises(PlanError, match=r"a criterion has no 'need' \(did you mean 'needs'\?\)"):
        pruning.register("criterion", "x", f, need="labels")
    with pytest.raises(
        PlanError, match="'x' is no criterion: it must be a Criterion, a function or a class, not a int"
    ):
        pruning.register("criterion", "x", 3)
    with pytest.raises(PlanError, match="'x' is no technique: it must be a Technique, not a function"):
        pruning.register("technique", "x", f)
    assert "x" not in CRITERIA


def test_a_name_that_was_never_registered_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"criterion 'snipp' is unknown \(did you mean 'snip'\?\)"):
        plan.make(plan.Prune, {"sparsity": 0.5, "criterion": "snipp"})
    with pytest.raises(PlanError, match="method 'gnp' is unknown"):
        registry.table("method").find("gnp")
