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
from pruning.registry import TABLES, Function, table

ROOT = Path(pruning.__file__).parents[1]
FILES = sorted([*ROOT.glob("pruning/**/*.py"), *ROOT.glob("cli/*.py")])

# Bottom first. A module imports from lower floors and, on its own floor, inside its own wing only.
FLOORS = (
    {"errors", "events", "ops", "layers", "seeds", "trees", "undisturbed", "value_range"},
    {"usercode"},
    {"registry"},
    {"plan"},
    {"record"},
    {"masks", "models", "data"},
    {"flops", "deciding"},
    {"training"},
    {"engine"},
    {"study"},
    {"cli"},
)
# Inside the wings that have more than one room, bottom first again.
ROOMS = {
    "record": (
        {"text", "schemas", "writing", "locking"},
        {"runs"},
        {"checkpoint", "environment", "stamp", "kept"},
        {"trust", "whole"},
        {"resuming", "verify", "placing", "foreign"},
    ),
    "deciding": (
        {"criteria", "allocation", "ablations", "arguments"},
        {"filters", "scoring"},
        {"beforehand"},
        {"decision"},
    ),
    "training": (
        {"tasks", "ramps", "schedules", "unwrapping", "masked_weight", "masters"},
        {"enforcing"},
        {"optim"},
        {"methods", "optimizers"},
        {"loop"},
    ),
    "study": ({"spread", "studies"}, {"search", "sweep", "report"}, {"compare"}),
}
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
FLOOR |= {f"{wing}.{room}": n for wing, rooms in ROOMS.items() for n, names in enumerate(rooms) for room in names}


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
            # `from pruning import data` names modules, `from pruning.plan import Train` things in one
            named = {f"{source}.{alias.name}" for alias in node.names}
            found |= named if source in ("pruning", "pruning.cli") else {source}
    return found


def wing(name: str) -> str | None:
    """Returns the part of the house that a module belongs to: `engine` for `pruning.engine.session`."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "pruning" and len(pieces) > 1 and not pieces[1].startswith("__") else None


def room(name: str) -> str | None:
    """Returns the room of a wing, `training.methods` for `pruning.training.methods.gmp`; None where the wing has none."""
    pieces = name.split(".")
    within = wing(name) in ROOMS and len(pieces) > 2 and not pieces[2].startswith("__")
    return ".".join(pieces[1:3]) if within else None


def broken(own: str, targets: set[str]) -> list[str]:
    """Returns what is wrong with the imports of the module `own`."""
    wrong = []
    for target in sorted(targets):
        here, there = wing(own), wing(target)
        if here is None or there is None:
            continue
        if here == there:
            here, there = room(own), room(target)
            if here is None or there is None or here == there:
                continue
        if there not in FLOOR:
            wrong.append(f"{target} has no floor: give it one")
        elif FLOOR[there] >= FLOOR[here]:
            wrong.append(f"{here} (floor {FLOOR[here]}) imports {target} (floor {FLOOR[there]})")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = module(path)
    for place in (wing(own), room(own)):
        assert place is None or place in FLOOR, f"{path} has no floor: give it one in FLOORS or ROOMS"
    assert broken(own, imports(own, path.read_text())) == []


def test_an_import_that_goes_up_is_seen() -> None:
    def wrong(own: str, text: str) -> int:
        return len(broken(own, imports(own, text)))

    assert (
        wrong(
            "pruning.masks", "from pruning import engine, ops\n\ndef f():\n    from pruning.engine.session import x\n"
        )
        == 2
    )
    assert wrong("pruning.masks", "from pruning.plan import PlanError\nimport torch\n") == 0
    assert wrong("pruning.deciding.scoring", "import pruning.training.methods.base\n") == 1
    assert wrong("pruning.training.methods.base", "from .other import x\nfrom pruning.training.optim import y\n") == 0
    assert wrong("pruning.training.optim", "from pruning.training.methods.base import x\n") == 1


def test_only_one_file_imports_rich_and_only_cli_imports_typer() -> None:
    users = {package: {str(p.relative_to(ROOT)) for p in FILES if package in roots(p)} for package in ("rich", "typer")}
    assert users["rich"] == {"cli/screen.py"}
    assert {name.split("/")[0] for name in users["typer"]} == {"cli"}


def roots(path: Path) -> set[str]:
    """Returns the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imports(module(path), path.read_text())}


def test_plans_and_run_folders_are_read_without_torch() -> None:
    for path in (*ROOT.glob("pruning/plan/*.py"), *(ROOT / f"pruning/{name}.py" for name in LIGHT_MODULES)):
        assert "torch" not in roots(path)


LIGHT_MODULES = (
    "events",
    "record/runs",
    "record/text",
    "record/schemas",
    "record/trust",
    "record/stamp",
    "record/kept",
)
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


def test_names_in_plans_are_those_of_the_tables() -> None:
    from pruning.data import DATASETS
    from pruning.models import MODELS

    tables = {
        plan.ModelName: MODELS,
        plan.DataName: DATASETS,
        plan.Criterion: table("criterion"),
        plan.Allocation: table("allocation"),
        plan.Ablation: table("ablation"),
        plan.Technique: table("technique"),
        plan.RetrainSchedule: table("retraining schedule"),
        plan.LrSchedule: table("schedule"),
        plan.MethodName: table("method"),
        plan.Optimizer: table("optimizer"),
    }
    for literal, names in tables.items():
        assert list(choices(literal)) == list(names)


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_has_a_summary_and_loads(kind: str) -> None:
    for name, entry in table(kind).items():
        assert entry.summary, name
        if isinstance(entry, Function):
            assert callable(entry.load()), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 300, f"{path.name} has {lines} lines; past 250, look hard for the second concept in it"
