"""The forms in which a network leaves the house: how each is written, and how what was written is read back and called.

All hold plain weights under the network's own names. A reader builds a fresh network for them, by name or by the class that
wrote them, so that what an export is held to is what the file says.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pruning import trees
from pruning.engine import onnx_format
from pruning.record import checkpoint

Read = tuple[dict[str, Tensor], Callable[[Any], Any]]  # the tensors by name, and what calls the network that was read


@dataclass(frozen=True)
class Format:
    """One form. `suffixes` are those of its files' names, none where it is a folder.

    `takes` says of a network whether it can be written so, `kind` of which kind it must be. `write` is called with (network,
    example, path), `read` with (fresh network, path). `tolerance` is how far outputs may be off, as a share of the largest;
    `by_name` whether a fresh network is built by its name. `loading` says how others read PATH; NETWORK in it is the network's
    class.
    """

    suffixes: tuple[str, ...]
    write: Callable[[nn.Module, Any, Path], None]
    read: Callable[[nn.Module, Path], Read]
    loading: str
    tolerance: float = 1e-5
    by_name: bool = True
    takes: Callable[[nn.Module], bool] = lambda network: True
    kind: str = ""

    def default(self, run: Path) -> Path:
        """Returns where a run's export goes unless a path is named: beside the run."""
        return run.with_name(run.name + (self.suffixes[0] if self.suffixes else "-hf"))


def _plain(network: nn.Module) -> dict[str, Tensor]:
    """Returns the state by name, tied weights under each of their names: every library's load_state_dict takes it."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in checkpoint.state(network).items()}


def _write_safetensors(network: nn.Module, example: Any, path: Path) -> None:
    save_file(_plain(network), path, {"format": "pt"})


def _write_torch(network: nn.Module, example: Any, path: Path) -> None:
    torch.save(_plain(network), path)


def _loaded(fresh: nn.Module, tensors: Mapping[str, Tensor]) -> Read:
    fresh.load_state_dict(dict(tensors))
    return dict(tensors), lambda x: trees.apply(fresh.eval(), x)


def _read_safetensors(fresh: nn.Module, path: Path) -> Read:
    return _loaded(fresh, load_file(path))


def _read_torch(fresh: nn.Module, path: Path) -> Read:
    return _loaded(fresh, torch.load(path, weights_only=True))


def pretrained(network: nn.Module) -> tuple[str, Any] | None:
    """Returns (name, module) of the part that transformers can save, itself "", where it has all parameters; None without one."""
    everything = {id(parameter) for parameter in network.parameters()}
    for name, module in network.named_modules():
        if hasattr(module, "save_pretrained") and hasattr(module, "config"):
            return (name, module) if everything == {id(parameter) for parameter in module.parameters()} else None
    return None


def _part(network: nn.Module) -> tuple[str, Any]:
    return pretrained(network) or ("", network)


def _write_hf(network: nn.Module, example: Any, path: Path) -> None:
    with _silent():
        _part(network)[1].save_pretrained(path)


def _read_hf(fresh: nn.Module, path: Path) -> Read:
    name, module = _part(fresh)
    with _silent():
        loaded: nn.Module = type(module).from_pretrained(path, local_files_only=True)
    if name:
        fresh.set_submodule(name, loaded)
    else:
        fresh = loaded
    return checkpoint.state(fresh), lambda x: trees.apply(fresh.eval(), x)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Runs its body without the progress bars and notes of transformers, which all go to standard error."""
    from transformers.utils import logging as told

    bars, level = told.is_progress_bar_enabled(), told.get_verbosity()
    told.disable_progress_bar()
    told.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        (".safetensors",),
        _write_safetensors,
        _read_safetensors,
        'model.load_state_dict(safetensors.torch.load_file("PATH"))',
    ),
    "torch": Format(
        (".pt", ".pth", ".bin", ".ckpt", ".tar"),
        _write_torch,
        _read_torch,
        'model.load_state_dict(torch.load("PATH", weights_only=True))',
    ),
    "hf": Format(
        (),
        _write_hf,
        _read_hf,
        'NETWORK.from_pretrained("PATH")',
        takes=lambda network: pretrained(network) is not None,
        kind="networks of transformers, with save_pretrained and a config",
    ),
    "onnx": Format(
        (".onnx",),
        onnx_format.write,
        onnx_format.read,
        'onnxruntime.InferenceSession("PATH")',
        tolerance=1e-3,
        by_name=False,
    ),
}
