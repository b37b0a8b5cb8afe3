"""Code of the user's own: what counts as its name, finding it without running it, loading it, calling it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from pruning import usercode
from pruning.plan import PlanError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("net.py:build", True),
        ("../a dir/net.py:build", True),
        ("package.module:build", True),
        ("torchvision.models:resnet18", True),
        ("torchvision:resnet18", False),
        ("timm:resnet18", False),
        ("resnet20", False),
        ("net.py", False),
        ("net.py:", False),
        (":build", False),
    ],
)
def test_is_code(spec: str, expected: bool) -> None:
    assert usercode.is_code(spec) is expected


def test_resolving_a_file_runs_nothing(here: Path) -> None:
    source = b"raise SystemExit('ran')\n"
    (here / "net.py").write_bytes(source)
    assert usercode.resolve("net.py:build") == (here / "net.py", hashlib.sha256(source).hexdigest())


def test_resolving_a_module_runs_neither_it_nor_its_parents(here: Path) -> None:
    (here / "outer_pkg" / "inner").mkdir(parents=True)
    for path in ("outer_pkg/__init__.py", "outer_pkg/inner/__init__.py", "outer_pkg/inner/net.py"):
        (here / path).write_text("raise SystemExit('ran')\n")
    path, _ = usercode.resolve("outer_pkg.inner.net:build")
    assert path == here / "outer_pkg" / "inner" / "net.py"
    assert usercode.resolve("outer_pkg.inner:build")[0] == here / "outer_pkg" / "inner" / "__init__.py"
    assert not any(name.startswith("outer_pkg") for name in sys.modules)


def test_loading_a_file_that_imports_its_neighbour(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "own_neighbour.py").write_text("VALUE = 7\n")
    (here / "sub" / "net.py").write_text("from own_neighbour import VALUE\ndef build():\n    return VALUE\n")
    before = list(sys.path)
    assert usercode.load("sub/net.py:build")() == 7
    assert sys.path == before


def test_loading_a_module_of_the_current_folder(here: Path) -> None:
    (here / "own_module.py").write_text("def build():\n    return 3\n")
    assert usercode.load("own_module:build")() == 3


def test_a_file_is_executed_once_until_it_changes(here: Path) -> None:
    (here / "net.py").write_text("def build():\n    return 1\n")
    first = usercode.load("net.py:build")
    assert usercode.load("net.py:build") is first
    (here / "net.py").write_text("def build():\n    return 2\n")
    assert usercode.load("net.py:build")() == 2


def test_dataclasses_in_a_loaded_file(here: Path) -> None:
    (here / "net.py").write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Size:\n    n: int = 3\ndef build():\n    return Size().n\n"
    )
    assert usercode.load("net.py:build")() == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("absent.py:build", ["there is no file", "absent.py"]),
        ("no_such_module:build", ["there is no module 'no_such_module'"]),
        ("json.no_such:build", ["there is no module 'json.no_such'"]),
        ("net.py:bild", ["no function 'bild'", "did you mean 'build'"]),
        ("net.py:VALUE", ["'VALUE' is no function but int"]),
        ("math:sqrt", ["has no Python source"]),
        ("some-thing:build", ["neither a file"]),
        ("net.py", ["file.py:function"]),
        ("syntax.py:build", ["SyntaxError"]),
        ("raises.py:build", ["ZeroDivisionError", "line 2"]),
        ("exits.py:build", ["SystemExit"]),
        ("imports.py:build", ["ModuleNotFoundError", "no_such_library"]),
    ],
)
def test_one_line_says_why_it_cannot_be_loaded(here: Path, spec: str, words: list[str]) -> None:
    (here / "net.py").write_text("VALUE = 1\ndef build(): pass\n")
    (here / "syntax.py").write_text("def build(:\n")
    (here / "raises.py").write_text("\n1 / 0\n")
    (here / "exits.py").write_text("raise SystemExit(3)\n")
    (here / "imports.py").write_text("import no_such_library\n")
    with pytest.raises(PlanError) as caught:
        usercode.load(spec)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_call_passes_what_the_signature_accepts() -> None:
    offered = {"shape": (1, 8, 8), "classes": 10}
    assert usercode.call("m", lambda: "none", offered, {}) == "none"
    assert usercode.call("m", lambda classes: classes, offered, {}) == 10
    assert usercode.call("m", lambda shape, depth=3: (shape, depth), offered, {"depth": 4}) == ((1, 8, 8), 4)
    assert usercode.call("m", lambda **k: sorted(k), offered, {"depth": 4}) == ["classes", "depth", "shape"]


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (lambda: 0, {"depth": 1}, ["no option 'depth'", "it has none"]),
        (lambda depth=1: 0, {"dept": 1}, ["did you mean 'depth'"]),
        (lambda classes: 0, {"classes": 3}, ["no option 'classes'"]),
        (lambda depth: 0, {}, ["needs 'depth'"]),
        (lambda depth, /: 0, {"depth": 1}, ["no option 'depth'"]),
        (lambda depth=1: 1 / 0, {}, ["ZeroDivisionError", "line"]),
    ],
)
def test_call_refuses(function, options: dict[str, int], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        usercode.call("model 'm'", function, {"shape": (1,), "classes": 10}, options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
