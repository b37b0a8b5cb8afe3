"""A masked weight as its update reads it: the mask, its bits, or the places of its survivors where few survive.

Where lists serve, the update's cost falls with the sparsity, and momenta are stored for survivors alone. They serve on the
CPU's kernels from LISTED on down, while nobody else writes to the weight: an update by list leaves the pruned entries
alone, so they must be +0 already. Writes that torch counts (`Tensor._version`) are noticed at once.
"""

from __future__ import annotations

from torch import Tensor, nn

from pruning import ops

LISTED = 0.05  # the density from which on a list measured faster than a mask, at 0.85 to 138 million weights


class Survivors:
    """What the updates of one parameter need to know of its mask; drawn again where the mask was changed in place."""

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        self.parameter, self.mask = parameter, mask
        self.momenta: Tensor | None = None  # [k]: those of the survivors, while the list is in use
        self.given = mask  # what masked_sgd_ reads
        self._places: Tensor | None = None  # int32 [k], row-major
        self._drawn = self._written = -1

    @property
    def listed(self) -> bool:
        """Returns whether the next update may go by the list: nobody has written to the weight since the last one."""
        return self._places is not None and self.parameter._version == self._written and self._is_drawn()

    @property
    def places(self) -> Tensor:
        """Returns the survivors' row-major places, ascending (int32 [k])."""
        assert self._places is not None
        return self._places

    def draw(self) -> None:
        """Reads the mask again where it was changed since; `momenta` must have been taken back before."""
        if self._is_drawn():
            return
        self.given, self._places = self.mask, None
        if self.mask.is_inference():  # changes cannot be told from its version
            return
        self._drawn = self.mask._version
        if ops.backend(self.mask.device) != "native-cpu" or not self.parameter.is_contiguous():
            return
        self.given = ops.pack(self.mask)
        total = self.mask.numel()
        if total < 2**31 and int(ops.nnz([self.given])) <= LISTED * total:
            self._places = self.mask.flatten().nonzero().flatten().int()

    def written(self) -> None:
        """Notes that the optimizer itself has written to the weight."""
        self._written = self.parameter._version

    def gather(self, buffer: Tensor) -> None:
        """Takes the survivors' momenta out of a momentum buffer of the parameter's shape."""
        self.momenta = buffer.flatten()[self.places.long()]

    def scatter(self) -> Tensor:
        """Returns the momentum buffer of the parameter's shape, and forgets the survivors' own."""
        assert self.momenta is not None
        buffer = self.momenta.new_zeros(self.mask.numel()).index_copy_(0, self.places.long(), self.momenta)
        self.momenta = None
        return buffer.view(self.mask.shape)

    def _is_drawn(self) -> bool:
        return not self.mask.is_inference() and self.mask._version == self._drawn
