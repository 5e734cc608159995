"""MViTv2 (arXiv 2112.01526) for images and clips, and its predecessor MViT (arXiv 2104.11227): one network.

The length of the tuples in the spec decides between grids ``(H, W)`` and ``(T, H, W)``. Weights have the names and, for
grids of the same number of axes, the shapes of facebookresearch/mvit and SlowFast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stvit.backbones.base import Backbone, FeatureInfo, init_linear, pyramid
from stvit.backbones.checks import check_axes, check_counts, check_odd, check_rates
from stvit.errors import UserError, nearest
from stvit.layers.mlp import MLP
from stvit.layers.nd import conv, max_pool
from stvit.layers.pooling_attention import NORM_EPS, PoolingAttention, PoolingAttentionSpec, Way


@dataclass(frozen=True)
class MViTSpec:
    """A variant. Tuples over axes have two entries (H, W) for images and three (T, H, W) for clips."""

    depths: tuple[int, ...]  # blocks of each stage; the first block of every later stage strides and doubles the width
    input_size: tuple[int, ...] = (224, 224)  # (H, W) or (frames, H, W) that the position tables are made for
    in_channels: int = 3
    num_classes: int = 1000  # 0: no classifier
    width: int = 96  # of the first stage
    heads: int = 1  # of the first stage; doubles with the width
    mlp_ratio: float = 4.0
    patch_kernel: tuple[int, ...] = (7, 7)
    patch_stride: tuple[int, ...] = (4, 4)
    pool_kernel: tuple[int, ...] = (3, 3)
    q_stride: tuple[int, ...] = (2, 2)  # of queries where a stage starts
    kv_stride: tuple[int, ...] = (4, 4)  # of keys and values in the first stage; divided by q_stride at each next one
    widen_in_attention: bool = True  # a stage's width starts in its first attention, else in the MLP before it
    class_token: bool = False
    head_pooling: str = "mean"  # what the classifier sees: one of HEAD_POOLING
    balance_class_token: bool = False  # weigh the class token as in one frame, however many frames there are
    relative_position: bool = True
    absolute_position: bool = False  # learned, one table for space and one for time (MViT)
    residual_pooling: bool = True
    pool_unstrided_query: bool = True  # False (MViT): queries without stride are neither convolved nor normalised
    qkv_bias: bool = True
    drop_path: float = 0.1  # of the last block; grows linearly from 0
    head_dropout: float = 0.0


HEAD_POOLING = {
    "mean": "the mean of the normalised patch tokens",
    "class_token": "the normalised class token",
    "mean_then_norm": "the normalised mean of the patch tokens (SlowFast's USE_MEAN_POOLING)",
}


@dataclass(frozen=True)
class BlockSpec:
    """The numbers of one block."""

    attention: PoolingAttentionSpec
    dim_out: int
    mlp_ratio: float
    drop_path: float


Tokens = tuple[Tensor, Tensor | None]  # patches (B, *grid, C) and, where there is one, the class token (B, 1, C)


class MViT(Backbone[Tokens]):
    """Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` of any size to logits ``(B, num_classes)``.

    Other sizes than ``spec.input_size`` work: the relative position tables are interpolated by the published rule,
    absolute ones linearly.

    Raises:
        UserError: a spec that is no network.
    """

    spec: MViTSpec

    def __init__(self, spec: MViTSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        grid = tuple(size // stride for size, stride in zip(spec.input_size, spec.patch_stride, strict=True))
        blocks = block_specs(spec, grid)
        self.num_features, self.num_classes = blocks[-1].dim_out, spec.num_classes
        self.feature_info = stage_infos(spec)
        self.patch_embed = PatchEmbed(spec)
        self.cls_token = nn.Parameter(torch.empty(1, 1, spec.width)) if spec.class_token else None
        if spec.absolute_position:
            self._add_absolute_positions(grid)
        self.blocks = nn.ModuleList(MultiScaleBlock(block) for block in blocks)
        self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.head = Head(self.num_features, spec.num_classes, spec.head_dropout)
        self.init_weights()

    def _add_absolute_positions(self, grid: tuple[int, ...]) -> None:
        width = self.spec.width
        self.pos_embed_spatial = nn.Parameter(torch.empty(1, grid[-2] * grid[-1], width))
        if len(grid) == 3:
            self.pos_embed_temporal = nn.Parameter(torch.empty(1, grid[0], width))
        if self.spec.class_token:
            self.pos_embed_class = nn.Parameter(torch.empty(1, 1, width))

    def init_weights(self) -> None:
        """Normal of 0.02, cut at 2, for linear layers and tokens; zero biases; convolutions at torch's default.

        As in facebookresearch/mvit. SlowFast starts the biases of linear layers and norms at 0.02 instead of 0.
        """
        self.apply(init_linear)
        for name, parameter in self.named_parameters(recurse=False):
            if name == "cls_token" or name.startswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)

    def _stem(self, x: Tensor) -> Tokens:
        self.check_input(x)
        x = self.patch_embed(x)
        cls = None if self.cls_token is None else self.cls_token.expand(x.shape[0], -1, -1)
        if not self.spec.absolute_position:
            return x, cls
        return x + self._absolute_positions(x.shape[1:-1]), None if cls is None else cls + self.pos_embed_class

    def _absolute_positions(self, grid: Sequence[int]) -> Tensor:
        """``(1, *grid, width)``, resized linearly to the grid."""
        side = [n // s for n, s in zip(self.spec.input_size[-2:], self.spec.patch_stride[-2:], strict=True)]
        spatial: Tensor = rearrange(self.pos_embed_spatial, "1 (h w) c -> 1 c h w", h=side[0])
        if list(grid[-2:]) != side:
            spatial = F.interpolate(spatial, size=tuple(grid[-2:]), mode="bilinear")
        spatial = spatial.movedim(1, -1)
        if len(grid) == 2:
            return spatial
        temporal = F.interpolate(self.pos_embed_temporal.transpose(-1, -2), size=grid[0], mode="linear")
        return spatial.unsqueeze(1) + temporal.transpose(-1, -2)[:, :, None, None]

    def _run(self, blocks: Iterable[nn.Module], x: Tensor, cls: Tensor | None) -> Tokens:
        for block in blocks:
            x, cls = cast(Tokens, self.run_block(block, x, cls))
        return x, cls

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(B, N, num_features)`` after the final norm: the class token, if any, then the patches in row order.

        With ``head_pooling="mean_then_norm"`` the norm belongs to the head.
        """
        return self.forward_final(self._run(self.blocks, *self._stem(x)))

    def forward_final(self, state: Tokens) -> Tensor:
        """See :class:`Backbone`."""
        x, cls = state
        x = x.flatten(1, -2)
        x = x if cls is None else torch.cat([cls, x], dim=1)
        return x if self.spec.head_pooling == "mean_then_norm" else self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """See :class:`Backbone`; takes what :meth:`forward_features` gives."""
        pooling = self.spec.head_pooling
        x = x[:, 0] if pooling == "class_token" else x[:, int(self.spec.class_token) :].mean(1)
        x = self.norm(x) if pooling == "mean_then_norm" else x
        return x if pre_logits else self.head(x)

    def forward_stages(self, x: Tensor, count: int) -> tuple[list[Tensor], Tokens]:
        """See :class:`Backbone`."""
        maps = []
        x, cls = self._stem(x)
        for start, end in pairwise([0, *stage_ends(self.spec.depths, after=True)[:count]]):
            x, cls = self._run(self.blocks[start:end], x, cls)
            maps.append(rearrange(x, "b ... c -> b c ..."))
        return maps, (x, cls)

    def norm_map(self, features: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)

    def parameters_after(self, count: int) -> list[nn.Parameter]:
        """See :class:`Backbone`."""
        end = stage_ends(self.spec.depths, after=True)[count - 1]
        modules = [*self.blocks[end:], self.norm, self.head]
        return [parameter for module in modules for parameter in module.parameters()]

    def set_attention(self, way: Way) -> None:
        """How attention is computed, with the same results; see :class:`PoolingAttention`. ``"auto"`` is the default.

        ``"published"`` takes the published arithmetic step by step, which is what multiply-accumulates are stated for.
        """
        if way not in get_args(Way):
            raise UserError(f"attention {way!r} is none of {', '.join(get_args(Way))}{nearest(way, get_args(Way))}")
        for module in self.modules():
            if isinstance(module, PoolingAttention):
                module.way = way

    def no_weight_decay(self) -> set[str]:
        """Class token and position tables, as in timm; the published recipe decays them (ZERO_DECAY_POS_CLS False)."""
        marks = ("cls_token", "pos_embed", "rel_pos")
        return {name for name, _ in self.named_parameters() if any(mark in name for mark in marks)}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """See :class:`Backbone`; a layer is a block, coarse or not; the final norm goes with the head."""
        return {"stem": r"^cls_token|^pos_embed|^patch_embed", "blocks": r"^blocks\.(\d+)"}


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution, ``(B, C, *size)`` to ``(B, *grid, width)``."""

    def __init__(self, spec: MViTSpec) -> None:
        super().__init__()
        self.proj = conv(spec.in_channels, spec.width, spec.patch_kernel, spec.patch_stride)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "b c ... -> b ... c").contiguous()


class Head(nn.Module):
    """Dropout and the classifier; the identity for 0 classes."""

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.dropout(x))


class MultiScaleBlock(nn.Module):
    """Pooling attention and MLP with residuals: map and class token to the pooled grid and the new width."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        attention = spec.attention
        self.stride = attention.q_stride
        self.drop_path = spec.drop_path
        self.norm1 = nn.LayerNorm(attention.dim, eps=NORM_EPS)
        self.attn = PoolingAttention(attention)
        self.norm2 = nn.LayerNorm(attention.dim_out, eps=NORM_EPS)
        self.mlp = MLP(attention.dim_out, int(attention.dim_out * spec.mlp_ratio), spec.dim_out)
        self.widens_in_attention = attention.dim != attention.dim_out
        self.widens_in_mlp = attention.dim_out != spec.dim_out
        widens = self.widens_in_attention or self.widens_in_mlp
        self.proj = nn.Linear(attention.dim, spec.dim_out) if widens else None

    def forward(self, x: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        keep = self._draw_survivors(x)
        n, n_cls = self.norm1(x), None if cls is None else self.norm1(cls)
        out, out_cls = self.attn(n, n_cls)
        skip, skip_cls = (self._widen(n, n_cls)) if self.widens_in_attention else (x, cls)
        x, cls = _add(max_pool_skip(skip, self.stride), out, keep), _add_token(skip_cls, out_cls, keep)
        keep = self._draw_survivors(x)
        n, n_cls = self.norm2(x), None if cls is None else self.norm2(cls)
        skip, skip_cls = (self._widen(n, n_cls)) if self.widens_in_mlp else (x, cls)
        return _add(skip, self.mlp(n), keep), _add_token(skip_cls, None if n_cls is None else self.mlp(n_cls), keep)

    def _widen(self, x: Tensor, cls: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The skip where the width changes: a projection of the normalised input, as published."""
        assert self.proj is not None
        return self.proj(x), None if cls is None else self.proj(cls)

    def _draw_survivors(self, x: Tensor) -> Tensor | None:
        """Stochastic depth (arXiv 1603.09382): per sample ``(B,)``, 0 or 1 / survival rate; None: all survive."""
        if not self.training or self.drop_path == 0.0:
            return None
        survives = 1.0 - self.drop_path
        return x.new_empty(x.shape[0]).bernoulli_(survives).div_(survives)


def _add(skip: Tensor, branch: Tensor, keep: Tensor | None) -> Tensor:
    return skip + branch if keep is None else skip + branch * keep.view(-1, *(1,) * (branch.ndim - 1))


def _add_token(skip: Tensor | None, branch: Tensor | None, keep: Tensor | None) -> Tensor | None:
    return None if skip is None or branch is None else _add(skip, branch, keep)


def max_pool_skip(x: Tensor, stride: Sequence[int]) -> Tensor:
    """What the residual becomes where queries stride: max pooling, kernel ``s + 1`` on strided axes, 1 on others.

    ``(B, *grid, C)`` to the grid of the queries.
    """
    if all(s == 1 for s in stride):
        return x
    kernel = [s + 1 if s > 1 else 1 for s in stride]
    if len(stride) == 3 and stride[0] == 1:  # frames do not mix: images then, for which the kernel is faster
        pooled = max_pool(x.flatten(0, 1).movedim(-1, 1), kernel[1:], stride[1:]).movedim(1, -1)
        return pooled.unflatten(0, x.shape[:2])
    return max_pool(x.movedim(-1, 1), kernel, stride).movedim(1, -1)


def stage_starts(depths: Sequence[int]) -> list[int]:
    """The first block of every stage but the first: where queries stride and the width doubles."""
    return [sum(depths[:stage]) for stage in range(1, len(depths))]


def stage_ends(depths: Sequence[int], after: bool = False) -> list[int]:
    """The last block of every stage, or the one ``after`` it."""
    return [sum(depths[: stage + 1]) - (not after) for stage in range(len(depths))]


def block_specs(spec: MViTSpec, grid: Sequence[int]) -> list[BlockSpec]:
    """The blocks of a network whose patches form ``grid``; tables are as long as the published code makes them."""
    starts, depth = stage_starts(spec.depths), sum(spec.depths)
    one = (1,) * len(grid)
    dim, heads, kv_stride, grid = spec.width, spec.heads, spec.kv_stride, tuple(grid)
    blocks = []
    for index in range(depth):
        starts_stage, ends_stage = index in starts, index + 1 in starts
        q_stride = spec.q_stride if starts_stage else one
        heads *= 2 if starts_stage else 1
        kv_stride = tuple(max(kv // q, 1) for kv, q in zip(kv_stride, q_stride, strict=True))
        dim_attention = 2 * dim if starts_stage and spec.widen_in_attention else dim
        dim_out = 2 * dim_attention if ends_stage and not spec.widen_in_attention else dim_attention
        attention = PoolingAttentionSpec(
            dim=dim,
            dim_out=dim_attention,
            heads=heads,
            pool_kernel=spec.pool_kernel,
            q_stride=q_stride,
            kv_stride=kv_stride,
            table_rows=table_rows(grid, q_stride, kv_stride) if spec.relative_position else None,
            pool_query=spec.pool_unstrided_query or q_stride != one,
            residual_pooling=spec.residual_pooling,
            balance_class_token=spec.balance_class_token,
            qkv_bias=spec.qkv_bias,
        )
        rate = spec.drop_path * index / max(depth - 1, 1)
        blocks.append(BlockSpec(attention, dim_out, spec.mlp_ratio, rate))
        dim, grid = dim_out, tuple(max(n // q, 1) for n, q in zip(grid, q_stride, strict=True))
    return blocks


def table_rows(grid: Sequence[int], q_stride: Sequence[int], kv_stride: Sequence[int]) -> tuple[int, ...]:
    """``2 max(n // q, n // kv) - 1`` per axis: floor division, whatever the convolutions' grids are, as published."""
    return tuple(2 * max(n // q, n // kv, 1) - 1 for n, q, kv in zip(grid, q_stride, kv_stride, strict=True))


def stage_infos(spec: MViTSpec) -> FeatureInfo:
    """Channels and strides of the map after every stage."""
    widths = [block.dim_out for block in block_specs(spec, (1,) * len(spec.input_size))]
    ends = stage_ends(spec.depths)
    strides = [
        tuple(p * q**stage for p, q in zip(spec.patch_stride, spec.q_stride, strict=True)) for stage in range(len(ends))
    ]
    return pyramid([f"blocks.{end}" for end in ends], [widths[end] for end in ends], strides)


def check_spec(spec: MViTSpec) -> None:
    """Raise :class:`UserError` for settings that contradict each other."""
    check_axes(spec, "patch_kernel", "patch_stride", "pool_kernel", "q_stride", "kv_stride")
    check_odd(spec, "patch_kernel", "pool_kernel")
    check_counts(spec)
    check_rates(spec, "drop_path", "head_dropout")
    if any(s > 1 and s % 2 for s in spec.q_stride):
        raise UserError(f"q_stride={spec.q_stride}: 1 or even numbers are needed, which skips can be pooled by")
    if any(n < s for n, s in zip(spec.input_size, spec.patch_stride, strict=True)):
        raise UserError(f"input_size={spec.input_size}: smaller than one patch of stride {spec.patch_stride}")
    if spec.width < 1 or spec.heads < 1 or spec.width % spec.heads:
        raise UserError(f"width={spec.width} cannot be divided among heads={spec.heads}")
    if spec.head_pooling not in HEAD_POOLING:
        raise UserError(f"head_pooling={spec.head_pooling!r}: choose from {', '.join(HEAD_POOLING)}")
    if spec.head_pooling == "class_token" and not spec.class_token:
        raise UserError("head_pooling='class_token' needs class_token=True")
