"""What a criterion is asked with, and how it runs the model without leaving a trace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.plan import ScoringMode


@dataclass(frozen=True)
class Ask:
    """A sample (inputs [n, ...] and labels int64 [n], where the criterion needs them), and how to score it."""

    generator: torch.Generator
    inputs: Tensor | None = None
    labels: Tensor | None = None
    mode: ScoringMode = "eval"
    micro_batch: int | None = None  # examples at once; the scores do not depend on it
