"""The papers as data: every study runs or says by name what it waits for; every reported number belongs to a line of one."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

import pytest

from pruning import models, plan
from pruning.plan import PlanError, Train
from pruning.study import sweep
from pruning.study.report import plots, reported
from pruning.study.sweep import axes

NAMES = sweep.study_names()
FOLDER = resources.files("pruning.study.studies").joinpath("reported")
FILES = sorted(f.name for f in FOLDER.iterdir() if f.name.endswith(".csv"))


def small(study: sweep.Study) -> sweep.Study:
    """Returns the study with one seed and the ends of each axis of numbers: enough to find what does not fit."""
    fewer: dict[str, Any] = {}
    for name, spec in study.axes.items():
        if isinstance(spec, list) and not isinstance(spec[0], dict):
            spec = list(dict.fromkeys([spec[0], spec[-1]]))
        elif isinstance(spec, dict) and "ladder" in spec:
            spec = {**spec, "ladder": {**spec["ladder"], "count": min(3, spec["ladder"]["count"])}}
        elif isinstance(spec, dict) and "range" in spec:
            spec = [spec["range"][0], spec["range"][1]]
        fewer[name] = spec
    return study.model_copy(update={"seeds": study.seeds[:1], "axes": fewer})


@pytest.mark.parametrize("name", NAMES)
def test_every_study_runs_or_is_refused_by_name(name: str) -> None:
    study = sweep.load_study(name)
    assert study.title
    assert study.citation
    assert study.source
    assert set(study.figures) <= set(plots.FIGURES)
    lacking = sweep.missing(study)
    if lacking:
        with pytest.raises(
            PlanError, match=f"study '{name}' needs {', '.join(lacking)}, which this version does not have"
        ):
            sweep.expand(study)
        assert study.notes
        return
    points = sweep.expand(small(study))
    assert points
    for point in points:
        train = point.phases[0]
        assert isinstance(train, Train)
        # every setting is written down: nothing that a result depends on is left to a default
        told = {"model", "data", "split", "epochs", "batch_size", "lr", "momentum", "schedule"}
        assert told <= train.model_fields_set or study.base is not None


def test_the_papers_are_all_there() -> None:
    have = {name.rpartition("-digits")[0] or name for name in NAMES}
    wanted = [f"renda-figure-{i}" for i in range(1, 13)]
    wanted += [f"zimmer-table-{i}" for i in (1, 2, *range(4, 22), *range(23, 30))] + [
        f"zimmer-figure-{i}" for i in range(2, 12)
    ]
    wanted += [f"frankle-figure-{i}" for i in (2, *range(4, 12))] + [f"frankle-table-{i}" for i in (2, 3, 5, 7)]
    for prefix in wanted:
        assert any(name == prefix or name.startswith(f"{prefix}-") for name in have), prefix


@pytest.mark.parametrize("file", FILES)
def test_reported_numbers_are_plausible_and_say_where_they_stand(file: str) -> None:
    rows = list(csv.DictReader(FOLDER.joinpath(file).read_text().splitlines()))
    assert rows
    seen = set()
    for row in rows:
        assert tuple(row) == reported.COLUMNS
        assert row["paper"]
        assert row["table"]
        assert row["row"]
        assert row["study"] in NAMES
        assert 0 <= float(row["sparsity"]) < 1
        assert 0 <= float(row["value"]) <= (1000 if row["metric"] == "speedup" else 100)
        assert row["metric"] in reported.FACTOR
        assert row["statistic"] in ("mean", "median")
        key = tuple(
            row[k] for k in ("study", "series", "sparsity", "retrain_epochs", "cycles", "metric", "table", "row")
        )
        assert key not in seen
        seen.add(key)


# STR, CS and DST take no sparsity, so Tables 2, 23 and 24 have no line of theirs
NO_LINE = {"STR", "CS", "DST", reported.DENSE}


def test_every_reported_number_belongs_to_a_line_of_its_study() -> None:
    found = reported.load()
    assert sum(map(len, found.values())) > 5000
    for name, numbers in found.items():
        study = sweep.load_study(name)
        given = axes.read_axes(study.axes, study.set, str([study.phases, study.axes]))
        labels = {value.label for values in given.values() for value in values if isinstance(value.label, str)}
        assert {number.series for number in numbers} - NO_LINE <= labels, name


def test_a_reported_number_is_what_the_paper_prints() -> None:
    """Three numbers looked up by hand in the papers."""
    found = reported.load()

    def number(study: str, **facts: Any) -> reported.Reported:
        rows = [n for n in found[study] if all(getattr(n, key) == value for key, value in facts.items())]
        assert len(rows) == 1
        return rows[0]

    allr = number("zimmer-table-1", series="ALLR", sparsity=0.9, retrain_epochs="10")
    assert (allr.value, allr.spread) == (71.99, 0.07)
    iterative = number("zimmer-table-5", series="SLR", sparsity=0.99, cycles=3, retrain_epochs="60")
    assert (iterative.value, iterative.spread) == (84.34, 0.35)
    random = number("frankle-figure-4-resnet20-cifar10", series="random", sparsity=round(1 - 0.8**6, 12))
    assert (random.value, random.spread) == (89.0, 0.4)


RECIPES = {  # of each network and data set, the recipe whose training Zimmer et al.'s studies share
    ("resnet56", "cifar10"): "zimmer-resnet56-cifar10-imp",
    ("wrn-28-10", "cifar100"): "zimmer-wrn28-10-cifar100-imp",
    ("torchvision:resnet50", "folder"): "zimmer-resnet50-imagenet-gmp-stepped",
}
SHARED = (
    "model_options",
    "split",
    "augment",
    "batch_size",
    "momentum",
    "nesterov",
    "warmup_epochs",
    "optimizer",
    "clip_norm",
)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("zimmer-")])
def test_zimmers_studies_train_and_prune_as_the_recipes_do(name: str) -> None:
    study = sweep.load_study(name)
    if sweep.missing(study):
        return
    found = axes.read_axes(study.axes, study.set, str([study.phases, study.axes]))
    varied = {path.removeprefix("train.") for values in found.values() for value in values for path in value.changes}
    varied -= {"warmup_epochs"}
    for point in sweep.expand(small(study)):
        train = point.phases[0]
        assert isinstance(train, Train)
        if (train.model, train.data) not in RECIPES:
            continue
        recipe = plan.load_plan(RECIPES[train.model, train.data]).train
        for key in set(SHARED) - varied:
            assert getattr(train, key) == getattr(recipe, key), (name, key)
        prunings = [phase for phase in point.phases if isinstance(phase, plan.Prune)]
        assert all(phase.recalibrate == "one-pass" for phase in prunings)
        resets = [phase.optimizer_state for phase in point.phases if isinstance(phase, plan.Retrain)]
        assert resets == ["reset", *["keep"] * (len(resets) - 1)][: len(resets)]


def test_a_case_takes_the_phases_of_a_recipe_and_changes_them() -> None:
    text = """
        [axes]
        sparsity = [0.5, 0.9]
        [[axes.method]]
        label = "one-shot"
        base = "digits"
        "prune.sparsity" = "$sparsity"
        "train.epochs" = 8
        [[axes.method]]
        label = "in cycles"
        base = "digits-imp"
        "iterate.sparsity" = "$sparsity"
    """
    points = sweep.expand(sweep.parse_study(text, "x"))
    assert [p.labels["method"] for p in points] == ["one-shot", "in cycles"] * 2
    first, recipe = points[0].phases, plan.load_plan("digits").phases
    assert [type(phase) for phase in first] == [type(phase) for phase in recipe]
    assert first[1].sparsity == 0.5
    assert first[0].epochs == 8
    assert first[0].lr == recipe[0].lr
    assert [p.phases[-2].sparsity for p in points] == [0.5, 0.5, 0.9, 0.9]
    with pytest.raises(PlanError, match="give phases, or the name of a recipe as base"):
        sweep.parse_study('[[axes.a]]\nlabel = "x"\nbase = 3\n', "x")
    with pytest.raises(PlanError, match="two axes bring phases of their own"):
        sweep.expand(sweep.parse_study(text + '[[axes.other]]\nlabel = "y"\nbase = "digits"\n', "x"))
    with pytest.raises(PlanError, match="'digts'"):
        sweep.expand(sweep.parse_study(text.replace('"digits"', '"digts"'), "x"))


def test_the_networks_of_all_studies_can_be_built() -> None:
    shapes = {"cifar10": (3, 32, 10), "cifar100": (3, 32, 100), "digits": (1, 8, 10), "tinyimagenet": (3, 64, 200)}
    shapes["folder"] = (3, 224, 1000)
    wanted = set()
    for name in NAMES:
        study = sweep.load_study(name)
        if not sweep.missing(study):
            trains = [point.phases[0] for point in sweep.expand(small(study))]
            wanted |= {(t.model, tuple(sorted(t.model_options.items())), t.data, t.norm_init) for t in trains}
    assert len(wanted) > 20
    for model, options, data, norm_init in sorted(wanted, key=str):
        if model.partition(":")[0] in ("torchvision", "timm"):
            pytest.importorskip(model.partition(":")[0], reason=f"{model} needs its library")
        channels, side, classes = shapes[data]
        built = models.build(model, (channels, side, side), classes, options=dict(options), norm_init=norm_init, seed=0)
        assert sum(parameter.numel() for parameter in built.parameters()) > 10_000
