"""Data sets fetched over the network when that is asked for: from torchvision's addresses, held to its checksums.

The files go into the data folder whole and all together, or not at all. The transfer is not torchvision's own, which has
no timeout, falls back from https to http and draws on standard error.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import os
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.data import cifar, idx, places
from pruning.data.places import Layout, data_folder
from pruning.events import Downloading, Progress, Tell, silent
from pruning.plan import PlanError, suggest

TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**18


@dataclass(frozen=True)
class Download:
    """A data set that torchvision knows: its class there, how what it offers is laid out, and how else the set may lie here."""

    dataset: str
    layout: Layout
    others: tuple[Layout, ...] = ()


DOWNLOADS = {
    "cifar10": Download("CIFAR10", cifar.PYTHON_10, (cifar.BINARY_10,)),
    "cifar100": Download("CIFAR100", cifar.PYTHON_100, (cifar.BINARY_100,)),
    "mnist": Download("MNIST", idx.MNIST),
    "fashion-mnist": Download("FashionMNIST", idx.FASHION_MNIST),
}


def fetch(name: str, data_dir: Path | str | None, tell: Tell = silent) -> None:
    """Returns when the data set lies in the data folder: at once where it did, else after fetching it.

    `data_dir` is as of :func:`pruning.data.load`. Raises PlanError for a data set that is not on offer, a missing
    torchvision, an address that does not answer, and files that are not what they should be.
    """
    if name not in DOWNLOADS:
        raise PlanError(
            f"data '{name}' cannot be downloaded{suggest(name, DOWNLOADS)}; --download fetches {', '.join(DOWNLOADS)}"
        )
    wanted, root = DOWNLOADS[name], data_folder(data_dir)
    if places.look(root, (wanted.layout, *wanted.others)) is not None:
        return
    dataset = _dataset(name, wanted.dataset)
    with _aside(name, root) as part:
        target = root / wanted.layout.folders[0]
        if hasattr(dataset, "resources"):  # one file each, which are read as they come
            for file, digest in dataset.resources:
                _get(name, [f"{mirror}{file}" for mirror in dataset.mirrors], part / file, digest, target, tell)
        else:
            archive = part.parent / dataset.filename
            _get(name, [dataset.url], archive, dataset.tgz_md5, target, tell)
            _unpack(name, archive, dataset.base_folder, wanted.layout.files, part)
        _put(part, target)


def _dataset(name: str, kind: str) -> Any:
    try:
        return getattr(importlib.import_module("torchvision.datasets"), kind)
    except Exception as error:  # ImportError, or what a torchvision built for another torch raises
        reason = " ".join(str(error).split())
        raise PlanError(
            f"--download of '{name}' needs torchvision: pip install 'pruning[vision]' ({type(error).__name__}: {reason})"
        ) from None


@contextlib.contextmanager
def _aside(name: str, root: Path) -> Iterator[Path]:
    """Yields an empty folder on the data folder's disk; it is gone afterwards, and so is a data folder that got no file."""
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.", suffix=".part") as around:
            part = Path(around) / "files"
            part.mkdir()
            yield part
    except OSError as error:
        raise PlanError(f"data set '{name}' cannot be written to {root}: {error.strerror or error}") from None
    finally:
        if made:
            with contextlib.suppress(OSError):  # it holds the data set now
                root.rmdir()


def _get(name: str, urls: list[str], path: Path, digest: str, target: Path, tell: Tell) -> None:
    """Writes what the first address that gives the right bytes sends."""
    utils = importlib.import_module("torchvision.datasets.utils")
    failures = []
    for url in urls:
        try:
            _transfer(url, path, target, tell)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, OSError) and error.filename == str(path):
                raise
            reason = error.reason if type(error) is urllib.error.URLError else error
            failures.append(f"{url}: {' '.join(str(reason).split()) or type(error).__name__}")
            continue
        if utils.check_integrity(str(path), digest):
            return
        found = utils.calculate_md5(str(path))
        failures.append(f"{url}: what it sent has the MD5 checksum {found}, not {digest}")
    raise PlanError(f"data set '{name}' cannot be downloaded: {'; '.join(failures)}; nothing was kept")


def _transfer(url: str, path: Path, target: Path, tell: Tell) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "prune"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, path.open("wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        tell(Downloading(url, str(target), total))
        done, told = 0, 0.0
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if total and time.monotonic() - told > 0.1:
                tell(Progress(done // 1000, max(done, total) // 1000, "kB"))
                told = time.monotonic()


def _unpack(name: str, archive: Path, folder: str, files: tuple[str, ...], part: Path) -> None:
    """Writes those files of an archive's folder that are read here, and no others."""
    try:
        with tarfile.open(archive) as tar:
            held = set(tar.getnames())
            for file in files:
                inside = tar.extractfile(f"{folder}/{file}") if f"{folder}/{file}" in held else None
                if inside is None:
                    raise PlanError(f"data set '{name}': {archive.name} lacks {folder}/{file}; nothing was kept")
                (part / file).write_bytes(inside.read())
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise PlanError(f"data set '{name}': {archive.name} cannot be unpacked: {reason}; nothing was kept") from None


def _put(part: Path, target: Path) -> None:
    """Moves the files to their place: at once, or one by one into a folder that holds some of them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        os.rename(part, target)
        return
    for path in sorted(part.iterdir()):
        os.replace(path, target / path.name)
