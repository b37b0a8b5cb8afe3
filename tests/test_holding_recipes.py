"""The recipes of docs/training-loops.md, run as they stand: masks hold, and what survives is trained."""

from __future__ import annotations

import re
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

PAGE = Path(__file__).parents[1] / "docs" / "training-loops.md"
if not PAGE.exists():
    pytest.skip("the page of recipes is not here", allow_module_level=True)
SECTIONS = [(title, code) for part in PAGE.read_text().split("\n## ") for title in [part.split("\n")[0]]
            for code in re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S)]  # fmt: skip
START = SECTIONS[0][1]
RECIPES = dict(SECTIONS[1:])
NEEDS = {
    "Hugging Face accelerate": "accelerate",
    "Hugging Face Trainer": "transformers",
    "Lightning": "lightning",
    "timm": "timm",
}


def test_each_recipe_stands_under_its_own_title() -> None:
    assert len(RECIPES) == len(SECTIONS) - 1 == 12
    assert NEEDS.keys() < RECIPES.keys()


@pytest.fixture
def _as_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key, value in {
        "RANK": 0,
        "WORLD_SIZE": 1,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(key, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipe_trains_the_survivors_and_nothing_else(
    title: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    if "init_process_group" in RECIPES[title]:
        request.getfixturevalue("_as_under_torchrun")
    torch.manual_seed(0)
    names: dict[str, Any] = {"folder": str(tmp_path)}
    exec(START, names)
    masks = names["masks"]
    before = {n: p.detach().clone() for n, p in names["model"].named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(RECIPES[title], names)
    model = names["model"]
    assert masks.violations(model.state_dict()) == []
    after = {n.removeprefix("module."): p.detach() for n, p in model.named_parameters()}
    for name, start in before.items():
        end = after[name].full_tensor() if hasattr(after[name], "full_tensor") else after[name]
        kept = masks.get(name, torch.ones_like(start, dtype=torch.bool))
        assert bool((end != start.to(end.device))[kept].any())
    if "ema" in names:
        assert masks.violations(names["ema"].module.state_dict()) == []
