"""Window attention and depthwise convolution side by side, each gating the other: MixFormer's mixing block.

MixFormer, arXiv 2204.02557, section 3.1. Windows keep attention local; the convolution, which crosses their borders,
tells them of each other: by channel gates on the values, while spatial gates of attention weigh the convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stvit.errors import UserError
from stvit.layers.attention import group_attention
from stvit.layers.depthwise import depthwise_conv
from stvit.layers.nd import batch_norm, conv
from stvit.layers.partition import merge, partition
from stvit.layers.position import RelativePositionBias

NORM_EPS = 1e-5  # of layer norms and batch norms alike


class MixingAttention(nn.Module):
    """Attention in windows and a depthwise convolution, half of the output each: ``(B, *size, dim)`` to the same shape.

    Height and width must be multiples of the window's. In time, frames that do not fill a window attend among
    themselves, so any number of frames will do and no frame ever sees a padded one.

    Args:
        dim: channels, even and at least 16; attention has half of them.
        window: sides of a window; its length says whether maps are (H, W) or (T, H, W).
        kernel: of the depthwise convolution, odd sides.
        heads: of attention, a divisor of ``dim // 2``.
    """

    def __init__(self, dim: int, window: Sequence[int], kernel: Sequence[int], heads: int) -> None:
        super().__init__()
        if dim < 16 or dim % 2 or (dim // 2) % heads:
            raise UserError(
                f"a width of {dim} cannot be mixed with {heads} heads: it must be even, at least 16, and the number of "
                "heads must divide its half"
            )
        ndim, half = len(window), dim // 2
        self.window = tuple(window)
        self.proj_attn = nn.Linear(dim, half)
        self.proj_attn_norm = nn.LayerNorm(half, eps=NORM_EPS)
        self.proj_cnn = nn.Linear(dim, dim)
        self.proj_cnn_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.depthwise = depthwise_conv(dim, kernel)
        self.depthwise_norm = batch_norm(ndim, dim, NORM_EPS)
        self.channel_gate = gate(dim, dim // 8, half, ndim)
        self.projection = conv(dim, half, (1,) * ndim)
        self.conv_norm = batch_norm(ndim, half, NORM_EPS)
        self.qkv = nn.Linear(half, 3 * half)  # rows (q | k | v), each (heads, channels of a head)
        self.rel_pos = RelativePositionBias(window, heads)
        self.spatial_gate = gate(half, dim // 16, 1, ndim)
        self.attn_norm = nn.LayerNorm(half, eps=NORM_EPS)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        convolved = self.depthwise(self.proj_cnn_norm(self.proj_cnn(x)).movedim(-1, 1))
        convolved = F.gelu(self.depthwise_norm(convolved))
        qkv = self.qkv(self.proj_attn_norm(self.proj_attn(x))).movedim(-1, 1)
        # The gates are published on the values; one number for a channel of an image, they pass through the weighted
        # sums of attention.
        attended = self._attend(qkv) * self._channel_gates(convolved)
        convolved = self.conv_norm(self.projection(convolved) * self.spatial_gate(attended).sigmoid())
        halves = self.attn_norm(attended.movedim(1, -1)), convolved.movedim(1, -1)
        return self.proj(torch.cat(halves, dim=-1))

    def _channel_gates(self, x: Tensor) -> Tensor:
        """``(B, dim, *size)`` to one factor for every channel of attention, ``(B, dim / 2, 1, ...)``."""
        norm = self.channel_gate[1]
        if len(x) == 1 and norm.training and isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm):
            raise UserError(
                "MixFormer's channel gates normalise one value for each image over the batch, so a batch of 1 cannot "
                "train them: take 2 or more on each device, SyncBatchNorm, or call model.freeze_batch_norm()"
            )
        return self.channel_gate(x.mean(tuple(range(2, x.ndim)), keepdim=True)).sigmoid()

    def _attend(self, qkv: Tensor) -> Tensor:
        """``(B, 3 C, *size)`` to ``(B, C, *size)``; frames that are too few for a window get a shorter one."""
        if len(self.window) == 2:
            return self._attend_windows(qkv, self.window)
        whole = qkv.shape[2] // self.window[0] * self.window[0]
        rest = qkv.shape[2] - whole
        parts = [self._attend_windows(qkv[:, :, :whole], self.window)] if whole else []
        parts += [self._attend_windows(qkv[:, :, whole:], (rest, *self.window[1:]))] if rest else []
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]

    def _attend_windows(self, qkv: Tensor, window: Sequence[int]) -> Tensor:
        """Attention in windows that divide the size; shorter ones in time use the same table of positions."""
        groups = partition(qkv, window)
        tokens = groups.shape[2]
        bias = self.rel_pos()[:, :tokens, :tokens]  # a window's tokens begin with those of its first frames
        return merge(group_attention(groups, bias), window, qkv.shape[2:])


def gate(dim: int, hidden: int, out: int, ndim: int) -> nn.Sequential:
    """Two 1x1 convolutions with batch norm and GELU between, for ``(B, dim, *size)``: gates before their sigmoid."""
    one = (1,) * ndim
    return nn.Sequential(conv(dim, hidden, one), batch_norm(ndim, hidden, NORM_EPS), nn.GELU(), conv(hidden, out, one))
