"""The CUDA kernels against the references: run with a GPU by `make gpu-session`, skipped without one."""

from __future__ import annotations

import os

import pytest
import torch
from ops_cases import DTYPES, Dice, TopK, Update, nnz_reference
from test_ops import NAMES, arguments
from torch import Tensor

from pruning import ops

pytestmark = pytest.mark.gpu
CASES = int(os.environ.get("PRUNE_GPU_CASES", "2000"))  # compute-sanitizer slows every launch down


@pytest.fixture(autouse=True)
def _kernels() -> None:
    assert ops.backend("cuda") == "native-cuda", ops.report()["cuda"]["reason"]


def test_topk_masks_on_random_cases() -> None:
    for seed in range(CASES):
        case = TopK.draw(seed)
        if case.tensors:
            case.check("cuda")


def test_masked_sgd_on_random_cases() -> None:
    for seed in range(CASES):
        Update.draw(seed).check("cuda")
        Update.draw(seed).check_listed("cuda")


def test_nnz_and_packing_on_random_cases() -> None:
    for seed in range(CASES):
        dice = Dice(seed)
        shape = (dice.number(0, 9), dice.number(1, 40))
        x, mask = dice.strided(dice.values(shape, "zeros").to(dice.one(*DTYPES))), dice.strided(dice.mask(shape, 0.5))
        given = [x.cuda(), mask.cuda(), ops.pack(mask).cuda()]
        assert torch.equal(ops.nnz(given).cpu(), nnz_reference([x, mask, ops.pack(mask)])), seed
        bits = ops.pack(mask.cuda())
        assert torch.equal(bits.cpu(), ops.pack(mask)), seed
        assert torch.equal(ops.unpack(bits, mask.shape).cpu(), mask), seed


@pytest.mark.parametrize("kind", ["normal", "equal", "zeros", "levels", "denormal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_masks_by_bracket_and_by_ties(dtype: torch.dtype, kind: str) -> None:
    x = Dice(5).values((700, 501), kind).to(dtype)
    alive = [Dice(6).mask(t.shape, 0.5) for t in (x, x[:3])]
    for keep in (0, 1, 35_000, 105_210, x.numel() - 1, x.numel()):
        for magnitude in (False, True):
            TopK([x, x[:3]], [keep], magnitude).check("cuda")
    TopK([x, x[:3]], [35_000], True, alive).check("cuda")
    TopK([x, x[:3]], [35_000, 7], True).check("cuda")


def test_topk_masks_when_the_bracket_misleads() -> None:
    x = torch.zeros(1 << 18)
    x[::61] = torch.arange(x[::61].numel(), dtype=torch.float32)
    narrow = 1.0 + torch.rand(1 << 18, generator=torch.Generator().manual_seed(0)) * 1e-4
    for keep in (1, 100, 5000, 200_000):
        TopK([x], [keep], False).check("cuda")
        TopK([narrow], [keep], True).check("cuda")


def test_topk_masks_of_ten_thousand_tiny_tensors() -> None:
    dice = Dice(3)
    tensors = [dice.values((n % 4,), "levels") for n in range(10_000)]
    TopK(tensors, [sum(t.numel() for t in tensors) // 3], True).check("cuda")
    TopK(tensors, [t.numel() // 2 for t in tensors], True).check("cuda")


def test_topk_masks_of_a_network_are_exact_and_repeat_to_the_bit() -> None:
    g = torch.Generator(device="cuda").manual_seed(0)
    weights = [torch.randn(n, device="cuda", generator=g) for n in (2_359_296, 1_048_576, 9_408, 2_048_000, 589_824)]
    total = sum(w.numel() for w in weights)
    first, counts = ops.topk_masks_counts(weights, total // 10, True)
    threshold = torch.cat([w.abs() for w in weights]).sort(descending=True).values[total // 10 - 1]
    assert counts.tolist() == [int(m.sum()) for m in first]
    assert int(counts.sum()) == total // 10
    assert all(bool((w.abs()[m] >= threshold).all()) for w, m in zip(weights, first, strict=True))
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(ops.topk_masks(weights, total // 10, True), first, strict=True))


def test_more_than_two_to_the_thirty_one_elements() -> None:
    n = (1 << 31) + 12_345
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of free GPU memory")
    x = torch.zeros(n, device="cuda", dtype=torch.bfloat16)
    x[-1], x[0], x[n // 2] = 3, 1, 2
    (mask,), counts = ops.topk_masks_counts([x], 2, True)
    assert counts.tolist() == [2]
    assert mask[-1]
    assert mask[n // 2]
    assert ops.nnz([x, mask]).tolist() == [3, 2]


def operands() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    g = torch.Generator(device="cuda").manual_seed(1)
    params, grads = ([torch.randn(n, device="cuda", generator=g) for n in (100_000, 33, 0, 7_777)] for _ in range(2))
    masks = [torch.rand(p.shape, device="cuda", generator=g) < 0.5 for p in params]
    return params, grads, [torch.zeros_like(p) for p in params], masks


def test_a_graph_replays_selection_and_update_with_a_rate_on_the_device() -> None:
    params, grads, momenta, masks = operands()
    rate = torch.tensor(0.1, device="cuda")

    def work() -> None:
        ops.topk_masks(params, 50_000, True, out=masks)
        ops.masked_sgd_(params, grads, momenta, masks, lr=rate, momentum=0.9, nesterov=True)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    start = [t.clone() for t in (*params, *momenta, *masks)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    results = []
    for replay in (False, True):
        for t, s in zip((*params, *momenta, *masks), start, strict=True):
            t.copy_(s)
        for value in (0.1, 0.05, 0.01):
            rate.fill_(value)
            graph.replay() if replay else work()
        results.append([t.clone() for t in (*params, *momenta, *masks)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_op_waits_for_the_device() -> None:
    params, grads, momenta, masks = operands()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.topk_masks(params, 50_000, True, out=masks)
        ops.masked_sgd_(params, grads, momenta, masks, lr=0.1, momentum=0.9)
        ops.indexed_sgd_(params, grads, [p[:0] for p in params], [p[:0].int() for p in params], lr=0.1, momentum=0.9)
        ops.unpack(ops.pack(masks[0]), masks[0].shape)
        ops.nnz(params)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_update_of_any_network_is_one_launch() -> None:
    params, grads, momenta, masks = operands()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ops.masked_sgd_(params * 40, grads * 40, momenta * 40, masks * 40, lr=0.1, momentum=0.9)
        torch.cuda.synchronize()
    launched = [e for e in profile.events() if "masked_sgd_kernel" in e.name]
    assert len(launched) == 1


def test_work_goes_to_the_current_stream() -> None:
    params, *_ = operands()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        params[0].zero_()
        counts = ops.nnz(params)
    stream.synchronize()
    assert counts[0] == 0


def test_several_devices_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="one device, not on cpu and cuda:0"):
        ops.topk_masks([torch.ones(2, device="cuda"), torch.ones(2)], 1)
    with pytest.raises(ValueError, match="one device, not on cpu and cuda:0"):
        ops.masked_sgd_([torch.ones(2, device="cuda")], [torch.ones(2)], [], [torch.ones(2) > 0], lr=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_on_the_gpu(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.prune, name).default, arguments("cuda")[name])
