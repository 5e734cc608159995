"""Pooling attention of MViTv2 (arXiv 2112.01526, section 4.1), exact, without ever building its position bias.

The decomposed relative position bias is linear in the query, so it is a dot product too: the query gets the products
``q.R`` of each axis as further channels, the key says in one-hot form at which places it stands, and plain attention
over the wider heads gives the same scores. No ``Nq x Nk`` tensor is needed, and any fused kernel serves.

Maps are channels-last inside, ``(B, *grid, C)``: linear layers and norms work on the last axis, and the same memory
seen as ``(B, C, *grid)`` is what fast depthwise convolutions want. The class token, which no convolution sees, runs
beside the map as ``(B, 1, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit.layers.constants import constant
from stvit.layers.decomposed_position import position_vectors
from stvit.layers.depthwise import depthwise
from stvit.layers.nd import axes

NORM_EPS = 1e-6  # of all layer norms
# Heads are widened to a multiple of this: CUDA's fused kernels ask for it, and the CPU's is 4 % faster.
WIDTH_MULTIPLE = 8
# So many scores (batch x heads x queries x keys) in float32 stay in a CPU's cache, and computing them outright takes
# up to a fifth less time than the fused call; without gradients, and with them. In half precision the fused call wins.
FEW_SCORES = {False: 2**18, True: 2**21}

Way = Literal["auto", "fused", "published"]


@dataclass(frozen=True)
class PoolingAttentionSpec:
    """The numbers of one block's attention; tuples are in the order of the grid's axes."""

    dim: int
    dim_out: int
    heads: int
    pool_kernel: tuple[int, ...]
    q_stride: tuple[int, ...]
    kv_stride: tuple[int, ...]
    table_rows: tuple[int, ...] | None  # of the relative position tables; None: no relative positions
    pool_query: bool = True
    residual_pooling: bool = True
    balance_class_token: bool = False
    qkv_bias: bool = True


def few_scores(q: Tensor, k: Tensor) -> bool:
    """Whether scores of ``q`` and ``k`` ``(B, *grid, heads, d)`` are computed outright: see :data:`FEW_SCORES`."""
    if q.device.type != "cpu" or q.dtype != torch.float32 or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    scores = q.numel() // q.shape[-1] * math.prod(k.shape[1:-2])
    return scores <= FEW_SCORES[torch.is_grad_enabled()]


class Pool(nn.Module):
    """The weight of a depthwise convolution ``(head_dim, 1, *kernel)`` that all heads share."""

    def __init__(self, head_dim: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head_dim, 1, *kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # a convolution's default

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}"


class PoolingAttention(nn.Module):
    """Multi-head attention whose queries, keys and values are convolved with strides, then normalised.

    Maps ``(B, *grid, dim)`` and, where there is one, the class token ``(B, 1, dim)`` to ``(B, *q_grid, dim_out)`` and
    ``(B, 1, dim_out)``, ``q_grid = ceil(grid / q_stride)``. ``way`` chooses how: ``"fused"`` in one call of
    ``scaled_dot_product_attention``, ``"published"`` by the published arithmetic step by step, ``"auto"`` by the first,
    or with scores computed outright where these are few (see :data:`FEW_SCORES`). The results are the same.
    """

    def __init__(self, spec: PoolingAttentionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head_dim = spec.dim_out // spec.heads
        self.way: Way = "auto"
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim_out, bias=spec.qkv_bias)
        self.pool_q = Pool(self.head_dim, spec.pool_kernel) if spec.pool_query else None
        self.pool_k = Pool(self.head_dim, spec.pool_kernel)
        self.pool_v = Pool(self.head_dim, spec.pool_kernel)
        self.norm_q = nn.LayerNorm(self.head_dim, eps=NORM_EPS) if spec.pool_query else None
        self.norm_k = nn.LayerNorm(self.head_dim, eps=NORM_EPS)
        self.norm_v = nn.LayerNorm(self.head_dim, eps=NORM_EPS)
        self.proj = nn.Linear(spec.dim_out, spec.dim_out)
        for axis, rows in zip(axes(len(spec.pool_kernel)), spec.table_rows or (), strict=False):
            table = nn.init.trunc_normal_(torch.empty(rows, self.head_dim), std=0.02)
            self.register_parameter(f"rel_pos_{axis}", nn.Parameter(table))

    def forward(self, x: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._pooled(x)
        q_cls, k_cls, v_cls = self._class_token_parts(cls)
        outright = self.way == "published" or (self.way == "auto" and few_scores(q, k))
        attend = self._attend_outright if outright else self._attend_fused
        out, out_cls = attend(q, k, v, q_cls, k_cls, v_cls)
        if self.spec.residual_pooling:  # of patches only, as published
            out = out + q
        out = self.proj(out.flatten(-2))
        return out, None if out_cls is None else self.proj(out_cls.flatten(-2))

    # --- queries, keys and values

    def _project(self, x: Tensor, first: int, count: int) -> Tensor:
        """Some of the (q, k, v) parts of ``qkv(x)``: ``(..., count * dim_out)``."""
        rows = slice(first * self.spec.dim_out, (first + count) * self.spec.dim_out)
        bias = None if self.qkv.bias is None else self.qkv.bias[rows]
        return F.linear(x, self.qkv.weight[rows], bias)

    def _pooled(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the patches, pooled and normalised: ``(B, *their grid, heads, head_dim)``."""
        spec = self.spec
        q = self._project(x, 0, 1)
        if self.pool_q is not None and self.norm_q is not None:
            q = pool_heads(q, [self.pool_q.weight], spec.heads, spec.q_stride)
            q = self.norm_q(q.unflatten(-1, (spec.heads, self.head_dim)))
        else:
            q = q.unflatten(-1, (spec.heads, self.head_dim))
        read, stride = x, spec.kv_stride
        if self.way != "published":
            read, stride = only_read_places(x, spec.pool_kernel, spec.kv_stride)
        kv = pool_heads(self._project(read, 1, 2), [self.pool_k.weight, self.pool_v.weight], spec.heads, stride)
        k, v = kv.unflatten(-1, (2, spec.heads, self.head_dim)).unbind(-3)
        return q, self.norm_k(k), self.norm_v(v)

    def _class_token_parts(self, cls: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The same of the class token, which is normalised but not pooled: ``(B, 1, heads, head_dim)`` each."""
        if cls is None:
            return None, None, None
        q, k, v = self.qkv(cls).unflatten(-1, (3, self.spec.heads, self.head_dim)).unbind(-3)
        return self.norm_q(q) if self.norm_q is not None else q, self.norm_k(k), self.norm_v(v)

    def _position_vectors(self, q_grid: Sequence[int], k_grid: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """Per axis ``(query places, key places, head_dim)``; empty without relative positions."""
        if self.spec.table_rows is None:
            return []
        tables = [getattr(self, f"rel_pos_{axis}") for axis in axes(len(q_grid))]
        return [
            position_vectors(table, query, key).to(dtype)
            for table, query, key in zip(tables, q_grid, k_grid, strict=True)
        ]

    # --- two ways to attend

    def _attend_fused(
        self, q: Tensor, k: Tensor, v: Tensor, q_cls: Tensor | None, k_cls: Tensor | None, v_cls: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        q_grid, k_grid = q.shape[1:-2], k.shape[1:-2]
        vectors = self._position_vectors(q_grid, k_grid, q.dtype)
        balanced = int(self.spec.balance_class_token and k_cls is not None)
        extra = [position_products(q, axis, vector) for axis, vector in enumerate(vectors)]
        extra += [q.new_ones(1).expand(*q.shape[:-1], 1)] if balanced else []
        width = sum(e.shape[-1] for e in extra)
        spare = -(self.head_dim + width) % WIDTH_MULTIPLE
        queries = torch.cat([q, *extra, q.new_zeros(1).expand(*q.shape[:-1], spare)], dim=-1).flatten(1, -3)
        places = [one_hot_places(k, axis) for axis in range(len(vectors))]
        scaled = [k * self.head_dim**-0.5, *places, k.new_zeros(1).expand(*k.shape[:-1], balanced + spare)]
        keys, values = torch.cat(scaled, dim=-1).flatten(1, -3), v.flatten(1, -3)
        if q_cls is None or k_cls is None or v_cls is None:
            return sdpa(queries, keys, values).unflatten(1, q_grid), None
        # Neither the class token's query nor its key has a place: zeros, but for the weight of balance_class_token.
        k_cls, q_cls = (F.pad(token, (0, width + spare)) for token in (k_cls * self.head_dim**-0.5, q_cls))
        if balanced:
            channel = torch.zeros_like(k_cls[:1, :, :1])
            channel[..., self.head_dim + width - 1] = 1.0
            q_cls, k_cls = q_cls + channel, k_cls + channel * self._class_token_weight(k_grid)
        keys, values = torch.cat([k_cls, keys], dim=1), torch.cat([v_cls, values], dim=1)
        return sdpa(queries, keys, values).unflatten(1, q_grid), sdpa(q_cls, keys, values)

    @staticmethod
    def _class_token_weight(k_grid: Sequence[int]) -> float:
        """What the class token's key gains in every score: as many copies of it as of each patch over time."""
        return math.log(k_grid[0]) if len(k_grid) == 3 else 0.0

    def _attend_outright(
        self, q: Tensor, k: Tensor, v: Tensor, q_cls: Tensor | None, k_cls: Tensor | None, v_cls: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The published arithmetic: scores, plus biases between patches, softmax, weighted sum."""
        q_grid, k_grid = q.shape[1:-2], k.shape[1:-2]
        vectors = self._position_vectors(q_grid, k_grid, q.dtype)
        queries, keys, values = (part.flatten(1, -3) for part in (q, k, v))
        if q_cls is not None and k_cls is not None and v_cls is not None:
            queries, keys = torch.cat([q_cls, queries], dim=1), torch.cat([k_cls, keys], dim=1)
            values = torch.cat([v_cls, values], dim=1)
        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        scores = (queries * self.head_dim**-0.5) @ keys.transpose(-1, -2)  # (B, heads, Nq, Nk)
        if vectors:
            bias = position_bias([position_products(q, axis, vector) for axis, vector in enumerate(vectors)])
            scores = scores + (bias if q_cls is None else F.pad(bias, (1, 0, 1, 0)))
        if self.spec.balance_class_token and q_cls is not None:
            scores = torch.cat([scores[..., :1] + self._class_token_weight(k_grid), scores[..., 1:]], dim=-1)
        out = (scores.softmax(dim=-1) @ values).transpose(1, 2)  # (B, Nq, heads, head_dim)
        if q_cls is None:
            return out.unflatten(1, q_grid), None
        return out[:, 1:].unflatten(1, q_grid), out[:, :1]


def pool_heads(x: Tensor, weights: Sequence[Tensor], heads: int, stride: Sequence[int]) -> Tensor:
    """Depthwise convolutions of ``(B, *grid, len(weights) * heads * d)``, each weight shared by all heads of its part.

    One convolution over all parts and heads, on channels-last memory throughout; padding ``kernel // 2``.
    """
    weight = torch.cat([w.repeat(heads, *(1,) * (w.ndim - 1)) for w in weights])
    return depthwise(x.movedim(-1, 1), weight, stride).movedim(1, -1)


def only_read_places(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """The places of ``(B, *grid, C)`` that a padded, strided convolution reads, and the stride that then does the same.

    Where the stride is larger than the kernel, whole rows between two windows are never looked at: what comes before
    the convolution (here the projection to keys and values) need not be computed there. Windows then touch, so the
    stride becomes the kernel.
    """
    strides = []
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=1):
        size = x.shape[axis]
        if s > k and k % 2:
            x = x.index_select(axis, read_places(len(range(size)), k, s, x.device))
            s = k
        strides.append(s)
    return x, tuple(strides)


@torch.compiler.assume_constant_result
def read_places(size: int, kernel: int, stride: int, device: torch.device) -> Tensor:
    """The places of an axis that a convolution padded by ``kernel // 2`` reads, int64 on a device."""

    def places() -> np.ndarray:
        starts = range(-(kernel // 2), size + kernel // 2 - kernel + 1, stride)
        return np.array([p for start in starts for p in range(start, start + kernel) if 0 <= p < size])

    return constant(("read places", size, kernel, stride), device, places)


def position_products(q: Tensor, axis: int, vectors: Tensor) -> Tensor:
    """``q.R`` along one axis: ``(B, *q_grid, heads, d)`` and ``(q, k, d)`` to ``(B, *q_grid, heads, k)``."""
    ndim = q.ndim - 3
    if axis < ndim - 1:  # rows of one place are next to each other in memory
        return (q.flatten(axis + 2, -2) @ vectors.transpose(-1, -2)).reshape(*q.shape[:-1], -1)
    heads = q.shape[-2]
    rows = q.flatten(0, -4).flatten(1, 2).transpose(0, 1)  # (places x heads, other places, d), without a copy
    products = rows @ vectors.transpose(-1, -2).repeat_interleave(heads, dim=0)
    return products.transpose(0, 1).reshape(*q.shape[:-1], -1)


def one_hot_places(k: Tensor, axis: int) -> Tensor:
    """``(B, *k_grid, heads, places)``: at which place of one axis each key stands."""
    places = k.shape[1 + axis]
    shape = [1] * k.ndim
    shape[1 + axis] = shape[-1] = places
    return torch.eye(places, device=k.device, dtype=k.dtype).view(shape).expand(*k.shape[:-1], places)


def position_bias(products: Sequence[Tensor]) -> Tensor:
    """The sum over axes of ``(B, *q_grid, heads, k)`` products as a dense bias ``(B, heads, Nq, Nk)``."""
    ndim = len(products)
    total: Tensor | None = None
    for axis, product in enumerate(products):
        shape = [*product.shape[:-1], *(product.shape[-1] if a == axis else 1 for a in range(ndim))]
        total = product.view(shape) if total is None else total + product.view(shape)
    assert total is not None
    return total.flatten(-ndim).flatten(1, -3).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with scale 1 on ``(B, N, heads, *)``, ``(B, Nq, heads, width of v)``.

    Values are padded to the width of queries and keys: torch's CPU kernel wants equal widths and otherwise falls back
    to one that holds all scores.
    """
    padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), padded.transpose(1, 2), scale=1.0)
    return out.transpose(1, 2)[..., : v.shape[-1]]
