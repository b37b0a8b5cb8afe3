"""`prune retrain`: a pruned network trained further."""

from __future__ import annotations

import typer

from pruning import plan

from . import options
from .inputs import given, length, merged, run_folder
from .shared import Shared, shared_options
from .work import carry_out


@shared_options
def retrain(
    run: options.Run,
    technique: options.Technique = None,
    schedule: options.Schedule = None,
    epochs: options.RetrainEpochs = None,
    lr: options.RetrainRate = None,
    method: options.Method = None,
    sparsity: options.MethodSparsity = None,
    settings: options.Set = None,
    *,
    shared: Shared,
) -> None:
    """Train a pruned network further, its masks held, to win the accuracy back.

    fine-tune goes on at the last learning rate, or at --lr; lr-rewind repeats the learning rates of the training's last epochs;
    weight-rewind also sets the weights back to where those epochs began; low-lr-rewind sets the weights back and goes
    on at the last learning rate; reinit starts from fresh weights with the whole schedule. Setting weights back needs a
    state that the training kept: prune train ... --set keep_epochs=[0,130]. More settings: schedule_lr,
    schedule_warmup, optimizer_state.

    Lottery-ticket rewinding is weight-rewind with --set rewind_step=STEP: the weights of that step, trained from there to
    the end of the schedule, or with --schedule original over the whole schedule.

    With --method a dense run is trained on with a method that prunes, from its weights and momenta; the optimizer and its
    settings are the training's.
    """
    parent = run_folder(run)
    if lr is not None:
        if technique != "fine-tune" or schedule is not None:
            raise typer.BadParameter(
                "--lr is for --technique fine-tune; a tuned --schedule takes --set schedule_lr=RATE"
            )
        schedule = "constant"
    flags = given(
        technique=technique, schedule=schedule, epochs=length(epochs), schedule_lr=lr, method=method, sparsity=sparsity
    )
    phase = plan.override(plan.Retrain(), merged(flags, settings))
    carry_out([phase], parent, shared.out or parent.parent, shared)
