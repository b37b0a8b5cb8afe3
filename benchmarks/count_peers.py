"""MACs of networks of torchvision, timm and transformers, beside torch's FlopCounterMode and fvcore.

    python benchmarks/count_peers.py [--only PART] [--out FILE]

Each row is printed as it comes: our count, that of each peer, and for every difference the operations that make it: what a peer
leaves out, or counts that are no products (normalization and pooling of fvcore). A difference that is not explained ends the
program with 1. Networks have random weights; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pruning.flops import count_macs

TORCHVISION = {
    "alexnet": 64, "vgg11": 32, "resnet18": 64, "resnet50": 64, "wide_resnet50_2": 64, "resnext50_32x4d": 64, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64, "densenet121": 64, "googlenet": 64,
    "shufflenet_v2_x1_0": 64, "mnasnet1_0": 64, "regnet_y_400mf": 64, "convnext_tiny": 64, "vit_b_32": 224, "swin_t": 64,
    "maxvit_t": 224,
}  # fmt: skip
TIMM = {
    "resnet26": 64, "resnest14d": 64, "res2net50d": 64, "regnetx_002": 64, "efficientnet_lite0": 64, "ghostnet_100": 64,
    "convnext_atto": 64, "nf_resnet26": 64, "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224, "mixer_s32_224": 224,
    "gmlp_s16_224": 224, "poolformer_s12": 64, "edgenext_xx_small": 64, "mobilevit_xxs": 64, "levit_128s": 224,
    "xcit_nano_12_p16_224": 224, "cait_xxs24_224": 224,
}  # fmt: skip
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> (config, class, sizes)
    "bert": ("BertConfig", "BertForSequenceClassification", SMALL),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {**SMALL, "max_position_embeddings": 40}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", {**SMALL, "embedding_size": 16}),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", {**SMALL, "embedding_size": 16}),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification",
                   {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel",
             {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**SMALL, "num_key_value_heads": 2, "num_local_experts": 4}),
    "t5": ("T5Config", "T5ForConditionalGeneration",
           {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100, "decoder_start_token_id": 0}),
}  # fmt: skip
FVCORE_ELSE = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "adaptive_avg_pool2d", "upsample_bilinear2d",
               "upsample_nearest2d", "upsample_bicubic2d", "grid_sampler", "adaptive_avg_pool1d")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network: MACs of one example by each counter, and what makes the peers' differences."""

    name: str
    ours: int
    torch: int | None
    fvcore: int | None
    notes: list[str]

    @property
    def explained(self) -> bool:
        """Returns whether each difference has a reason."""
        peers = (("torch", self.torch), ("fvcore", self.fvcore))
        return all(count in (None, self.ours) or any(n.startswith(peer) for n in self.notes) for peer, count in peers)


def networks() -> Iterator[tuple[str, Callable[[], tuple[nn.Module, dict[str, Tensor] | Tensor]]]]:
    """Yields (name, function that returns the network and an example)."""
    for name, size in TORCHVISION.items():
        yield f"torchvision:{name}", lambda n=name, s=size: (_torchvision(n), torch.randn(1, 3, s, s))
    for name, size in TIMM.items():
        yield f"timm:{name}", lambda n=name, s=size: (_timm(n), torch.randn(1, 3, s, s))
    for name in TRANSFORMERS:
        yield f"transformers:{name}", lambda n=name: _transformers(n)


def _torchvision(name: str) -> nn.Module:
    import torchvision

    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **more)


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def _transformers(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers

    config, kind, sizes = TRANSFORMERS[name]
    about = getattr(transformers, config)(**sizes)
    about.use_cache = False
    example = {"input_ids": torch.randint(3, 99, (1, 16))}
    if name == "t5":
        example["decoder_input_ids"] = torch.randint(3, 99, (1, 8))
    return getattr(transformers, kind)(about), example


def compare(name: str, model: nn.Module, example: Any) -> Row:
    """Returns the counts of one network, and the reasons of what differs."""
    model = model.eval().requires_grad_(False)
    kwargs = example if isinstance(example, dict) else {}
    args = () if kwargs else (example,)
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        report = count_macs(model, example)
        theirs, torch_notes = by_torch(model, args, kwargs, report)
        other, fvcore_notes = by_fvcore(model, args, kwargs, report.macs)
    return Row(name, report.macs, theirs, other, [*torch_notes, *fvcore_notes])


def by_torch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], report: Any) -> tuple[int, list[str]]:
    """Returns the MACs of torch's counter; a difference is explained by operations of ours that it does not know."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    total = counter.get_total_flops() // 2
    if total == report.macs:
        return total, []
    recurrent = sum(layer.macs for layer in report.layers if layer.type in ("RNN", "LSTM", "GRU"))
    grouped = sum(layer.macs for layer in report.layers if "Experts" in layer.type)
    for what, macs in (("recurrent layers", recurrent), ("grouped products of experts", grouped)):
        if macs and report.macs - total == macs:
            return total, [f"torch leaves out {what}"]
    return total, []


def by_fvcore(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], ours: int
) -> tuple[int | None, list[str]]:
    """Returns fvcore's MACs, and what it counts beside products or cannot count."""
    from fvcore.nn import FlopCountAnalysis

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            out = self.model(**dict(zip(kwargs, values, strict=True))) if kwargs else self.model(*values)
            return out if isinstance(out, Tensor) else out.logits

    logging.disable(logging.WARNING)
    try:
        analysis = FlopCountAnalysis(Positional(), tuple(kwargs.values()) or args)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        ops: Counter[str] = analysis.by_operator()
        missing = analysis.unsupported_ops()
    except Exception as error:  # its tracer passes on whatever a network raises
        return None, [f"fvcore fails: {type(error).__name__}"]
    finally:
        logging.disable(logging.NOTSET)
    total = int(sum(ops.values()))
    if total == ours:
        return total, []
    extra = {op: int(count) for op, count in ops.items() if op in FVCORE_ELSE and count}
    notes = [f"fvcore adds {', '.join(sorted(extra))}"] if extra else []
    rest = total - sum(extra.values())
    unknown = sorted(op.removeprefix("aten::") for op in missing if any(part in op for part in PRODUCTS))
    if rest < ours and unknown:
        notes.append(f"fvcore leaves out {', '.join(unknown)} ({100 * (ours - rest) / ours:.2g} % of ours)")
    elif rest != ours and "einsum" in ops and abs(rest - ours) < 1e-3 * ops["einsum"]:
        notes.append("fvcore rounds einsum")
    return total, notes if notes and (rest == ours or len(notes) > bool(extra)) else []


PRODUCTS = ("attention", "bmm", "baddbmm", "addmm", "mv", "dot", "grouped_mm", "lstm", "gru", "cdist", "convolution")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="compare the networks whose name holds this")
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    lines = ["| network | ours | torch | fvcore | differences |", "|---|---:|---:|---:|---|"]
    print("\n".join(lines), flush=True)
    for name, make in networks():
        if options.only not in name:
            continue
        row = compare(name, *make())
        rows.append(row)
        shown = ["fails" if n is None else "=" if n == row.ours else f"{n:,}" for n in (row.torch, row.fvcore)]
        lines.append(f"| {name} | {row.ours:,} | {' | '.join(shown)} | {'; '.join(row.notes)} |")
        print(lines[-1], flush=True)
    equal = sum(row.torch == row.ours for row in rows)
    odd = [row.name for row in rows if not row.explained]
    added = sum(not any(n.startswith(("fvcore leaves", "fvcore fails")) for n in row.notes) for row in rows)
    last = (
        f"{len(rows)} networks; equal to torch {equal}; to fvcore but for normalization, pooling and rounding {added}; "
    )
    last += f"not explained: {', '.join(odd) or 'none'}"
    print(f"\n{last}")
    if options.out:
        options.out.write_text("\n".join([*lines, "", last, ""]))
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
