"""Filters: scores per filter, which of them go, masks over all that is theirs, and the networks without them.

A filter (of a convolution, or a neuron of a linear layer) is a row of its layer's weight. Its mask covers the row, the
bias and the affine pair of its normalization, so that it gives exactly 0 behind that. The density counts the rows; what
falls idle in the layers that read it, its input channels there, is counted by `densities` beside that.
"""

from pruning.deciding.filters.li_rates import LI, li_counts
from pruning.deciding.filters.remains import filters_kept, neuron_collapse, neurons_by_sparsity
from pruning.deciding.filters.selection import (  # fmt: skip
    POOLS,
    allocate_filters,
    densities,
    expand,
    pool,
    prune_filters,
    random_scores,
)
from pruning.deciding.filters.shrink import refit, shrink
from pruning.deciding.filters.shrink_by_library import shrink_with_library
from pruning.deciding.filters.units import Units, eligible, find_units

__all__ = [
    "LI", "POOLS", "Units", "allocate_filters", "densities", "eligible", "expand", "filters_kept",
    "find_units", "li_counts", "neuron_collapse", "neurons_by_sparsity", "pool", "prune_filters", "random_scores", "refit",
    "shrink", "shrink_with_library",
]  # fmt: skip
