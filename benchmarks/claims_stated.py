"""What the papers claim, as comparisons of cells of the studies in benchmarks/claims, and how a comparison is judged."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from pruning.study.report.rows import Row

T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # seeds -> two-sided 95 % point of Student's t
MARGIN = 2.0  # points within which two ways are level
Where = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """`first` is above, or level with, `second`: each {axis: label or labels}, the mean over all of its cells.

    With `best`, of each side the cell with the best validation accuracy, seed by seed.
    """

    text: str
    first: Where
    second: Where
    expected: str = "above"
    best: bool = False

    def differences(self, rows: list[Row]) -> list[float]:
        """Returns first - second in points of test accuracy, one for each seed."""
        seeds = sorted({row.seed for row in rows})
        return [self._value(rows, seed, self.first) - self._value(rows, seed, self.second) for seed in seeds]

    def _value(self, rows: list[Row], seed: int, where: Where) -> float:
        cells = [row.summary for row in rows if row.seed == seed and row.summary is not None and fits(row, where)]
        if not cells:
            raise SystemExit(f"'{self.text}': no result fits {where} with seed {seed}")
        if self.best:
            cells = [max(cells, key=lambda summary: summary["val_accuracy"])]
        return 100 * statistics.fmean(summary["accuracy"] for summary in cells)

    def row(self, rows: list[Row]) -> str:
        """Returns the claim, its difference and the verdict as a row of Markdown."""
        found = self.differences(rows)
        mean, half = statistics.fmean(found), T[len(found)] * statistics.stdev(found) / len(found) ** 0.5
        return (
            f"| {self.text} | {mean:+.1f} +- {half:.1f} | {self.expected} | {self.verdict(mean - half, mean + half)} |"
        )

    def verdict(self, low: float, high: float) -> str:
        """Returns what the interval says."""
        if self.expected == "level":
            holds, fails = low > -MARGIN and high < MARGIN, low > 0 or high < 0
        else:
            holds, fails = low > 0, high < 0
        return "holds" if holds else "does not hold" if fails else "not resolved"


def fits(row: Row, where: Where) -> bool:
    """Returns whether the row lies in one of the cells."""
    return all(
        row.labels.get(axis) in wanted if isinstance(wanted, list) else row.labels.get(axis) == wanted
        for axis, wanted in where.items()
    )


EPOCHS, SPARSITY, SCHEDULE = "retrain.epochs", "prune.sparsity", "retrain.schedule"
FT, WR, LRR, REINIT = "fine-tuning", "weight rewinding", "learning-rate rewinding", "reinitialization"
ZONE = {EPOCHS: [6, 12, 18, 21]}  # 25 to 90 % of 24 epochs
FILTERS, WEIGHTS = {"structure": "half of the filters"}, {"structure": "90 % of the weights"}
ONE_SHOT, ITERATIVE = "one-shot, 6 epochs", "iterative, 3 x 2 epochs"
IMP, BASELINE = "IMP with ALLR", "LRW for 24 epochs a cycle, 5 cycles"
GMP = [f"GMP ({schedule}, {mode})" for mode in ("hard", "soft") for schedule in ("stepped", "linear", "cyclic")]
TUNED = [f"{schedule}, tuned" for schedule in ("constant", "stepped", "cosine", "linear")]

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "safe-zone": (  # Renda et al. 2020, section 4
        Claim(
            "in the safe zone weight rewinding is above fine-tuning",
            {"technique": WR, **ZONE},
            {"technique": FT, **ZONE},
        ),
        Claim(
            "in the safe zone learning-rate rewinding is above fine-tuning",
            {"technique": LRR, **ZONE},
            {"technique": FT, **ZONE},
        ),
        Claim("there both rewindings are level", {"technique": LRR, **ZONE}, {"technique": WR, **ZONE}, "level"),
        Claim(
            "rewound to the initialization it is below learning-rate rewinding for as long",
            {"technique": LRR, EPOCHS: 24},
            {"technique": WR, EPOCHS: 24},
        ),
        Claim(
            "learning-rate rewinding is best for the whole training",
            {"technique": LRR, EPOCHS: 24},
            {"technique": LRR, EPOCHS: [3, 6, 12]},
        ),
        Claim(
            "its accuracy saturates after half of it",
            {"technique": LRR, EPOCHS: 24},
            {"technique": LRR, EPOCHS: 12},
            "level",
        ),
    ),
    "iterative": tuple(  # Renda et al. 2020, section 3
        Claim(
            f"iterative pruning is above one-shot at {100 * s:g} %",
            {"way": "iterative, half of the weights a cycle", "sparsity": s},
            {"way": "one-shot", "sparsity": s},
        )
        for s in (0.75, 0.875, 0.9375)
    ),
    "structured": (  # Renda et al. 2020, section 4 and appendix E
        Claim(
            "filters: learning-rate rewinding is above fine-tuning",
            {**FILTERS, "technique": LRR, EPOCHS: 12},
            {**FILTERS, "technique": FT},
        ),
        Claim(
            "filters: both rewindings are level for the whole training",
            {**FILTERS, "technique": LRR, EPOCHS: 24},
            {**FILTERS, "technique": WR, EPOCHS: 24},
            "level",
        ),
        Claim(
            "filters: reinitialization matches learning-rate rewinding",
            {**FILTERS, "technique": REINIT},
            {**FILTERS, "technique": LRR, EPOCHS: 12},
            "level",
        ),
        Claim(
            "weights: reinitialization is below learning-rate rewinding",
            {**WEIGHTS, "technique": LRR, EPOCHS: 12},
            {**WEIGHTS, "technique": REINIT},
        ),
    ),
    "initial-budget": tuple(  # Zimmer et al. 2023, section 3.2, Figures 6 and 7
        Claim(
            f"{way}, {schedule.upper()}: {share} of the dense training is enough",
            {"way": way, "schedule": schedule, "budget": budget},
            {"way": way, "schedule": schedule, "budget": 24},
            "level",
        )
        for way in ("one-shot, 6 epochs", "iterative, 3 x 3 epochs")
        for schedule in ("llr", "allr")
        for budget, share in ((12, "half"), (6, "a quarter"))
    ),
    "retraining-budget": (  # Zimmer et al. 2023, section 3.2, Figure 3
        Claim("24 epochs of ALLR reach what 120 of LRW do", {"way": IMP}, {"way": BASELINE}, "level", best=True),
        Claim(
            "three cycles of 8 epochs are above one",
            {"way": IMP, "cycles": 3, "epochs": 8},
            {"way": IMP, "cycles": 1, "epochs": 8},
        ),
    ),
    "allr": (  # Zimmer et al. 2023, appendix C.1, Tables 25 and 27
        Claim("AccALLR is level with ALLR", {SCHEDULE: "accallr"}, {SCHEDULE: "allr"}, "level"),
        Claim(
            "low sparsity, shortest budget: ALLR is above LLR",
            {SCHEDULE: "allr", SPARSITY: 0.5, EPOCHS: 1},
            {SCHEDULE: "llr", SPARSITY: 0.5, EPOCHS: 1},
        ),
        Claim(
            "high sparsity: ALLR is above its second factor alone",
            {SCHEDULE: "allr", SPARSITY: [0.9, 0.95]},
            {SCHEDULE: "allr-d2", SPARSITY: [0.9, 0.95]},
        ),
        Claim("ALLR is level with its first factor alone", {SCHEDULE: "allr"}, {SCHEDULE: "allr-d1"}, "level"),
    ),
    "allocations": (  # Zimmer et al. 2023, appendix C.2, Figure 11
        Claim(
            "global, 98 and 99 %: iterative is above one-shot with as many epochs",
            {"allocation": "global", "way": ITERATIVE, "sparsity": [0.98, 0.99]},
            {"allocation": "global", "way": ONE_SHOT, "sparsity": [0.98, 0.99]},
        ),
        *(
            Claim(
                f"iterative, 95 %: global is level with {other}",
                {"allocation": "global", "way": ITERATIVE, "sparsity": 0.95},
                {"allocation": other, "way": ITERATIVE, "sparsity": 0.95},
                "level",
            )
            for other in ("uniform", "uniform+", "erk", "lamp")
        ),
    ),
    "gmp": (  # Zimmer et al. 2023, appendix C.3, Table 28
        Claim("soft is level with hard pruning", {"method": GMP[3:]}, {"method": GMP[:3]}, "level"),
        Claim("stepped is above linear at high sparsity", {"method": [GMP[0], GMP[3]]}, {"method": [GMP[1], GMP[4]]}),
        Claim("cyclic is above linear at high sparsity", {"method": [GMP[2], GMP[5]]}, {"method": [GMP[1], GMP[4]]}),
        Claim("BIMP is above GMP", {"method": "BIMP"}, {"method": GMP}, best=True),
    ),
    "tuned": (  # Zimmer et al. 2023, section 3.1 and appendix B.1, Table 4
        *(
            Claim(
                f"{epochs} epochs: ALLR matches the best tuned schedule",
                {"schedule": "ALLR", EPOCHS: epochs},
                {"schedule": TUNED, EPOCHS: epochs},
                "level",
                best=True,
            )
            for epochs in (2, 6)
        ),
        Claim("ALLR is above FT", {"schedule": "ALLR"}, {"schedule": "FT"}),
        Claim("ALLR is above LRW", {"schedule": "ALLR"}, {"schedule": "LRW"}),
        Claim("tuned linear is above tuned constant", {"schedule": TUNED[3]}, {"schedule": TUNED[0]}, best=True),
    ),
    "points": (  # Frankle et al. 2021, section 6, Figure 7
        *(
            Claim(
                f"{method}: pruned after half of the training it is above pruned at initialization",
                {"method": method, "time": 144},
                {"method": method, "time": 0},
            )
            for method in ("magnitude", "SNIP", "SynFlow")
        ),
        Claim(
            "lottery-ticket rewinding to step 48 is above every method there",
            {"method": "lottery-ticket rewinding", "time": 48},
            {"method": ["magnitude", "SNIP", "GraSP", "SynFlow"], "time": 48},
            best=True,
        ),
        Claim(
            "magnitude after half of the training has not caught up with it",
            {"method": "lottery-ticket rewinding", "time": 48},
            {"method": "magnitude", "time": 144},
        ),
        Claim(
            "every method is above random pruning at initialization",
            {"method": ["magnitude", "SNIP", "GraSP", "SynFlow"], "time": 0},
            {"method": "random", "time": 0},
        ),
    ),
    "grasp": (  # Frankle et al. 2021, section 5 and appendix C, Figure 9
        Claim("GraSP inverted is level with GraSP", {"criterion": "grasp-inverted"}, {"criterion": "grasp"}, "level"),
        Claim("by magnitude GraSP is above itself", {"criterion": "grasp-magnitude"}, {"criterion": "grasp"}),
    ),
    "scoring-mode": tuple(  # of SNIP and GraSP in Frankle et al. 2021, which do not state it
        Claim(
            f"{name}, {100 * s:g} %: scored in train mode it is above eval mode",
            {"criterion": name.lower(), "mode": "train", "sparsity": s},
            {"criterion": name.lower(), "mode": "eval", "sparsity": s},
        )
        for name in ("SNIP", "GraSP")
        for s in (0.9, 0.95, 0.98)
    ),
}
