"""MACs of recurrent layers, of stacked experts and of products between activations, against computations of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import pruning
from pruning import PlanError
from pruning.flops import Report, count_macs
from pruning.masks import Masks, prunable


def by_torch(model: nn.Module, *x: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(*x)
    return counter.get_total_flops() // 2


def products(report: Report) -> int:
    return sum(layer.macs for layer in report.layers if layer.type == "product")


# --- recurrent layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_recurrent_layers_by_their_formula(kind: type[nn.RNNBase], layers: int, both: bool, first: bool) -> None:
    gates = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}[kind]
    i, h, steps, ways = 5, 6, 7, 2 if both else 1
    layer = kind(i, h, layers, batch_first=first, bidirectional=both)
    x = torch.randn(3, steps, i) if first else torch.randn(steps, 3, i)
    wanted = sum(steps * ways * gates * h * ((i if n == 0 else h * ways) + h) for n in range(layers))
    assert count_macs(layer, x, batch_dim=0 if first else 1).macs == wanted


def test_a_projection_of_an_lstm_is_counted() -> None:
    layer = nn.LSTM(5, 6, proj_size=2, batch_first=True)
    assert count_macs(layer, torch.randn(1, 7, 5)).macs == 7 * (4 * 6 * (5 + 2) + 2 * 6)


def test_packed_sequences_count_the_steps_that_they_have() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(5, 6, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([4]), batch_first=True)
            return self.rnn(packed)[0].data

    assert count_macs(Packed(), torch.randn(2, 7, 5)).macs == 4 * 2 * 3 * 6 * (5 + 6)


@pytest.mark.parametrize(("cell", "gates"), [(nn.RNNCell, 1), (nn.LSTMCell, 4), (nn.GRUCell, 3)])
def test_cells_count_as_one_step(cell: type[nn.RNNCellBase], gates: int) -> None:
    report = count_macs(cell(5, 6), torch.randn(2, 5))
    assert report.macs == gates * 6 * (5 + 6)
    assert report.uncounted == []


def test_an_lstm_counts_as_its_linear_layers_unrolled_and_masks_count_in_it() -> None:
    class Unrolled(nn.Module):
        def __init__(self, like: nn.LSTM) -> None:
            super().__init__()
            self.x, self.h = nn.Linear(5, 24), nn.Linear(6, 24)
            self.x.weight, self.h.weight = like.weight_ih_l0, like.weight_hh_l0

        def forward(self, x: Tensor) -> Tensor:
            h = c = x.new_zeros(len(x), 6)
            for step in x.unbind(1):
                i, f, g, o = (self.x(step) + self.h(h)).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            return h

    layer = nn.LSTM(5, 6, batch_first=True)
    masks = pruning.prune(layer, 0.75)
    whole, unrolled = count_macs(layer, torch.randn(1, 7, 5)), count_macs(Unrolled(layer), torch.randn(1, 7, 5))
    assert (whole.macs, whole.sparse_macs) == (unrolled.macs, unrolled.sparse_macs) == (7 * 264, 7 * masks.kept)
    assert count_macs(layer, torch.randn(1, 7, 5), masks).sparse_macs == 7 * masks.kept
    assert whole.nonzero == whole.params - 264 + masks.kept


# --- products of activations --------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention by torch's function or by its formula, or linear attention."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv = how, nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:  # [N, L, 16]
        q, k, v = (t.unflatten(2, (4, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, 2))
        if self.how == "function":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.how == "linear":
            return q @ (k.transpose(2, 3) @ v)
        if self.how == "einsum":
            return torch.einsum("nhls,nhse->nhle", torch.einsum("nhle,nhse->nhls", q, k).softmax(-1), v)
        return (q @ k.transpose(2, 3)).softmax(-1) @ v


@pytest.mark.parametrize("how", ["function", "causal", "einsum", "formula", "linear"])
def test_attentions_own_products_are_counted_dense(how: str) -> None:
    model, x = Attention(how), torch.randn(1, 9, 16)
    masks = pruning.prune(model, 0.9)
    report = count_macs(model, x)
    own = 2 * 9 * 4 * 4 * 4 if how == "linear" else 2 * 9 * 9 * 16
    assert products(report) == own
    with sdpa_kernel(SDPBackend.MATH):  # of the kernels for CPUs torch counts nothing
        assert report.macs == 9 * 16 * 48 + own == by_torch(model, x)
    assert report.sparse_macs == 9 * masks.kept + own
    alone = count_macs(model, x, convention="weights")
    assert (alone.macs, alone.sparse_macs, products(alone)) == (9 * 16 * 48, 9 * masks.kept, 0)
    assert any(line.startswith("Attention (") for line in alone.uncounted)


@pytest.mark.parametrize(("length", "speedup"), [(128, 2.0), (8192, 1.02)])
def test_a_long_sequence_leaves_little_of_the_speedup(length: int, speedup: float) -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 8, 64, batch_first=True), 1, enable_nested_tensor=False
    )
    masks = pruning.prune(model, 0.9)
    report = count_macs(model, torch.randn(1, length, 64))
    weights, own = 6 * 64 * 64 * length, 2 * length * length * 64
    assert report.macs == weights + own
    assert report.speedup == pytest.approx((weights + own) / (masks.kept * length + own))
    assert report.speedup == pytest.approx(speedup, rel=0.1)


def test_distances_and_products_of_integers_are_counted() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            whole = torch._int_mm(torch.ones(17, 8, dtype=torch.int8), torch.ones(8, 8, dtype=torch.int8))
            return torch.cdist(self.fc(x), torch.ones(5, 4), p=1.0).sum() + whole.sum()

    report = count_macs(Odd(), torch.randn(1, 4))
    assert products(report) == 17 * 8 * 8 + 5 * 4


# --- parameters of no layer ---------------------------------------------------------------------------------


class Experts(nn.Module):
    """Stacked experts, each on its share of the rows, by one batched product or by one for each."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.grouped = grouped
        self.stack = nn.Parameter(torch.randn(3, 8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, 6, 8]
        rows = x.flatten(0, 1)
        if self.grouped:
            return torch.bmm(rows.unflatten(0, (3, -1)), self.stack)
        parts = rows.split([1, 2, len(rows) - 3])
        return torch.cat([part @ self.stack[i] for i, part in enumerate(parts)])


@pytest.mark.parametrize("grouped", [False, True])
def test_stacked_experts_count_as_the_parameter_that_they_are(grouped: bool) -> None:
    model = Experts(grouped)
    x = torch.randn(1, 6, 8)
    masks = pruning.prune(model, 0.5, include=["stack"])
    report = count_macs(model, x)
    kept = [int(masks["stack"][i].sum()) for i in range(3)]
    wanted = sum(n * k for n, k in zip((2, 2, 2) if grouped else (1, 2, 3), kept, strict=True))
    assert (report.macs, report.sparse_macs) == (6 * 64, wanted)
    assert count_macs(model, x, masks).sparse_macs == wanted
    assert [(layer.name, layer.params) for layer in report.layers] == [("", 192)]
    assert report.uncounted == []


def test_grouped_products_count_each_expert_by_its_rows() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = nn.Parameter(torch.randn(3, 16, 8))

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.tensor([1, 4, 6], dtype=torch.int32)
            return F.grouped_mm(x[0].bfloat16(), self.stack.bfloat16(), offs=ends)

    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    assert count_macs(Grouped(), torch.randn(1, 6, 16)).macs == 6 * 16 * 8


def test_a_mixture_of_experts_of_transformers_is_counted() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    example = {"input_ids": torch.randint(0, 100, (1, 6)), "use_cache": False}
    report = count_macs(model, example)
    experts = 6 * 2 * (16 * 64 + 32 * 16)  # two experts for each token
    attention = 6 * (2 * 16 * 16 + 2 * 16 * 8)
    assert sum(layer.macs for layer in report.layers if "experts" in layer.name) == experts
    assert report.macs - products(report) == experts + attention + 6 * 16 * 4 + 6 * 16 * 100
    masks = pruning.prune(model, 0.9, include=["*experts*"], tell=lambda event: None)
    assert masks.total > experts / 6
    assert count_macs(model, example).speedup > 4


def test_conv1d_of_transformers_and_bilinear_layers_are_counted() -> None:
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    report = count_macs(Conv1D(6, 4), torch.randn(1, 7, 4))
    assert (report.macs, report.uncounted) == (7 * 24, [])

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bilinear = nn.Bilinear(3, 4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.bilinear(x[..., :3], x[..., 3:])

    assert count_macs(Two(), torch.randn(1, 7)).macs == 3 * 4 * 5


def test_parameters_that_are_used_in_other_ways_are_listed() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = nn.Parameter(torch.zeros(7, 4))
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + self.where)

    assert count_macs(Positions(), torch.randn(1, 7, 4)).uncounted == ["Positions (add): the model itself"]


# --- operations of one's own --------------------------------------------------------------------------------


@torch.library.custom_op("mylib::triple", mutates_args=())
def triple(x: Tensor) -> Tensor:
    return 3 * x


def test_a_handle_counts_an_operation_of_ones_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return triple(self.fc(x))

    x = torch.randn(1, 4)
    assert count_macs(Own(), x).uncounted == ["Own (triple): the model itself"]
    report = count_macs(Own(), x, handles={"mylib::triple": lambda args, out: args[0].numel() + 1})
    assert (report.macs, products(report), report.uncounted) == (16 + 5, 5, [])


@pytest.mark.parametrize(
    ("handles", "says"),
    [
        ({"triple": lambda args, out: 1}, "handles map an operation, as 'library::operation'"),
        ({"a::b": 3}, "to a function of its MACs, not 'a::b' to 3"),
        (
            {"aten::relu": lambda args, out: -1},
            "the handle of 'aten::relu' must return its MACs, a whole number from 0, not -1",
        ),
    ],
)
def test_bad_handles_are_refused(handles: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        count_macs(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.randn(1, 2), handles=handles)


@pytest.mark.parametrize("kind", ["linear", "attention", "cell", "experts"])
def test_weights_that_autocast_casts_count_as_weights(kind: str) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.inner = {
                "linear": nn.Linear(8, 8),
                "attention": attention,
                "cell": nn.LSTMCell(8, 8),
                "experts": Experts(True),
            }[kind]

        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                args = (x, x, x) if kind == "attention" else (x[:, 0],) if kind == "cell" else (x,)
                return self.inner(*args)

    model, x = Cast(), torch.randn(1, 6 if kind == "experts" else 8, 8)
    masks = pruning.prune(model, 0.75, include=["*stack"] if kind == "experts" else ())
    report, weights = count_macs(model, x), count_macs(model, x, convention="weights")
    assert weights.macs > weights.sparse_macs
    assert weights.speedup == pytest.approx(count_macs(model.inner, *plain(kind, x), convention="weights").speedup)
    assert report.nonzero == report.params - masks.total + masks.kept


def plain(kind: str, x: Tensor) -> tuple[Any, ...]:
    return ((x, x, x),) if kind == "attention" else (x[:, 0],) if kind == "cell" else (x,)


def test_sparse_tensors_do_not_stop_the_count_and_large_distances_are_counted() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.sparse.mm(torch.eye(30).to_sparse(), self.fc(x[0]))
            return torch.cdist(x, torch.ones(40, 4))

    report = count_macs(Graph(), torch.randn(1, 30, 4))
    assert report.macs >= 30 * 16 + 30 * 40 * 4


def test_a_handle_that_fails_is_named() -> None:
    with pytest.raises(PlanError, match=r"the handle of 'aten::relu' fails: ZeroDivisionError"):
        count_macs(
            nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            torch.randn(1, 2),
            handles={"aten::relu": lambda args, out: 1 // 0},
        )


def test_masks_of_any_parameter_count(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    masks = Masks({name: torch.zeros_like(w, dtype=torch.bool) for name, w in prunable(model, include="0").items()})
    report = count_macs(model, torch.zeros(1, 3, dtype=torch.long), masks)
    assert (report.sparse_macs, report.nonzero) == (0, 2)
