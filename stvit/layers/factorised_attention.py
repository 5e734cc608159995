"""Factorised attention with convolutional relative positions: linear in the number of tokens.

From CoaT, "Co-Scale Conv-Attentional Image Transformers", arXiv 2104.06399, section 3; MPViT's attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from stvit.errors import UserError
from stvit.layers.depthwise import depthwise_conv


class ConvRelativePosition(nn.Module):
    """Values around each token, weighed by their offset: ``(B, C, *grid)`` to the same shape.

    A depthwise convolution whose kernel is larger for later heads.

    Args:
        dim: channels C, a multiple of the number of heads.
        heads: how many heads have each kernel, in the order of their channels.
        kernels: the sides of each, odd; their length is the number of the grid's axes.
    """

    def __init__(self, dim: int, heads: Sequence[int], kernels: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.channels = [count * dim // sum(heads) for count in heads]
        self.convs = nn.ModuleList(depthwise_conv(c, k) for c, k in zip(self.channels, kernels, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.convs, x.split(self.channels, dim=1), strict=True)
        return torch.cat([conv(part) for conv, part in parts], dim=1)


class FactorisedAttention(nn.Module):
    """``d^-1/2 q (softmax(k)^T v) + q * position(v)``, each head for itself: ``(B, N, C) -> (B, N, C)``.

    The softmax is over the N tokens, for every channel of the keys; d is the width of a head, and the scale does not
    apply to the second term. ``softmax(k)^T v`` is d x d, so nothing is as large as tokens x tokens.

    Weights of the softmax are about 1/N, which float16 holds with few digits or not at all (from 16,384 tokens on they
    are subnormal), and products of them are summed over N tokens. Both are in float32 whatever the inputs are, inside
    autocast too.

    Args:
        dim: channels C, a multiple of ``heads``.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"{dim} channels cannot be shared by {heads} heads: the number must divide the width")
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)  # rows (q | k | v), each (heads, d)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: Sequence[int], position: nn.Module) -> Tensor:
        """``grid``: the sides of the map that the N tokens are of; ``position``: a :class:`ConvRelativePosition`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        content = rearrange(q, "b n (h d) -> b h n d", h=self.heads) @ self._context(k, v)
        around = position(v.unflatten(1, grid).movedim(-1, 1)).flatten(2).mT
        return self.proj(torch.addcmul(rearrange(content, "b h n d -> b n (h d)"), q, around))

    def _context(self, k: Tensor, v: Tensor) -> Tensor:
        """``d^-1/2 softmax(k)^T v`` of each head, ``(B, heads, d, d)``; the scale costs nothing here."""
        with torch.autocast(k.device.type, enabled=False):
            exact = torch.promote_types(k.dtype, torch.float32)
            weights = rearrange(k, "b n (h d) -> b h d n", h=self.heads).softmax(-1, dtype=exact)
            context = weights @ rearrange(v, "b n (h d) -> b h n d", h=self.heads).to(exact)
            return (context * self.scale).to(k.dtype)
