"""Items of a torch data set, made one by one, in worker processes where that is asked for, and put together to batches.

Each item's random choices are seeded by (seed, epoch, index), so that a training is the same with any number of
workers and after any interruption. PRUNE_WORKERS sets the number of worker processes; it changes no result.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from pruning import seeds, trees, usercode
from pruning.plan import PlanError

Item = tuple[int, int]  # index, seed


class Items(Dataset):
    """The items of a data set as `pair` (what, item) -> (x, y) has them, each made under its own seed.

    Global generators stay as they were.
    """

    def __init__(self, what: str, dataset: Dataset, pair: Callable[[str, Any], tuple[Any, Any]]) -> None:
        self.what, self.dataset, self.pair = what, dataset, pair

    def __getitem__(self, item: Item) -> tuple[Any, Any]:
        index, seed = item
        if get_worker_info():  # a worker's generators are its own
            usercode.seed_generators(seed)
            given: Any = self.dataset[index]
        else:
            with usercode.seeded(seed):
                given = self.dataset[index]
        return self.pair(f"{self.what}, item {index}", given)


class Order(Sampler):
    """The items of the coming pass, set before each: a loader whose workers live on takes them from here."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Loader:
    """The items of several parts in batches on `device`, made by `workers` processes that live on from pass to pass."""

    def __init__(self, parts: Mapping[str, Items], device: torch.device, workers: int) -> None:
        self.parts, self._device, self._workers = parts, device, worker_count(workers)
        self._loaders: dict[tuple[str, int], tuple[Order, DataLoader]] = {}

    def some(self, part: str, indices: list[int], base: int) -> tuple[Any, Any]:
        """Returns (x, y) of the items as one batch, made in this process, on the CPU."""
        what = self.parts[part].what
        pairs = [self.parts[part][item] for item in _seeded(indices, base)]
        try:
            x, y = default_collate(pairs)
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            raise _failure(what, error) from error
        return x, y

    def load(
        self, part: str, indices: list[int], batch_size: int, base: int, check: Callable[[Any], None]
    ) -> Iterator[tuple[Any, Any]]:
        """Yields batches (x, y) of the items, in order; `check` (y on the CPU) raises PlanError for wrong labels."""
        if (part, batch_size) not in self._loaders:
            order = Order()
            loader = DataLoader(
                self.parts[part], batch_size, sampler=order, num_workers=self._workers,
                pin_memory=self._device.type == "cuda", persistent_workers=self._workers > 0,
                multiprocessing_context="fork" if self._workers and sys.platform == "linux" else None,
                generator=seeds.generator(0, "loader"),
            )  # fmt: skip
            self._loaders[part, batch_size] = (order, loader)
        order, loader = self._loaders[part, batch_size]
        order.items = _seeded(indices, base)
        batches = iter(loader)
        while True:
            try:
                x, y = next(batches)
                check(y)
            except StopIteration:
                return
            except Exception as error:
                # Whoever keeps the error keeps its frames; workers left to the garbage collector would take 5 s to end.
                traceback.clear_frames(error.__traceback__)
                del self._loaders[part, batch_size], loader, batches
                raise _failure(self.parts[part].what, error) from error
            yield trees.each(self._there, x), trees.each(self._there, y)

    def _there(self, t: Tensor) -> Tensor:
        return t.to(self._device, non_blocking=True)


def worker_count(default: int) -> int:
    """Returns the number of worker processes that PRUNE_WORKERS asks for, or the default."""
    text = os.environ.get("PRUNE_WORKERS", str(default))
    if not text.isdigit():
        raise PlanError(f"PRUNE_WORKERS takes a number of worker processes from 0, not '{text}'")
    return int(text)


def _failure(what: str, error: Exception) -> PlanError:
    last = (str(error).strip().splitlines() or [type(error).__name__])[
        -1
    ]  # a worker's report ends with the error itself
    if isinstance(error, PlanError):
        return PlanError(last.removeprefix(f"{PlanError.__module__}.PlanError: "))
    return PlanError(f"{what}: an item could not be made: {last}")


def _seeded(indices: list[int], base: int) -> list[Item]:
    # One multiplication in place of one SHA-256 per item: 2^63 times the golden ratio spreads neighbours apart.
    return [(i, (base + (i + 1) * 0x4F1BBCDCBFA53E0B) % 2**63) for i in indices]
