"""Rows of relative position tables, as the published float32 arithmetic finds them."""

import numpy as np
import pytest
import torch

from stvit.layers.decomposed_position import position_vectors, relative_index, relative_offsets, resize_table

# (query, key) of real grids where float32, in the published order, falls below the exact floor somewhere.
LOWER = [(39, 10), (43, 11), (47, 12), (53, 7), (57, 29), (73, 10), (73, 37), (78, 10), (78, 20), (81, 11), (86, 11)]
LOWER += [(91, 12), (94, 12)]


def exact_floor(query: int, key: int) -> np.ndarray:
    """The same formula in whole numbers."""
    i, j = np.arange(query)[:, None], np.arange(key)[None, :]
    longer = max(query, key)
    return (i * longer * key - j * longer * query + (key - 1) * longer * query) // (query * key)


@pytest.mark.parametrize(("query", "key"), [(56, 14), (56, 7), (28, 7), (14, 14), (7, 14), (8, 8), (1, 1), (5, 10)])
def test_whole_ratios_give_whole_distances(query: int, key: int) -> None:
    offsets = relative_offsets(query, key)
    assert (offsets == exact_floor(query, key)).all()
    assert offsets.min() >= 0
    assert offsets.max() <= 2 * max(query, key) - 2


@pytest.mark.parametrize(("query", "key"), LOWER)
def test_rounding_is_the_published_one(query: int, key: int) -> None:
    below = exact_floor(query, key) - relative_offsets(query, key)
    assert set(np.unique(below)) == {0, 1}


def test_the_large_video_network_has_so_many_rounded_cells() -> None:
    """At 312 x 312: blocks 0 and 1 have 78 query and 10 key places, blocks 3 to 7 have 39 and 10."""
    counts = {(q, k): int((exact_floor(q, k) - relative_offsets(q, k)).sum()) for q, k in ((78, 10), (39, 10))}
    assert counts == {(78, 10): 103, (39, 10): 38}


def test_the_index_is_computed_once_per_size() -> None:
    device = torch.device("cpu")
    assert relative_index(12, 4, device) is relative_index(12, 4, device)


def test_a_size_first_seen_in_inference_mode_can_be_trained() -> None:
    table = torch.randn(2 * 23 - 1, 2, requires_grad=True)
    with torch.inference_mode():
        position_vectors(table, 23, 23)
    position_vectors(table, 23, 23).sum().backward()
    assert table.grad is not None


def test_tables_are_interpolated_without_moving_their_ends_outwards() -> None:
    table = torch.linspace(0, 1, 5).unsqueeze(1)
    longer = resize_table(table, 9)
    want = torch.nn.functional.interpolate(table.T[None], size=9, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(longer, want)
    assert resize_table(table, 5) is table


def test_a_vector_depends_on_the_distance_alone() -> None:
    table = torch.randn(2 * 6 - 1, 3)
    vectors = position_vectors(table, 6, 6)
    for i in range(6):
        for j in range(6):
            assert torch.equal(vectors[i, j], table[i - j + 5])
