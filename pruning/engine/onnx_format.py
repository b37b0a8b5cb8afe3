"""ONNX: one file for batches of any size, by torch.onnx's exporter, read back by onnxruntime (extra `onnx`).

The graph keeps every parameter as it is and under its name. The exporter's optimizer is left out: it folds normalizations into
weights and renames what it folds; onnxruntime does the same when it loads the file.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pruning import trees
from pruning.plan import PlanError

LARGEST = 2**31 - 2**20  # bytes of weights; a protocol buffer ends at 2 GiB
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def write(network: nn.Module, example: Any, path: Path) -> None:
    """Writes the network, in evaluation mode, as one ONNX file that takes any number of such examples."""
    _, onnxscript, _ = libraries()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > LARGEST:
        raise PlanError(f"format 'onnx' holds 2 GB in one file, and the network has {size / 1e9:.1f}")
    args, kwargs, dynamic = _call(example)
    level = logging.getLogger("torch").level
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.CRITICAL)
            program: Any = torch.onnx.export(
                network, args, kwargs=kwargs, dynamo=True, optimize=False, dynamic_shapes=dynamic, verbose=False
            )
    except Exception as error:  # the exporter raises classes of many packages of its own
        raise PlanError(f"the network cannot be written as ONNX for batches of any size: {_reason(error)}") from error
    finally:
        logging.getLogger("torch").setLevel(level)
    graph = program.model
    onnxscript.optimizer.inline(graph)
    onnxscript.optimizer.fold_constants(graph, should_fold=_is_no_weight)
    onnxscript.optimizer.remove_unused_nodes(graph)
    graph.graph.metadata_props.clear()
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()  # traces of the code with its places on this disk
    program.save(path, external_data=False)


def read(fresh: nn.Module, path: Path) -> tuple[dict[str, Tensor], Any]:
    """Returns the file's tensors that the fresh network has by name, and a function that runs it in onnxruntime."""
    onnx = libraries()[0]
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    shared: dict[int, list[str]] = {}  # names of one tensor, of which the file has one
    for name, tensor in fresh.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(name)
    tensors: dict[str, Tensor] = {}
    for names in shared.values():
        for held in [name for name in names if name in stored][:1]:
            value = torch.from_numpy(onnx.numpy_helper.to_array(stored[held]).copy())
            tensors |= dict.fromkeys(names, value)
    session = _session(path)

    def call(x: Any) -> tuple[Tensor, ...]:
        try:
            return tuple(torch.from_numpy(value) for value in session.run(None, _feed(session, x)))
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise PlanError(
                f"onnxruntime does not run what was written on {trees.examples(x)} of the examples: {_reason(error)}"
            ) from error

    return tensors, call


def ends(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the file's inputs and outputs: name, shape (with names for sizes that are free) and type of each."""
    session = _session(path)
    sides = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    return {
        side: [{"name": end.name, "shape": end.shape, "type": end.type[7:-1]} for end in ends]
        for side, ends in sides.items()
    }


def _session(path: Path) -> Any:
    runtime = libraries()[2]
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; what it optimizes away is no news
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def libraries() -> tuple[Any, Any, Any]:
    """Returns the modules onnx, onnxscript and onnxruntime; raises PlanError where one is missing."""
    found: list[ModuleType] = []
    for name in LIBRARIES:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise PlanError(
                f"format 'onnx' needs {', '.join(LIBRARIES)}: pip install 'pruning[onnx]' ({error})"
            ) from None
    return found[0], found[1], found[2]


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Returns arguments, keyword arguments and, in their form, the dimensions that are free: the first of each tensor."""
    batch = torch.export.Dim("batch")
    free = trees.each(lambda tensor: {0: batch}, example)
    if isinstance(example, dict):
        return (), example, free
    several = isinstance(example, (tuple, list))
    return (tuple(example) if several else (example,)), {}, (free if several else (free,))


def _feed(session: Any, x: Any) -> dict[str, Any]:
    names = [given.name for given in session.get_inputs()]
    if isinstance(x, dict) and set(names) <= set(x):
        return {name: x[name].numpy() for name in names}
    return {name: tensor.numpy() for name, tensor in zip(names, trees.tensors(x), strict=True)}


def _is_no_weight(node: Any) -> bool | None:
    """Returns False where folding a node would take a parameter apart, None elsewhere: the exporter then decides."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")
