"""Where a token is: relative position biases of windows, and convolutional position encoding."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stvit.layers.depthwise import depthwise_conv

BIAS_TABLE = "rel_pos.table"  # how the names of its tables end in every network


class RelativePositionBias(nn.Module):
    """One learned bias per head and per offset between two tokens of a window of two or three sides.

    The table is ``(heads, *(2 w - 1 for w in window))`` and holds, in its middle, offset zero:
    ``bias[h, q, k] = table[h, *(position_k - position_q + w - 1)]``, the convention of TensorFlow's MaxViT ("bias_tf"
    in timm). Tables in Swin's convention go through :func:`table_from_swin`.
    """

    index: Tensor

    def __init__(self, window: Sequence[int], heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(heads, *(2 * w - 1 for w in window)))
        nn.init.normal_(self.table, std=0.02)
        self.register_buffer("index", relative_index(window), persistent=False)

    def forward(self) -> Tensor:
        """``(heads, N, N)`` for the ``N = prod(window)`` tokens in row-major order: rows queries, columns keys."""
        return self.table.flatten(1)[:, self.index]


def relative_index(window: Sequence[int]) -> Tensor:
    """``(N, N)`` int64: where in a flattened table the offset key - query stands."""
    sides = torch.tensor(tuple(window))
    points = torch.stack(torch.meshgrid(*(torch.arange(w) for w in window), indexing="ij")).flatten(1)  # (ndim, N)
    offsets = points[:, None, :] - points[:, :, None] + (sides - 1)[:, None, None]  # (ndim, query, key)
    strides = torch.tensor([math.prod(2 * w - 1 for w in window[axis + 1 :]) for axis in range(len(window))])
    return (offsets * strides[:, None, None]).sum(0)


def table_from_swin(table: Tensor, window: Sequence[int]) -> Tensor:
    """Swin's ``(prod(2 w - 1), heads)``, indexed by query - key, in the layout of :class:`RelativePositionBias`."""
    grid = table.reshape(*(2 * w - 1 for w in window), table.shape[-1])
    return rearrange(grid.flip(tuple(range(len(window)))), "... heads -> heads ...").contiguous()


def table_to_swin(table: Tensor) -> Tensor:
    """The inverse of :func:`table_from_swin`."""
    return rearrange(table.flip(tuple(range(1, table.ndim))), "heads ... -> (...) heads").contiguous()


def resize_bias_table(table: Tensor, shape: Sequence[int]) -> Tensor:
    """A table of :class:`RelativePositionBias` for windows of other sides: ``(heads, *old)`` to ``shape``.

    In space by timm's rule (BEiT's: offsets near zero keep their places, the others spread geometrically), as MixViT's
    loader does; in time linearly, without aligned corners.
    """
    if table.ndim == 4:
        slices = [_resize_plane(plane, shape[2:]) for plane in table.unbind(1)]
        planes = torch.stack(slices, dim=1)
        if planes.shape[1] == shape[1]:
            return planes
        flat = rearrange(planes, "heads t h w -> heads (h w) t")
        return rearrange(F.interpolate(flat, size=shape[1], mode="linear"), "heads (h w) t -> heads t h w", h=shape[2])
    return _resize_plane(table, shape[1:])


def _resize_plane(table: Tensor, size: Sequence[int]) -> Tensor:
    from timm.layers import resize_rel_pos_bias_table  # only loading weights of another size needs it

    window = tuple((side + 1) // 2 for side in size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of how timm indexes
        resized = resize_rel_pos_bias_table(table, window, (table.shape[0], *size))  # type: ignore[arg-type]
    return resized.reshape(table.shape[0], *size)  # timm 1.0.15 lays the heads below each other


class ConvPositionEncoding(nn.Module):
    """``x + depthwise(x)``: zero padding at the border tells a token where it is (CPVT, arXiv 2102.10882).

    Maps ``(B, C, *size)`` to the same shape.
    """

    def __init__(self, dim: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv = depthwise_conv(dim, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)
