"""The data sets in memory: their file layouts, damage, splits, order, augmentation, normalization."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning import data
from pruning.data import transforms
from pruning.data.source import split
from pruning.plan import PlanError

ROWS = 20


def cifar_rows(labels: int, classes: int, seed: int, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.integers(0, classes, (rows, labels), np.uint8), rng.integers(0, 256, (rows, 3072), np.uint8)], 1
    )


def write_cifar10(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [cifar_rows(1, 10, i) for i in range(6)]
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(rows[i].tobytes())
    (folder / "test_batch.bin").write_bytes(rows[5].tobytes())
    return np.concatenate(rows)


def write_cifar10_python(folder: Path, protocol: int = 2) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [cifar_rows(1, 10, i) for i in range(6)]
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        table = {
            b"data": rows[i][:, 1:].copy(),
            b"labels": rows[i][:, 0].tolist(),
            b"batch_label": b"one",
            b"filenames": [b"a"],
        }
        (folder / name).write_bytes(pickle.dumps(table, protocol=protocol))
    return np.concatenate(rows)


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


def write_mnist(folder: Path, zipped: bool, rows: int = 30) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, rows, 28, 28), np.uint8)
    labels = rng.integers(0, 10, (2, rows), np.uint8)
    for i, part in enumerate(("train", "t10k")):
        write_idx(folder / f"{part}-images-idx3-ubyte", images[i], zipped)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels[i], zipped)
    return images


def everything(d: data.Data, part: str) -> tuple[Tensor, Tensor]:
    pairs = list(d.batches(part, 7))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["cifar-10-batches-bin", ""])
def test_cifar10_binary(tmp_path: Path, below: str) -> None:
    rows = write_cifar10(tmp_path / below)
    d = data.load("cifar10", tmp_path, split="none", normalize="none")
    assert (d.shape, d.classes, d.sizes) == ((3, 32, 32), 10, {"train": 100, "validation": 0, "test": 20})
    x, y = everything(d, "train")
    assert torch.equal(y, torch.from_numpy(rows[:100, 0].astype(np.int64)))
    expected = rows[:100, 1:].reshape(-1, 3, 32, 32).astype(np.float32)
    torch.testing.assert_close(x, torch.from_numpy(expected / 255), rtol=1e-6, atol=0)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar10_python_is_the_same_data(tmp_path: Path, protocol: int) -> None:
    write_cifar10(tmp_path / "one")
    write_cifar10_python(tmp_path / "two" / "cifar-10-batches-py", protocol)
    for part in ("train", "validation", "test"):
        one, two = (everything(data.load("cifar10", tmp_path / where), part) for where in ("one", "two"))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])


def test_cifar100_reads_fine_labels_in_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "a" / "cifar-100-binary").mkdir(parents=True)
    (tmp_path / "b" / "cifar-100-python").mkdir(parents=True)
    for i, name in enumerate(("train", "test")):
        rows = cifar_rows(2, 100, i)
        (tmp_path / "a" / "cifar-100-binary" / f"{name}.bin").write_bytes(rows.tobytes())
        table = {
            b"data": rows[:, 2:].copy(),
            b"fine_labels": rows[:, 1].tolist(),
            b"coarse_labels": rows[:, 0].tolist(),
        }
        (tmp_path / "b" / "cifar-100-python" / name).write_bytes(pickle.dumps(table, protocol=2))
    one, two = (data.load("cifar100", tmp_path / where, split="none") for where in "ab")
    assert one.classes == 100
    assert torch.equal(everything(one, "train")[1], torch.from_numpy(cifar_rows(2, 100, 0)[:, 1].astype(np.int64)))
    assert torch.equal(everything(one, "test")[0], everything(two, "test")[0])
    assert torch.equal(everything(one, "test")[1], everything(two, "test")[1])


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "below"), [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion-mnist", "")])
def test_idx_files(tmp_path: Path, name: str, below: str, zipped: bool) -> None:
    images = write_mnist(tmp_path / below, zipped)
    d = data.load(name, tmp_path, split="none", normalize="none")
    assert (d.shape, d.classes, d.sizes) == ((1, 28, 28), 10, {"train": 30, "validation": 0, "test": 30})
    x, _ = everything(d, "test")
    torch.testing.assert_close(x[:, 0], torch.from_numpy(images[1].astype(np.float32) / 255), rtol=1e-6, atol=0)


def test_digits_partition() -> None:
    pytest.importorskip("sklearn")
    d = data.load("digits", split="none")
    assert (d.shape, d.classes, d.sizes) == ((1, 8, 8), 10, {"train": 1442, "validation": 0, "test": 355})
    x, y = everything(d, "train")
    assert torch.bincount(y).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert float(x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    raw, _ = everything(data.load("digits", split="none", normalize="none"), "train")
    assert (float(raw.min()), float(raw.max())) == (0.0, 1.0)


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist", zipped=True)
    monkeypatch.setenv("PRUNE_DATA", str(tmp_path))
    assert data.load("mnist").sizes["train"] == 27


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "cifar10",
            ["cifar-10-batches-bin", "data_batch_1.bin", "cifar-10-binary.tar.gz", "cs.toronto.edu", "PRUNE_DATA"],
        ),
        ("cifar100", ["cifar-100-binary", "train.bin", "cifar-100-binary.tar.gz"]),
        ("mnist", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
        ("fashion-mnist", ["fashion-mnist", "zalandoresearch"]),
        ("cifar11", ["did you mean 'cifar10'", "digits"]),
    ],
)
def test_missing_data_says_what_is_expected_where(tmp_path: Path, name: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        data.load(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(PlanError, match=r"lacks data_batch_3\.bin"):
        data.load("cifar10", tmp_path)


def test_truncated_files_are_found(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    whole = path.read_bytes()
    for size in (0, 1, len(whole) - 1, len(whole) - 3073):
        path.write_bytes(whole[:size])
        with pytest.raises(PlanError, match=r"data_batch_2\.bin is damaged or incomplete"):
            data.load("cifar10", tmp_path)
    path.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(PlanError, match="label is outside 0 to 9"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_idx_files_are_found(tmp_path: Path, zipped: bool) -> None:
    write_mnist(tmp_path, zipped)
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if zipped else ""))
    whole = path.read_bytes()
    for size in (0, 3, 15, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PlanError, match="is damaged or incomplete"):
            data.load("mnist", tmp_path)
    path.write_bytes(whole + b"x")
    with pytest.raises(PlanError, match="is damaged or incomplete"):
        data.load("mnist", tmp_path)


def test_idx_header_cannot_ask_for_everything(tmp_path: Path) -> None:
    write_mnist(tmp_path, zipped=False)
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**16, 2**16)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(huge)
    with pytest.raises(PlanError, match="header promises"):
        data.load("mnist", tmp_path)


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [("train-10", (45_000, 5_000, 10_000)), ("test-20", (50_000, 2_000, 8_000)), ("none", (50_000, 0, 10_000))],
)
def test_splits_have_the_papers_sizes(rule: str, sizes: tuple[int, ...]) -> None:
    parts = split(50_000, 10_000, rule)
    assert tuple(len(parts[p][1]) for p in ("train", "validation", "test")) == sizes
    for origin, n in (("train", 50_000), ("test", 10_000)):
        index = torch.cat([i for o, i in parts.values() if o == origin])
        assert torch.equal(index.sort().values, torch.arange(n))


def test_the_split_is_drawn_once_for_all_seeds(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    one = everything(data.load("cifar10", tmp_path, seed=0), "validation")[0]
    assert torch.equal(one, everything(data.load("cifar10", tmp_path, seed=1), "validation")[0])
    other = data.load("cifar10", tmp_path, options={"split_seed": 1})
    assert not torch.equal(one, everything(other, "validation")[0])


# --- batches --------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    d = data.load("cifar10", tmp_path, augment="none")
    assert d.sizes["train"] == 90
    assert d.steps_per_epoch(32) == 3
    runs = [list(d.train_batches(32, epoch, seed)) for epoch, seed in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert [len(y) for _, y in runs[0]] == [32, 32, 26]
    images = [torch.cat([x for x, _ in run]) for run in runs]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[3])
    sums = images[0].double().sum((1, 2, 3)).sort().values
    torch.testing.assert_close(sums, everything(d, "train")[0].double().sum((1, 2, 3)).sort().values)


def test_batch_size_does_not_change_the_order(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    d = data.load("cifar10", tmp_path)
    one, two = (torch.cat([x for x, _ in d.train_batches(size, 3, 5)]) for size in (8, 90))
    assert torch.equal(one, two)


def test_only_training_batches_are_augmented(tmp_path: Path) -> None:
    rows = write_cifar10(tmp_path)
    d = data.load("cifar10", tmp_path, split="none", normalize="none")
    stored = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    torch.testing.assert_close(everything(d, "test")[0], stored[100:])
    torch.testing.assert_close(everything(d, "train")[0], stored[:100])
    torch.testing.assert_close(d.example(), stored[:1])
    augmented = torch.cat([x for x, _ in d.train_batches(10, 0, 0)])
    assert not any(torch.allclose(augmented, stored[torch.randperm(100)]) for _ in range(2))
    assert float((augmented == 0).float().mean()) > 0.05  # black borders


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("normalize", ["channel", "image"])
def test_batches_are_the_same_on_a_gpu(tmp_path: Path, normalize: str) -> None:
    write_cifar10(tmp_path)
    cpu, gpu = (data.load("cifar10", tmp_path, normalize=normalize, device=device) for device in ("cpu", "cuda"))
    for one, two in zip(cpu.train_batches(32, 1, 2), gpu.train_batches(32, 1, 2), strict=True):
        assert two[0].is_cuda
        torch.testing.assert_close(one[0], two[0].cpu())
        assert torch.equal(one[1], two[1].cpu())


def test_crop_and_flip_by_hand() -> None:
    x = torch.randint(1, 256, (50, 3, 7, 9), dtype=torch.uint8)
    rows, columns = torch.randint(0, 9, (2, 50))
    chosen = torch.rand(50) < 0.5
    out = transforms.flip(transforms.crop(x, rows, columns, 4), chosen)
    for i in range(50):
        padded = np.pad(x[i].numpy(), ((0, 0), (4, 4), (4, 4)))
        cut = padded[:, rows[i] : rows[i] + 7, columns[i] : columns[i] + 9]
        assert np.array_equal(out[i].numpy(), cut[:, :, ::-1] if chosen[i] else cut)
    middle = torch.full((50,), 4)
    assert torch.equal(transforms.crop(x, middle, middle, 4), x)


def test_every_place_of_the_crop_comes_up(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    d = data.load("cifar10", tmp_path, split="none", normalize="none", augment="crop")
    tops = set()
    for epoch in range(30):
        x = torch.cat([x for x, _ in d.train_batches(100, epoch, 0)])
        black = (x == 0).all(dim=3).all(dim=1)  # [n, H]
        tops |= {int(row[:16].sum()) - int(row[16:].sum()) for row in black}
    assert tops == set(range(-4, 5))


def test_normalization(tmp_path: Path) -> None:
    rows = write_cifar10(tmp_path)
    stored = rows[100:, 1:].reshape(-1, 3, 32, 32).astype(np.float64)

    def load(how: str) -> np.ndarray:
        return everything(data.load("cifar10", tmp_path, split="none", normalize=how), "test")[0].double().numpy()

    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    expected = (stored / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(load("channel"), expected, atol=2e-6)
    assert np.array_equal(load("default"), load("channel"))
    per_image = stored - stored.mean((1, 2, 3), keepdims=True)
    per_image /= np.maximum(stored.std((1, 2, 3), keepdims=True), 1 / np.sqrt(3072))
    np.testing.assert_allclose(load("image"), per_image, atol=2e-6)


def test_a_uniform_image_stays_finite() -> None:
    assert torch.equal(transforms.standardize(torch.full((1, 3, 4, 4), 7.0)), torch.zeros(1, 3, 4, 4))


def test_balanced_sample(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    d = data.load("digits")
    x, y = d.balanced(10, seed=3)
    assert torch.equal(y, torch.arange(10).repeat_interleave(10))
    assert torch.equal(x, d.balanced(10, seed=3)[0])
    assert not torch.equal(x, d.balanced(10, seed=4)[0])
    assert len(torch.unique(x.flatten(1), dim=0)) == 100
    with pytest.raises(PlanError, match="class 0 has"):
        d.balanced(10_000, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paddng": 2}, "did you mean 'padding'"),
        ({"padding": -1}, "integer from 0"),
        ({"split_seed": "x"}, "integer from 0"),
    ],
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(PlanError, match=words):
        data.load("digits", options=options)


@pytest.mark.skipif("PRUNE_TEST_DATA" not in os.environ, reason="PRUNE_TEST_DATA names no folder with CIFAR-10")
def test_the_real_cifar10() -> None:
    d = data.load("cifar10", os.environ["PRUNE_TEST_DATA"], split="test-20")
    assert d.sizes == {"train": 50_000, "validation": 2_000, "test": 8_000}
    labels = torch.cat([y for _, y in d.batches("train", 10_000)])
    assert torch.bincount(labels).tolist() == [5_000] * 10
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for x, _ in d.batches("train", 1_000):
        sums += torch.stack([x.double().sum((0, 2, 3)), x.double().square().sum((0, 2, 3))])
    mean, square = sums / (50_000 * 1_024)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), atol=0.01, rtol=0)
    # The constants in circulation are the mean of single images' deviations, a fifth below the deviation of all pixels.
    expected = torch.tensor([1.22, 1.22, 1.30], dtype=torch.float64)
    torch.testing.assert_close(square.sqrt(), expected, atol=0.01, rtol=0)


def test_a_rotation_is_torchvisions() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2.functional")
    for height, width in ((32, 32), (9, 14)):
        x = torch.randint(1, 256, (20, 3, height, width), dtype=torch.uint8)
        angles = torch.linspace(-15, 15, 20)
        out = transforms.rotate(x, angles)
        theirs = torch.stack([v2.rotate(image, float(a)) for image, a in zip(x, angles, strict=True)])
        assert float((out == theirs).float().mean()) > 0.995  # they round in float32
        assert torch.equal(transforms.rotate(x, torch.zeros(20)), x)
        assert torch.equal(transforms.rotate(x, torch.full((20,), 180.0)), x.flip(2, 3))


def test_rotation_comes_on_top_of_crop_and_flip(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    turned, again, plain = (
        data.load("cifar10", tmp_path, normalize="none", augment=augment)
        for augment in ("rotate-crop-flip", "rotate-crop-flip", "crop-flip")
    )
    drawn = [d._prepare.draw(90, 3, 1, torch.device("cpu")) for d in (turned, plain)]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0][:2], drawn[1][:2], strict=True))
    assert drawn[1][2] is None
    assert 12 < float(drawn[0][2].abs().max()) <= 15
    one, two = (torch.cat([x for x, _ in d.train_batches(size, 1, 3)]) for d, size in ((turned, 90), (again, 32)))
    other = torch.cat([x for x, _ in plain.train_batches(90, 1, 3)])
    assert torch.equal(one, two)
    torch.testing.assert_close(one, transforms.rotate(other, drawn[0][2]))
