"""What can be pruned and what is: the prunable weights of a network, and masks over them."""

from pruning.masks.masks import Masks, count_nonzeros, empty_layers, keep_count
from pruning.masks.prunable import DTYPES, embeddings, output_axes, prunable, refuse_scripted, weight_keys
from pruning.masks.unpruned import model_sparsity, unpruned

__all__ = [
    "DTYPES", "Masks", "count_nonzeros", "embeddings", "empty_layers", "keep_count", "model_sparsity", "output_axes",
    "prunable", "refuse_scripted", "unpruned", "weight_keys",
]  # fmt: skip
