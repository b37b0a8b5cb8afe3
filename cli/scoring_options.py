"""The options on how criteria score a sample, as Annotated types."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from pruning import plan

from .declare import default, named
from .options import PRUNING

ScoringMode = Annotated[
    str | None,
    named(
        plan.ScoringMode,
        "With snip and grasp: mode of the network while it is scored; in train mode BatchNorm normalizes by the sample's "
        "statistics, in eval mode by its running ones. The network's own are left as they are.",
        PRUNING,
        "eval",
    ),
]
SamplesPerClass = Annotated[
    int | None,
    Option(
        metavar="N",
        help="With snip and grasp: training examples of each class to score on." + default("10"),
        rich_help_panel=PRUNING,
    ),
]
ScoringBatch = Annotated[
    int | None,
    Option(
        metavar="N",
        help="With snip and grasp: examples that go through the network at once, at most. In eval mode it changes rounding "
        "alone; in train mode BatchNorm normalizes each by its own statistics."
        + default("what fits; in train mode all"),
        rich_help_panel=PRUNING,
    ),
]
