"""What a pruning cost a network, d1 of Zimmer et al. (2023): what the adaptive retraining schedules start from."""

from __future__ import annotations

import math


def norm_impact(before: float, after: float, removed: float) -> float:
    """Returns d1 of Zimmer et al. (2023), equation 1: ||W - W^p|| / (||W|| sqrt(s)), at most 1, and 0 where s is 0.

    `before` and `after` are the 2-norms of the weights around one pruning, `removed` (s) is the share of the weights
    left before it that it removed, not the goal. As pruned entries are the only ones that change, the numerator is
    sqrt(| ||W||^2 - ||W^p||^2 |).
    """
    if removed <= 0 or before <= 0:
        return 0.0
    return min(math.sqrt(abs(before**2 - after**2)) / (before * math.sqrt(removed)), 1.0)


def accuracy_impact(dense: float, sparse: float) -> float:
    """Returns d1 of Zimmer et al. (2023), equation 3: the relative loss of training accuracy, clipped to [0, 1]."""
    if dense <= 0:
        return 0.0
    return min(max((dense - sparse) / dense, 0.0), 1.0)
