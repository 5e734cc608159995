"""What inflation does to each weight of each kind of backbone, and when a still video gives the 2D features.

A kind of backbone joins :mod:`stvit.inflation` by a row in ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.layers.decomposed_position import resize_table

Rule = Literal["centre", "mean"]
RULES: tuple[Rule, ...] = get_args(Rule)


def inflate_kernel(weight: Tensor, length: int, rule: Rule) -> Tensor:
    """A convolution's kernel ``(out, in, kh, kw)`` as ``(out, in, length, kh, kw)``.

    ``centre``: the kernel on the middle frame, zero on the others. ``mean``: a ``length``-th of it on every frame.
    """
    if rule == "mean":
        return repeat(weight / length, "o i h w -> o i t h w", t=length)
    kernel = weight.new_zeros(*weight.shape[:2], length, *weight.shape[2:])
    kernel[:, :, length // 2] = weight
    return kernel


# ---- MViTv2 -------------------------------------------------------------------------------------------------------

_STRUCTURE = ("depths", "width", "heads", "mlp_ratio", "in_channels")  # unlike in these, nothing could be carried over
_IRRELEVANT = {"drop_path", "head_dropout", "num_classes", "head_pooling", "balance_class_token", "input_size"}
_WORDS = {"kv_stride": "key stride", "q_stride": "query stride", "relative_position": "relative positions"}


def _mvit_spec(spec: MViTSpec, frames: int) -> MViTSpec:
    return dataclasses.replace(
        spec,
        input_size=(frames, *spec.input_size),
        patch_kernel=(3, *spec.patch_kernel),
        patch_stride=(2, *spec.patch_stride),
        pool_kernel=(3, *spec.pool_kernel),
        q_stride=(1, *spec.q_stride),
        kv_stride=(1, *spec.kv_stride),
        balance_class_token=spec.class_token,
    )


def _mvit_weight(key: str, weight: Tensor, spec2d: MViTSpec, spec3d: MViTSpec, shape: torch.Size, rule: Rule) -> Tensor:
    """One weight for its place in the 3D network; of another shape than ``shape`` if it has no use there."""
    if weight.ndim == 4:  # patch embedding and poolings
        return inflate_kernel(weight, shape[2], rule)
    if ".rel_pos_" in key:
        return resize_table(weight, shape[0])
    if key == "pos_embed_spatial" and weight.shape != shape:
        height, width = _patch_grid(spec2d)
        grid = rearrange(weight, "1 (h w) c -> 1 c h w", h=height, w=width)
        return rearrange(F.interpolate(grid, size=_patch_grid(spec3d), mode="bilinear"), "1 c h w -> 1 (h w) c")
    return weight


def _patch_grid(spec: MViTSpec) -> tuple[int, int]:
    height, width = (size // stride for size, stride in zip(spec.input_size[-2:], spec.patch_stride[-2:], strict=True))
    return height, width


def _mvit_breaks(spec2d: MViTSpec, spec3d: MViTSpec, rule: Rule) -> list[str]:
    """Why features of a still video differ from those of its frame."""
    breaks = []
    if rule == "mean" and spec3d.patch_kernel[0] > 1:
        breaks.append("the rule mean lets zero padding dim the ends of a clip")
    for field in dataclasses.fields(spec2d):
        if field.name in _IRRELEVANT:
            continue
        here, there = getattr(spec2d, field.name), getattr(spec3d, field.name)
        if field.name != "depths" and isinstance(there, tuple):
            there = there[-2:]  # what happens in time has no condition besides the rule
        if field.name == "class_token" and there > here:
            breaks.append("the class token is new")
        elif field.name == "widen_in_attention" and here != there:
            breaks.append("the width doubles in other layers, which are new")
        elif here != there:
            breaks.append(f"{_WORDS.get(field.name, field.name)} {_shown(there)} instead of {_shown(here)}")
    if spec2d.class_token and spec3d.class_token and not spec3d.balance_class_token:
        breaks.append("the class token is not weighed against T equal frames (balance_class_token)")
    return breaks


def _mvit_head_breaks(spec2d: MViTSpec, spec3d: MViTSpec) -> list[str]:
    """Why logits differ even where features do not."""
    if spec2d.num_classes != spec3d.num_classes:
        return [f"the head is new ({spec3d.num_classes} classes instead of {spec2d.num_classes})"]
    if spec2d.head_pooling != spec3d.head_pooling:
        return [f"the head reads {spec3d.head_pooling} instead of {spec2d.head_pooling}"]
    return []


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


# ---- Kinds of backbones -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How one kind of backbone is inflated."""

    network: Callable[[MViTSpec], MViT]
    spec: Callable[[MViTSpec, int], MViTSpec]  # 2D row and number of frames -> 3D row
    weight: Callable[[str, Tensor, MViTSpec, MViTSpec, torch.Size, Rule], Tensor]  # see _mvit_weight
    zero: tuple[str, ...]  # endings of names that only the 3D network has, and that start at zero
    structure: tuple[str, ...]  # fields of the row in which both must agree
    breaks: Callable[[MViTSpec, MViTSpec, Rule], list[str]]  # why the law does not hold for the features
    head_breaks: Callable[[MViTSpec, MViTSpec], list[str]]  # and for the logits


FAMILIES: dict[type, Family] = {
    MViTSpec: Family(
        network=MViT,
        spec=_mvit_spec,
        weight=_mvit_weight,
        zero=("rel_pos_t", "pos_embed_temporal"),
        structure=_STRUCTURE,
        breaks=_mvit_breaks,
        head_breaks=_mvit_head_breaks,
    ),
}
