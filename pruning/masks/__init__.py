"""What can be pruned and what is: the prunable weights of a network, and masks over them."""

from pruning.masks.masks import Masks, count_nonzeros, keep_count
from pruning.masks.prunable import DTYPES, LAYERS, embeddings, prunable, weight_keys

__all__ = ["DTYPES", "LAYERS", "Masks", "count_nonzeros", "embeddings", "keep_count", "prunable", "weight_keys"]
