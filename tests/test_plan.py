"""Plans: what is refused, how overriding works, and the digests that must never drift."""

from __future__ import annotations

import json
import math

import pytest

from pruning.plan import (
    Iterate,
    Plan,
    PlanError,
    Prune,
    Retrain,
    Train,
    canonical,
    digest,
    load_plan,
    make,
    override,
    override_plan,
    parse_plan,
    parse_set,
    recipe_names,
    with_epochs,
)

TRAIN = Train(model="lenet-5", data="digits", epochs=40, milestones=(20, 30), keep_epochs=(0, 10))


def test_digests_are_pinned() -> None:
    """Renaming runs would lose everybody's results: these literals change only with the schema number."""
    train = digest(TRAIN)
    prune = digest(Prune(sparsity=0.9), train)
    assert train[:8] == "e68f03e3"
    assert prune[:8] == "1745c6cb"
    assert digest(Retrain(epochs=40), prune)[:8] == "ae0f4676"


def test_defaults_do_not_enter_the_digest() -> None:
    assert json.loads(canonical(Prune(sparsity=0.5))) == {"phase": "prune", "sparsity": 0.5}
    assert digest(Prune(sparsity=0.5)) == digest(Prune(sparsity=0.5, criterion="magnitude", exclude=()))
    assert digest(Prune(sparsity=0.5)) != digest(Prune(sparsity=0.5), "parent")


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_ladder_of_a_rate_ends_on_the_goal(rate: float) -> None:
    ladder = Iterate(sparsity=0.9, rate=rate).densities()
    assert ladder[:-1] == [pytest.approx((1 - rate) ** j) for j in range(1, len(ladder))]
    assert ladder[-1] == 1 - 0.9
    assert len(ladder) == math.ceil(math.log(0.1) / math.log(1 - rate))


def test_ladder_of_a_rate_that_hits_the_goal_has_no_extra_cycle() -> None:
    assert len(Iterate(sparsity=1 - 0.8**10, rate=0.2).densities()) == 10


def test_ladder_of_cycles_falls_by_equal_shares() -> None:
    ladder = Iterate(sparsity=0.99, cycles=4).densities()
    ratios = [b / a for a, b in zip([1.0, *ladder], ladder, strict=False)]
    assert ratios == [pytest.approx(0.01**0.25)] * 4


def test_ladder_goes_on_from_a_pruned_network() -> None:
    assert Iterate(sparsity=0.75, cycles=1).densities(start=0.5) == [0.25]
    with pytest.raises(PlanError, match="not above the present sparsity"):
        Iterate(sparsity=0.5, cycles=1).densities(start=0.5)


def test_with_epochs_scales_what_is_in_epochs() -> None:
    short = with_epochs(TRAIN, 8)
    assert (short.epochs, short.milestones, short.keep_epochs) == (8, (4, 6), (0, 2))


def test_override_checks_anew_and_reaches_options() -> None:
    assert override(TRAIN, {"lr": 0.5}).lr == 0.5
    assert override(TRAIN, {"model_options.width": 2}).model_options == {"width": 2}
    with pytest.raises(PlanError, match=r"unknown setting 'lrr' \(did you mean 'lr'\?\)"):
        override(TRAIN, {"lrr": 0.5})
    with pytest.raises(PlanError, match="milestone 20 lies beyond the last epoch, 10"):
        override(TRAIN, {"epochs": 10, "keep_epochs": [0]})


def test_settings_that_depend_on_each_other_are_changed_together() -> None:
    plan = Plan(name="p", phases=(TRAIN,))
    changes = {"train.epochs": 4, "train.milestones": [2], "train.keep_epochs": [0, 3]}
    for order in (changes, dict(reversed(changes.items()))):
        train = override_plan(plan, order).train
        assert (train.epochs, train.milestones, train.keep_epochs) == (4, (2.0,), (0, 3))
    assert override_plan(plan, {"train.keep_epochs": [1], "train.epochs": 4}).train.keep_epochs == (1,)
    assert override_plan(plan, {"train.milestones": [], "train.epochs": 4}).train.keep_epochs == (0, 1)


def test_override_plan_reaches_phases_by_kind_and_by_index() -> None:
    plan = load_plan("digits")
    changed = override_plan(plan, {"train.epochs": 8, "prune.sparsity": 0.5, "phases.2.technique": "fine-tune"})
    assert changed.train.milestones == (4, 6)
    assert changed.phases[1] == Prune(sparsity=0.5)
    assert changed.phases[2].technique == "fine-tune"  # type: ignore[union-attr]
    with pytest.raises(PlanError, match="'phases.7.lr' names no phase"):
        override_plan(plan, {"phases.7.lr": 1})
    with pytest.raises(PlanError, match=r"write train.KEY, prune.KEY"):
        override_plan(plan, {"lr": 1})


def test_parse_set() -> None:
    assert parse_set(["a=1", "b=0.5", "c=true", "d=[1, 2]", "e=word", "f=none"]) == {
        "a": 1, "b": 0.5, "c": True, "d": [1, 2], "e": "word", "f": None,
    }  # fmt: skip
    with pytest.raises(PlanError, match="key=value"):
        parse_set(["a"])
    with pytest.raises(PlanError, match="twice"):
        parse_set(["a=1", "a=2"])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Train, {"data": "digits"}, "'model' is missing"),
        (Train, {"model": "m", "data": "d", "epochs": 0}, "epochs takes a number of epochs above 0"),
        (Train, {"model": "m", "data": "d", "schedule": "step"}, r"did you mean 'stepped'\?"),
        (Train, {"model": "m", "data": "d", "keep_epochs": [200]}, "keep_epochs 200 lies beyond"),
        (Train, {"model": "m", "data": "d", "lr": float("nan")}, "lr"),
        (Train, {"model": "m", "data": "d", "nesterov": True, "momentum": 0.0}, "nesterov needs"),
        (Prune, {"sparsity": 1.5}, "sparsity"),
        (Prune, {"sparsity": float("nan")}, "sparsity"),
        (Prune, {"sparsity": 0.5, "criterion": "magnitud"}, r"did you mean 'magnitude'\?"),
        (Retrain, {"technique": "rewind"}, "technique 'rewind' is unknown"),
        (Retrain, {"epochs": -1}, "epochs"),
    ],
)
def test_bad_settings_name_the_thing(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(kind, settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "not valid TOML"),
        ("", "starts with a train phase"),
        ("[[phases]]\nphase='prun'", "phase 'prun' is unknown"),
        (
            "[[phases]]\nphase='train'\nmodel='m'\ndata='d'\n[[phases]]\nphase='retrain'",
            "needs a prune phase before it",
        ),
        ("colour=1\n[[phases]]\nphase='train'\nmodel='m'\ndata='d'", "unknown setting 'colour'"),
    ],
)
def test_bad_plans_name_the_file(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as error:
        parse_plan(text, "p", "p.toml")
    assert "p.toml" in str(error.value)


def test_iterate_expands_in_a_plan() -> None:
    text = """
    [[phases]]
    phase = "train"
    model = "lenet-5"
    data = "digits"
    [[phases]]
    phase = "iterate"
    sparsity = 0.75
    cycles = 2
    retrain = { technique = "fine-tune", epochs = 3 }
    """
    plan = parse_plan(text, "p", "p.toml")
    assert plan.phases[1:] == (
        Prune(sparsity=0.5), Retrain(technique="fine-tune", epochs=3),
        Prune(sparsity=0.75), Retrain(technique="fine-tune", epochs=3),
    )  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses(name: str) -> None:
    plan = load_plan(name)
    assert isinstance(plan, Plan)
    assert plan.summary
    assert plan.citation


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"did you mean 'digits'\?"):
        load_plan("digit")
