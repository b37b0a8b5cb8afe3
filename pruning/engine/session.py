"""What the phases of one command share: device, trust, listener, and the data that they have already loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning import data, models, usercode
from pruning.data import Data, data_folder
from pruning.data.downloading import fetch
from pruning.engine import trial
from pruning.events import Tell, Warned, silent
from pruning.models.check import buffers_kept
from pruning.plan import PlanError, Train
from pruning.record import runs, trust
from pruning.record.foreign import Foreign
from pruning.record.stamp import coded, located, place, stamped
from pruning.training.tasks import TASKS
from pruning.training.tasks.base import Task


@dataclass
class Session:
    """One command's arguments and its loaded data sets."""

    device: torch.device
    data_dir: Path | None
    trust_code: bool
    tell: Tell
    track: str | None
    download: bool = False
    loaded: dict[str, Data] = field(default_factory=dict)
    weights: Foreign | None = None  # trained elsewhere, for the run that adopts them


@dataclass(frozen=True)
class Workbench:
    """What a run works with: a training's settings made real, its data on the device and a way to build its network."""

    train: Train
    code: dict[str, str]  # absolute paths of the user's source files, by key of phase.json's `code`
    data_dir: str | None
    data: Data
    task: Task
    task_name: str
    device: torch.device

    @property
    def located(self) -> Train:
        """Returns the training's settings with the user's code named by absolute paths."""
        return located(self.train, self.code)

    def build(self, seed: int) -> nn.Module:
        """Returns the network freshly initialized from `seed`, on the device; checks that it classifies this data."""
        train = self.train
        network = models.build(
            place(train.model, self.code.get("model_code")),
            self.data.shape,
            self.data.classes,
            options=train.model_options,
            weight_init=train.weight_init,
            norm_init=train.norm_init,
            seed=seed,
            trial=None
            if trial.plain(self.task_name, self.data.shape)
            else trial.on_examples(self.task, *self.data.first(), self.data.classes),
        )
        return network.to(self.device)

    def check(self, network: nn.Module) -> None:
        """Raises PlanError where the network cannot take the data's examples or returns what the task cannot use."""
        x, y = self.data.first()
        mode = network.training
        network.eval()
        try:
            with torch.no_grad():
                output = self.task.forward(network, x)
        except PlanError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            kind = "images" if self.task_name == "classification" else "examples"
            raise PlanError(
                f"model '{self.train.model}' cannot take {kind} of '{self.train.data}' ({_size(self.data.shape)}): {reason}"
            ) from error
        finally:
            network.train(mode)
        with torch.no_grad():
            self.task.check(output, y, self.data.classes, f"model '{self.train.model}'")
            self.task.loss(output, y, self.train.label_smoothing)

    def check_steps(self, network: nn.Module) -> None:
        """Raises PlanError where the network has nothing to train, or the last batch of an epoch cannot be trained on."""
        model = f"model '{self.train.model}'"
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise PlanError(f"{model} has no parameter that is trained: all are frozen (requires_grad is False)")
        size, images = self.train.batch_size, self.data.sizes["train"]
        last = images % size or min(size, images)
        if last > 1:
            return
        x, _ = self.data.first()
        mode = network.training
        network.train()
        try:
            with buffers_kept(network), torch.no_grad():
                self.task.forward(network, x)
        except ValueError as error:
            raise PlanError(
                f"{model} cannot train on the last batch of an epoch, which holds one of {images} examples with batch_size {size}: "
                f"{' '.join(str(error).split())}; choose another batch_size"
            ) from error
        finally:
            network.train(mode)


def open_session(
    device: str = "auto",
    data_dir: Path | str | None = None,
    trust_code: bool = False,
    tell: Tell = silent,
    track: str | None = None,
    download: bool = False,
) -> Session:
    """Returns a session; raises PlanError for a device or a tracker that is not there."""
    if track not in (None, "tensorboard"):
        raise PlanError(f"tracker '{track}' is unknown; allowed: tensorboard")
    where = None if data_dir is None else Path(data_dir)
    return Session(find_device(device), where, trust_code, tell, track, download)


def find_device(name: str) -> torch.device:
    """Returns the device of `auto`, `cpu`, `cuda` or `cuda:i`; auto takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PlanError(f"device '{name}' is unknown; allowed: auto, cpu, cuda, cuda:0 ...") from None
    if device.type not in ("cpu", "cuda"):
        raise PlanError(f"device '{name}' is not supported; allowed: auto, cpu, cuda, cuda:0 ...")
    if device.type == "cuda":
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n:
            raise PlanError(
                f"device '{name}' is not there: this machine has {n} CUDA devices that torch {torch.__version__} sees"
            )
        return torch.device("cuda", device.index or 0)
    return device


def recorded(session: Session, run: Path) -> tuple[Train, dict[str, str], str | None]:
    """Returns (settings, code paths, data folder) of the run's training; refuses code that this account did not name."""
    trust.check_trust(run, session.trust_code)
    runs.check_digest(run)
    root = runs.history(run)[0]
    train = runs.train_settings(run)
    record = runs.read_record(root)
    code = dict(record.get("code") or {})
    names = coded(train)
    for key, path in code.items():
        if key in names and not names[key].rpartition(":")[0].endswith(".py"):
            _same_module(names[key], path, root)
        if not Path(path).is_file():
            raise PlanError(f"run '{root}' needs its source file {path}, which is not there")
        if hashlib.sha256(Path(path).read_bytes()).hexdigest() != stamped(train, key):
            session.tell(Warned(f"{path} has changed since run '{root}' was made"))
    return train, code, record.get("data_dir")


def _same_module(name: str, path: str, root: Path) -> None:
    """Raises PlanError where a module is found elsewhere than it was when the run was made."""
    found, _ = usercode.resolve(name)
    if str(found) != path:
        raise PlanError(
            f"run '{root}' was made with '{name}' in {path}; from here that module is {found}: go where it was made"
        )


def workbench(session: Session, train: Train, code: dict[str, str], data_dir: str | None) -> Workbench:
    """Returns the workbench with its data loaded; the session's data folder, where given, goes before the recorded one."""
    where = session.data_dir or (Path(data_dir) if data_dir else None)
    keys = ("data", "data_options", "split", "augment", "normalize", "seed")
    key = json.dumps([train.model_dump(include=set(keys)), str(where), code.get("data_code")], sort_keys=True)
    if key not in session.loaded:
        if session.download:
            fetch(train.data, where, session.tell)
        session.loaded[key] = data.load(
            place(train.data, code.get("data_code")),
            where,
            split=train.split,
            augment=train.augment,
            normalize=train.normalize,
            options=train.data_options,
            seed=train.seed,
            device=session.device,
        )
    stored = where is not None or not (
        train.data == "digits" or train.data_code
    )  # these read no folder of their own accord
    absolute = str(data_folder(where).resolve()) if stored else None
    loaded = session.loaded[key]
    path = code.get("task") if train.task else _beside(loaded.task, code.get("data_code"))
    task, name = find_task(train.task or loaded.task, path)
    return Workbench(train, code, absolute, loaded, task, name, session.device)


def _beside(task: Any, data_code: str | None) -> str | None:
    """Returns the file of a task that the data's function names, where it lies beside the function's own; else None."""
    file = task.rpartition(":")[0] if isinstance(task, str) else ""
    found = Path(data_code or "").parent / file
    return str(found) if data_code and file.endswith(".py") and found.is_file() else None


def find_task(named: Any, path: str | None = None) -> tuple[Task, str]:
    """Returns a task and its name; `named` is a name, code of the user's own, or the task itself, made or not."""
    if isinstance(named, str):
        named, name = TASKS.find(place(named, path)).load(), named
    else:
        name = getattr(named, "__name__", type(named).__name__)
    task = named() if isinstance(named, type) else named
    if not isinstance(task, Task):
        raise PlanError(f"task '{name}' must be a pruning.training.tasks.base.Task, not {type(task).__name__}")
    return task, name


def build_recorded(session: Session, run: Path, seed: int | None = None) -> nn.Module:
    """Returns the finished run's network on the device, freshly initialized (from its own seed or another); needs no data."""
    train, code, _ = recorded(session, run)
    summary = runs.read_network(run)
    shape = summary["input"]
    network = models.build(
        place(train.model, code.get("model_code")),
        shape if isinstance(shape, dict) else tuple(tuple(s) if isinstance(s, list) else s for s in shape),
        summary["classes"],
        options=train.model_options,
        weight_init=train.weight_init,
        norm_init=train.norm_init,
        seed=train.seed if seed is None else seed,
        trial=trial.of_record(summary),
    )
    return network.to(session.device)


def _size(shape: Any) -> str:
    return "x".join(map(str, shape)) if all(isinstance(n, int) for n in shape) else str(shape)
