"""The house's rules that can be checked by reading it: floors, who imports what, names, lengths of files."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pruning
from pruning import plan
from pruning.plan import choices

ROOT = Path(pruning.__file__).parents[1]
FILES = sorted([*ROOT.glob("pruning/**/*.py"), *ROOT.glob("cli/*.py")])

# Bottom first. A module imports from lower floors and, on its own floor, inside its own folder only.
FLOORS = (
    {"plan", "events", "seeds", "ops", "recipes", "extremes"},
    {"usercode", "runs", "schedules"},
    {"masks", "trust", "checkpoint", "models", "data", "survivors", "masters"},
    {"flops", "optim", "criteria", "allocation", "structured", "ablations", "rewind"},
    {"scoring", "methods", "settle"},
    {"api"},
    {"loop"},
    {"engine"},
    {"sweep", "figures", "studies", "search"},
    {"report", "compare"},
    {"cli"},
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def module(path: Path) -> str:
    """Returns `pruning.engine.session` for its file, `pruning.ops.__init__` for a folder's own, `pruning.cli.train`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("pruning", *parts) if parts[0] == "cli" else parts)


def imports(name: str, text: str) -> set[str]:
    """Returns the modules that the source of the module `name` imports, anywhere in it, relative imports resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from pruning import runs` names modules, `from pruning.plan import Train` things in one
            named = {f"{source}.{alias.name}" for alias in node.names}
            found |= named if source in ("pruning", "pruning.cli") else {source}
    return found


def part(name: str) -> str | None:
    """Returns the part of the house that a module belongs to: `engine` for `pruning.engine.session`."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "pruning" and len(pieces) > 1 and not pieces[1].startswith("__") else None


def broken(own: str, targets: set[str]) -> list[str]:
    """Returns what is wrong with the imports of a module of the part `own`."""
    wrong = []
    for target in sorted(targets):
        other = part(target)
        if other in (None, own):
            continue
        if other not in FLOOR:
            wrong.append(f"{target} has no floor: give it one in FLOORS")
        elif FLOOR[other] >= FLOOR[own]:
            wrong.append(f"{own} (floor {FLOOR[own]}) imports {target} (floor {FLOOR[other]})")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = part(module(path))
    if own is not None:
        assert own in FLOOR, f"{path} has no floor: give it one in FLOORS"
        assert broken(own, imports(module(path), path.read_text())) == []


def test_an_import_that_goes_up_is_seen() -> None:
    text = "from pruning import loop, ops\n\ndef f():\n    from pruning.engine.session import Session\n"
    assert len(broken("masks", imports("pruning.masks", text))) == 2
    assert broken("masks", imports("pruning.masks", "from pruning.plan import PlanError\nimport torch\n")) == []
    assert len(broken("rewind", imports("pruning.rewind", "import pruning.methods.base\n"))) == 1
    assert broken("methods", imports("pruning.methods.base", "from .other import x\n")) == []


def test_only_one_file_imports_rich_and_only_cli_imports_typer() -> None:
    users = {package: {str(p.relative_to(ROOT)) for p in FILES if package in roots(p)} for package in ("rich", "typer")}
    assert users["rich"] == {"cli/show.py"}
    assert {name.split("/")[0] for name in users["typer"]} == {"cli"}


def roots(path: Path) -> set[str]:
    """Returns the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(module(path), path.read_text())}


def test_plans_and_run_folders_are_read_without_torch() -> None:
    for name in (
        "events.py",
        "runs.py",
        "trust.py",
        "settle.py",
        *(f"plan/{p.name}" for p in ROOT.glob("pruning/plan/*.py")),
    ):
        assert "torch" not in roots(ROOT / "pruning" / name)


LIGHT = [
    ["--help"],
    ["--version"],
    *(
        [name, "--help"]
        for name in ("train", "prune", "retrain", "iterate", "run", "sweep", "eval", "flops", "show", "report", "list")
    ),
    ["list", "runs"],
    ["list", "recipes"],
    ["sweep", "renda-figure-1-digits", "--dry-run", "--device", "cpu"],
    ["report", "no-such-run"],
    ["train", "no-such-recipe"],
    ["retrain", "no-such-run"],
]


def test_help_and_errors_of_the_command_line_need_no_torch() -> None:
    code = f"""
import json, sys
from pruning.cli.main import main
for args in {LIGHT!r}:
    sys.argv = ["prune", *args]
    try:
        main()
    except SystemExit:
        pass
print(json.dumps(sorted({{"torch", "numpy", "safetensors"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert done.stdout.count("Usage:") == 12


def test_names_in_plans_are_those_of_the_registries() -> None:
    from pruning.ablations import ABLATIONS
    from pruning.allocation import ALLOCATIONS
    from pruning.criteria import CRITERIA
    from pruning.data import DATASETS
    from pruning.methods import METHODS, SUMMARIES
    from pruning.models import MODELS
    from pruning.rewind import TECHNIQUES
    from pruning.schedules import DENSE_SCHEDULES, RETRAIN_SCHEDULES

    registries = {
        plan.ModelName: MODELS,
        plan.DataName: DATASETS,
        plan.Criterion: CRITERIA,
        plan.Allocation: ALLOCATIONS,
        plan.Ablation: ABLATIONS,
        plan.Technique: TECHNIQUES,
        plan.RetrainSchedule: RETRAIN_SCHEDULES,
        plan.LrSchedule: DENSE_SCHEDULES,
        plan.MethodName: METHODS,
    }
    for literal, registry in registries.items():
        assert list(choices(literal)) == list(registry)
    assert list(SUMMARIES) == list(METHODS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{path.name} has {lines} lines; past 250, look hard for the second concept in it"
