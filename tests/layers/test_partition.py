"""Windows hold neighbours, grids hold tokens from every window, and merging undoes both."""

from __future__ import annotations

import pytest
import torch

from stvit.errors import UserError
from stvit.layers.partition import merge, partition

CASES = [((2, 4), (6, 8)), ((2, 3, 4), (4, 6, 8)), ((1, 2, 2), (3, 4, 6))]


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(("window", "size"), CASES)
def test_merge_undoes_partition(window: tuple[int, ...], size: tuple[int, ...], grid: bool) -> None:
    x = torch.randn(2, 5, *size)
    tokens = partition(x, window, grid=grid)
    assert tokens.shape == (2, x[0, 0].numel() // torch.tensor(window).prod(), torch.tensor(window).prod(), 5)
    assert torch.equal(merge(tokens, window, size, grid=grid), x)


def test_a_window_is_a_block_of_neighbours() -> None:
    rows = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert partition(rows, (2, 3))[0, 1, :, 0].tolist() == [3, 4, 5, 9, 10, 11]


def test_a_grid_group_takes_one_token_from_every_block() -> None:
    rows = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert partition(rows, (2, 3), grid=True)[0, 0, :, 0].tolist() == [0, 2, 4, 12, 14, 16]


def test_a_size_that_does_not_divide_is_refused_with_both_sizes() -> None:
    with pytest.raises(UserError, match=r"map of \(6, 9\) cannot be cut into windows of \(2, 4\)"):
        partition(torch.zeros(1, 1, 6, 9), (2, 4))
