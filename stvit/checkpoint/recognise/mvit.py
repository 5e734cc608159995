"""What weights of an MViT tell of its row, in stvit's layout."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from stvit.backbones.mvit import MViTSpec
from stvit.checkpoint.layouts.timm_mvit import stage_depths, widens_in_attention

CERTAIN = (
    *("depths", "width", "heads", "mlp_ratio", "patch_kernel", "pool_kernel", "widen_in_attention", "class_token"),
    *("relative_position", "absolute_position", "pool_unstrided_query", "qkv_bias"),
)
LIKELY = ("kv_stride", "num_classes", "input_size")
_KEY_STRIDES = {2: (4, 2, 1, 8, 16), 3: (8, 4, 2, 1, 16)}  # by axes of the grid, the published ones first


def mvit_spec(weights: Mapping[str, Tensor]) -> MViTSpec | None:
    """The row of an MViT as far as its weights tell; None for weights of anything else, or not whole.

    Strides come from the lengths of position tables, the input size up to the remainder of its division into patches.
    What changes no weight is as in the published networks.
    """
    try:
        return _told(weights)
    except (KeyError, ZeroDivisionError, ValueError, IndexError):
        return None


def _told(weights: Mapping[str, Tensor]) -> MViTSpec:
    patch, pool = weights["patch_embed.proj.weight"], weights["blocks.0.attn.pool_k.weight"]
    fc1 = weights["blocks.0.mlp.fc1.weight"]
    depths, ndim = stage_depths(weights), patch.ndim - 2
    head = weights.get("head.projection.weight")
    token, relative = "cls_token" in weights, "blocks.0.attn.rel_pos_h" in weights
    stride = (2, 4, 4)[-ndim:]
    grid = _grid(weights, ndim)
    return MViTSpec(
        depths=depths,
        input_size=tuple(n * s for n, s in zip(grid, stride, strict=True)),
        in_channels=patch.shape[1],
        num_classes=0 if head is None else head.shape[0],
        width=patch.shape[0],
        heads=patch.shape[0] // pool.shape[0],
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        patch_kernel=tuple(patch.shape[2:]),
        patch_stride=stride,
        pool_kernel=tuple(pool.shape[2:]),
        q_stride=(1, 2, 2)[-ndim:],
        kv_stride=(1, *(_key_stride(weights, depths, grid[-1]),) * 2)[-ndim:],
        widen_in_attention=len(depths) < 2 or widens_in_attention(weights),
        class_token=token,
        head_pooling="class_token" if token else "mean",
        relative_position=relative,
        absolute_position="pos_embed_spatial" in weights,
        residual_pooling=relative,
        pool_unstrided_query="blocks.0.attn.pool_q.weight" in weights,
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
    )


def _grid(weights: Mapping[str, Tensor], ndim: int) -> tuple[int, ...]:
    """Patches along each axis that the tables were made for."""
    if "pos_embed_spatial" in weights:
        side = math.isqrt(weights["pos_embed_spatial"].shape[1])
        frames = weights["pos_embed_temporal"].shape[1] if ndim == 3 else 1
        return (frames, side, side)[-ndim:]
    axes = ("t", "h", "w")[-ndim:]
    return tuple((weights[f"blocks.0.attn.rel_pos_{axis}"].shape[0] + 1) // 2 for axis in axes)


def key_strides(weights: Mapping[str, Tensor], others: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The first stage's strides of keys in space that the lengths of position tables allow, published ones first.

    ``others`` are tried after these: several strides give the same lengths. Empty where none of them gives the lengths
    found, or where there are no tables.
    """
    told = mvit_spec(weights)
    if told is None or not told.relative_position:
        return ()
    return _possible_key_strides(weights, told.depths, told.input_size[-1] // told.patch_stride[-1], others)


def _possible_key_strides(
    weights: Mapping[str, Tensor], depths: tuple[int, ...], side: int, others: tuple[int, ...] = ()
) -> tuple[int, ...]:
    strides = _KEY_STRIDES[weights["patch_embed.proj.weight"].ndim - 2] + others
    tables = (weights.get(f"blocks.{i}.attn.rel_pos_w") for i in range(sum(depths)))
    stored = [len(table) for table in tables if table is not None]
    return tuple(stride for stride in strides if _table_rows(depths, side, stride) == stored)


def _key_stride(weights: Mapping[str, Tensor], depths: tuple[int, ...], side: int) -> int:
    """One of the possible ones, or the published one where tables do not tell."""
    published = _KEY_STRIDES[weights["patch_embed.proj.weight"].ndim - 2][:1]
    return (_possible_key_strides(weights, depths, side) or published)[0]


def _table_rows(depths: tuple[int, ...], side: int, key_stride: int) -> list[int]:
    """Lengths of all blocks' tables for queries that stride by 2 where a stage starts."""
    rows = []
    for stage, depth in enumerate(depths):
        key_stride = max(key_stride // 2, 1) if stage else key_stride
        for block in range(depth):
            stride = 2 if stage and not block else 1
            rows.append(2 * max(side // stride, side // key_stride) - 1)
            side //= stride
    return rows
