"""Which samples make up which batch, and the loader that fetches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from stvit.datasets.counter_random import item_bases
from stvit.errors import UserError

Batch = TypeVar("Batch")

_SHUFFLE_STREAM = 3  # beside the data's streams 0..2, so that the order says nothing about the content


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of ``(epoch, index)`` keys: a function of (seed, epoch), cut evenly over ranks, resumable anywhere.

    ``batch_size`` is per rank: batch ``k`` of all ranks together is one slice of ``batch_size * world_size`` of the
    epoch's order, which is the same for any ``world_size``. ``start_batch`` skips that many batches of the run, so a
    run resumed at batch ``k`` sees exactly the batches ``k, k + 1, ...`` of the whole one. ``drop_last`` leaves out
    an incomplete slice, so that all ranks have equally many batches; without it the last slice is dealt out in runs,
    every item exactly once, and the last ranks may have one batch fewer.

    With ``repeats`` above 1 an epoch has as many items, each ``repeats`` times, of a part of the data (repeated
    augmentation: Hoffer et al., arXiv:1901.09335; in the form of DeiT, arXiv:2012.12877). The copies of an item come in
    one step of ``step_batches`` batches, or two that follow each other, and within a step far apart: on different
    ranks, or in different batches, where there are several. Copy ``r`` of item ``i`` is called ``i + r * length``.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        epoch: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        shuffle: bool = False,
        drop_last: bool = True,
        repeats: int = 1,
        step_batches: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size is {batch_size}: it must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is outside 0..{world_size - 1}")
        if drop_last and length < batch_size * world_size:
            raise UserError(
                f"{length} samples do not fill one batch of {batch_size} on each of {world_size} processes: "
                "use a smaller batch or more samples"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.shuffle, self.drop_last = rank, world_size, shuffle, drop_last
        self.repeats, self.step_batches = repeats, step_batches
        self.set_epoch(epoch, start_batch)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """What the next iteration gives; a loader with persistent workers need not be made anew."""
        self.epoch, self.start_batch = epoch, start_batch

    def _bounds(self, batch: int) -> tuple[int, int]:
        """Where this rank's batch lies in the epoch's order: first and one past the last."""
        start = batch * self.batch_size * self.world_size + self.rank * self.batch_size
        return min(start, self.length), min(start + self.batch_size, self.length)

    def _batches(self) -> int:
        """Batches of this rank in a whole epoch."""
        full, rest = divmod(self.length, self.batch_size * self.world_size)
        return full if self.drop_last or rest <= self.rank * self.batch_size else full + 1

    def __len__(self) -> int:
        return max(self._batches() - self.start_batch, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, np.arange(self.length)
        if self.shuffle:
            order = np.argsort(item_bases(order, self.seed, _SHUFFLE_STREAM, epoch), kind="stable")
        if self.repeats > 1:
            order = self._repeated(order)
        for batch in range(self.start_batch, self._batches()):
            first, last = self._bounds(batch)
            yield [(epoch, int(index)) for index in order[first:last]]

    def _repeated(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """As many items of the order's beginning, each several times; first copies come first in each step."""
        copies = np.arange(self.repeats) * self.length
        repeated = (order[:, None] + copies).reshape(-1)[: self.length]
        steps = np.arange(self.length) // (self.batch_size * self.world_size * self.step_batches)
        return repeated[np.lexsort((repeated // self.length, steps))]


def batch_loader(
    dataset: Dataset[Batch],
    batches: EpochBatchSampler | int,
    workers: int = 0,
    pin_memory: bool = False,
    worker_init_fn: Callable[[int], None] | None = None,
) -> DataLoader[Batch]:
    """A loader of batches over a dataset of this package, whose ``__getitems__`` makes a whole batch at once.

    ``batches``: a sampler for training, or a batch size for one pass in order with nothing left out. ``workers``:
    processes that make batches, 0 for none; they live as long as the loader. ``pin_memory``: for fast copies to CUDA.
    ``worker_init_fn``: called first in each worker, with its number.
    """
    if isinstance(batches, int):
        if batches < 1:
            raise UserError(f"batch size is {batches}: it must be at least 1")
        sampler: Sampler[list[tuple[int, int]]] | BatchSampler = BatchSampler(
            SequentialSampler(dataset),  # type: ignore[arg-type]
            batches,
            drop_last=False,
        )
    else:
        sampler = batches
    # A generator of its own: the loader draws a seed for its workers at every start, and taken from the global
    # generator that draw would make a resumed run differ from an uninterrupted one.
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=worker_init_fn,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),
    )


def _as_it_is(batch: object) -> object:
    """The datasets' ``__getitems__`` hands over whole batches, so nothing is left to collate."""
    return batch
