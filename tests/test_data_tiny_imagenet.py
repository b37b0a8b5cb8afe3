"""Tiny ImageNet in the layout of its archive, written small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import data
from pruning.plan import PlanError

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")

WNIDS = ("n02", "n01", "n03")  # as in the file, which is not sorted


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_WORKERS", "0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = []
    for c, wnid in enumerate(WNIDS):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for n in range(4):
            mode, colour = ("L", 80 * c) if n == 0 else ("RGB", (80 * c, 80 * c, 80 * c))  # some images are grey
            Image.new(mode, (64, 64), colour).save(folder / "train" / wnid / "images" / f"{wnid}_{n}.JPEG")
        Image.new("RGB", (64, 64), (80 * c,) * 3).save(folder / "val" / "images" / f"val_{2 - c}.JPEG")
        lines.append(f"val_{2 - c}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    return folder


def test_the_layout(root: Path) -> None:
    for where in (root, root.parent):
        d = data.load("tinyimagenet", where, split="none", normalize="none")
        assert (d.shape, d.classes) == ((3, 64, 64), 3)
        assert d.sizes == {"train": 12, "validation": 0, "test": 3}
        for part in ("train", "test"):
            for x, y in d.batches(part, 5):
                torch.testing.assert_close(x, (80 * y / 255).view(-1, 1, 1, 1).expand_as(x), atol=0.01, rtol=0)
    assert data.load("tinyimagenet", root, split="test-20").sizes == {"train": 12, "validation": 1, "test": 2}


def test_training_takes_patches_of_the_papers_shapes(root: Path) -> None:
    for path in root.glob("train/*/images/*.JPEG"):
        Image.linear_gradient("L").resize((64, 64)).save(path)
    d = data.load("tinyimagenet", root, split="none", normalize="none")
    part = d._items["augmented"].dataset.transform.transforms[0]
    assert (tuple(part.scale), tuple(part.ratio), tuple(part.size)) == ((0.1, 1.0), (0.8, 1.25), (64, 64))
    first, again, other = (torch.cat([x for x, _ in d.train_batches(5, epoch, 0)]) for epoch in (0, 0, 1))
    assert first.shape == (12, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_lacks_is_named(root: Path) -> None:
    def refused(words: str, **settings) -> None:
        with pytest.raises(PlanError, match=words):
            data.load("tinyimagenet", root, **settings)

    refused("aspect at least 1", options={"aspect": 0.5})
    refused("no option 'size'", options={"size": 32})
    table = root / "val" / "val_annotations.txt"
    text = table.read_text()
    table.write_text(text.replace("n01", "n09"))
    refused("line 2: class 'n09' is not in wnids.txt")
    table.write_text(text + "val_7.JPEG\tn01\t0\t0\t1\t1\n")
    refused("line 4: .*lacks val_7.JPEG")
    table.write_text(text)
    Image.new("RGB", (32, 64)).save(root / "train" / "n02" / "images" / "n02_0.JPEG")
    refused("n02_0.JPEG has 32x64 pixels, not 64x64", split="none")
    for path in (root / "train" / "n03" / "images").iterdir():
        path.unlink()
    refused(r"n03.images has no images")
    (root / "wnids.txt").unlink()
    table.unlink()
    refused(r"lacks wnids.txt, val/val_annotations.txt")
