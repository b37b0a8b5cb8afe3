"""Searching for a sparsity and comparing plans: brackets on known functions, rows over seeds, the commands."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Prune

from pruning.events import Event, Warned
from pruning.plan import Plan, PlanError, Retrain, Train, load_plan, make, parse_plan
from pruning.record import runs
from pruning.study import compare, search
from pruning.study.compare import fine_tuned, over_seeds, stability, with_goal
from pruning.study.search import TOLERANCE, bracket
from pruning.study.spread import Spread
from pruning.training.methods import METHODS

FAST = ("--set", "batch_size=20")
METHOD_PLAN = """
[[phases]]
phase = "train"
model = "nets.py:tiny"
data = "sets.py:blobs"
epochs = 4
batch_size = 20
schedule = "linear"
method = "{method}"
{more}
"""
BIMP_PLAN = """
[[phases]]
phase = "train"
model = "nets.py:tiny"
data = "sets.py:blobs"
epochs = 2
batch_size = 20
schedule = "linear"

[[phases]]
phase = "iterate"
sparsity = 0.75
cycles = 2
budget = 2
retrain = { technique = "lr-rewind", schedule = "allr" }
"""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- search -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("sparsity", "start", "drive"),
    [
        (lambda s: sigmoid(2 * (s + 4)), -5.0, METHODS["str"].drives["s_init"]),
        (lambda s: sigmoid(2 * (s + 4)), -100.0, METHODS["str"].drives["s_init"]),
        (lambda s: sigmoid(-40 * s), 0.3, METHODS["cs"].drives["s_0"]),
        (lambda a: sigmoid(2 * math.log10(a) + 10), 1e-6, METHODS["dst"].drives["alpha"]),
        (
            lambda a: 0.0 if a > 1e-2 else sigmoid(2 * math.log10(a) + 10),
            1e-7,
            METHODS["dst"].drives["alpha"],
        ),  # collapses
    ],
)
def test_brackets_meet_the_goal(
    sparsity: Callable[[float], float], start: float, drive: search.Drive, goal: float
) -> None:
    if goal == 0.99 and sparsity(1.0) == 0.0:
        goal = 0.98  # the most that this one gives
    tried: list[float] = []

    def measure(value: float) -> float:
        tried.append(value)
        return sparsity(value)

    found = bracket(measure, start, drive, goal, 20)
    assert found is not None
    assert abs(sparsity(found) - goal) <= TOLERANCE
    assert found == tried[-1]
    assert len(tried) <= 16


def test_a_step_function_exhausts_the_search() -> None:
    tried: list[float] = []
    assert bracket(lambda s: tried.append(s) or float(s > 0), -1.0, METHODS["str"].drives["s_init"], 0.5, 9) is None
    assert len(tried) == 9
    assert -0.1 < tried[-1] < 0.1  # the step is what it closes in on


def noisy(seed: int, place: float, deviation: float) -> float:
    """Returns a normal number that is the same for the same seed and place, and unrelated to that of any other place."""
    return random.Random(f"{seed}:{place!r}").gauss(0.0, deviation)


@pytest.mark.parametrize(("deviation", "met"), [(0.0, 200), (0.05, 185), (0.15, 120), (0.3, 80)])
def test_noise_does_not_lead_the_search_astray(deviation: float, met: int) -> None:
    """Responses with noise in the logit: of .3 at 90 % it is 2.7 points, eleven times the tolerance.

    Who knew the place from the sixth trial on and tried only there would meet the goal 200, 200, 160 and 108 times of 200.
    """
    found, late = 0, []
    root = math.log(9) / 1.5 - 6.3
    for seed in range(200):
        places: list[float] = []

        def measure(s: float, seed: int = seed, places: list[float] = places) -> float:
            places.append(s)
            return sigmoid(1.5 * (s + 6.3) + noisy(seed, s, deviation))

        value = bracket(measure, -20.0, METHODS["str"].drives["s_init"], 0.9, 16)
        if value is not None:
            assert abs(measure(value) - 0.9) <= TOLERANCE
            found += 1
        late += [abs(place - root) for place in places[7:]]
    assert found >= met
    assert sum(distance < 0.4 for distance in late) >= 0.8 * len(late)  # a logit of .6, two standard deviations


def test_a_misleading_trial_is_outvoted() -> None:
    """The trial at .4 came out above the goal by chance; those around it say that the goal lies beyond it."""
    tried = [(0.0, sigmoid(-2.4)), (1.0, sigmoid(1.6)), (0.4, 0.52)]
    while tried[-1][0] <= 0.4:
        place = search.following(tried, 1.0, 0.5)
        tried.append((place, sigmoid(4 * (place - 0.6))))
    assert len(tried) == 3 + search.STUCK + 1
    assert 0.4 < place < 0.7
    mixed = [(0.0, 0.4), (0.2, 0.51), (0.3, 0.49), (0.5, 0.6)]  # noise that shows
    assert 0.2 < search.following(mixed, 1.0, 0.5) < 0.3


@pytest.mark.parametrize("start", [1e-6, 1e-3, 0.3])
def test_a_collapse_on_the_way_is_recognized(start: float) -> None:
    """Past .02 a part of the network falls back to dense: .3 is sparser than the start and no side of the goal."""

    def measure(alpha: float) -> float:
        return 0.3 if alpha > 0.02 else sigmoid(2 * math.log10(alpha) + 7)

    found = bracket(measure, start, METHODS["dst"].drives["alpha"], 0.95, 16)
    assert found is not None
    assert measure(found) == pytest.approx(0.95, abs=TOLERANCE)


def test_a_search_is_the_same_every_time() -> None:
    def search_again() -> list[float]:
        tried: list[float] = []
        bracket(
            lambda s: tried.append(s) or sigmoid(s + noisy(3, s, 0.3)), 0.0, METHODS["str"].drives["s_init"], 0.9, 12
        )
        return tried

    first = search_again()
    assert first == search_again()
    assert len(set(first)) == len(first)  # no place is tried twice


def test_trials_are_judged_by_the_mean_over_seeds(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that lie 2 points apart meet the goal in the mean; far from it the first seed alone is trained."""
    trained: list[tuple[float, int]] = []

    def advance(phase: Train, parent: Path | None, out: Path, **options: object) -> Path:
        value = float(phase.method_options["s_init"])
        trained.append((value, phase.seed))
        return Path(f"{sigmoid(value + 8) + (phase.seed - 1) * 0.02}")

    monkeypatch.setattr(search.engine, "advance", advance)
    monkeypatch.setattr(
        search.runs, "read_summary", lambda run: {"sparsity": float(str(run)), "metric": 0.9, "metric_name": "accuracy"}
    )
    train = make(Train, {"model": "lenet-5", "data": "digits", "method": "str", "method_options": {"s_init": -20.0}})
    told: list[search.Trial] = []
    found = search.find(train, 0.8, 16, Path("runs"), seeds=[0, 1, 2], report=told.append)
    assert found.sparsity == pytest.approx(0.8, abs=TOLERANCE)
    assert [float(str(run)) for run in found.runs] == pytest.approx([found.sparsity + d for d in (-0.02, 0, 0.02)])
    assert found == told[-1]
    assert [len(trial.runs) for trial in told][:3] == [1, 1, 1]  # -20, -18, -14
    assert sum(len(trial.runs) for trial in told) == len(trained)
    with pytest.raises(search.Exhausted, match=r"no s_init among 6 trials .* over 3 seeds") as lost:
        search.find(train, 0.8, 6, Path("runs"), seeds=[0, 1, 2])
    assert len(lost.value.best.runs) == 3


def test_search_from_the_command_line(prune: Prune, workspace: Path) -> None:
    asked = ("train", *TINY, *FAST, "--epochs", 3, "--method", "str", "--target-sparsity", 0.5, "--set")
    found = prune(*asked, "method_options.s_init=-3", "--search", 20, "--finetune-epochs", 1)
    assert "Search for sparsity 50.00 %" in found.err
    tuned, train = found.run, runs.history(found.run)[0]
    assert runs.read_summary(train)["sparsity"] == pytest.approx(0.5, abs=TOLERANCE)
    assert runs.read_summary(tuned)["sparsity"] == runs.read_summary(train)["sparsity"]
    lost = prune(*asked, "method_options.s_init=-30", "--search", 2)
    assert lost.code == 1
    assert "error: no s_init among 2 trials gives sparsity 0.5 within 0.25 points; the best, s_init = -30" in lost.err
    assert "s_init=" in lost.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--method", "gmp", "--target-sparsity", 0.5, "--search", 2, "--sparsity", 0.5), "give sparsity itself", 1),
        (("--target-sparsity", 0.5, "--search", 2), "searched for with the methods str, cs, dst, not with 'none'", 1),
        (("--method", "cs", "--target-sparsity", 0.5, "--search", 2, "--search-option", "l2"), "allowed: s_0, l1", 1),
        (
            ("--method", "str", "--target-sparsity", 0.5, "--search", 2, "--search-option", "s_0"),
            "s_init, threshold_decay",
            1,
        ),
        (("--method", "dst", "--target-sparsity", 0.5, "--search", 1, "--set", "method_options.alpha=0"), "above 0", 1),
        (("--method", "str", "--target-sparsity", 1.5, "--search", 2), "target sparsity must lie between 0 and 1", 1),
        (("--method", "str", "--target-sparsity", 0.5), "--target-sparsity and --search go together", 2),
        (("--method", "str", "--search-option", "s_init"), "--search-option is for --search", 2),
        (("--method", "str", "--target-sparsity", 0.5, "--search", 2, "--dry-run"), "cannot be shown beforehand", 2),
        (("--finetune-epochs", 3), "--finetune-epochs follows a --method that prunes", 2),
        (("--method", "gmp"), "method 'gmp' needs a sparsity", 1),
        (("--method", "gmp", "--sparsity", 0.5, "--epochs", 2, "--dry-run"), "20 pruning events do not fit 6 steps", 1),
    ],
)
def test_what_a_search_refuses(
    prune: Prune, workspace: Path, arguments: tuple[str | float, ...], message: str, code: int
) -> None:
    outcome = prune("train", *TINY, *FAST, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert not (workspace / "runs").exists()


def test_a_method_from_the_command_line(prune: Prune, workspace: Path) -> None:
    options = ("--method", "gmp", "--sparsity", 0.5, "--epochs", 4, "--set", "method_options.events=3")
    result = prune("train", *TINY, *FAST, *options, "--finetune-epochs", 1, "--json").json
    assert (result["phase"], result["sparsity"]) == ("retrain", 0.5)
    shown = prune("train", *TINY, *FAST, *options, "--dry-run", "--finetune-epochs", 1, "--json").json["phases"]
    assert [(row["phase"], row["done"]) for row in shown] == [("train", True), ("retrain", True)]


# --- goals and rows ---------------------------------------------------------------------------------------------------


def test_plans_take_a_goal() -> None:
    bimp = with_goal(parse_plan(BIMP_PLAN, "p", "p"), 0.96)
    assert [p.sparsity for p in bimp.phases if p.phase == "prune"] == [pytest.approx(0.8), 0.96]
    gmp = with_goal(load_plan("zimmer-resnet56-cifar10-gmp"), 0.98)
    assert gmp.train.sparsity == 0.98
    tuned = fine_tuned(gmp, 30).phases[-1]
    assert isinstance(tuned, Retrain)
    assert (tuned.technique, tuned.epochs) == ("fine-tune", 30)
    with pytest.raises(PlanError, match="fine-tuning follows a method"):
        fine_tuned(bimp, 30)


def test_stability_follows_the_definition() -> None:
    """Definition A.1 of Zimmer et al.: 1 - (t_pre - t_post) / t_pre, where t_post <= t_pre."""
    assert stability(0.8, 0.6) == pytest.approx(0.75)
    assert stability(0.8, 0.8) == 1.0
    assert stability(0.8, 0.9) == 1.0
    assert stability(0.0, 0.0) == 1.0


def test_spreads() -> None:
    assert over_seeds([1.0, 2.0, 3.0]) == Spread(3, 2.0, 1.0, 3.0, 1.0)
    assert over_seeds([1.5]) == Spread(1, 1.5, 1.5, 1.5, None)
    assert over_seeds([1.0, None]) is None
    assert over_seeds([1.0, math.inf]) is None


def test_rows_of_a_comparison(workspace: Path) -> None:
    gmp = parse_plan(METHOD_PLAN.format(method="gmp", more="method_options = { events = 3 }\nsparsity = 0.5"), "a", "a")
    bimp = parse_plan(BIMP_PLAN, "b", "b")
    rows = compare.compare([gmp, bimp], [0.5, 0.75], [0, 1], workspace / "runs", finetune_epochs=1, device="cpu")
    assert [(r["plan"], r["method"], r["goal"], r["epochs"]) for r in rows] == [
        ("a", "gmp", 0.5, 4), ("a", "gmp", 0.75, 4), ("b", "none", 0.5, 4), ("b", "none", 0.75, 4),
    ]  # fmt: skip
    for row in rows:
        kept = round((1 - row["goal"]) * 152)
        assert row["sparsity"].middle == pytest.approx(1 - kept / 152)
        assert row["sparsity"].deviation == pytest.approx(0)
        assert row["images_per_second"].n == 2
        assert 0 <= row["stability"].middle <= 1
        chains = [runs.history(Path(run)) for run in row["runs"]]
        phases = ["train", "retrain"] if row["plan"] == "a" else ["train", "prune", "retrain", "prune", "retrain"]
        assert all([runs.read_phase(p).phase for p in chain] == phases for chain in chains)
        best = [
            max(runs.read_summary(p)["accuracy"] for p in (chain if row["plan"] == "a" else chain[-1:]))
            for chain in chains
        ]
        assert row["accuracy"].middle == pytest.approx(sum(best) / 2)
    assert rows[0]["stability"].middle == 1.0
    again = compare.compare([gmp], [0.5], [0, 1], workspace / "runs", finetune_epochs=1, device="cpu")
    assert again == rows[:1]


def test_a_method_from_a_trained_network_is_compared(workspace: Path) -> None:
    plan = parse_plan(
        METHOD_PLAN.format(method="none", more="")
        + '[[phases]]\nphase = "retrain"\nmethod = "gsm"\nsparsity = 0.5\nepochs = 2\n', "g", "g"
    )  # fmt: skip
    (row,) = compare.compare([plan], [0.75], [0, 1], workspace / "runs", finetune_epochs=1, device="cpu")
    assert (row["method"], row["epochs"], row["sparsity"].middle) == ("gsm", 6, pytest.approx(0.75))
    chains = [[runs.read_summary(run) for run in runs.history(Path(folder))] for folder in row["runs"]]
    assert [s["phase"] for s in chains[0]] == ["train", "retrain", "retrain"]
    expected = [stability(chain[1]["accuracy_before_prune"], chain[1]["accuracy"]) for chain in chains]
    assert row["stability"].middle == pytest.approx(sum(expected) / 2)
    assert row["accuracy"].middle == pytest.approx(sum(max(s["accuracy"] for s in chain[1:]) for chain in chains) / 2)


def test_outcomes_are_searched_for(workspace: Path) -> None:
    plan = parse_plan(METHOD_PLAN.format(method="str", more="method_options = { s_init = -3.0 }"), "s", "s")
    with pytest.raises(PlanError, match="the sparsity of 's' is an outcome of its settings: give --search N"):
        compare.compare([plan], [0.5], [0], workspace / "runs", device="cpu")
    told: list[tuple[Plan, float, search.Trial]] = []
    (row,) = compare.compare(
        [plan], [0.5], [0, 1, 2], workspace / "runs", trials=20, report=lambda *trial: told.append(trial), device="cpu"
    )
    options = [runs.train_settings(Path(run)).method_options for run in row["runs"]]
    assert options == [{"s_init": told[-1][2].value}] * 3
    assert row["setting"] == {"s_init": [told[-1][2].value] * 3}
    assert row["sparsity"].middle == pytest.approx(0.5, abs=TOLERANCE)
    assert {(plan.name, goal) for plan, goal, _ in told} == {("s", 0.5)}
    (own,) = compare.compare([plan], [0.5], [0, 1], workspace / "runs", trials=20, per_seed=True, device="cpu")
    reached = [runs.read_summary(Path(run))["sparsity"] for run in own["runs"]]
    assert reached == pytest.approx([0.5, 0.5], abs=TOLERANCE)
    assert [runs.train_settings(Path(run)).method_options["s_init"] for run in own["runs"]] == own["setting"]["s_init"]


def test_an_exhausted_search_gives_the_nearest(workspace: Path) -> None:
    plan = parse_plan(METHOD_PLAN.format(method="str", more="method_options = { s_init = -3.0 }"), "s", "s")
    warned: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(event.text)

    (row,) = compare.compare([plan], [0.5], [0, 1], workspace / "runs", trials=1, tell=tell, device="cpu")
    assert row["setting"] == {"s_init": [-3.0, -3.0]}
    assert len(warned) == 1
    assert warned[0].startswith(
        "s: no s_init among 1 trials gives sparsity 0.5 within 0.25 points; the best, s_init = -3"
    )


def test_a_search_moves_the_option_that_the_method_has(workspace: Path) -> None:
    outcome = [
        parse_plan(METHOD_PLAN.format(method=method, more=""), method, method)
        for method in ("str", "cs", "dst", "none")
    ]
    assert compare._driven(outcome, [0.5], 3, None) == {"str": "s_init", "cs": "s_0", "dst": "alpha"}
    assert compare._driven(outcome, [0.5], 3, "l1") == {"str": "s_init", "cs": "l1", "dst": "alpha"}
    with pytest.raises(PlanError, match="'l2' does not drive the sparsity of method 'str'"):
        compare._driven(outcome, [0.5], 3, "l2")


def test_compare_from_the_command_line(prune: Prune, workspace: Path) -> None:
    (workspace / "b.toml").write_text(BIMP_PLAN)
    (workspace / "m.toml").write_text(METHOD_PLAN.format(method="none", more=""))
    where = ("--device", "cpu", "--seeds", "0,1", "--trust-code")
    outcome = prune("compare", "b.toml", "--sparsity", 0.5, *where)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith(
        "| plan | goal | epochs | images/s | accuracy | speedup | sparsity | stability | seeds |"
    )
    assert len(lines) == 3
    rows = prune("compare", "m.toml", "--method", "dnw", "--method", "gsm", "--sparsity", 0.75, "--json", *where).json[
        "rows"
    ]
    assert [row["plan"] for row in rows] == ["m:dnw", "m:gsm"]
    assert set(rows[0]["accuracy"]) == {"mean", "std", "n"}


def test_a_comparison_shows_every_trial(prune: Prune, workspace: Path) -> None:
    (workspace / "m.toml").write_text(METHOD_PLAN.format(method="none", more=""))
    asked = (
        "compare",
        "m.toml",
        "--method",
        "str",
        "--sparsity",
        0.5,
        "--seeds",
        "0,1",
        "--device",
        "cpu",
        "--trust-code",
        "--search",
        2,
    )
    outcome = prune(*asked)
    assert outcome.code == 0, outcome.err
    assert (
        "warning: m:str: no s_init among 2 trials gives sparsity 0.5 within 0.25 points; the best, s_init ="
        in outcome.err
    )
    trials = outcome.err.partition("m:str: search for sparsity 50.00 %")[2]
    assert trials.split()[:5] == ["setting", "seeds", "sparsity", "accuracy", "run"]
    assert "-100" in trials
    assert "-98" in trials
    row = prune(*asked, "--search-per-seed", "--json").json["rows"][0]
    assert len(row["setting"]["s_init"]) == 2
    for flag in (("--search-per-seed",), ("--search-option", "s_init")):
        lost = prune("compare", "m.toml", "--trust-code", *flag)
        assert lost.code == 2
        assert f"{flag[0]} is for --search" in lost.err


def test_a_method_from_a_trained_network_by_command(prune: Prune, workspace: Path) -> None:
    dense = prune("train", *TINY, *FAST, "--epochs", 2).run
    found = prune("retrain", str(dense), "--method", "gsm", "--sparsity", 0.5, "--epochs", 2, "--json").json
    assert (found["phase"], found["sparsity"]) == ("retrain", 0.5)
    events = ("--set", "method_options.events=1", "--set", "method_options.mode=hard")
    other = prune("retrain", str(dense), "--method", "gmp", "--sparsity", 0.5, "--epochs", 2, *events, "--json").json
    assert runs.read_phase(Path(other["run"])).method_options == {"events": 1, "mode": "hard"}
    lost = prune("retrain", str(dense), "--method", "gmp", "--sparsity", 0.5, "--epochs", 1)
    assert lost.code == 1
    assert "error: method 'gmp': 20 pruning events do not fit 3 steps; allowed: 1 to 2" in lost.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0,x"), "seeds must be different whole numbers"),
        (("--seeds", "1,1"), "seeds must be different whole numbers"),
        (("--sparsity", 1.0), "sparsity must lie between 0 and 1, not 1"),
        (("--method", "gmp"), "method 'gmp' needs a goal: give --sparsity"),
        (("--method", "gpm", "--sparsity", 0.5), "method 'gpm' is unknown"),
        (("--finetune-epochs", 2, "--set", "train.nothing=1"), "unknown setting 'nothing'"),
        (("--method", "str", "--search", 3), "a search needs a goal: give --sparsity"),
        (("--method", "dnw", "--search", 3, "--sparsity", 0.5), "nothing to search for: the sparsity of 'm:dnw'"),
        (("--method", "cs", "--sparsity", 0.5, "--search", 3, "--search-option", "alpha"), "allowed: s_0, l1"),
    ],
)
def test_what_a_comparison_refuses(
    prune: Prune, workspace: Path, arguments: tuple[str | float, ...], message: str
) -> None:
    (workspace / "m.toml").write_text(METHOD_PLAN.format(method="none", more=""))
    outcome = prune("compare", "m.toml", "--device", "cpu", "--trust-code", *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err


def test_every_recipe_of_the_comparison_spends_the_same_budget() -> None:
    """200 epochs in all, of every method and of BIMP; the paper's numbers stand beside them."""
    for setting, goals in (("resnet56-cifar10", ("90", "95", "99")), ("wrn28-10-cifar100", ("90", "95", "98"))):
        for name in ("bimp", "gmp", "gsm", "dpf", "dnw", "lc", "str", "cs", "dst"):
            plan = load_plan(f"zimmer-{setting}-{name}")
            assert sum(getattr(phase, "epochs", 0) for phase in plan.phases) == 200
            assert plan.train.method == ("none" if name == "bimp" else name)
            assert {f"accuracy_{goal}" for goal in goals} <= plan.expected.keys()


def test_plan_and_train_stay_plain() -> None:
    """What a comparison does to plans leaves them plans."""
    plan = make(Plan, {"name": "x", "phases": [Train(model="lenet-5", data="digits", method="dnw", sparsity=0.5)]})
    assert with_goal(plan, 0.5) == plan
