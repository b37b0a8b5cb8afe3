"""Sharded parameters (DTensor): each rank writes to its own part, and knows the part of a mask that belongs to it.

FSDP2 (`fully_shard`) and tensor parallelism make parameters DTensors. A mask is whole on every rank, so that its part is cut out
without a word between the ranks.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from pruning.plan import PlanError


def sharded(tensor: Tensor) -> bool:
    """Returns whether the tensor is a DTensor."""
    loaded: Any = sys.modules.get("torch.distributed.tensor")  # where nobody has imported it, there is none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's own part, in the same memory, of a DTensor; any other tensor itself."""
    if not sharded(tensor):
        return tensor
    whole: Any = tensor
    with torch.no_grad():
        own: Tensor = whole.to_local()
        return own


def aligned(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns the gradient, brought to the parameter's placements where it is a DTensor of others: partial sums, say."""
    if sharded(parameter) and sharded(gradient):
        given: Any = gradient
        wanted: Any = parameter
        if given.placements != wanted.placements:
            brought: Tensor = given.redistribute(placements=wanted.placements)
            return brought
    return gradient


def part(name: str, mask: Tensor, parameter: Tensor) -> Tensor:
    """Returns what of a mask of the whole parameter's shape belongs to this rank's part, on its device.

    Raises PlanError for a mask that is a DTensor itself and for a parameter whose parts are sums to be taken (Partial).
    """
    if not sharded(parameter):
        return mask.to(parameter.device)
    if sharded(mask):
        raise PlanError(f"the mask of '{name}' is a DTensor: give the whole mask on every rank")
    from torch.distributed.tensor import distribute_tensor

    whole: Any = parameter
    if any(placement.is_partial() for placement in whole.placements):
        raise PlanError(f"'{name}' is a DTensor of partial sums, which have no zeros of their own: reduce it first")
    mask = mask.to(whole.device_mesh.device_type)
    own = distribute_tensor(mask, whole.device_mesh, whole.placements, src_data_rank=None).to_local()
    return own.to(whole.to_local().device)  # that of weights kept on the CPU is not the mesh's


def flattened(model: nn.Module) -> str:
    """Returns why weights have lost their shapes, to end a message, where a library has taken the model apart; else ""."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return ": FullyShardedDataParallel (FSDP1) flattens weights; shard with fully_shard (FSDP2) instead"
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return ": DeepSpeed's ZeRO stage 3 takes weights apart; shard with fully_shard (FSDP2) instead"
    return ""


def refuse_sharded(model: nn.Module) -> None:
    """Raises PlanError where a parameter is a DTensor: a ranking needs the whole of every weight."""
    for name, parameter in model.named_parameters():
        if sharded(parameter):
            raise PlanError(
                f"'{name}' is sharded (DTensor), and weights are chosen among whole ones: prune before fully_shard or "
                "parallelize_module, or a copy with gathered weights (full_tensor), then masks.apply(model) on every rank"
            )
