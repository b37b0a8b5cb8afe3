"""scikit-learn's digits: 1,797 images of 8x8, ten classes, with a partition of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from pruning.data.source import Source
from pruning.plan import PlanError


def digits(data_dir: Path | str | None) -> Source:
    """Returns the digits: of each class every fifth image in the set's own order tests (355), the others train (1,442).

    Values are 0 to 16, stored as uint8 and divided by 16. The constants are of the 1,442 training images.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise PlanError(
            "data 'digits' comes with scikit-learn, which is not installed: pip install 'pruning[demo]'"
        ) from None
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    y = y.long()
    rank = torch.zeros_like(y)  # 0-based rank of each image within its class
    for c in range(10):
        of_class = y == c
        rank[of_class] = torch.arange(int(of_class.sum()))
    images, test = x.to(torch.uint8).view(-1, 1, 8, 8), rank % 5 == 4
    return Source(
        train=(images[~test], y[~test]), validation=None, test=(images[test], y[test]), classes=10, scale=16.0,
        mean=(0.3051,), std=(0.3762,),
    )  # fmt: skip
