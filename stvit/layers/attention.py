"""Attention inside groups of tokens, and attention among channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stvit.errors import UserError
from stvit.layers.position import RelativePositionBias


class GroupAttention(nn.Module):
    """Multi-head self-attention within each group, with a relative position bias: ``(B, G, N, C) -> (B, G, N, C)``.

    Serves windows and grids alike. MixViT's grid branch exchanges the roles of its three projections
    (``softmax(k v^T) q``); that is this attention with the row blocks of ``qkv`` read as (k, v, q), so checkpoints of
    it are rotated when they are loaded and no second code path exists.

    Args:
        dim: channels C, a multiple of ``dim_head``.
        window: sides of a group, whose product is N.
        dim_head: channels of one head.
    """

    def __init__(self, dim: int, window: Sequence[int], dim_head: int) -> None:
        super().__init__()
        if dim % dim_head:
            raise UserError(f"{dim} channels cannot be cut into heads of {dim_head}: dim_head must divide the width")
        self.heads = dim // dim_head
        self.qkv = nn.Linear(dim, 3 * dim)  # rows (q | k | v), each (heads, dim_head)
        self.rel_pos = RelativePositionBias(window, self.heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``: booleans ``(G, 1, N)``, False for tokens that no other token shall see."""
        return self.proj(group_attention(self.qkv(x), self.rel_pos(), mask))


def group_attention(qkv: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot products within groups, plus a bias for each pair of places.

    Args:
        qkv: ``(B, G, N, 3 C)``, rows (q | k | v), each (heads, channels of a head).
        bias: ``(heads, N, N)``, rows queries and columns keys.
        mask: booleans ``(G, 1, N)``, False for keys to leave out; None takes all.

    Returns:
        ``(B, G, N, C)``.
    """
    groups, heads = qkv.shape[1], bias.shape[0]
    bias = bias.to(qkv.dtype).unsqueeze(0)
    if mask is None:
        q, k, v = rearrange(qkv, "b g n (three h d) -> three (b g) h n d", three=3, h=heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return _beside(rearrange(out, "(b g) h n d -> b g n h d", g=groups))
    q, k, v = rearrange(qkv, "b g n (three h d) -> three b (g h) n d", three=3, h=heads)
    seen = bias.masked_fill(~mask.unsqueeze(1), -torch.inf)  # (G, heads, N, N)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.flatten(0, 1).unsqueeze(0))
    return _beside(rearrange(out, "b (g h) n d -> b g n h d", g=groups))


def _beside(heads: Tensor) -> Tensor:
    """``(..., heads, d)`` with the heads of a token beside each other, ``(..., heads d)``.

    The exporter to ONNX replaces fused attention by one of another memory layout, of which no view can be made.
    """
    return (heads.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else heads).flatten(-2)


class ChannelAttention(nn.Module):
    """Attention among the channels of each head, over all tokens at once: ``(B, N, C) -> (B, N, C)``.

    Of clips, the logits are summed over space and averaged over time: a still clip has those of its frame.

    ``A = softmax(d^-1/2 k^T v)`` is d x d and ``out = A q`` (roles as MixViT has them; DaViT, arXiv 2204.03645, is the
    model). The logits are sums over N tokens that are scaled by ``d^-1/2`` alone, so they grow with the image and
    rounding in them is amplified: half-precision inputs are multiplied and summed in float32, inside autocast too.

    Args:
        dim: channels C, a multiple of ``heads``.
        heads: groups of channels.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(
                f"{dim} channels cannot be shared by {heads} channel heads: the number must divide the width"
            )
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: int = 1) -> Tensor:
        """``frames``: how many the tokens are of."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.promote_types(q.dtype, torch.float32)
            logits = (k.to(exact) * (self.scale / frames)).transpose(-2, -1) @ v.to(exact)
            weights = logits.softmax(dim=-1).to(q.dtype)
        out = q @ weights.transpose(-2, -1)  # out[n, c] = sum_d A[c, d] q[n, d]
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))
