"""A run made of trained weights from elsewhere: a train phase in which nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pruning.engine.fit_names import Fit, fit, put
from pruning.errors import PlanError
from pruning.events import Tell, Warned
from pruning.masks import Masks, count_nonzeros, prunable
from pruning.masks.unpruned import TELLING
from pruning.models.libraries import pretrained
from pruning.plan import Train, override
from pruning.plan.training import Adopted
from pruning.record import resuming
from pruning.record.foreign import Foreign, read

SCHEDULE = ("epochs", "lr")  # the least that says how the weights were trained


def given_schedule(changes: Any) -> bool:
    """Returns whether settings say how the weights were trained; raises PlanError where they say half of it."""
    told = [name for name in SCHEDULE if name in changes]
    more = [name for name in ("milestones", "gamma", "warmup_epochs", "schedule") if name in changes]
    if (told or more) and len(told) < len(SCHEDULE):
        missing = next(name for name in SCHEDULE if name not in changes)
        raise PlanError(
            f"the original training's {', '.join([*told, *more])} {'is' if len(told) + len(more) == 1 else 'are'} given without "
            f"its {missing}: give epochs and lr (and milestones, where it had some), or none of them"
        )
    return bool(told)


def open_weights(weights: Path | None, library: str | None, train: Train, key: str | None = None) -> Foreign:
    """Returns the tensors of a file, or those that a library has for the training's model under the name `library`."""
    if (weights is None) == (library is None):
        raise PlanError("name a file of WEIGHTS, or give --pretrained NAME for a model of torchvision or timm")
    if weights is not None:
        return read(weights, key)
    if key is not None:
        raise PlanError(f"key '{key}' is for a file of WEIGHTS, not for --pretrained")
    tensors = pretrained(train.model, str(library))
    return Foreign(tensors, resuming.content(tensors), f"{train.model} {library}")


def adopted(train: Train, foreign: Foreign, *, partial: bool, zeros: bool, schedule: bool) -> Train:
    """Returns the settings of the run: the training's with the digest of the weights, and no state kept for rewinding."""
    about = Adopted(sha256=foreign.sha256, key=foreign.key or None, partial=partial, zeros=zeros, schedule=schedule)
    return override(train, {"adopted": about.model_dump(exclude_unset=True), "keep_epochs": (), "keep_steps": ()})


def take(network: nn.Module, foreign: Foreign, about: Adopted, tell: Tell) -> Masks | None:
    """Writes the weights into the network and returns their masks, if they have any; tells what was passed over.

    Raises PlanError where names or shapes do not fit, unless `about.partial`.
    """
    found = fit(network, foreign)
    if (wrong := found.describe()) and not about.partial:
        raise PlanError(f"weights '{foreign.source}' do not fit the network: {wrong}; --partial takes what fits")
    _tell(found, foreign, tell)
    put(network, found)
    weights = {name: weight.detach() for name, weight in prunable(network).items()}
    if about.zeros:
        if found.masks is not None:
            raise PlanError(f"weights '{foreign.source}' have masks of their own: leave out --masks-from-zeros")
        return Masks.from_zeros(network)
    total, nonzero = sum(w.numel() for w in weights.values()), sum(count_nonzeros(list(weights.values())))
    if found.masks is None and total - nonzero > TELLING * total:
        share = f"{100 * (1 - nonzero / total):.3g} % of the prunable weights are 0"
        tell(Warned(f"{share} and there are no masks: --masks-from-zeros takes them as pruned"))
    return found.masks


def _tell(found: Fit, foreign: Foreign, tell: Tell) -> None:
    if foreign.others:
        tell(
            Warned(
                f"taken is '{foreign.key or 'the state dict'}' of the file; --key takes another: {', '.join(foreign.others[:5])}"
            )
        )
    if found.outside:
        more = f" and {len(found.outside) - 3} more" if len(found.outside) > 3 else ""
        tell(Warned(f"passed over, beside the network's names: {', '.join(map(repr, found.outside[:3]))}{more}"))
    if wrong := found.describe():
        tell(
            Warned(f"taken are {len(found.tensors)} tensors; the rest of the network is at its initialization: {wrong}")
        )
