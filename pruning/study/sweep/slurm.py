"""Slurm: an array job whose elements each carry out a share of the study, on a file system that all nodes see.

The elements need not talk to each other. A run folder is held by one process at a time (a file lock, which the file system must
carry across nodes: NFSv4, Lustre with -o flock, GPFS), so an element that needs a phase of another waits for it and then reuses it.
Shares are cut along the dense networks, so that this is rare.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pruning.plan import PlanError
from pruning.study.sweep.study import Point


def parse_share(text: str) -> tuple[int, int]:
    """Returns (index, count) of `INDEX/COUNT`, the index counted from 0."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise PlanError(f"--share takes INDEX/COUNT with INDEX from 0 to COUNT - 1, not '{text}'")
    return int(index), int(count)


def share(points: Sequence[Point], index: int, count: int) -> list[Point]:
    """Returns the points of one share of `count`: whole groups with one dense network where there are enough of them."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(str(point.parent or point.phases[0]), []).append(point)
    if len(groups) >= count:
        return [point for i, group in enumerate(groups.values()) if i % count == index for point in group]
    return [point for i, point in enumerate(p for group in groups.values() for p in group) if i % count == index]


def script(name: str, command: Sequence[str], count: int, threads: int, gpu: bool) -> str:
    """Returns an sbatch script of `count` array elements; `command` is the sweep's own, without --emit-slurm."""
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --array=0-{count - 1}",
        f"#SBATCH --cpus-per-task={threads}",
        *(["#SBATCH --gpus=1"] if gpu else []),
        f"#SBATCH --output={name}-%A_%a.log",
        "#SBATCH --requeue",
        "# Submit it again after a time limit or a lost node: what is done is reused, what was interrupted goes on.",
        "set -eu",
        f'exec {shlex.join(command)} --jobs 1 --threads {threads} --share "$SLURM_ARRAY_TASK_ID/{count}"',
    ]
    return "\n".join(lines) + "\n"
