"""What the phases of one command share: device, trust, listener, and the data that they have already loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning import data, models
from pruning.data import Data, data_folder
from pruning.events import Tell, Warned, silent
from pruning.plan import PlanError, Train
from pruning.record import runs, trust
from pruning.record.stamp import located, place, stamped


@dataclass
class Session:
    """One command's arguments and its loaded data sets."""

    device: torch.device
    data_dir: Path | None
    trust_code: bool
    tell: Tell
    track: str | None
    loaded: dict[str, Data] = field(default_factory=dict)


@dataclass(frozen=True)
class Workbench:
    """What a run works with: a training's settings made real, its data on the device and a way to build its network."""

    train: Train
    code: dict[str, str]  # absolute paths of the user's source files, by key of phase.json's `code`
    data_dir: str | None
    data: Data
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
        )
        return network.to(self.device)

    def check(self, network: nn.Module) -> None:
        """Raises PlanError where the network cannot take an image of the data or does not return [N, classes]."""
        x = self.data.example()
        mode = network.training
        network.eval()
        try:
            with torch.no_grad():
                logits = network(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PlanError(
                f"model '{self.train.model}' cannot take images of '{self.train.data}' ({_size(self.data.shape)}): {reason}"
            ) from error
        finally:
            network.train(mode)
        if not isinstance(logits, Tensor):
            raise PlanError(
                f"model '{self.train.model}' returns a {type(logits).__name__}, not a tensor of class scores"
            )
        if logits.shape != (1, self.data.classes):
            raise PlanError(
                f"model '{self.train.model}' returns {list(logits.shape)} for one image; "
                f"'{self.train.data}' has {self.data.classes} classes, so [1, {self.data.classes}] is expected"
            )


def open_session(
    device: str = "auto",
    data_dir: Path | str | None = None,
    trust_code: bool = False,
    tell: Tell = silent,
    track: str | None = None,
) -> Session:
    """Returns a session; raises PlanError for a device or a tracker that is not there."""
    if track not in (None, "tensorboard"):
        raise PlanError(f"tracker '{track}' is unknown; allowed: tensorboard")
    return Session(find_device(device), None if data_dir is None else Path(data_dir), trust_code, tell, track)


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
    root = runs.history(run)[0]
    train = runs.train_settings(run)
    record = runs.read_record(root)
    code = dict(record.get("code") or {})
    for key, path in code.items():
        if not Path(path).is_file():
            raise PlanError(f"run '{root}' needs its source file {path}, which is not there")
        if hashlib.sha256(Path(path).read_bytes()).hexdigest() != stamped(train, key):
            session.tell(Warned(f"{path} has changed since run '{root}' was made"))
    return train, code, record.get("data_dir")


def workbench(session: Session, train: Train, code: dict[str, str], data_dir: str | None) -> Workbench:
    """Returns the workbench with its data loaded; the session's data folder, where given, goes before the recorded one."""
    where = session.data_dir or (Path(data_dir) if data_dir else None)
    keys = ("data", "data_options", "split", "augment", "normalize", "seed")
    key = json.dumps([train.model_dump(include=set(keys)), str(where), code.get("data_code")], sort_keys=True)
    if key not in session.loaded:
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
    return Workbench(train, code, absolute, session.loaded[key], session.device)


def build_recorded(session: Session, run: Path) -> nn.Module:
    """Returns the finished run's network on the device, freshly initialized; needs no data."""
    train, code, _ = recorded(session, run)
    summary = runs.read_summary(run)
    network = models.build(
        place(train.model, code.get("model_code")),
        tuple(summary["input"]),
        summary["classes"],
        options=train.model_options,
        weight_init=train.weight_init,
        norm_init=train.norm_init,
        seed=train.seed,
    )
    return network.to(session.device)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
