"""Relative position biases beside both published conventions, written out as their definitions say."""

from __future__ import annotations

import itertools

import pytest
import torch

from stvit.layers.position import (
    ConvPositionEncoding,
    RelativePositionBias,
    resize_bias_table,
    table_from_swin,
    table_to_swin,
)


def positions(window: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(w) for w in window)))


@pytest.mark.parametrize("window", [(3, 4), (2, 3, 2)])
def test_bias_is_looked_up_by_key_minus_query(window: tuple[int, ...]) -> None:
    rel_pos = RelativePositionBias(window, heads=2)
    bias = rel_pos()
    for (q, at_q), (k, at_k) in itertools.product(enumerate(positions(window)), repeat=2):
        offset = tuple(b - a + w - 1 for a, b, w in zip(at_q, at_k, window, strict=True))
        assert torch.equal(bias[:, q, k], rel_pos.table[(slice(None), *offset)])


def test_a_swin_table_gives_the_bias_that_swin_computes() -> None:
    h, w = window = (3, 4)
    swin = torch.randn((2 * h - 1) * (2 * w - 1), 2)
    rel_pos = RelativePositionBias(window, heads=2)
    rel_pos.table.data = table_from_swin(swin, window)
    bias = rel_pos()
    for (q, (qy, qx)), (k, (ky, kx)) in itertools.product(enumerate(positions(window)), repeat=2):
        assert torch.equal(bias[:, q, k], swin[(qy - ky + h - 1) * (2 * w - 1) + (qx - kx + w - 1)])


@pytest.mark.parametrize("window", [(3, 4), (2, 3, 2)])
def test_conversion_to_swin_and_back_changes_nothing(window: tuple[int, ...]) -> None:
    table = torch.randn(2, *(2 * w - 1 for w in window))
    assert torch.equal(table_from_swin(table_to_swin(table), window), table)


def test_conv_position_encoding_adds_a_depthwise_convolution_on_either_grid() -> None:
    for kernel, size in (((3, 3), (5, 6)), ((1, 3, 3), (2, 5, 6))):
        layer, x = ConvPositionEncoding(4, kernel), torch.randn(2, 4, *size)
        assert layer(x).shape == x.shape
        layer.conv.weight.data.zero_()
        torch.testing.assert_close(layer(x), x + layer.conv.bias.view(1, 4, *[1] * len(size)))


def test_resized_tables_keep_the_offsets_near_zero_and_the_ends() -> None:
    side = torch.arange(-6.0, 7.0)
    table = (side[:, None].abs() + 2 * side).unsqueeze(0)  # of windows of 7
    resized = resize_bias_table(table, (1, 23, 23))[0]  # of windows of 12
    for place in (0, 11, 22):
        torch.testing.assert_close(resized[place, 10:13], table[0, place * 6 // 11, 5:8])
    torch.testing.assert_close(resized[::22, ::22], table[0, ::12, ::12])
    assert (resized.diff(dim=1) > 0).all()


def test_tables_over_time_are_resized_frame_distance_by_frame_distance() -> None:
    table = torch.randn(2, 3, 5, 5)
    assert torch.equal(resize_bias_table(table, (2, 3, 5, 5)), table)
    for distance, plane in enumerate(resize_bias_table(table, (2, 3, 7, 7)).unbind(1)):
        torch.testing.assert_close(plane, resize_bias_table(table[:, distance], (2, 7, 7)))
    still = table[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(resize_bias_table(still, (2, 7, 5, 5)), table[:, :1].expand(-1, 7, -1, -1))
