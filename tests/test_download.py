"""--download: data sets fetched from a file server on this machine, whole or not at all, and never without the flag."""

from __future__ import annotations

import hashlib
import importlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Prune, files
from test_data import everything, write_cifar10_python, write_mnist

from pruning import data
from pruning.data import cifar, downloading
from pruning.events import Downloading, Event
from pruning.plan import PlanError, choices
from pruning.plan.names import DataName
from pruning.study import sweep

TRAIN = ("train", "--model", "lenet-5", "--data", "mnist", "--epochs", "1 step", "--device", "cpu")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


class Server:
    """A file server on 127.0.0.1: what lies in `folder`, at `url`; `asked` is what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self.http.asked = self.asked = []  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def offered(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server with made-up data sets on it, and torchvision told their addresses and checksums."""
    datasets = pytest.importorskip("torchvision.datasets", exc_type=Exception)
    write_cifar10_python(server.folder / "cifar-10-batches-py")
    (server.folder / "cifar-10-batches-py" / "readme.html").write_text("not needed")
    rng = np.random.default_rng(0)
    (server.folder / "cifar-100-python").mkdir()
    for part in ("train", "test"):
        table = {b"data": rng.integers(0, 256, (20, 3072), np.uint8), b"fine_labels": list(range(20))}
        (server.folder / "cifar-100-python" / part).write_bytes(pickle.dumps(table, protocol=2))
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        archive = server.folder / kind.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(server.folder / kind.base_folder, kind.base_folder)
        monkeypatch.setattr(kind, "url", server.url + kind.filename)
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    for kind, below in ((datasets.MNIST, "digits"), (datasets.FashionMNIST, "fashion")):
        write_mnist(server.folder / below, zipped=True, rows=30 if below == "digits" else 40)
        monkeypatch.setattr(kind, "mirrors", [f"{server.url}{below}/"])
        known = [(name, md5(server.folder / below / name)) for name, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", known)
    return server


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def left(folder: Path) -> list[str]:
    """Returns what lies in a folder, hidden files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


# --- what is fetched ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "below", "size"),
    [
        ("cifar10", "cifar-10-batches-py", 100),
        ("cifar100", "cifar-100-python", 20),
        ("mnist", "mnist", 30),
        ("fashion-mnist", "fashion-mnist", 40),
    ],
)
def test_a_data_set_is_fetched_once(offered: Server, tmp_path: Path, name: str, below: str, size: int) -> None:
    root, told = tmp_path / "new" / "data", list[Event]()
    downloading.fetch(name, root, told.append)
    assert data.load(name, root, split="none").sizes["train"] == size
    wanted = downloading.DOWNLOADS[name].layout.files
    assert {path.name.removesuffix(".gz") for path in (root / below).iterdir()} == set(wanted)  # and no readme.html
    assert [path.name for path in root.iterdir()] == [below]
    assert all(event.folder == str(root / below) for event in told if isinstance(event, Downloading))
    asked = list(offered.asked)
    downloading.fetch(name, root)
    assert offered.asked == asked


def test_what_is_fetched_is_what_the_library_reads(offered: Server, tmp_path: Path) -> None:
    downloading.fetch("cifar10", tmp_path / "data")
    x, y = everything(data.load("cifar10", tmp_path / "data", split="none", normalize="none"), "train")
    tables = [
        pickle.loads((offered.folder / "cifar-10-batches-py" / f"data_batch_{i}").read_bytes()) for i in range(1, 6)
    ]
    expected = np.concatenate([table[b"data"] for table in tables]).reshape(-1, 3, 32, 32)
    assert torch.equal((x * 255).round().to(torch.uint8), torch.from_numpy(expected))
    assert y.tolist() == [label for table in tables for label in table[b"labels"]]


def test_missing_files_join_those_that_are_there(offered: Server, tmp_path: Path) -> None:
    place = tmp_path / "data" / "mnist"
    write_mnist(place, zipped=True)
    (place / "t10k-labels-idx1-ubyte.gz").unlink()
    (place / "mine.txt").write_text("stays")
    downloading.fetch("mnist", tmp_path / "data")
    assert len(left(tmp_path / "data")) == 1 + 4 + 1
    assert data.load("mnist", tmp_path / "data").sizes["test"] == 30


def test_data_in_another_layout_are_enough(offered: Server, tmp_path: Path) -> None:
    from test_data import write_cifar10

    write_cifar10(tmp_path / "cifar-10-batches-bin")
    downloading.fetch("cifar10", tmp_path)
    assert offered.asked == []


# --- what is refused --------------------------------------------------------------------------------------------------------


def refused(name: str, root: Path, *words: str) -> None:
    before = left(root)
    with pytest.raises(PlanError) as caught:
        downloading.fetch(name, root)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert left(root) == before


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
@pytest.mark.parametrize("present", [False, True])
def test_a_wrong_checksum_leaves_nothing(offered: Server, tmp_path: Path, name: str, present: bool) -> None:
    wrong = {"cifar10": "cifar-10-python.tar.gz", "mnist": "digits/t10k-images-idx3-ubyte.gz"}[name]
    path = offered.folder / wrong
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    root = tmp_path / "data"
    if present:
        root.mkdir()
    refused(name, root, f"data set '{name}'", wrong, md5(path), "nothing was kept")
    assert root.exists() == present


def test_an_address_that_does_not_answer_leaves_nothing(
    offered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    (offered.folder / "fashion" / "train-labels-idx1-ubyte.gz").unlink()
    refused("fashion-mnist", tmp_path / "data", "train-labels-idx1-ubyte.gz", "404")
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    refused("cifar10", tmp_path / "data", "http://127.0.0.1:9/", "refused")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", offered.url + "digits/"])
    downloading.fetch("mnist", tmp_path / "data")  # the second mirror has it


def test_an_archive_without_the_files_is_refused(
    offered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    archive = offered.folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        tar.addfile(entry, io.BytesIO())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    refused("cifar10", tmp_path / "data", "lacks cifar-10-batches-py/data_batch_2")
    archive.write_bytes(b"no archive at all")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    refused("cifar10", tmp_path / "data", "cannot be unpacked")


def test_an_interruption_leaves_nothing(offered: Server, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Downloading) and "labels" in event.url:  # with one file whole
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        downloading.fetch("mnist", tmp_path / "data", interrupt)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written_is_named(offered: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("mnist", tmp_path / "file" / "data", "cannot be written", str(tmp_path / "file"))


@pytest.mark.parametrize("error", [ImportError("No module named 'torchvision'"), RuntimeError("built for another")])
def test_without_torchvision_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = importlib.import_module

    def load(name: str) -> object:
        if name == "torchvision.datasets":
            raise error
        return real(name)

    monkeypatch.setattr(importlib, "import_module", load)
    refused("cifar10", tmp_path, "pip install 'pruning[vision]'", str(error))


def test_what_is_on_offer(tmp_path: Path) -> None:
    assert set(downloading.DOWNLOADS) == {*choices(DataName)} - {"digits", "folder", "tinyimagenet"}
    assert {name for name, line in data.DATASETS.items() if "--download" in line} == set(downloading.DOWNLOADS)
    for name in ("digits", "folder", "sets.py:blobs", "cifar"):
        refused(name, tmp_path, f"data '{name}'", "cifar10, cifar100, mnist, fashion-mnist")


# --- the command line ---------------------------------------------------------------------------------------------------------


def test_never_without_the_flag(prune: Prune, workspace: Path, offered: Server) -> None:
    outcome = prune(*TRAIN)
    assert outcome.code == 1
    assert "--download" in outcome.err
    assert "train-images-idx3-ubyte" in outcome.err
    assert offered.asked == []
    assert not (workspace / "data").exists()


def test_the_flag_of_every_command_that_names_data(prune: Prune, workspace: Path, offered: Server) -> None:
    run = prune(*TRAIN, "--data-dir", "one", "--download")
    assert len(offered.asked) == 4
    assert f"download {offered.url}digits/train-images-idx3-ubyte.gz" in run.err
    evaluated = prune("eval", run.run, "--data-dir", "two", "--download", "--quiet", "--device", "cpu")
    assert (evaluated.run, evaluated.err) == (run.run, "")
    (workspace / "plan.toml").write_text(
        '[[phases]]\nphase = "train"\nmodel = "lenet-5"\ndata = "mnist"\nepochs = "1 step"\n'
    )
    for place, *command in (
        ("three", "run", "plan.toml", "--device", "cpu"),
        ("four", "compare", "plan.toml", "--device", "cpu"),
        ("five", "flops", "--model", "lenet-5", "--data", "mnist"),
        ("six", "prune", run.run, "--sparsity", "0.5", "--device", "cpu"),
    ):
        outcome = prune(*command, "--data-dir", place, "--download")
        assert outcome.code == 0, outcome.err
        assert len(left(workspace / place)) == 5


def test_a_study_fetches_before_its_phases_begin(prune: Prune, workspace: Path, offered: Server) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.Sweep, "carry_out", lambda *args: sweep.Outcome(0, {}, []))
        assert (
            prune("sweep", "renda-figure-7-resnet20-cifar10", "--download", "--device", "cpu", "--data-dir", "one").code
            == 0
        )
    assert left(workspace / "one" / "cifar-10-batches-py") == sorted(cifar.PYTHON_10.files)
    before = files(workspace)
    outcome = prune("sweep", "renda-figure-1-digits", "--download", "--device", "cpu")
    assert (outcome.code, "data 'digits' cannot be downloaded" in outcome.err) == (1, True)
    assert prune("sweep", "renda-figure-1-digits", "--download", "--emit-slurm").code == 2
    assert files(workspace) == before


def test_a_dry_run_fetches_nothing(prune: Prune, workspace: Path, offered: Server) -> None:
    for command in (TRAIN, ("compare", "digits"), ("sweep", "renda-figure-1-digits")):
        outcome = prune(*command, "--download", "--dry-run")
        assert (outcome.code, "--dry-run writes nothing" in outcome.err) == (2, True)
    assert offered.asked == []
