"""What the papers claim, tested on this machine: small studies, differences paired by seed, and what holds of each claim.

    python benchmarks/claims.py [NAME ...] --data-dir DIR [--out runs/claims] [--jobs N] [--record benchmarks/results/DATE-claims]

Each name is a study in benchmarks/claims, a ResNet-8 of half the width on images that small_cifar.py makes of
DIR/cifar-10-batches-bin; all of them take some 90 minutes of one core. Finished runs under --out are reused. A claim is a
difference of test accuracies in points, its mean over the seeds with a 95 % interval (Student's t). "above" holds where the
interval lies above 0, "level" where it lies within 2 points of 0. With --record, DATE-claims.md and the figures in the folder
DATE-claims are written; without, the result is printed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from claims_stated import CLAIMS, ITERATIVE, ONE_SHOT, fits

from pruning.record.environment import environment
from pruning.study.report.rows import Row, sections
from pruning.study.sweep import load_study

ROOT = Path(__file__).parents[1]


def carry_out(name: str, out: Path, data_dir: Path, jobs: int) -> None:
    """Runs what is missing of the study; its progress goes to standard error."""
    study = ROOT / "benchmarks" / "claims" / f"{name}.toml"
    command = [sys.executable, "-m", "pruning.cli", "sweep", str(study.relative_to(ROOT)), "--out", str(out.resolve())]
    more = ["--data-dir", str(data_dir.resolve()), "--device", "cpu", "--jobs", str(jobs), "--trust-code"]
    subprocess.run([*command, *more], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def judged(name: str, out: Path) -> str:
    """Returns the study's claims and what holds of them as Markdown."""
    (section,) = sections([out], name)
    counted = f"{len(section.rows)} results, n = {len({row.seed for row in section.rows})} seeds"
    head = "| claim | difference, points | expected | |\n|---|---|---|---|"
    rows = "\n".join(claim.row(section.rows) for claim in CLAIMS[name])
    told = f"{section.facts['citation']}, {section.facts['source']}; {counted}"
    return f"## {name}: {section.title}\n\n{told}.\n\n{head}\n{rows}\n{collapsed(section.rows) if name == 'allocations' else ''}"


def collapsed(rows: list[Row]) -> str:
    """Returns how many layers, of the network's eight, kept no weight: mean over the seeds for each way and allocation."""
    lines = [
        "\nLayers without a weight, of 8:\n",
        "| way | sparsity | global | uniform | uniform+ | erk | lamp |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in (ONE_SHOT, ITERATIVE):
        for sparsity in sorted({row.sparsity for row in rows}):
            cells = []
            for allocation in ("global", "uniform", "uniform+", "erk", "lamp"):
                found = [
                    r.summary
                    for r in rows
                    if r.summary and fits(r, {"way": way, "allocation": allocation}) and r.sparsity == sparsity
                ]
                dead = [sum(kept == 0 for kept, _ in s["layers"].values()) for s in found]
                cells.append(f"{statistics.fmean(dead):.1f}" if dead else "")
            lines.append(f"| {way} | {sparsity:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figures(name: str, out: Path, folder: Path) -> str:
    """Draws the study's figures into the folder; returns them and the table of its results as Markdown."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pruning.cli", "report", str(out), "--study", name, "--out", place]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        shown = []
        own = load_study(str(ROOT / "benchmarks" / "claims" / f"{name}.toml")).figures
        for path in (path for path in sorted(Path(place).rglob("*.svg")) if path.stem in own):
            target = folder / f"{name}-{path.name}"
            shutil.copy(path, target)
            shown.append(f"![{name}: {path.stem}]({folder.name}/{target.name})")
        shutil.copy(Path(place) / "results.md", folder / f"{name}.md")
    return "\n".join([*shown, f"\n[Mean and spread of each cell]({folder.name}/{name}.md)\n"])


TOLD = """    python benchmarks/claims.py {names}--data-dir DIR

ResNet-8 of half the width (19,218 weights) on 3,000 training, 500 validation and 2,000 test images of a JPEG re-encoding of
CIFAR-10, at 16x16 pixels; 24 or 12 epochs in place of the papers' 160 to 200. Differences of test accuracies are paired by seed:
mean and 95 % interval (Student's t). "holds": above, the interval lies above 0; level, within 2 points of 0. "does not hold":
above, it lies below 0; level, 0 lies outside. "not resolved": neither. {cpu}, one thread a phase, torch {torch}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLAIMS)}")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CLAIMS]:
        parser.error(f"claim '{unknown[0]}' is unknown; allowed: {', '.join(CLAIMS)}")
    parts = []
    for name in options.names or CLAIMS:
        carry_out(name, options.out, options.data_dir, options.jobs)
        text = judged(name, options.out)
        print(text, flush=True)
        if options.record:
            options.record.mkdir(parents=True, exist_ok=True)
            text += "\n" + figures(name, options.out, options.record)
        parts.append(text)
    if options.record:
        head = TOLD.format(names="".join(f"{name} " for name in options.names), **environment(torch.device("cpu")))
        text = "# What the papers claim, on a small CIFAR-10\n\n" + "\n".join([head, *parts])
        options.record.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
