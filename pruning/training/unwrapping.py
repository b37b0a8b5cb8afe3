"""The torch optimizer inside what libraries wrap around it: hooks take effect only on the one whose step torch has patched."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from pruning.errors import PlanError

_INNER = ("optimizer", "_base_optimizer", "_optimizer")  # accelerate and Lightning; timm's Lookahead; others
_LOST = {  # by the top package: those that train copies of the weights, which a mask would not reach
    "deepspeed": "it trains flat copies of the weights; shard with fully_shard (FSDP2) instead",
    "apex": "it trains copies of the weights; use torch.amp, or pruning.MaskedSGD(masters=True), instead",
}


def unwrap(optimizer: Any) -> Optimizer:
    """Returns the optimizer whose step runs hooks; raises PlanError, with the way that works, where there is none to be found."""
    seen = optimizer
    while not _runs_hooks(seen):
        if reason := _LOST.get(type(seen).__module__.split(".")[0]):
            raise PlanError(f"{_kind(seen)} cannot be held: {reason}")
        inner = (vars(seen).get(name) for name in _INNER if hasattr(seen, "__dict__"))
        seen = next((one for one in inner if isinstance(one, Optimizer) and one is not seen), None)
        if seen is None:
            raise PlanError(
                f"{_kind(optimizer)} is no torch.optim.Optimizer and wraps none that could be found: enforce takes an optimizer, "
                "a wrapper with the attribute 'optimizer', or a list of them; "
                "elsewhere call pruning.mask_gradients before every step and masks.apply(model) after it"
            )
    return seen


def _runs_hooks(thing: Any) -> bool:
    # a wrapper that is a subclass, but was not initialized as one, has no hooks of load_state_dict, and maybe no patched step
    whole = isinstance(thing, Optimizer) and "_optimizer_load_state_dict_post_hooks" in vars(thing)
    return whole and getattr(type(thing).step, "hooked", False)


def _kind(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
