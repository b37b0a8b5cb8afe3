"""When gradual pruning prunes, and how far: events spread over a training, and the sparsity after each."""

from __future__ import annotations

from pruning.errors import PlanError


def pruning_events(number: int, total_steps: int) -> list[int]:
    """Returns the steps before which gradual pruning prunes: event k of n before step floor(k T / (n + 1)), k = 1 .. n.

    The last event leaves as many steps as lie between two, as in Zimmer et al.'s code, where an interval of I epochs in
    E gives floor(E / I) - 1 events.
    """
    if not 1 <= number < total_steps:
        raise PlanError(f"{number} pruning events do not fit {total_steps} steps; allowed: 1 to {total_steps - 1}")
    return [k * total_steps // (number + 1) for k in range(1, number + 1)]


def cubic_ramp(event: int, number: int, goal: float) -> float:
    """Returns the sparsity after `event` of `number` events, s_f (1 - (1 - k/n)^3): Zhu & Gupta (2017), equation 1, s_i = 0."""
    return goal * (1 - (1 - event / number) ** 3)
