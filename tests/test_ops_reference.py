"""The ops' Python references against definitions written another way: sorting, torch.optim.SGD in float64, loops."""

import math

import pytest
import torch
from torch import Tensor

from pruning import ops

NAN, INF = math.nan, math.inf


def ranked(tensors: list[Tensor], magnitude: bool, alive: list[Tensor] | None) -> list[tuple[int, int]]:
    """Returns (tensor, flat index) of every entry that is alive, best first, by Python's stable sort."""
    entries = []
    for t, x in enumerate(tensors):
        values = x.double().flatten().tolist()
        living = alive[t].flatten().tolist() if alive else [True] * len(values)
        entries += [(abs(v) if magnitude else v, t, i) for i, v in enumerate(values) if living[i]]
    order = sorted(entries, key=lambda e: (math.isnan(e[0]), 0.0 if math.isnan(e[0]) else -e[0]))
    return [(t, i) for _, t, i in order]


def oracle(tensors: list[Tensor], keep: int, magnitude: bool, alive: list[Tensor] | None = None) -> list[Tensor]:
    masks = [torch.zeros(t.shape, dtype=torch.bool) for t in tensors]
    for t, i in ranked(tensors, magnitude, alive)[:keep]:
        masks[t].view(-1)[i] = True
    return masks


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("values", "keep", "magnitude", "kept"),
    [
        ([3.0, -4.0, 1.0], 1, False, [1, 0, 0]),
        ([3.0, -4.0, 1.0], 1, True, [0, 1, 0]),
        ([1.0, 1.0, 1.0], 2, False, [1, 1, 0]),
        ([-0.0, 0.0, 0.0], 1, False, [1, 0, 0]),
        ([0.0, -0.0, 1e-45], 1, True, [0, 0, 1]),
        ([NAN, -INF, -1.0], 2, False, [0, 1, 1]),
        ([NAN, INF, -INF], 2, True, [0, 1, 1]),
        ([NAN, NAN, 0.0], 2, True, [1, 0, 1]),
        ([1.0, 2.0, 3.0], 0, False, [0, 0, 0]),
        ([1.0, 2.0, 3.0], 3, False, [1, 1, 1]),
    ],
)
def test_topk_masks_of_a_table(values: list[float], keep: int, magnitude: bool, kept: list[int]) -> None:
    masks, counts = ops.topk_masks_counts([torch.tensor(values)], keep, magnitude)
    assert masks[0].tolist() == [bool(k) for k in kept]
    assert counts.tolist() == [keep]


def test_topk_masks_ranks_all_tensors_together_and_ties_go_to_the_earlier() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [3.0, 2.0]])
    masks, counts = ops.topk_masks_counts([a, b], 3)
    assert masks[0].tolist() == [False, True]
    assert masks[1].tolist() == [[True, False], [True, False]]
    assert counts.dtype == torch.int64
    assert counts.tolist() == [1, 2]


def test_topk_masks_with_one_count_per_tensor() -> None:
    masks = ops.topk_masks([torch.tensor([1.0, 2.0]), torch.tensor([9.0, 8.0, 7.0])], [1, 2])
    assert [m.tolist() for m in masks] == [[False, True], [True, True, False]]


def test_topk_masks_keeps_only_what_is_alive() -> None:
    x, alive = torch.tensor([5.0, 4.0, 0.0, NAN]), torch.tensor([False, True, True, True])
    assert ops.topk_masks([x], 1, alive=[alive])[0].tolist() == [False, True, False, False]
    assert ops.topk_masks([x], 4, alive=[alive])[0].tolist() == alive.tolist()


def test_topk_masks_of_transposed_and_channels_last_follow_the_logical_order() -> None:
    x = torch.ones(4, 3).t()
    assert ops.topk_masks([x], 4)[0].flatten().tolist() == [True] * 4 + [False] * 8
    y = torch.ones(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert ops.topk_masks([y], 5)[0].flatten().tolist() == [True] * 5 + [False] * 19


def test_topk_masks_against_sorting() -> None:
    levels = torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 1e-42, NAN, INF])
    for seed in range(300):
        g = torch.Generator().manual_seed(seed)
        dtype = (torch.float32, torch.float64, torch.bfloat16, torch.float16)[seed % 4]
        shapes = [tuple(torch.randint(0, 5, (2,), generator=g).tolist()) for _ in range(seed % 5)]
        tensors = [levels[torch.randint(0, 8, s, generator=g)].to(dtype) for s in shapes]
        alive = [torch.rand(s, generator=g) < 0.7 for s in shapes] if seed % 3 == 0 else None
        total = sum(t.numel() for t in tensors)
        keep = int(torch.randint(0, total + 1, (), generator=g))
        for magnitude in (False, True):
            assert same(ops.topk_masks(tensors, keep, magnitude, alive), oracle(tensors, keep, magnitude, alive)), seed
        each = [t.numel() // 2 for t in tensors]
        if len(tensors) > 1:
            alone = [oracle([t], k, True)[0] for t, k in zip(tensors, each, strict=True)]
            assert same(ops.topk_masks(tensors, each, True), alone), seed


def test_topk_masks_writes_into_out() -> None:
    out = [torch.ones(3, dtype=torch.bool)]
    assert ops.topk_masks([torch.tensor([1.0, 2.0, 3.0])], 1, out=out)[0] is out[0]
    assert out[0].tolist() == [False, False, True]


@pytest.mark.parametrize("keep", [-1, 4, [1, 1]])
def test_topk_masks_refuses_impossible_counts(keep: int | list[int]) -> None:
    with pytest.raises(ValueError, match="keep"):
        ops.topk_masks([torch.zeros(3)], keep)


def test_ops_refuse_by_name() -> None:
    with pytest.raises(ValueError, match=r"tensors\[1\] is int64"):
        ops.topk_masks([torch.zeros(1), torch.zeros(1, dtype=torch.int64)], 1)
    with pytest.raises(ValueError, match=r"alive\[0\] has shape \(2,\)"):
        ops.topk_masks([torch.zeros(1)], 1, alive=[torch.ones(2, dtype=torch.bool)])
    with pytest.raises(ValueError, match="one device, not on cpu and meta"):
        ops.nnz([torch.zeros(1), torch.zeros(1, device="meta")])
    with pytest.raises(ValueError, match=r"masks\[0\] has shape"):
        ops.masked_sgd_([torch.zeros(9)], [torch.zeros(9)], [], [torch.zeros(1, dtype=torch.uint8)], lr=0.1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("momentum", "dampening", "decay", "nesterov"),
    [(0.0, 0.0, 0.0, False), (0.9, 0.0, 5e-4, True), (0.9, 0.3, 0.0, False), (0.9, 0.0, 1e-4, False)],
)
def test_masked_sgd_is_torch_sgd_for_survivors(
    momentum: float, dampening: float, decay: float, nesterov: bool, packed: bool
) -> None:
    g = torch.Generator().manual_seed(1)
    shapes = [(7,), (3, 5), (0,), (2, 3, 2, 2)]
    start = [torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]
    masks = [torch.rand(s, generator=g) < 0.5 for s in shapes]
    ours, theirs = [t.clone() for t in start], [t.clone().requires_grad_() for t in start]
    momenta = [torch.full_like(t, NAN) for t in start]
    settings = {"momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov}
    sgd = torch.optim.SGD(theirs, lr=0.1, foreach=False, **settings)
    for step in range(50):
        grads = [torch.randn(s, generator=g, dtype=torch.float64) for s in shapes]
        for t, grad in zip(theirs, grads, strict=True):
            t.grad = grad.clone()
        sgd.step()
        given = [ops.pack(m) for m in masks] if packed else masks
        ops.masked_sgd_(ours, grads, momenta, given, lr=0.1, first=step == 0, **settings)
    for w, v, t, mask in zip(ours, momenta, theirs, masks, strict=True):
        torch.testing.assert_close(w[mask], t.detach()[mask], rtol=1e-12, atol=1e-14)
        for pruned in (w[~mask], v[~mask] if momentum else w[~mask]):
            assert torch.equal(pruned, torch.zeros_like(pruned))
            assert not pruned.signbit().any()


def test_masked_sgd_selects_and_never_multiplies() -> None:
    w, m = torch.tensor([NAN, -1.0, INF, 1.0]), torch.tensor([INF, -0.0, NAN, 1.0])
    mask = torch.tensor([False, False, False, True])
    ops.masked_sgd_([w], [torch.tensor([NAN, 1.0, -INF, 1.0])], [m], [mask], lr=0.5, momentum=0.5)
    assert w.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert m.tolist() == [0.0, 0.0, 0.0, 1.5]
    assert not w.signbit().any()


def test_masked_sgd_of_half_precision_with_masters_and_a_tensor_rate() -> None:
    master = torch.tensor([1.0, 2.0, 3.0])
    w, m, mask = master.bfloat16(), torch.zeros(3), torch.tensor([True, True, False])
    for _ in range(3):
        grad = torch.full((3,), 1e-3, dtype=torch.bfloat16)
        ops.masked_sgd_([w], [grad], [m], [mask], lr=torch.tensor(0.5), momentum=0.0, masters=[master])
    expected = torch.tensor([1.0, 2.0]) - 3 * 0.5 * torch.tensor(1e-3).bfloat16().float()
    torch.testing.assert_close(master[:2], expected, rtol=0, atol=1e-6)
    assert torch.equal(w[:2], master[:2].bfloat16())
    assert master[2] == 0
    assert w[2] == 0


@pytest.mark.parametrize(
    ("masters", "said"),
    [
        ([torch.zeros(3)], r"masters has 1 tensors for 2 params"),
        ([torch.zeros(3), torch.zeros(2)], r"masters\[1\] has shape \(2,\); params\[1\] has \(3,\)"),
        ([torch.zeros(3), torch.zeros(3).bfloat16()], r"masters\[1\] is bfloat16; allowed are float32"),
        ([torch.zeros(3), torch.zeros(3, device="meta")], r"masters\[1\] is on meta; params\[1\] is on cpu"),
    ],
)
def test_masters_that_do_not_fit_are_named(masters: list[torch.Tensor], said: str) -> None:
    params = [torch.ones(3).bfloat16() for _ in range(2)]
    masks = [torch.ones(3, dtype=torch.bool) for _ in range(2)]
    with pytest.raises(ValueError, match=said):
        ops.masked_sgd_(params, params, [], masks, lr=0.1, masters=masters)
    assert all(torch.equal(p, torch.ones(3).bfloat16()) for p in params)


def test_masters_of_float64_parameters_are_refused() -> None:
    param, mask = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masters\[0\] is float32 and params\[0\] float64"):
        ops.masked_sgd_([param], [param.clone()], [], [mask], lr=0.1, masters=[torch.ones(3)])


def test_indexed_sgd_steps_what_is_listed_and_leaves_the_rest() -> None:
    w = torch.tensor([[1.0, 2.0], [3.0, -0.0]]).t()  # row-major order: 1, 3, 2, -0
    momentum, places = torch.tensor([1.0]), torch.tensor([1])
    ops.indexed_sgd_([w], [torch.full((2, 2), 2.0)], [momentum], [places], lr=0.5, momentum=0.5, weight_decay=1.0)
    assert w.t().tolist() == [[1.0, 2.0], [0.25, 0.0]]  # 3 - 0.5 (0.5 * 1 + 2 + 3)
    assert w[1, 1].signbit()
    assert momentum.tolist() == [5.5]


def test_indexed_sgd_refuses_by_name() -> None:
    w = torch.zeros(3)
    with pytest.raises(ValueError, match=r"indices\[0\] is float32; allowed are int32, int64"):
        ops.indexed_sgd_([w], [w], [], [w], lr=0.1)
    with pytest.raises(ValueError, match=r"momenta\[0\] has shape \(3,\); indices\[0\] has \(1,\)"):
        ops.indexed_sgd_([w], [w], [w], [torch.tensor([1])], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"indices\[0\] must ascend, without repetition, from 0 to 2 at most"):
        ops.indexed_sgd_([w], [w], [], [torch.tensor([2, 1])], lr=0.1)
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        ops.indexed_sgd_([w], [w], [], [torch.tensor([1])], lr=0.1, nesterov=True)


def test_masked_sgd_tells_autograd_of_the_write() -> None:
    w = torch.ones(2)
    before = w._version
    ops.masked_sgd_([w], [torch.ones(2)], [], [torch.tensor([True, False])], lr=0.1)
    assert w._version > before


def test_nnz_counts_floats_bools_and_packed_bits() -> None:
    mask = torch.tensor([True] * 9 + [False, True])
    tensors = [torch.tensor([0.0, -0.0, 1e-45, NAN]), mask, ops.pack(mask), torch.zeros(0), torch.ones(2, 2).t()]
    counts = ops.nnz(tensors)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [2, 10, 10, 0, 4]
    assert ops.nnz([]).shape == (0,)


def test_packing_is_little_endian_and_reversible() -> None:
    assert ops.pack(torch.tensor([True] + [False] * 7 + [False, True])).tolist() == [1, 2]
    for n in range(40):
        mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
        assert torch.equal(ops.unpack(ops.pack(mask), (n,)), mask)
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(ops.unpack(ops.pack(mask.t()), (5, 3)), mask.t())


def test_backend_and_report_agree() -> None:
    assert ops.backend("meta") == "reference"
    report = ops.report()
    assert report["cpu"]["backend"] == ops.backend("cpu") in ("native-cpu", "reference")
    assert report["cuda"]["backend"] in ("native-cuda", "reference")
