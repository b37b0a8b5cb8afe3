"""Two processes over gloo: DistributedDataParallel, fully_shard and DTensors are held as one process's weights are."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import pruning
from pruning.masks import Masks, prunable
from pruning.plan import PlanError

CHECKS: dict[str, Any] = {}


def check(function: Any) -> Any:
    CHECKS[function.__name__] = function
    return function


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))  # 7 rows and 1 on two ranks: parts differ


def pruned() -> tuple[nn.Module, Masks]:
    model = network()
    generator = torch.Generator().manual_seed(1)
    masks = Masks({n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in prunable(model).items()})
    masks.apply(model)
    return model, masks


def batch() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(2))


MAKES = {
    "AdamW": lambda p: torch.optim.AdamW(p, 0.05),
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "MaskedSGD": lambda p: pruning.MaskedSGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
}


def hold(optimizer: Any, model: nn.Module, masks: Masks) -> None:
    if isinstance(optimizer, pruning.MaskedSGD):
        optimizer.set_masks(model, masks)
    else:
        pruning.enforce(optimizer, model, masks)


def train(model: nn.Module, optimizer: Any, masks: Masks, x: Tensor, clip: bool = True) -> None:
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if isinstance(optimizer, pruning.MaskedSGD):
            pruning.mask_gradients(model, masks)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        assert masks.violations(model.state_dict()) == []


def alone(name: str, clip: bool = True) -> dict[str, Tensor]:
    """Returns the weights that one process comes to with the whole batch."""
    model, masks = pruned()
    optimizer = MAKES[name](model.parameters())
    hold(optimizer, model, masks)
    train(model, optimizer, masks, batch(), clip)
    return {n: p.detach() for n, p in model.named_parameters()}


def sharded(model: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def close(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        whole = p.full_tensor() if hasattr(p, "full_tensor") else p
        torch.testing.assert_close(whole.detach(), expected[name.removeprefix("module.")], rtol=1e-4, atol=1e-6)


@check
def ddp(rank: int, mesh: Any) -> None:
    for name in MAKES:
        model, masks = pruned()
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = MAKES[name](wrapped.parameters())
        hold(optimizer, wrapped, masks)
        train(wrapped, optimizer, masks, batch()[rank::2])
        close(wrapped, alone(name))


@check
def fully_sharded(rank: int, mesh: Any) -> None:
    for name in MAKES:
        model, masks = pruned()
        model = sharded(model, mesh)
        optimizer = MAKES[name](model.parameters())
        hold(optimizer, model, masks)
        train(model, optimizer, masks, batch()[rank::2])
        close(model, alone(name))
        for p, mask in masks.match(model).items():
            for value in optimizer.state[p].values():
                if value.shape == p.shape:
                    local = value.to_local()
                    assert local.shape == mask.shape
                    assert not bool(local[~mask].any())


@check
def masks_are_applied_to_the_ranks_own_part_and_nothing_is_sent(rank: int, mesh: Any) -> None:
    from torch.distributed.tensor.debug import CommDebugMode

    model, masks = sharded(network(), mesh), pruned()[1]
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    model(batch()).sum().backward()
    with CommDebugMode() as said:
        assert masks.violations(model.state_dict()) == [
            n for n, m in zip(masks, masks.match(model).values(), strict=True) if not bool(m.all())
        ]
        masks.apply(model)
        pruning.mask_gradients(model, masks)
        pruning.enforce(optimizer, model, masks)
        optimizer.step()
        assert masks.violations(model.state_dict()) == []
    assert said.get_total_counts() == 0
    rows = [chunk.shape[0] for chunk in torch.zeros(7).chunk(2)]
    assert [m.shape[0] for m in masks.match(model).values()] == [rows[rank], 1 - rank]


@check
def placements(rank: int, mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    whole = torch.arange(1.0, 31.0).view(6, 5)
    mask = whole % 3 != 0
    for placement in (Shard(0), Shard(1), Replicate()):
        net = nn.Linear(5, 6, bias=False)
        net.weight = nn.Parameter(distribute_tensor(whole.clone(), mesh, [placement]))
        pruning.Masks({"weight": mask}).apply(net)
        assert torch.equal(net.weight.full_tensor(), whole.where(mask, 0.0))
        net.weight.grad = DTensor.from_local(torch.ones(6, 5), mesh, [Partial()])  # sums to be taken over the ranks
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        pruning.enforce(optimizer, net, {"weight": mask})
        optimizer.step()
        assert torch.equal(net.weight.full_tensor(), (whole - 2).where(mask, 0.0))
        net.weight.grad = DTensor.from_local(torch.ones(6, 5), mesh, [Partial()])
        ours = pruning.MaskedSGD(net.parameters(), 1.0, momentum=0.5)
        ours.set_masks(net, {"weight": mask})
        ours.step()
        assert torch.equal(net.weight.full_tensor(), (whole - 4).where(mask, 0.0))
    net.weight = nn.Parameter(DTensor.from_local(torch.ones(6, 5), mesh, [Partial()]))
    with pytest.raises(PlanError, match="'weight' is a DTensor of partial sums"):
        pruning.Masks({"weight": mask}).apply(net)


@check
def refusals(rank: int, mesh: Any) -> None:
    model, masks = pruned()
    early = torch.optim.AdamW(model.parameters())
    model = sharded(model, mesh)
    with pytest.raises(PlanError, match=r"'0.weight' is sharded \(DTensor\).*prune before fully_shard"):
        pruning.prune(model, 0.5)
    with pytest.raises(PlanError, match=r"'0.weight' is sharded"):
        pruning.score(model, "magnitude")
    with pytest.raises(PlanError, match="does not hold '0.weight'.*make it after sharding"):
        pruning.enforce(early, model, masks)
    parts = Masks({n: p.detach() != 0 for n, p in model.named_parameters() if n in masks})
    with pytest.raises(PlanError, match="the mask of '0.weight' is a DTensor: give the whole mask"):
        parts.apply(model)
    half = sharded(network().bfloat16(), mesh)
    optimizer = pruning.MaskedSGD(half.parameters(), 0.1, masters=True)
    with pytest.raises(PlanError, match=r"masters=True takes no sharded parameters.*MixedPrecisionPolicy"):
        optimizer.set_masks(half, masks)


@check
def states_are_saved_and_loaded(rank: int, mesh: Any) -> None:
    model, masks = pruned()
    model = sharded(model, mesh)
    optimizer = MAKES["MaskedSGD"](model.parameters())
    optimizer.set_masks(model, masks)
    train(model, optimizer, masks, batch()[rank::2])
    again = MAKES["MaskedSGD"](model.parameters())
    again.set_masks(model, masks)
    again.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        a, b = (o.state[p]["momentum_buffer"].full_tensor() for o in (optimizer, again))
        assert torch.equal(a, b)


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for name, function in CHECKS.items():
        try:
            function(rank, mesh)
            text = ""
        except BaseException:
            text = traceback.format_exc()
        Path(folder, f"{name}-{rank}").write_text(text)
        if text:
            os._exit(1)  # the other rank may wait for this one
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    context = mp.start_processes(run, (str(folder),), nprocs=2, join=False, start_method="spawn")
    with contextlib.suppress(Exception):  # what went wrong stands in the files
        context.join(80)
    for process in context.processes:
        process.kill()
    return folder


@pytest.mark.parametrize("name", CHECKS)
def test_over_two_processes(name: str, outcome: Path) -> None:
    for rank in (0, 1):
        file = outcome / f"{name}-{rank}"
        assert file.exists(), "did not come so far: an earlier check failed or hangs"
        assert file.read_text() == ""
