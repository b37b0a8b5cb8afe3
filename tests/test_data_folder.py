"""Trees of image files: what they may look like, how they are read, cut out, varied and split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import data
from pruning.plan import PlanError

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")

CLASSES = ("ant", "bee")


def write(root: Path, part: str, count: int, classes: tuple[str, ...] = CLASSES, side: int = 20) -> None:
    """Writes `count` one-coloured images per class; the n-th of class c has the colour (40 c, n, 0)."""
    for c, name in enumerate(classes):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            Image.new("RGB", (side + n, side), (40 * c, n, 0)).save(root / part / name / f"{n:03}.png")


def load(root: Path, **settings) -> data.Data:
    options = {"size": 8, **settings.pop("options", {})}
    return data.load("folder", root, options=options, **{"split": "none", "normalize": "none", **settings})


def everything(batches):
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_WORKERS", "0")


def test_a_tree_with_three_parts(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        write(tmp_path, part, count)
    d = load(tmp_path, split="train-10")
    assert (d.shape, d.classes, d.sizes) == ((3, 8, 8), 2, {"train": 10, "validation": 4, "test": 6})
    x, y = everything(d.batches("test", 4))
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    expected = torch.tensor([[40 * c, n, 0] for c in range(2) for n in range(3)]) / 255
    torch.testing.assert_close(x, expected[:, :, None, None].expand(6, 3, 8, 8))
    assert d.balanced(2, seed=0)[1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("only", ["val", "test"])
@pytest.mark.parametrize(("rule", "sizes"), [("train-10", (18, 2, 10)), ("test-20", (20, 2, 8)), ("none", (20, 0, 10))])
def test_with_one_part_besides_training_the_rule_splits(tmp_path: Path, only: str, rule: str, sizes) -> None:
    write(tmp_path, "train", 10)
    write(tmp_path, only, 5)
    assert tuple(load(tmp_path, split=rule).sizes.values()) == sizes


def test_normalization_is_imagenets(tmp_path: Path) -> None:
    write(tmp_path, "train", 2)
    write(tmp_path, "test", 2)
    x, _ = everything(load(tmp_path, normalize="default").batches("train", 4))
    raw, _ = everything(load(tmp_path).batches("train", 4))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, (raw - mean[:, None, None]) / std[:, None, None])


def test_training_varies_and_looking_does_not(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(16, 16, 3).numpy()
            Image.fromarray(pixels).save(tmp_path / part / name / "a.png")
    d = load(tmp_path)
    looked, _ = everything(d.batches("train", 2))
    assert torch.equal(looked[0], looked[1])
    first, again, other = (everything(d.train_batches(2, epoch, 0))[0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(everything(load(tmp_path, augment="none").train_batches(2, 0, 0))[0], looked)
    shifted, _ = everything(load(tmp_path, augment="crop").train_batches(2, 0, 0))
    assert not torch.equal(shifted, looked)


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train", 4, side=30)
    write(tmp_path, "test", 1)
    alone = everything(load(tmp_path).train_batches(3, 2, 1))
    monkeypatch.setenv("PRUNE_WORKERS", "2")
    shared = everything(load(tmp_path).train_batches(3, 2, 1))
    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[1], shared[1])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"expected folders train and val or test"):
        load(tmp_path)
    write(tmp_path, "train", 2)
    with pytest.raises(PlanError, match=r"expected folders train and val or test"):
        load(tmp_path)
    write(tmp_path, "test", 2, ("ant",))
    with pytest.raises(PlanError, match=r"classes disagree: .*test lacks 'bee'"):
        load(tmp_path)
    write(tmp_path, "test", 2, ("bee", "cat"))
    with pytest.raises(PlanError, match=r"classes disagree: .*test has 'cat'"):
        load(tmp_path)
    (tmp_path / "val" / "ant").mkdir(parents=True)
    with pytest.raises(PlanError, match=r"val is no tree of class folders"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sise": 8}, r"no option 'sise'.*did you mean 'size'"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": "big"}, "type int"),
        ({"area": 0.0}, r"area in \(0, 1\]"),
        ({"root": "x"}, "no option 'root'"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, object], words: str) -> None:
    write(tmp_path, "train", 1)
    write(tmp_path, "test", 1)
    with pytest.raises(PlanError, match=words):
        load(tmp_path, options=options)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_image_is_named(tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_WORKERS", workers)
    write(tmp_path, "train", 3)
    write(tmp_path, "test", 1)
    path = tmp_path / "train" / "bee" / "001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PlanError) as caught:
        list(load(tmp_path).train_batches(2, 0, 0))
    assert "001.png cannot be read as an image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision.transforms.v2", None)
    with pytest.raises(PlanError, match=r"pip install 'pruning\[vision\]'"):
        load(tmp_path)
