"""Convolutional blocks: inverted bottleneck with squeeze-excite, and the predictor's conv-norm-activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import DropPath
from torch import Tensor, nn

from stvit.layers.depthwise import depthwise_conv
from stvit.layers.nd import avg_pool, batch_norm, conv, pad_same


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over the grid (arXiv 1709.01507): ``(B, C, *size)`` to the same shape."""

    def __init__(self, dim: int, hidden: int, ndim: int) -> None:
        super().__init__()
        self.fc1 = conv(dim, hidden, (1,) * ndim)
        self.act = nn.SiLU()
        self.fc2 = conv(hidden, dim, (1,) * ndim)
        self.pool_axes = tuple(range(2, 2 + ndim))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.fc2(self.act(self.fc1(x.mean(self.pool_axes, keepdim=True))))
        return x * gates.sigmoid()


class MBConv(nn.Module):
    """Pre-normalised inverted bottleneck of MaxViT and MixViT: ``(B, in, *size) -> (B, out, *size / stride)``.

    BN, 1x1 to ``expand`` x the *output* width, BN, act, depthwise (strided), BN, act, squeeze-excite, 1x1, plus a
    shortcut: identity, or mean pooling by the stride and a 1x1 convolution where the widths differ.

    Args:
        in_dim, out_dim: channels.
        kernel: depthwise kernel; its length says whether maps are (H, W) or (T, H, W).
        stride: of the depthwise convolution; strided maps are padded as TensorFlow's "same".
        expand: hidden width over output width.
        se_ratio: hidden width of the squeeze-excite over the output width.
        act: builds the activation.
        norm_eps: of the batch norms.
        drop_path: probability of dropping the branch of a sample.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        expand: int = 4,
        se_ratio: float = 0.25,
        act: Callable[[], nn.Module] = nn.GELU,
        norm_eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        ndim, hidden = len(kernel), expand * out_dim
        self.kernel, self.stride = tuple(kernel), tuple(stride or (1,) * ndim)
        self.strided = any(s > 1 for s in self.stride)
        pointwise = (1,) * ndim
        self.pre_norm = batch_norm(ndim, in_dim, norm_eps)
        self.expand = conv(in_dim, hidden, pointwise, bias=False)
        self.norm1 = batch_norm(ndim, hidden, norm_eps)
        self.depthwise = (
            conv(hidden, hidden, kernel, self.stride, groups=hidden, bias=False, padding=False)
            if self.strided
            else depthwise_conv(hidden, kernel, bias=False)
        )
        self.norm2 = batch_norm(ndim, hidden, norm_eps)
        self.act = act()
        self.se = SqueezeExcite(hidden, int(se_ratio * out_dim), ndim)
        self.project = conv(hidden, out_dim, pointwise)
        self.drop_path = DropPath(drop_path)
        self.shortcut = conv(in_dim, out_dim, pointwise) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(avg_pool(x, self.stride) if self.strided else x)
        x = self.act(self.norm1(self.expand(self.pre_norm(x))))
        if self.strided:
            x = pad_same(x, self.kernel, self.stride)
        x = self.se(self.act(self.norm2(self.depthwise(x))))
        return shortcut + self.drop_path(self.project(x))


class ConvNormAct(nn.Module):
    """3x3 convolution, GroupNorm, SiLU: the unit of the SimVP encoder and decoder (arXiv 2206.05099).

    ``(B, in, H, W)`` to ``(B, out, H / stride, W / stride)``, or to twice the size with ``upsample`` (a convolution
    to four times the width, then pixel shuffle).
    """

    def __init__(self, in_dim: int, out_dim: int, *, stride: int = 1, upsample: bool = False, groups: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim * 4 if upsample else out_dim, 3, stride=stride, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.shuffle = nn.PixelShuffle(2) if upsample else nn.Identity()
        self.norm = nn.GroupNorm(groups, out_dim)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.shuffle(self.conv(x))))
