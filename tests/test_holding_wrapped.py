"""Wrapped models and optimizers: masks find their weights, hooks reach the step, and what comes out is the plain loop's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pruning
from pruning.masks import Masks
from pruning.masks.names import plain
from pruning.plan import PlanError
from pruning.training.unwrapping import unwrap

CLIP, LR, STEPS = 0.1, 0.02, 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


def pruned() -> tuple[nn.Module, Masks]:
    model = network()
    return model, pruning.prune(model, 0.6)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def plain_loop(clip: float | None = CLIP) -> dict[str, Tensor]:
    """Returns the weights that torch alone comes to: gradients and weights masked by hand."""
    model, masks = pruned()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0)
    x, y = data()
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            if name in masks:
                p.grad = p.grad.where(masks[name], 0.0)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(p.where(masks[name], 0.0) if name in masks else p)
    return {n: p.detach() for n, p in model.named_parameters()}


def check(model: nn.Module, masks: Masks, clip: float | None = CLIP) -> None:
    assert masks.violations(model.state_dict()) == []
    for name, value in plain_loop(clip).items():
        found = dict(model.named_parameters())[name]
        torch.testing.assert_close(found.detach(), value, rtol=1e-4, atol=1e-6)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0)


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fc.weight", "fc.weight"),
        ("module.fc.weight", "fc.weight"),
        ("module._orig_mod.fc.weight", "fc.weight"),
        ("layers.0._orig_mod.fc.weight", "layers.0.fc.weight"),
        ("base_model.model.model.layers.0.q.base_layer.weight", "model.layers.0.q.weight"),
        ("module.base_model.model.fc.base_layer.weight", "fc.weight"),
        ("base_model.model", "base_model.model"),
        ("base_model.fc.weight", "base_model.fc.weight"),
        ("module", "module"),
        ("a._checkpoint_wrapped_module.b.weight", "a.b.weight"),
    ],
)
def test_names_without_what_wrappers_add(name: str, expected: str) -> None:
    assert plain(name) == expected


def parts_compiled(model: nn.Module) -> nn.Module:
    model[2] = torch.compile(model[2])
    return model


def with_lora(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["0", "2"], r=2))


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": lambda m: torch.compile(m, backend="aot_eager"),
    "compiled parts": parts_compiled,
    "DataParallel of compiled parts": lambda m: nn.DataParallel(parts_compiled(m)),
    "LoRA": with_lora,
    "LoRA, compiled": lambda m: torch.compile(with_lora(m)),
    "moving average": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("name", WRAPS)
def test_masks_drawn_before_wrapping_fit_afterwards_and_the_other_way_round(name: str) -> None:
    model, masks = pruned()
    inner = {n: p for n, p in model.named_parameters()}
    wrapped = WRAPS[name](copy.deepcopy(model))
    found = {plain(n): p for n, p in wrapped.named_parameters()}
    matched = masks.match(wrapped)
    assert {id(p) for p in matched} == {id(found[n]) for n in masks}
    with torch.no_grad():
        for p in matched:
            p.fill_(1.0)
    assert masks.violations(wrapped.state_dict()) == list(masks)
    masks.apply(wrapped)
    assert masks.violations(wrapped.state_dict()) == []
    assert {n: int((found[n] != 0).sum()) for n in masks} == {n: kept for n, (kept, _) in masks.counts().items()}
    names = {id(p): n for n, p in wrapped.named_parameters()}
    back = Masks({names[id(p)]: mask for p, mask in matched.items()})
    assert {id(p) for p in back.match(model)} == {id(inner[n]) for n in masks}


def test_modules_of_the_users_own_may_have_a_wrappers_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(3, 2), "model": nn.ModuleDict({"base_layer": nn.Linear(3, 2)})})
    masks = pruning.prune(model, 0.5)
    assert list(masks) == ["module.weight", "model.base_layer.weight"]
    assert [id(p) for p in masks.match(model)] == [id(model.module.weight), id(model.model.base_layer.weight)]
    wrapped = nn.DataParallel(model)
    assert [id(p) for p in masks.match(wrapped)] == [id(p) for p in masks.match(model)]


def test_a_name_that_may_mean_either_of_two_weights_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3))
            self.module = nn.Linear(3, 2, bias=False)

    mask = torch.ones(2, 3, dtype=torch.bool)
    assert len(Masks({"weight": mask, "module.weight": mask}).match(Net())) == 2
    wrapped = nn.DataParallel(Net())  # its 'module.weight' is Net's 'weight'
    with pytest.raises(
        PlanError, match=r"'module.weight' may be meant for 'module.weight' or for 'module.module.weight'"
    ):
        Masks({"module.weight": mask}).match(wrapped)
    two = nn.ModuleDict({"a": nn.ModuleDict({"module": nn.Linear(3, 2)}), "x": nn.Linear(1, 1)})
    two["a"]["_orig_mod"] = nn.Linear(3, 2)
    with pytest.raises(PlanError, match=r"'a.weight' may be meant for 'a.module.weight' or for 'a._orig_mod.weight'"):
        Masks({"a.weight": mask}).match(two)
    two["a"]["_orig_mod"].weight = two["a"]["module"].weight  # one parameter with two names
    assert list(Masks({"a.weight": mask}).match(two)) == [two["a"]["module"].weight]


def test_names_that_fit_nothing() -> None:
    model, masks = pruned()
    with pytest.raises(PlanError, match=r"the masks name '2.weight', which the model lacks"):
        masks.match(nn.DataParallel(nn.Sequential(nn.Linear(6, 16))))
    with pytest.raises(PlanError, match=r"the state holds nothing that has a mask, as '0.weight'"):
        masks.violations({"model": model.state_dict()})
    assert masks.violations({"module.0.weight": torch.zeros(16, 6)}) == masks.violations({}) == []


def test_models_that_lost_the_shapes_of_their_weights_are_named() -> None:
    class FullyShardedDataParallel(nn.Module):  # as torch's: one vector, by the name of the wrapped module
        def __init__(self) -> None:
            super().__init__()
            self._flat_param = nn.Parameter(torch.zeros(9))

    with pytest.raises(
        PlanError, match=r"which the model lacks: Fully.*\(FSDP1\) flattens weights; shard with fully_shard"
    ):
        pruned()[1].match(FullyShardedDataParallel())
    model, masks = pruned()
    for p in model.parameters():
        p.ds_id, p.data = 0, torch.empty(0)
    with pytest.raises(PlanError, match=r"the weight \[0\]: DeepSpeed's ZeRO stage 3 .* fully_shard"):
        masks.match(model)


# --- optimizers inside others -------------------------------------------------------------------------------------


def test_optimizers_that_are_none_or_train_copies_are_refused_with_the_way_that_works() -> None:
    model, masks = pruned()

    class Bare(torch.optim.Optimizer):  # hooks would be taken and never run
        def __init__(self) -> None:
            self.param_groups = [{"params": list(model.parameters())}]

        def step(self) -> None: ...

    for thing in (Bare(), object(), "adam", model):
        with pytest.raises(PlanError, match="is no torch.optim.Optimizer and wraps none.*pruning.mask_gradients"):
            pruning.enforce([thing], model, masks)
    deep = type("DeepSpeedZeroOptimizer", (), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})()
    deep.optimizer = adamw(model)
    with pytest.raises(PlanError, match=r"DeepSpeedZeroOptimizer cannot be held: it trains flat copies .* fully_shard"):
        pruning.enforce(deep, model, masks)
    with pytest.raises(PlanError, match="does not hold '0.weight', which has a mask, nor 1 more"):
        pruning.enforce([], model, masks)


def test_the_optimizer_is_found_inside_lightnings_and_timms_and_under_a_scheduler() -> None:
    model, masks = pruned()
    inner = adamw(model)
    torch.optim.lr_scheduler.StepLR(inner, 1)
    assert unwrap(inner) is inner
    lightning = pytest.importorskip("lightning.pytorch.core.optimizer")
    assert unwrap(lightning.LightningOptimizer(inner)) is inner
    lookahead = pytest.importorskip("timm.optim").Lookahead(inner, k=2)
    assert unwrap(lookahead) is inner
    x, y = data()
    dense = network()
    lookahead = pytest.importorskip("timm.optim").Lookahead(adamw(dense), k=2)
    for held in (False, True):  # its slow weights were dense
        if held:
            pruning.enforce(lookahead, dense, masks)
        for _ in range(4):
            lookahead.zero_grad()
            cross_entropy(dense(x), y).backward()
            lookahead.step()
            assert (masks.violations(dense.state_dict()) == []) == held


def test_accelerate_trains_as_the_plain_loop() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, masks = pruned()
    wrapped, optimizer = accelerator.prepare(model, adamw(model))
    pruning.enforce(optimizer, wrapped, masks)
    x, y = data()
    for _ in range(STEPS):
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(wrapped(x), y))
        accelerator.clip_grad_norm_(wrapped.parameters(), CLIP)
        optimizer.step()
    check(model, masks)


def test_the_trainer_of_transformers_clips_survivors_and_trains_as_the_plain_loop(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model, masks = pruned()

    class Hold(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **rest: Any) -> None:
            pruning.enforce(optimizer, model, masks)

    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, learning_rate=LR, lr_scheduler_type="constant", max_grad_norm=CLIP,
        per_device_train_batch_size=16, report_to=[], save_strategy="no", remove_unused_columns=False, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.Trainer(
            model,
            settings,
            train_dataset=[{"input": x, "labels": y} for x, y in zip(*data(), strict=True)],
            callbacks=[Hold()],
            compute_loss_func=lambda output, y, **rest: cross_entropy(output, y),
        ).train()
    check(model, masks)


def test_lightning_clips_survivors_and_trains_as_the_plain_loop(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    model, masks = pruned()

    class Hold(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            pruning.enforce(module.optimizers(), module.net, masks)  # a wrapped one

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: Any, index: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1, callbacks=[Hold()], gradient_clip_val=CLIP, default_root_dir=tmp_path, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(Module(), torch.utils.data.DataLoader([data()] * STEPS, batch_size=None))
    check(model, masks)


# --- wrapped models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DataParallel", "compile"])
def test_wrapped_models_train_as_the_plain_loop(name: str) -> None:
    model, masks = pruned()
    wrapped = WRAPS[name](model)
    optimizer = adamw(wrapped)
    pruning.enforce(optimizer, wrapped, masks)
    x, y = data()
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(wrapped(x), y).backward()
        nn.utils.clip_grad_norm_(wrapped.parameters(), CLIP)
        optimizer.step()
    check(model, masks)


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_optimizers_in_the_backward_pass_train_as_the_plain_loop(first: str) -> None:
    model, masks = pruned()
    optimizers = {p: torch.optim.AdamW([p], LR, weight_decay=0.0) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    if first == "ours":
        pruning.enforce(optimizers.values(), model, masks)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    if first == "theirs":
        pruning.enforce(optimizers.values(), model, masks)
    x, y = data()
    for _ in range(STEPS):
        cross_entropy(model(x), y).backward()
    check(model, masks, clip=None)


def test_only_the_base_is_pruned_and_adapters_train() -> None:
    model, masks = pruned()
    wrapped = with_lora(model)
    optimizer = adamw(wrapped)
    pruning.enforce(optimizer, wrapped, masks)  # the base is frozen
    x, y = data()
    before = {n: p.detach().clone() for n, p in wrapped.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    moved = {n for n, p in wrapped.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n}
    merged = wrapped.merge_and_unload()
    assert masks.violations(merged.state_dict()) == list(masks)
    masks.apply(merged)
    assert masks.violations(merged.state_dict()) == []
