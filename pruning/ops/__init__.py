"""The hot paths: global top-k masks, the masked SGD update (of all weights or by a list of survivors), nonzero counts, and
masks packed to one bit per weight.

Every op is defined here in Python as `torch.ops.prune.<name>`: schema, reference and fake kernel. The reference is
exact and complete; native kernels for the CPU (`pruning._C`) and for CUDA register themselves under the same names
where they were built and win. `backend` says which one serves a device, `report` says why.
"""

from pruning.ops.indexed_sgd import indexed_sgd_
from pruning.ops.masked_sgd import masked_sgd_
from pruning.ops.native import backend, report
from pruning.ops.nnz import nnz
from pruning.ops.packing import pack, unpack
from pruning.ops.topk_masks import topk_masks, topk_masks_counts

__all__ = [
    "backend", "indexed_sgd_", "masked_sgd_", "nnz", "pack", "report", "topk_masks", "topk_masks_counts", "unpack",
]  # fmt: skip
