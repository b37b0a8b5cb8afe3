"""Damage to the files of run folders, drawn at random: torn and exchanged bytes, values of other types, planted code."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.plan import PHASES, PlanError, digest, make

# Texts that json.dumps does not write, by what stands in their place.
RAW = {"@deep": "[" * 10**4 + "]" * 10**4, "@digits": "9" * 5000, "@overflow": "1e999", "@list": "[" * 60 + "]" * 60}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31 - 1, 2**63, 10**30, 1.5, -0.0, float("nan"), float("inf"), "", "x", "é\n", "\0", "\ud800",
    "\x1b[2J", "../..", "/etc/passwd", [], {}, [[]], [1, 2], {"a": {}}, "subprocess:getoutput", "canary.py:sing", "a" * 10**5, *RAW,
)  # fmt: skip


def plant(path: Path, draw: random.Random, canary: Path) -> None:
    """Names code that would write the file `canary` in phase.json, half of the time under the digest that fits, or shrink.json."""
    touch = f"touch {canary}"
    shell = [("subprocess:getoutput", {"cmd": touch}), ("os:system", {"command": touch})]
    own = [(name, {}) for name in ("canary:sing", "canary.py:sing", f"{canary.parent}/canary.py:sing")]
    name, options = draw.choice([*shell, *own])
    record = json.loads(path.read_text())
    if path.name == "shrink.json":
        record |= {draw.choice(["model", "task"]): name, "model_options": options}
    else:
        settings = record["settings"]
        key = draw.choice([key for key in NAMING if key in settings])
        settings[key] = name
        if f"{key}_options" in settings:
            settings[f"{key}_options"] = options
        if draw.random() < 0.3:
            record["code"] = {f"{key}_code": str(canary.parent / "canary.py")}
        with contextlib.suppress(PlanError):
            if draw.random() < 0.5:
                parent = path.parent.parent / str(record["parent"]) / path.name
                before = json.loads(parent.read_text())["digest"] if record["parent"] else ""
                record["digest"] = digest(make(PHASES[settings["phase"]], settings), before)
    path.write_text(json.dumps(record))


NAMING = ("model", "data", "task", "optimizer", "method", "schedule", "criterion", "allocation", "technique")


def edit(path: Path, draw: random.Random) -> None:
    """Puts another value at a random place of a JSON object, or of a line of such."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    place = value
    while True:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.7:
            place = inner
            continue
        if draw.random() < 0.1:
            del place[key]
        else:
            place[key] = draw.choice(VALUES)
        break
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    lines[number] = text
    path.write_text("\n".join(lines) + "\n")


def flip(path: Path, draw: random.Random) -> None:
    """Turns a random bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)


def cut(path: Path, draw: random.Random) -> None:
    """Cuts a file at a random place."""
    os.truncate(path, draw.randrange(path.stat().st_size + 1))


def swell(path: Path, draw: random.Random) -> None:
    """Makes a file larger: by some bytes, or by a hole of gigabytes."""
    os.truncate(path, path.stat().st_size + draw.choice([1, 4096, 2**31]))


def gone(path: Path, draw: random.Random) -> None:
    """Removes it."""
    path.unlink()


def other(path: Path, draw: random.Random) -> None:
    """Puts another file of this or another run in its place, mostly one of the same name."""
    pattern = f"*/{path.name}" if draw.random() < 0.7 else "*/*"
    files = [file for file in sorted(path.parent.parent.glob(pattern)) if file.is_file() and file != path]
    if files:
        path.write_bytes(draw.choice(files).read_bytes())


def swap(path: Path, draw: random.Random) -> None:
    """Exchanges two files, of this or of two runs."""
    with_it = draw.choice([file for file in sorted(path.parent.parent.glob("*/*")) if file.is_file()])
    first, second = path.read_bytes(), with_it.read_bytes()
    path.write_bytes(second)
    with_it.write_bytes(first)


def rename(path: Path, draw: random.Random) -> None:
    """Gives a file a name that means something else, or its run's folder another one."""
    if draw.random() < 0.2:
        path.parent.rename(path.parent.with_name(f"{path.parent.name}x"))
    else:
        path.rename(
            path.with_name(draw.choice(["step-0000007.safetensors", "resume.safetensors", "log.jsonl", "\udcff"]))
        )


def become(path: Path, draw: random.Random) -> None:
    """Makes it a pipe, a folder, a device, or a link to nothing, to itself or to a folder."""
    path.unlink()
    kind = draw.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", "nowhere", path.name, ".")[kind - 2])


def noise(path: Path, draw: random.Random) -> None:
    """Writes bytes that mean nothing."""
    header = (2**40).to_bytes(8, "little")
    path.write_bytes(
        draw.choice([b"", b"\xff\xfe", b"[" * 10**5, b"{}", b"null\n" * 3, header + b"{", draw.randbytes(200)])
    )


OF_BYTES: tuple[Callable[[Path, random.Random], None], ...] = (
    flip, flip, cut, swell, gone, other, swap, rename, become, noise,
)  # fmt: skip
OF_TEXT = (*OF_BYTES, *(edit,) * 14)


def damage(path: Path, draw: random.Random, canary: Path) -> str:
    """Damages one file; returns a word on what was done."""
    if path.name in ("phase.json", "shrink.json") and draw.random() < 0.3:
        plant(path, draw, canary)
        return "plant"
    change = draw.choice(OF_TEXT if path.suffix in (".json", ".jsonl") and path.stat().st_size else OF_BYTES)
    change(path, draw)
    return change.__name__
