"""Settings changed by hand: `--set key=value`, another length, a plan's phases by kind or by index."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from pruning.errors import PlanError, suggest
from pruning.plan import lengths
from pruning.plan.checks import make
from pruning.plan.phases import PHASES, Train
from pruning.plan.plans import Plan


def parse_value(text: str) -> Any:
    """Returns the TOML value that `text` spells, or `text` itself where it spells none: `0.1`, `true`, `[1, 2]`, `crop`."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        if text in ("none", "null", "None"):
            return None
        return text
    except (RecursionError, ValueError):
        raise PlanError(f"'{text[:40]}...' is nested too deeply, or holds a number of too many digits") from None


def parse_set(pairs: Iterable[str]) -> dict[str, Any]:
    """Returns {key: value} of `key=value` texts; raises PlanError for one without '=' or given twice."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        key = key.strip()
        if not sep or not key:
            raise PlanError(f"--set takes key=value, not '{pair}'")
        if key in out:
            raise PlanError(f"--set gives '{key}' twice")
        if key.rpartition(".")[2] in ("model_code", "data_code", "phase", "code"):
            raise PlanError(f"'{key}' follows from other settings and cannot be set")
        out[key] = parse_value(value.strip())
    return out


def override(phase: Any, changes: Mapping[str, Any]) -> Any:
    """Returns the phase with the changed settings, checked anew; `model_options.width` reaches into a table."""
    kind = type(phase)
    settings = phase.model_dump(exclude_unset=True)
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head not in kind.model_fields or head == "phase":
            raise PlanError(f"unknown setting '{key}'{suggest(head, kind.model_fields)}; known: {_known(kind)}")
        if rest:
            if not isinstance(settings.get(head, {}), dict) or not head.endswith("_options"):
                raise PlanError(f"'{head}' is no table of options, so '{key}' cannot be set")
            settings[head] = {**settings.get(head, {}), rest: value}
        else:
            if value is None and head in settings:
                del settings[head]
            if value is not None:
                settings[head] = value
    return make(kind, settings)


def _known(kind: type[BaseModel]) -> str:
    return ", ".join(sorted(name for name in kind.model_fields if name != "phase"))


def with_epochs(phase: Train, epochs: int | float | str) -> Train:
    """Returns the training shortened or lengthened to a length, its milestones, warm-up and kept epochs in proportion."""
    try:
        epochs = lengths.parse(epochs)
    except ValueError as error:
        raise PlanError(str(error)) from None
    ratio = lengths.ratio(epochs, phase.epochs)
    if ratio is None:  # of steps to epochs: only what is in neither can stay
        return cast(Train, override(phase, {"epochs": epochs}))
    return override(
        phase,
        {
            "epochs": epochs,
            "milestones": [m * ratio for m in phase.milestones],
            "warmup_epochs": phase.warmup_epochs * ratio,
            "keep_epochs": sorted({round(e * ratio) if isinstance(e, int) else e * ratio for e in phase.keep_epochs}),
        },
    )


def adjust(phase: Any, changes: Mapping[str, Any]) -> Any:
    """Returns the phase with all changes at once; new `epochs` of a training scale along what is not given of its milestones,
    warm-up and kept epochs."""
    if isinstance(phase, Train) and changes.get("epochs") is not None:
        phase = with_epochs(phase, changes["epochs"])
    return override(phase, changes)


def override_plan(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Returns the plan with changes applied: `train.lr`, `prune.sparsity`, `retrain.epochs` reach every phase of that kind,
    `phases.3.epochs` the phase with that 0-based index; `train.epochs` scales the milestones along."""
    phases = list(plan.phases)
    wanted: dict[int, dict[str, Any]] = {}
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        if head == "phases":
            index, _, rest = rest.partition(".")
            if not index.isdigit() or int(index) >= len(phases) or not rest:
                raise PlanError(
                    f"'{key}' names no phase of '{plan.name}': phases.0 to phases.{len(phases) - 1}, then a setting"
                )
            targets = [int(index)]
        elif head in PHASES and rest:
            targets = [i for i, phase in enumerate(phases) if phase.phase == head]
            if not targets:
                raise PlanError(f"'{key}': plan '{plan.name}' has no {head} phase")
        else:
            raise PlanError(
                f"unknown setting '{key}'{suggest(head, [*PHASES, 'phases'])}; "
                "write train.KEY, prune.KEY, retrain.KEY or phases.INDEX.KEY"
            )
        for i in targets:
            wanted.setdefault(i, {})[rest] = value
    for i, settings in wanted.items():
        phases[i] = adjust(phases[i], settings)
    return make(Plan, {**plan.model_dump(exclude_unset=True, exclude={"phases"}), "phases": phases})
