"""The kernels of the CPU against the references, bit for bit where there is only one right answer."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from ops_cases import DTYPES, Dice, TopK, Update, nnz_reference, topk_reference
from torch import Tensor

from pruning import ops

native = pytest.mark.skipif(ops.backend("cpu") != "native-cpu", reason=f"no kernels: {ops.report()['cpu']['reason']}")
CASES = int(os.environ.get("PRUNE_CASES", "2000"))


@native
def test_topk_masks_equals_the_reference_on_random_cases() -> None:
    for seed in range(CASES):
        TopK.draw(seed).check()


@native
def test_topk_masks_equals_the_reference_beyond_one_chunk_and_one_sample() -> None:
    for seed in range(20):
        TopK.draw(10_000 + seed, size=160).check()


@native
@pytest.mark.parametrize("kind", ["normal", "equal", "zeros", "levels", "denormal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_masks_of_one_giant_tensor(dtype: torch.dtype, kind: str) -> None:
    x = Dice(5).values((400, 501), kind).to(dtype)
    for keep in (1, 20_000, 60_120, x.numel() - 1):
        TopK([x, x[:3], x[5:6, :7]], [keep], keep != 1).check()


@native
def test_topk_masks_when_the_sample_misleads() -> None:
    # the sample reads runs of 16 at places that a pattern can dodge or hit: whatever it says, the masks are exact
    for period in (16, 61):
        x = torch.zeros(1 << 17)
        x[::period] = torch.arange(x[::period].numel(), dtype=torch.float32)
        for keep in (100, 5000, 100_000):
            TopK([x], [keep], False).check()
    sorted_once = torch.arange(1 << 17, dtype=torch.float32)
    TopK([sorted_once, -sorted_once], [1 << 16], False).check()


@native
def test_topk_masks_of_ten_thousand_tiny_tensors() -> None:
    dice = Dice(3)
    tensors = [dice.values((n % 4,), "levels") for n in range(10_000)]
    total = sum(t.numel() for t in tensors)
    TopK(tensors, [total // 3], True).check()
    TopK(tensors, [t.numel() // 2 for t in tensors], True).check()


@native
def test_masked_sgd_equals_the_reference_on_random_cases() -> None:
    for seed in range(CASES):
        Update.draw(seed).check()


@native
def test_masked_sgd_equals_the_reference_beyond_one_chunk() -> None:
    for seed in range(20):
        Update.draw(10_000 + seed, size=150).check()


@native
def test_indexed_sgd_equals_the_reference_and_the_masked_step_on_random_cases() -> None:
    for seed in range(CASES):
        Update.draw(seed).check_listed()


@native
def test_indexed_sgd_equals_the_reference_beyond_one_chunk() -> None:
    for seed in range(20):
        Update.draw(10_000 + seed, size=150).check_listed()


@native
@pytest.mark.parametrize("places", [[0, 0], [1, 0], [-1, 0], [0, 3]])
def test_indexed_sgd_refuses_lists_that_do_not_ascend_within_the_parameter(places: list[int]) -> None:
    w = torch.ones(3)
    with pytest.raises(ValueError, match=r"indices\[0\] must ascend, without repetition, from 0 to 2 at most"):
        ops.indexed_sgd_([w], [w.clone()], [], [torch.tensor(places)], lr=0.1)
    assert torch.equal(w, torch.ones(3))


@native
def test_channels_last_tensors_are_updated_in_their_own_order() -> None:
    g = torch.Generator().manual_seed(2)
    w, grad, momentum = (torch.randn(20, 30, 3, 3, generator=g) for _ in range(3))
    mask = torch.rand(w.shape, generator=g) < 0.4
    turned = [t.contiguous(memory_format=torch.channels_last) for t in (w, grad, momentum, mask)]
    ops.masked_sgd_([turned[0]], [turned[1]], [turned[2]], [turned[3]], lr=0.1, momentum=0.9)
    ops.masked_sgd_([w], [grad], [momentum], [mask], lr=0.1, momentum=0.9)
    assert torch.equal(turned[0], w)
    assert torch.equal(turned[2], momentum)
    assert torch.equal(ops.nnz(turned), ops.nnz([w, grad, momentum, mask]))


@native
def test_masked_sgd_of_sixteen_bit_parameters_rounds_as_torch_does() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype).float().nan_to_num(0.0, 1.0, -1.0)
        master = (values * 1.0003).repeat(2)
        param, mask = torch.zeros_like(master, dtype=dtype), torch.ones_like(master, dtype=torch.bool)
        ops.masked_sgd_([param], [torch.zeros_like(param)], [], [mask], lr=0.1, masters=[master])
        assert torch.equal(param, master.to(dtype))


@native
@pytest.mark.parametrize("nesterov", [False, True])
def test_fifty_steps_err_at_most_twice_as_much_as_torch_in_float32(nesterov: bool) -> None:
    g = torch.Generator().manual_seed(7)
    shape, settings = (5000,), {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov}
    start, mask = torch.randn(shape, generator=g), torch.rand(shape, generator=g) < 0.3
    ours, momentum = start.where(mask, 0), torch.zeros(shape)
    theirs = {d: ours.to(d).clone().requires_grad_() for d in (torch.float32, torch.float64)}
    optimizers = [torch.optim.SGD([t], lr=0.1, foreach=False, fused=False, **settings) for t in theirs.values()]
    for step in range(50):
        grad = torch.randn(shape, generator=g)
        ops.masked_sgd_([ours], [grad], [momentum], [mask], lr=0.1, first=step == 0, **settings)
        for t, optimizer in zip(theirs.values(), optimizers, strict=True):
            t.grad = grad.to(t.dtype)
            optimizer.step()
            t.data.masked_fill_(~mask, 0.0)
            optimizer.state[t]["momentum_buffer"].masked_fill_(~mask, 0.0)
    exact = theirs[torch.float64].detach()
    error, torchs = (ours.double() - exact).abs(), (theirs[torch.float32].detach().double() - exact).abs()
    assert error.max() <= 2 * torchs.max()
    assert error.mean() <= 2 * torchs.mean()


@native
def test_nnz_equals_the_reference_on_random_cases() -> None:
    for seed in range(CASES):
        dice = Dice(seed)
        tensors: list[Tensor] = []
        for _ in range(dice.number(0, 4)):
            shape = (dice.number(0, 9), dice.number(1, 40))
            kind = dice.one("zeros", "levels", "denormal")
            x = dice.values(shape, kind).to(dice.one(*DTYPES)) if dice.number(0, 2) else dice.mask(shape, 0.5)
            tensors.append(ops.pack(x) if x.dtype == torch.bool and dice.number(0, 1) else dice.strided(x))
        assert torch.equal(ops.nnz(tensors), nnz_reference(tensors)), seed
    many = [Dice(1).values((300_001,), "zeros").to(d) for d in DTYPES] + [Dice(2).mask((300_001,), 0.3)]
    assert torch.equal(ops.nnz(many), nnz_reference(many))


@native
def test_packing_is_reversible_and_equals_the_reference_on_random_cases() -> None:
    reference = sys.modules["pruning.ops.packing"]._pack_reference
    for seed in range(CASES):
        dice = Dice(seed)
        mask = dice.strided(dice.mask((dice.number(0, 9), dice.number(1, 9)), 0.5))
        bits = ops.pack(mask)
        assert torch.equal(bits, reference(mask)), seed
        assert torch.equal(ops.unpack(bits, mask.shape), mask), seed


@native
def test_one_thread_two_threads_and_a_second_run_agree_to_the_bit() -> None:
    def everything() -> list[Tensor]:
        dice = Dice(9)
        shapes = [(300, 301), (100_003,), (3, 3)]
        w, g, m = ([dice.values(s, "normal") for s in shapes] for _ in range(3))
        masks, counts = ops.topk_masks_counts(w, 20_000, True)
        ops.masked_sgd_(w, g, m, masks, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        ops.indexed_sgd_(w, g, [], [mask.flatten().nonzero().flatten() for mask in masks], lr=0.1)
        return [*w, *m, *masks, counts, ops.nnz(w)]

    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(everything())
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_float_values_survive_a_flush_to_zero_mode() -> None:
    x = torch.tensor([1e-42, 3e-42, 0.0, 2e-42])
    supported = torch.set_flush_denormal(True)
    try:
        assert supported
        assert ops.topk_masks([x], 2, True)[0].tolist() == [False, True, False, True]
        assert ops.nnz([x]).tolist() == [3]
    finally:
        torch.set_flush_denormal(False)


def arguments(device: str) -> dict[str, tuple[Any, ...]]:
    x, mask = torch.randn(4, 5, device=device), torch.rand(4, 5, device=device) < 0.5
    rule = (0.1, None, 0.9, 0.0, 1e-4, True, False)
    places = torch.tensor([1, 2, 19], dtype=torch.int32, device=device)
    return {
        "topk_masks": ([x], [7], True, [], [torch.empty_like(mask)]),
        "masked_sgd_": ([x.clone()], [x.clone()], [x.clone()], [mask], [], *rule),
        "indexed_sgd_": ([x.clone()], [x.clone()], [torch.ones(3, device=device)], [places], *rule),
        "nnz": ([x, mask],),
        "pack": (mask,),
        "unpack": (ops.pack(mask), [4, 5]),
    }


NAMES = ("topk_masks", "masked_sgd_", "indexed_sgd_", "nnz", "pack", "unpack")


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.prune, name).default, arguments("cpu")[name])


def step(w: Tensor, g: Tensor, m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    masks, counts = ops.topk_masks_counts([scores], 7, True)
    ops.masked_sgd_([w], [g], [m], masks, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    ops.indexed_sgd_([w], [g], [], [torch.tensor([3, 5])], lr=0.1)
    return w, counts, ops.nnz([ops.unpack(ops.pack(masks[0]), (4, 5)), w])


def test_compile_and_export_pass_through_without_a_graph_break() -> None:
    def fresh() -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(0)
        return tuple(torch.randn(4, 5, generator=g) for _ in range(4))

    class Step(torch.nn.Module):
        def forward(self, w: Tensor, g: Tensor, m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return step(w, g, m, scores)

    expected = step(*fresh())
    compiled = [torch.compile(step, fullgraph=True, backend=b)(*fresh()) for b in ("aot_eager", "inductor")]
    exported = torch.export.export(Step(), fresh()).module()(*fresh())
    for got in (*compiled, exported):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@native
@pytest.mark.parametrize("level", ["scalar", "avx2"])
def test_lesser_instruction_sets_agree(level: str) -> None:
    code = (
        "from ops_cases import TopK, Update\nfrom pruning import ops\nimport torch\ntorch.set_num_threads(1)\n"
        f"assert ops.report()['instructions'] in ('scalar', {level!r})\n"
        "for size, seeds in ((8, 300), (120, 6)):\n"
        "    for seed in range(seeds):\n"
        "        TopK.draw(seed, size).check(); Update.draw(seed, size).check(); Update.draw(seed, size).check_listed()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**_environment(), "PRUNE_CPU": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@native
def test_the_references_serve_where_kernels_are_switched_off() -> None:
    code = "from pruning import ops; print(ops.backend('cpu'), ops.report()['cpu']['reason'])"
    environment = {**_environment(), "PRUNE_NATIVE": "0"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "reference PRUNE_NATIVE=0"


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@native
def test_kernels_refuse_by_name_and_write_nothing() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match=r"keep is 4; allowed is 0 to 3"):
        ops.topk_masks([x], 4)
    with pytest.raises(ValueError, match=r"momenta\[0:\]\[0\] is float64"):
        ops.masked_sgd_([x], [x], [x.double()], [x > 0], lr=1.0, momentum=0.9)
    with pytest.raises(ValueError, match=r"nesterov needs a momentum"):
        ops.masked_sgd_([x], [x], [], [x > 0], lr=1.0, nesterov=True)
    with pytest.raises(ValueError, match=r"tensors\[0\] is int64"):
        ops.nnz([torch.ones(2, dtype=torch.int64)])
    assert torch.equal(x, torch.ones(3))


@native
def test_topk_masks_of_more_entries_than_a_sample_with_alive() -> None:
    dice = Dice(11)
    x, alive = dice.values((90_001,), "normal"), dice.mask((90_001,), 0.2)
    for keep in (1, 9_000, int(alive.sum()) - 1, int(alive.sum()), 60_000):
        TopK([x], [keep], True, [alive]).check()
        masks, _ = TopK([x], [keep], True, [alive]).run(topk_reference)
        assert int(masks[0].sum()) == min(keep, int(alive.sum()))
