"""MBConv and its parts, on grids of two and three numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import conv2d_same
from timm.layers.pool2d_same import AvgPool2dSame

from stvit.layers.conv import ConvNormAct, MBConv, SqueezeExcite
from stvit.layers.nd import avg_pool, axes, pad_same


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "out"),
    [
        ((3, 3), (1, 1), (8, 10), (8, 10)),
        ((3, 3), (2, 2), (8, 10), (4, 5)),
        ((3, 3), (2, 2), (7, 9), (4, 5)),
        ((3, 3, 3), (1, 1, 1), (4, 6, 8), (4, 6, 8)),
        ((3, 3, 3), (1, 2, 2), (3, 6, 8), (3, 3, 4)),
        ((1, 3, 3), (2, 2, 2), (4, 6, 8), (2, 3, 4)),
    ],
)
def test_mbconv_divides_the_grid_by_its_stride(
    kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...]
) -> None:
    block = MBConv(6, 8, kernel, stride)
    y = block(torch.randn(2, 6, *size))
    assert y.shape == (2, 8, *out)
    y.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_mbconv_with_equal_widths_and_stride_one_has_an_identity_shortcut() -> None:
    block, x = MBConv(8, 8, (3, 3)).eval(), torch.randn(2, 8, 6, 6)
    block.project.weight.data.zero_()
    block.project.bias.data.zero_()
    assert torch.equal(block(x), x)


def test_mbconv_expands_the_output_width_and_squeezes_to_its_quarter() -> None:
    block = MBConv(6, 16, (3, 3))
    assert block.expand.out_channels == 64
    assert block.se.fc1.out_channels == 4


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 9)])
def test_same_padding_and_pooling_are_timms(size: tuple[int, int]) -> None:
    x, weight = torch.randn(2, 3, *size), torch.randn(5, 3, 3, 3)
    ours = F.conv2d(pad_same(x, (3, 3), (2, 2)), weight, stride=2)
    torch.testing.assert_close(ours, conv2d_same(x, weight, stride=(2, 2)))
    torch.testing.assert_close(avg_pool(x, (2, 2)), AvgPool2dSame(2, 2)(x))


def test_squeeze_excite_scales_whole_channels() -> None:
    for ndim in (2, 3):
        layer, x = SqueezeExcite(4, 2, ndim), torch.rand(2, 4, *[3] * ndim) + 0.5
        gates = (layer(x) / x).flatten(2)
        torch.testing.assert_close(gates, gates[..., :1].expand_as(gates))


def test_conv_norm_act_keeps_halves_or_doubles_the_size() -> None:
    x = torch.randn(2, 4, 8, 12)
    assert ConvNormAct(4, 6)(x).shape == (2, 6, 8, 12)
    assert ConvNormAct(4, 6, stride=2)(x).shape == (2, 6, 4, 6)
    assert ConvNormAct(4, 6, upsample=True)(x).shape == (2, 6, 16, 24)


def test_grids_of_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 axes"):
        axes(1)
