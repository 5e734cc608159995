"""Batches as a function of seed and epoch: shared by ranks, resumable anywhere."""

import pytest

from stvit.datasets import EpochBatchSampler
from stvit.errors import UserError


def indices(sampler: EpochBatchSampler) -> list[list[int]]:
    return [[index for _, index in batch] for batch in sampler]


def test_without_shuffling_the_order_is_that_of_the_data():
    sampler = EpochBatchSampler(10, batch_size=4, epoch=3)
    assert list(sampler) == [[(3, 0), (3, 1), (3, 2), (3, 3)], [(3, 4), (3, 5), (3, 6), (3, 7)]]
    assert len(sampler) == 2


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("start", [0, 1, 4, 7, 8, 20])
def test_a_resumed_run_gets_exactly_the_remaining_batches(shuffle: bool, drop_last: bool, start: int):
    settings = {"length": 30, "batch_size": 4, "epoch": 2, "seed": 9, "shuffle": shuffle, "drop_last": drop_last}
    whole = list(EpochBatchSampler(**settings))
    resumed = EpochBatchSampler(**settings, start_batch=start)
    assert list(resumed) == whole[start:]
    assert len(resumed) == len(whole[start:])


def test_shuffling_changes_with_epoch_and_seed_and_keeps_every_item():
    orders = [
        [i for batch in indices(EpochBatchSampler(100, 10, epoch=epoch, seed=seed, shuffle=True)) for i in batch]
        for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(100)) for order in orders)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [24, 25, 31, 35])
def test_ranks_share_all_items_without_overlap(world_size: int, length: int):
    samplers = [
        EpochBatchSampler(length, 4, seed=1, rank=rank, world_size=world_size, shuffle=True, drop_last=False)
        for rank in range(world_size)
    ]
    batches = [indices(sampler) for sampler in samplers]
    assert sorted(i for rank in batches for batch in rank for i in batch) == list(range(length))
    assert [len(sampler) for sampler in samplers] == [len(rank) for rank in batches]
    assert all(batch for rank in batches for batch in rank)


def test_ranks_together_make_the_batches_of_one_process():
    alone = indices(EpochBatchSampler(50, 8, seed=1, shuffle=True))
    ranks = [indices(EpochBatchSampler(50, 4, seed=1, rank=rank, world_size=2, shuffle=True)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == alone


def test_dropping_the_last_batch_leaves_ranks_equally_many():
    lengths = {len(EpochBatchSampler(35, 4, rank=rank, world_size=4)) for rank in range(4)}
    assert lengths == {2}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_repeats_fill_an_epoch_with_copies_of_a_part_of_the_items(world_size: int):
    samplers = [
        EpochBatchSampler(50, 24 // world_size, rank=rank, world_size=world_size, shuffle=True, repeats=3)
        for rank in range(world_size)
    ]
    slices = [[i for part in parts for i in part] for parts in zip(*map(indices, samplers), strict=True)]
    assert [len(whole) for whole in slices] == [24, 24]
    alone = indices(EpochBatchSampler(50, 24, shuffle=True, repeats=3))
    assert slices == alone
    items = [i % 50 for i in slices[0]]
    assert len(set(slices[0])) == 24
    assert items == items[:8] * 3  # first copies, second copies, third copies: in other views, on other ranks
    assert [i // 50 for i in slices[0]] == [0] * 8 + [1] * 8 + [2] * 8
    once = [i for batch in indices(EpochBatchSampler(50, 50, shuffle=True)) for i in batch]
    assert items[:8] == once[:8]


def test_accumulated_batches_have_the_items_of_as_many_ranks():
    batches = indices(EpochBatchSampler(50, 8, shuffle=True, repeats=3, step_batches=3))
    ranks = [EpochBatchSampler(50, 8, rank=rank, world_size=3, shuffle=True, repeats=3) for rank in range(3)]
    assert batches[:6] == [batch for step in zip(*map(indices, ranks), strict=True) for batch in step]
    assert all(len({index % 50 for index in batch}) == 8 for batch in batches)  # no two copies in one batch


def test_copies_that_a_batch_has_no_room_for_come_in_the_next():
    first, second = indices(EpochBatchSampler(9, 4, repeats=3))
    assert first == [0, 1, 0 + 9, 0 + 18]
    assert second == [2, 1 + 9, 2 + 9, 1 + 18]
    assert indices(EpochBatchSampler(9, 4, repeats=3, start_batch=1)) == [second]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="batch size is 0"):
        EpochBatchSampler(10, 0)
    with pytest.raises(UserError, match="10 samples do not fill one batch of 6 on each of 2 processes"):
        EpochBatchSampler(10, 6, world_size=2)
    with pytest.raises(ValueError, match="rank 2 is outside"):
        EpochBatchSampler(10, 1, rank=2, world_size=2)
