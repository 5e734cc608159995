"""The few operators that torch names by dimension, chosen by the length of a size tuple.

A grid is ``(H, W)`` for images and ``(T, H, W)`` for clips; maps are channel-first, ``(B, C, *grid)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

AXES = "thw"  # names of the grid's axes in einops patterns; images use the last two


def axes(ndim: int) -> str:
    """``"hw"`` for 2 and ``"thw"`` for 3; any other number raises ValueError."""
    if ndim not in (2, 3):
        raise ValueError(f"grids have 2 axes (H, W) or 3 (T, H, W), not {ndim}")
    return AXES[-ndim:]


def batch_norm(ndim: int, channels: int, eps: float) -> nn.Module:
    """BatchNorm2d or BatchNorm3d."""
    axes(ndim)
    return nn.BatchNorm2d(channels, eps=eps) if ndim == 2 else nn.BatchNorm3d(channels, eps=eps)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    *,
    groups: int = 1,
    bias: bool = True,
    padding: bool = True,
) -> nn.Module:
    """Conv2d or Conv3d by ``len(kernel)``; ``padding`` adds ``k // 2`` on both sides of each axis."""
    axes(len(kernel))
    layer = nn.Conv2d if len(kernel) == 2 else nn.Conv3d
    return layer(
        in_channels,
        out_channels,
        tuple(kernel),  # type: ignore[arg-type]
        stride=tuple(stride or (1,) * len(kernel)),  # type: ignore[arg-type]
        padding=tuple(k // 2 if padding else 0 for k in kernel),  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
    )


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """conv2d or conv3d of ``(B, C, *grid)`` by the axes of the weight."""
    function = F.conv2d if weight.ndim == 4 else F.conv3d
    return function(x, weight, bias, tuple(stride), tuple(padding), 1, groups)


def max_pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Maximum over windows of ``(B, C, *grid)``, padded by ``k // 2`` with minus infinity."""
    function = F.max_pool2d if len(kernel) == 2 else F.max_pool3d
    return function(x, tuple(kernel), tuple(stride), tuple(k // 2 for k in kernel))


def avg_pool(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Mean over blocks of ``kernel``; the last block of an odd side counts the zeros it lacks (TensorFlow "same")."""
    x = pad_same(x, kernel, kernel)
    if len(kernel) == 3 and kernel[0] == 1:  # torch pools clips of half precision on no CPU, but images
        frames = F.avg_pool2d(rearrange(x, "b c t h w -> b (c t) h w"), tuple(kernel[1:]))
        return rearrange(frames, "b (c t) h w -> b c t h w", t=x.shape[2])
    return F.avg_pool2d(x, tuple(kernel)) if len(kernel) == 2 else F.avg_pool3d(x, tuple(kernel))


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zero-pad so that an unpadded convolution gives ``ceil(size / stride)`` outputs (TensorFlow "same").

    An odd amount leaves the extra zero at the end: even sizes at stride 2 and kernel 3 get none before and one after.
    """
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        need = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [need // 2, need - need // 2]
    return F.pad(x, pads) if any(pads) else x
