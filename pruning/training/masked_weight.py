"""A masked weight as its update reads it: the mask, its bits, or the places of its survivors where few survive.

Where lists serve, the update's cost falls with the sparsity, and momenta are stored for survivors alone. They serve on the
CPU's kernels from LISTED on down, while nobody else writes to the weight: an update by list leaves the pruned entries
alone, so they must be +0 already. Writes that torch counts (`Tensor._version`) are noticed at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning import ops
from pruning.masks.shards import aligned, local, sharded

LISTED = 0.05  # a list measured 1.5 to 2.8 times as fast as a packed mask at 0.02, 0.8 to 1.1 times at 0.1


class MaskedWeight:
    """What the updates of one parameter need to know of its mask; drawn again where the mask was changed in place."""

    __slots__ = (
        "_drawn", "_places", "_still", "buffer", "given", "kind", "mask", "momenta", "parameter", "sharded",
        "wide", "written",
    )  # fmt: skip

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        self.parameter, self.mask = parameter, mask  # where the parameter is a DTensor, the mask is of this rank's part
        self.sharded = sharded(parameter)
        self.wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32  # of the momenta
        self.kind = f"{parameter.device} {parameter.dtype}"  # what one call of an op can take together
        self.buffer: Tensor | None = None  # the momentum buffer of the optimizer's state, once it was looked up
        self.momenta: Tensor | None = None  # [k]: those of the survivors, while the list is in use
        self.given = mask  # what masked_sgd_ reads
        self.written = -1  # the weight's version after the optimizer's own last step
        self._places: Tensor | None = None  # int32 [k], row-major
        self._drawn = -1
        self._still = mask.is_inference()  # such a mask has no version: changes could not be told, so none is drawn

    @property
    def listed(self) -> bool:
        """Returns whether the next update may go by the list: nobody has written to weight or mask since the last one."""
        return (
            self._places is not None and self.parameter._version == self.written and self.mask._version == self._drawn
        )

    @property
    def places(self) -> Tensor:
        """Returns the survivors' row-major places, ascending (int32 [k])."""
        assert self._places is not None
        return self._places

    def own(self, tensor: Tensor) -> Tensor:
        """Returns what the updates read or write of the parameter, its gradient or momentum: of a DTensor this rank's part."""
        return local(aligned(tensor, self.parameter)) if self.sharded else tensor

    def draw(self) -> None:
        """Reads the mask again where it was changed since; `momenta` must have been taken back before."""
        if self.sharded or self._still or self.mask._version == self._drawn:
            return
        self._drawn = self.mask._version
        self.given, self._places = self.mask, None
        if ops.backend(self.mask.device) != "native-cpu" or not self.parameter.is_contiguous():
            return
        self.given = ops.pack(self.mask)
        total = self.mask.numel()
        if total < 2**31 and int(ops.nnz([self.given])) <= LISTED * total:
            self._places = self.mask.flatten().nonzero().flatten().int()

    def gather(self, buffer: Tensor) -> None:
        """Takes the survivors' momenta out of a momentum buffer of the parameter's shape."""
        self.momenta = buffer.flatten()[self.places.long()].to(self.wide)

    def scatter(self) -> Tensor:
        """Returns the momentum buffer of the parameter's shape, and forgets the survivors' own."""
        assert self.momenta is not None
        buffer = self.momenta.new_zeros(self.mask.numel()).index_copy_(0, self.places.long(), self.momenta)
        self.momenta = None
        return buffer.view(self.mask.shape)
