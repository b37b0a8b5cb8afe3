"""The way out: a run's network as plain weights that other libraries load, checked before it is put in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.engine import onnx_format
from pruning.engine.formats import FORMATS, Format, pretrained
from pruning.engine.reading import load_model
from pruning.engine.results import load_masks
from pruning.engine.session import build_recorded, open_session
from pruning.engine.shrinking import RECORD, load_shrunk, read_shrunk
from pruning.events import Tell, silent
from pruning.plan import PlanError, suggest
from pruning.record import placing, runs
from pruning.seeds import derive

EXAMPLES = 4  # that outputs are compared on, together and the first alone


@dataclass(frozen=True)
class Subject:
    """What is exported: a network in evaluation mode, its masks, the record of its inputs, and a way to build it afresh."""

    model: str
    network: nn.Module
    masks: Mapping[str, Tensor]
    sparsity: float | None
    record: Mapping[str, Any]
    fresh: Callable[[], nn.Module]


def export_run(
    run: Path | str,
    format: str = "safetensors",
    to: Path | None = None,
    *,
    trust_code: bool = False,
    dry_run: bool = False,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Returns what was written, keys below.

    run, model, format, path, bytes, tensors, params, nonzero, sparsity (of what is prunable; None of a shrunk network),
    model_sparsity (zeros of all parameters of two or more dimensions), pruned and zeros (how many weights the masks prune, how
    many of them are +0 in what was written), difference (the largest, of outputs), examples, loading (how it is loaded),
    unchanged (whether the same lay there before); of ONNX also inputs and outputs.

    `run` is a run's folder, or for ONNX one that :func:`shrink_run` made. The file, for "hf" a folder, is `to` or lies beside
    the run. It is read back, into a fresh network where that can be built by name, and compared before it is put in its place.
    Raises PlanError where it cannot hold the network, does not give the same outputs, or would replace something else.
    """
    form, run = find(format), Path(run)
    path = form.default(run) if to is None else Path(to)
    _check_place(path, format, form)
    if format == "onnx":
        onnx_format.libraries()
    subject = _shrunk(run, format, form, trust_code) if (run / RECORD).is_file() else _run(run, trust_code, tell)
    if not form.takes(subject.network):
        others = ", ".join(name for name, other in FORMATS.items() if other.takes(subject.network))
        raise PlanError(
            f"format '{format}' is for {form.kind}, which model '{subject.model}' is not; it can be: {others}"
        )
    examples = _examples(subject)
    with placing.aside(path) as part, _failures_named(subject, format):
        form.write(subject.network, examples[0], part)
        tensors, call = form.read(subject.fresh(), part)
        zeros = _check_state(subject, tensors, form)
        difference = max(_distance(subject.network, call, x, form, format) for x in examples)
        same = placing.lies_there(part, path)
        made = {
            "run": str(run),
            "model": subject.model,
            "format": format,
            "path": str(path),
            **_facts(subject, part),
            "tensors": len(tensors),
            "zeros": zeros,
            "difference": difference,
            "examples": EXAMPLES,
            "loading": form.loading.replace("PATH", str(path)).replace("NETWORK", _class_name(subject.network)),
            "unchanged": same,
            **(onnx_format.ends(part) if format == "onnx" else {}),
        }
        if not (same or dry_run):
            placing.settle(part, path)
        return made


def _facts(subject: Subject, part: Path) -> dict[str, Any]:
    """Returns sizes and shares of zeros of what was written."""
    parameters = list(subject.network.parameters())
    nonzero = [int(parameter.count_nonzero()) for parameter in parameters]
    matrices = [(n, p.numel()) for n, p in zip(nonzero, parameters, strict=True) if p.ndim >= 2]
    left, total = sum(n for n, _ in matrices), sum(n for _, n in matrices)
    files = [part] if part.is_file() else [file for file in part.rglob("*") if file.is_file()]
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "params": sum(parameter.numel() for parameter in parameters),
        "nonzero": sum(nonzero),
        "sparsity": subject.sparsity,
        "model_sparsity": 1 - left / total if total else 0.0,
        "pruned": sum(int((~mask).sum()) for mask in subject.masks.values()),
    }


def _class_name(network: nn.Module) -> str:
    found = pretrained(network)
    return type(network if found is None else found[1]).__name__


def find(format: str) -> Format:
    """Returns the form of a name; raises PlanError for others."""
    if format not in FORMATS:
        raise PlanError(f"format '{format}' is unknown{suggest(format, FORMATS)}; allowed: {', '.join(FORMATS)}")
    return FORMATS[format]


@contextlib.contextmanager
def _failures_named(subject: Subject, format: str) -> Iterator[None]:
    """Turns what a library raises, as for a class of the user's own that it cannot save, into one line."""
    try:
        yield
    except (PlanError, OSError):
        raise
    except Exception as error:  # of safetensors, torch, transformers or a class of the user's own
        reason = " ".join(str(error).split())[:500]
        what = f"model '{subject.model}' cannot be exported as '{format}'"
        raise PlanError(f"{what}: {type(error).__name__}: {reason}") from error


def _check_place(path: Path, format: str, form: Format) -> None:
    """Raises PlanError where the path cannot be one of the form's."""
    if not str(path).isprintable():
        raise PlanError(f"out {str(path)!r} has characters that a line of standard output cannot carry")
    if form.suffixes and path.suffix not in form.suffixes:
        raise PlanError(
            f"'{path}' is no name for a file of format '{format}': it must end in {' or '.join(form.suffixes)}"
        )
    if path.exists() and path.is_dir() == bool(form.suffixes):
        kind = "file" if form.suffixes else "folder"
        raise PlanError(f"'{path}' exists and is no {kind}, which format '{format}' writes; name another path")
    if path.is_dir() and runs.is_run(path):
        raise PlanError(f"'{path}' is a run folder; name another path")


def _run(run: Path, trust_code: bool, tell: Tell) -> Subject:
    network = load_model(run, trust_code=trust_code)
    masks, summary = load_masks(run, network), runs.read_network(run)
    session = open_session("cpu", trust_code=trust_code, tell=tell)
    seed = derive(runs.train_settings(run).seed, "export")  # another one: what does not come from the file differs

    def fresh() -> nn.Module:
        return build_recorded(session, run, seed).eval()

    everything = {} if masks is None else masks.everything()
    return Subject(summary["model"], network, everything, summary["sparsity"], summary, fresh)


def _shrunk(folder: Path, format: str, form: Format, trust_code: bool) -> Subject:
    record = read_shrunk(folder)
    if form.by_name:
        others = ", ".join(name for name, other in FORMATS.items() if not other.by_name)
        raise PlanError(
            f"'{folder}' is a shrunk network, which no library builds by its name for format '{format}'; allowed: {others} "
            "(its weights.safetensors is plain, too: pruning.engine.load_shrunk builds the network)"
        )

    def load() -> nn.Module:
        return load_shrunk(folder, trust_code=trust_code)

    return Subject(record["model"], load(), {}, None, record, load)


def _examples(subject: Subject) -> list[Any]:
    """Returns inputs of random normal numbers, or zeros and ones where they are integers; zeros alone where those do not fit."""
    kinds = subject.record.get("input_types")
    blank = trees.blank(subject.record["input"], kinds, EXAMPLES)
    generator = torch.Generator().manual_seed(0)

    def draw(zeros: Tensor) -> Tensor:
        if zeros.is_floating_point():
            return torch.randn(zeros.shape, generator=generator).to(zeros.dtype)
        return torch.randint(0, 2, zeros.shape, generator=generator).to(zeros.dtype)

    drawn = trees.each(draw, blank)
    try:
        with torch.no_grad():
            trees.apply(subject.network, drawn)
    except Exception:  # of lengths, say, or graphs, which must belong together
        drawn = blank
    return [drawn, trees.each(lambda tensor: tensor[:1], drawn)]


def _check_state(subject: Subject, tensors: Mapping[str, Tensor], form: Format) -> int:
    """Returns how many pruned weights are +0 in what was written; raises PlanError where it is not what the network holds."""
    state = subject.network.state_dict()
    lost = sorted(state.keys() - tensors.keys()) if form.by_name else []
    if lost:
        raise PlanError(f"what was written lacks '{lost[0]}' of model '{subject.model}'")
    for name, tensor in tensors.items():
        if name not in state or tensor.dtype != state[name].dtype or not _same_bits(tensor, state[name]):
            raise PlanError(f"'{name}' of what was written is not that of model '{subject.model}'")
    zeros = 0
    for name, mask in subject.masks.items():
        if name in tensors:
            gone = tensors[name][~mask]
            zeros += int(((gone == 0) & ~gone.signbit()).sum())
    return zeros


def _same_bits(first: Tensor, second: Tensor) -> bool:
    one, other = first.contiguous(), second.contiguous()
    return one.shape == other.shape and torch.equal(
        one.flatten().view(torch.uint8) if one.numel() else one,
        other.flatten().view(torch.uint8) if one.numel() else other,
    )


@torch.no_grad()
def _distance(network: nn.Module, call: Callable[[Any], Any], x: Any, form: Format, format: str) -> float:
    """Returns the largest difference of the outputs on x; raises PlanError where it is more than rounding."""
    expected, given = list(trees.tensors(trees.apply(network, x))), list(trees.tensors(call(x)))
    given = given[: len(expected)]  # transformers' own outputs may hold more than the class scores
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in given]:
        shapes = [[list(tensor.shape) for tensor in side] for side in (given, expected)]
        raise PlanError(f"what was written gives outputs {shapes[0]}, the network {shapes[1]}")
    worst = 0.0
    for one, other in zip(expected, given, strict=True):
        one, other = one.double(), other.double()
        off = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs())
        largest = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0.0
        difference = float(off.max()) if off.numel() else 0.0
        if not difference <= form.tolerance * max(largest, 1e-6):
            raise PlanError(
                f"a network of the weights that were written gives other outputs: they differ by {difference:.2g}, the largest is "
                f"{largest:.2g} (format '{format}'); does it compute with something that its state_dict() lacks, or at random?"
            )
        worst = max(worst, difference)
    return worst
