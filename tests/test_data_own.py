"""Data of the user's own: tensors and data sets, what is accepted, what is refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import data
from pruning.plan import PlanError

HEAD = """
import random
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset, Subset

def part(n, seed, classes=3, shape=(2, 6, 6)):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=g), torch.arange(n) % classes

class Noisy(Dataset):
    '''Items with random transforms from all three generators in use.'''

    def __init__(self, n, seed, listed=True):
        self.x, y = part(n, seed)
        self.y = y
        if listed:
            self.targets = y.tolist()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + torch.rand(()) + random.random() + np.random.rand(), int(self.y[i])

class Made(Dataset):
    '''Nine items made by a function.'''

    targets = [0, 1, 2] * 3

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 9

    def __getitem__(self, i):
        return self.make(i)

class Stream(IterableDataset):
    def __iter__(self):
        return iter([])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def load(body: str, split: str = "none", **settings) -> data.Data:
        (tmp_path / "own.py").write_text(f"{HEAD}\n{body}\n")
        return data.load("own.py:get", split=split, **settings)

    return load


def everything(batches):
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "def get(): return part(30, 0), part(10, 1), part(12, 2)",
        "def get(): return {'train': part(30, 0), 'validation': part(10, 1), 'test': part(12, 2), 'classes': 3}",
        "def get(): return [TensorDataset(*part(n, i)) for i, n in enumerate((30, 10, 12))]",
        "def get(): return tuple(tuple(t.numpy() for t in part(n, i)) for i, n in enumerate((30, 10, 12)))",
        "def get(): return tuple(Noisy(n, i) for i, n in enumerate((30, 10, 12)))",
        "def get(): return Noisy(30, 0), part(10, 1), part(12, 2)",
    ],
)
def test_what_a_function_may_return(own, body: str) -> None:
    d = own(body)
    assert (d.shape, d.classes, d.sizes) == ((2, 6, 6), 3, {"train": 30, "validation": 10, "test": 12})
    assert d.steps_per_epoch(8) == 4
    batches = list(d.train_batches(8, 0, 0))
    assert [len(y) for _, y in batches] == [8, 8, 8, 6]
    assert all(x.dtype == torch.float32 and y.dtype == torch.int64 for x, y in batches)
    assert [len(y) for _, y in d.batches("validation", 8)] == [8, 2]
    assert torch.equal(everything(d.batches("test", 5))[1], torch.arange(12) % 3)
    assert d.example().shape == (1, 2, 6, 6)
    x, y = d.balanced(4, seed=0)
    assert (x.shape, y.tolist()) == ((12, 2, 6, 6), [0] * 4 + [1] * 4 + [2] * 4)


@pytest.mark.parametrize("kind", ["part", "Noisy"])
@pytest.mark.parametrize(
    ("rule", "sizes"), [("train-10", (36, 4, 20)), ("test-20", (40, 4, 16)), ("none", (40, 0, 20))]
)
def test_without_a_validation_part_the_split_rule_makes_one(own, kind: str, rule: str, sizes: tuple[int, ...]) -> None:
    d = own(f"def get(): return {kind}(40, 0), None, {kind}(20, 1)", split=rule)
    assert tuple(d.sizes.values()) == sizes
    assert [len(list(d.batches(p, 1))) for p in d.sizes] == list(sizes)


def test_a_function_that_draws_at_random_draws_the_same(own) -> None:
    body = "def get(): return [(torch.rand(9, 2) + random.random() + np.random.rand(), torch.arange(9) % 3)] * 3"
    one, other = (everything(own(body, seed=seed).batches("train", 9))[0] for seed in (0, 1))
    assert torch.equal(one, other)


def test_numbers_arrive_unchanged_and_images_between_0_and_1(own) -> None:
    d = own("def get(): return part(9, 0), None, part(9, 1)")
    stored = torch.rand(9, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(everything(d.batches("train", 4))[0], stored)
    d = own("def get(): return [(torch.full((9, 1, 4, 4), 255, dtype=torch.uint8), torch.zeros(9).int())] * 3")
    assert torch.equal(everything(d.batches("train", 4))[0], torch.ones(9, 1, 4, 4))
    assert d.classes == 1


def test_channel_normalization_is_of_the_training_part(own) -> None:
    d = own("def get(): return part(50, 0), None, part(9, 1)", split="train-10", normalize="channel")
    x, _ = everything(d.batches("train", 7))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2))


@pytest.mark.parametrize("shape", ["(5,)", "(5, 7)", "(2, 3, 4, 5)"])
def test_other_shapes_than_images(own, shape: str) -> None:
    d = own(f"def get(): return [part(9, i, shape={shape}) for i in range(3)]", normalize="channel")
    assert str(d.shape) == shape
    assert next(d.train_batches(4, 0, 0))[0].shape == (4, *d.shape)
    with pytest.raises(PlanError, match=r"augment 'crop' needs images \[C, H, W\]"):
        own(f"def get(): return [part(9, i, shape={shape}) for i in range(3)]", augment="crop")


def test_indices_stay_indices(own) -> None:
    body = "def get(): return [(torch.randint(0, 99, (9, 4)), torch.arange(9) % 2)] * 3"
    assert next(own(body).train_batches(4, 0, 0))[0].dtype == torch.int64
    with pytest.raises(PlanError, match="needs images or numbers"):
        own(body, normalize="image")


def test_options_folder_and_seed_reach_the_function(own, tmp_path: Path) -> None:
    body = """
def get(data_dir, seed, n=9):
    assert str(data_dir) == 'here' and seed == 5
    return [part(n, i) for i in range(3)]
"""
    assert own(body, data_dir="here", seed=5, options={"n": 12, "padding": 2}).sizes["train"] == 12
    with pytest.raises(PlanError, match=r"no option 'm'.*allowed: n"):
        own(body, data_dir="here", seed=5, options={"m": 12})


REFUSED = [
    ("return None", ["must return (train, validation, test)", "NoneType"]),
    ("return part(9, 0), part(9, 1)", ["must return (train, validation, test)"]),
    ("return {'train': part(9, 0)}", ["must return train", "test"]),
    ("return {'train': part(9, 0), 'test': part(9, 0), 'extra': 1}", ["extra"]),
    ("return part(9, 0), None, None", ["must return train"]),
    ("return part(0, 0), None, part(9, 0)", ["train is empty"]),
    ("return part(9, 0), part(0, 0), part(9, 0)", ["validation is empty"]),
    ("return part(9, 0), 3, part(9, 0)", ["validation must be a pair", "int"]),
    ("return (part(9, 0)[0], part(8, 0)[1]), None, part(9, 0)", ["train: y is [8]", "9 entries"]),
    ("return (part(9, 0)[0], torch.eye(9)), None, part(9, 0)", ["train: y is [9, 9]"]),
    ("return (part(9, 0)[0], torch.rand(9)), None, part(9, 0)", ["labels must be integers", "float32"]),
    ("return (part(9, 0)[0], torch.arange(9) - 1), None, part(9, 0)", ["labels start at 0", "-1"]),
    ("return (part(9, 0)[0] / 0, part(9, 0)[1]), None, part(9, 0)", ["train: x has values that are not finite"]),
    ("return (['a', 'b'], [0, 1]), None, part(9, 0)", ["must be tensors or arrays"]),
    ("return (torch.rand(9) > 0, torch.arange(9)), None, part(9, 0)", ["train is empty: x is [9]"]),
    ("return (torch.rand(9, 2) > 0, torch.arange(9)), None, part(9, 0)", ["real numbers", "bool"]),
    ("return part(9, 0), None, part(9, 0, classes=5)", ["test has label 4", "train has 3 classes", "0 to 2"]),
    ("return {'train': part(9, 0), 'test': part(9, 1), 'classes': 2}", ["train has label 2", "there are 2 classes"]),
    ("return {'train': part(9, 0), 'test': part(9, 1), 'classes': 'ten'}", ["positive integer", "'ten'"]),
    ("return part(9, 0), None, part(9, 0, shape=(2, 5, 5))", ["test has values of [2, 5, 5]", "train has [2, 6, 6]"]),
    ("raise OSError('disk gone')", ["OSError: disk gone", "line"]),
    ("return Noisy(0, 0), None, Noisy(9, 1)", ["train is empty"]),
    ("return Noisy(9, 0, listed=False), None, Noisy(9, 1)", ["number of classes is unknown", '"classes"']),
    ("return Subset(Noisy(9, 0), [0, 1, 3]), None, Noisy(9, 1)", ["test has label 2", "train has 2 classes"]),
    ("return Noisy(9, 0), None, part(9, 1, shape=(1, 6, 6))", ["test, item 0 is [1, 6, 6]", "[2, 6, 6]"]),
    ("return Stream(), None, Noisy(9, 1)", ["train must be a data set with a length", "Stream"]),
    ("return Made(lambda i: torch.rand(2, 6, 6)), None, part(9, 1)", ["train, item 0 must be a pair", "Tensor"]),
    ("return Made(lambda i: (torch.rand(2, 6, 6), 0.5)), None, part(9, 1)", ["label must be one integer", "float32"]),
    ("return Made(lambda i: (torch.ones(2, 6, 6) / 0, 0)), None, part(9, 1)", ["train, item 0", "not finite"]),
]


@pytest.mark.parametrize(("body", "words"), REFUSED, ids=[body for body, _ in REFUSED])
def test_refusals_name_the_part_and_the_reason(own, body: str, words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        own(f"def get():\n    {body}")
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["own.py:get", *words]), str(caught.value)


# --- data sets of items ---------------------------------------------------------------------------------------------

NOISY = "def get(): return Noisy(40, 0), None, Noisy(20, 1)"


def test_random_items_follow_from_seed_and_epoch_with_any_number_of_workers(own, monkeypatch) -> None:
    def epoch(workers: int, number: int, seed: int = 0):
        monkeypatch.setenv("PRUNE_WORKERS", str(workers))
        d = own(NOISY)
        if number > 0:
            next(d.train_batches(16, 0, seed))  # an epoch broken off leaves no trace
        return everything(d.train_batches(16, number, seed)), everything(d.batches("test", 16))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone, test = epoch(0, 1)
    assert torch.equal(torch.get_rng_state(), state)
    shared, shared_test = epoch(2, 1)
    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[1], shared[1])
    assert torch.equal(test[0], shared_test[0])
    assert not torch.equal(alone[0], epoch(0, 2)[0][0])
    assert not torch.equal(alone[0], epoch(0, 1, seed=1)[0][0])


def test_batch_size_does_not_change_items(own) -> None:
    d = own(NOISY)
    one, two = (everything(d.train_batches(size, 3, 0))[0] for size in (7, 40))
    assert torch.equal(one, two)


def test_what_is_random_is_fixed_where_a_part_is_only_looked_at(own) -> None:
    d = own(NOISY, split="train-10")
    for part in d.sizes:
        assert torch.equal(everything(d.batches(part, 3))[0], everything(d.batches(part, 5))[0])


def test_batches_of_items_are_augmented_and_standardized(own) -> None:
    d = own(NOISY, augment="crop-flip", normalize="image")
    x, _ = everything(d.train_batches(16, 0, 0))
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.zeros(40), atol=1e-5, rtol=0)
    with pytest.raises(PlanError, match="normalize 'channel' is for tensors"):
        own(NOISY, normalize="channel")


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("open('absent')", ["an item could not be made", "No such file"]),
        ("(torch.rand(2, 6, 6), 7)", ["label is outside 0 to 2"]),
        ("(torch.rand(2, i, 6), 0)", ["an item could not be made", "stack"]),
        ("('x', 0)", ["item", "must be a tensor or array and an integer label", "str and int"]),
    ],
)
def test_an_item_that_fails_later_is_one_clear_error(
    own, monkeypatch, workers: str, item: str, words: list[str]
) -> None:
    monkeypatch.setenv("PRUNE_WORKERS", workers)
    d = own(f"def get(): return Made(lambda i: {item} if i else (torch.rand(2, 6, 6), 0)), None, Noisy(9, 1)")
    with pytest.raises(PlanError) as caught:
        list(d.train_batches(9, 0, 0))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_number_of_workers_is_checked(own, monkeypatch) -> None:
    monkeypatch.setenv("PRUNE_WORKERS", "many")
    with pytest.raises(PlanError, match="PRUNE_WORKERS"):
        own(NOISY)
