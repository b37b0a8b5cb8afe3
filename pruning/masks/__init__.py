"""What can be pruned and what is: the prunable weights of a network, and masks over them."""

from pruning.masks.masks import Masks, count_nonzeros, empty_layers, keep_count
from pruning.masks.prunable import DTYPES, embeddings, prunable, refuse_scripted, weight_keys

__all__ = [
    "DTYPES", "Masks", "count_nonzeros", "embeddings", "empty_layers", "keep_count", "prunable", "refuse_scripted",
    "weight_keys",
]  # fmt: skip
