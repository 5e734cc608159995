"""What inflation does to each weight of each kind of backbone, and when a still video gives the 2D features.

A kind of backbone joins :mod:`stvit.inflation` by a row in ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from stvit.backbones.base import Backbone, BackboneSpec
from stvit.backbones.mixformer import MixFormer, MixFormerSpec
from stvit.backbones.mixvit import MixViT, MixViTSpec
from stvit.backbones.mpvit import MPViT, MPViTSpec
from stvit.backbones.mvit import MViT, MViTSpec
from stvit.layers.decomposed_position import resize_table
from stvit.layers.position import BIAS_TABLE, resize_bias_table

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


def weight_by_shape(
    key: str, weight: Tensor, spec2d: BackboneSpec, spec3d: BackboneSpec, shape: torch.Size, rule: Rule
) -> Tensor:
    """One weight for its place in a 3D network of windows: kernels grow in time, tables of windows are repeated.

    So all frames of a window stand at the same distance, whatever the rule. Of another shape than ``shape`` if the
    weight has no use there.
    """
    if key.endswith(BIAS_TABLE) and weight.ndim == 3 and len(shape) == 4:
        return repeat(resize_bias_table(weight, (shape[0], *shape[2:])), "heads h w -> heads t h w", t=shape[1])
    if weight.ndim == 4 and len(shape) == 5:
        return inflate_kernel(weight, shape[2], rule)
    return weight


def differing_settings(
    spec2d: BackboneSpec, spec3d: BackboneSpec, axes: tuple[str, ...], irrelevant: frozenset[str]
) -> list[str]:
    """Settings in which a 3D row differs from a 2D one; of those over ``axes``, in space alone.

    What happens in time has no condition besides the rule.
    """
    found = []
    for field in dataclasses.fields(spec2d):
        here, there = getattr(spec2d, field.name), getattr(spec3d, field.name)
        there = there[-2:] if field.name in axes else there
        if field.name not in irrelevant and here != there:
            found.append(f"{_WORDS.get(field.name, field.name)} {_shown(there)} instead of {_shown(here)}")
    return found


_MEAN_DIMS = "the rule mean lets zero padding dim the ends of a clip"
_WORDS = {"kv_stride": "key stride", "q_stride": "query stride", "relative_position": "relative positions"}


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _other_classes(spec2d: BackboneSpec, spec3d: BackboneSpec) -> list[str]:
    ours, theirs = spec3d.num_classes, spec2d.num_classes
    return [f"the head is new ({ours} classes instead of {theirs})"] if ours != theirs else []


# ---- MViTv2 -------------------------------------------------------------------------------------------------------

_MVIT_AXES = ("input_size", "patch_kernel", "patch_stride", "pool_kernel", "q_stride", "kv_stride")
# The class token and the place of widening get sentences of their own.
_MVIT_IRRELEVANT = frozenset(
    {
        *("drop_path", "head_dropout", "num_classes", "head_pooling", "balance_class_token", "input_size"),
        *("class_token", "widen_in_attention"),
    }
)
_IMAGE_KV_STRIDE = (4, 4)  # of every published image network; the published video networks have 8


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
    """See :func:`weight_by_shape`; tables are resized where their lengths differ."""
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
    breaks = [_MEAN_DIMS] if rule == "mean" and spec3d.patch_kernel[0] > 1 else []
    if spec3d.class_token > spec2d.class_token:
        breaks.append("the class token is new")
    elif spec2d.class_token > spec3d.class_token:
        breaks.append("class_token False instead of True")
    if spec2d.widen_in_attention != spec3d.widen_in_attention:
        breaks.append("the width doubles in other layers, which are new")
    breaks += differing_settings(spec2d, spec3d, _MVIT_AXES, _MVIT_IRRELEVANT)
    if spec2d.class_token and spec3d.class_token and not spec3d.balance_class_token:
        breaks.append("the class token is not weighed against T equal frames (balance_class_token)")
    return breaks


def _mvit_head_breaks(spec2d: MViTSpec, spec3d: MViTSpec) -> list[str]:
    """Why logits differ even where features do not."""
    breaks = _other_classes(spec2d, spec3d)
    if not breaks and spec2d.head_pooling != spec3d.head_pooling:
        breaks.append(f"the head reads {spec3d.head_pooling} instead of {spec2d.head_pooling}")
    return breaks


def _mvit_rows(weights: Mapping[str, Tensor], spec3d: MViTSpec) -> Iterator[MViTSpec]:
    """Rows of the image networks that weights can be of.

    Class token, number of classes and where the width doubles are read from the weights; the keys' stride is the 3D
    network's or the image networks'.
    """
    head, token = weights.get("head.projection.weight"), "cls_token" in weights
    spec = dataclasses.replace(
        spec3d,
        **{name: getattr(spec3d, name)[-2:] for name in _MVIT_AXES},
        num_classes=0 if head is None else head.shape[0],
        class_token=token,
        head_pooling="class_token" if token else "mean",
        balance_class_token=False,
        widen_in_attention=f"blocks.{spec3d.depths[0] - 1}.proj.weight" not in weights,  # of the MLP before stage 2
    )
    yield spec
    yield dataclasses.replace(spec, kv_stride=_IMAGE_KV_STRIDE)


# ---- Networks of windows and convolutions -------------------------------------------------------------------------

WINDOW_FRAMES = 4  # of windows in time, where the clip has so many after the stem
_IRRELEVANT = frozenset({"input_size", "num_classes", "drop_path", "head_hidden", "map_norm"})


def _clip_spec(spec: BackboneSpec, frames: int, in_time: Mapping[str, int]) -> BackboneSpec:
    """The row with the axis of time, where fields have the numbers of ``in_time``; the stem halves the frames."""
    grown = {name: (number, *getattr(spec, name)) for name, number in in_time.items()}
    if "window" in grown:
        grown["window"] = (min(in_time["window"], (frames + 1) // 2), *grown["window"][1:])
    return dataclasses.replace(spec, input_size=(frames, *spec.input_size), **grown)


def _breaks(spec2d: BackboneSpec, spec3d: BackboneSpec, rule: Rule, in_time: Mapping[str, int]) -> list[str]:
    """Why features of a still video differ from those of its frame."""
    dims = rule == "mean" and any("kernel" in name and getattr(spec3d, name)[0] > 1 for name in in_time)
    return [_MEAN_DIMS] * dims + differing_settings(spec2d, spec3d, tuple(in_time), _IRRELEVANT)


def _rows(weights: Mapping[str, Tensor], spec3d: BackboneSpec, in_time: Mapping[str, int]) -> Iterator[BackboneSpec]:
    """The row of the image network that weights can be of: classes and windows are read from them."""
    head = weights.get("head.projection.weight")
    table = next((weight for key, weight in weights.items() if key.endswith(BIAS_TABLE)), None)
    flat = {name: getattr(spec3d, name)[-2:] for name in ("input_size", *in_time)}
    if table is not None and table.ndim == 3:
        flat["window"] = tuple((side + 1) // 2 for side in table.shape[1:])
    yield dataclasses.replace(spec3d, **flat, num_classes=0 if head is None else head.shape[0])


def _mixvit_head_breaks(spec2d: MixViTSpec, spec3d: MixViTSpec) -> list[str]:
    other = spec2d.head_hidden != spec3d.head_hidden
    return _other_classes(spec2d, spec3d) or ["the hidden layer of the head has another width"] * other


# ---- Kinds of backbones -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How one kind of backbone is inflated."""

    network: Callable[..., Backbone[Any]]  # builds it from a row
    spec: Callable[..., BackboneSpec]  # 2D row and number of frames -> 3D row
    weight: Callable[..., Tensor]  # see weight_by_shape
    structure: tuple[str, ...]  # fields of the row in which both must agree: else nothing could be carried over
    breaks: Callable[..., list[str]]  # of 2D row, 3D row and rule: why the law does not hold for the features
    head_breaks: Callable[..., list[str]]  # of 2D row and 3D row: and for the logits
    rows: Callable[..., Iterator[BackboneSpec]]  # of weights and 3D row: 2D rows that the weights can be of
    zero: tuple[str, ...] = ()  # endings of names that only the 3D network has, and that start at zero
    exactness: str = "float32: error under 1e-4"  # with which the law holds


def _windowed(
    network: Callable[..., Backbone[Any]],
    in_time: Mapping[str, int],
    structure: tuple[str, ...],
    head_breaks: Callable[..., list[str]] = _other_classes,
    exactness: str = Family.exactness,
) -> Family:
    """A family whose weights' shapes tell all; ``in_time`` names the fields over axes, with their numbers in time."""
    return Family(
        network=network,
        spec=partial(_clip_spec, in_time=in_time),
        weight=weight_by_shape,
        structure=structure,
        breaks=partial(_breaks, in_time=in_time),
        head_breaks=head_breaks,
        rows=partial(_rows, in_time=in_time),
        exactness=exactness,
    )


FAMILIES: dict[type, Family] = {
    MViTSpec: Family(
        network=MViT,
        spec=_mvit_spec,
        weight=_mvit_weight,
        structure=("depths", "width", "heads", "mlp_ratio", "in_channels"),
        breaks=_mvit_breaks,
        head_breaks=_mvit_head_breaks,
        rows=_mvit_rows,
        zero=("rel_pos_t", "pos_embed_temporal"),
    ),
    MixViTSpec: _windowed(
        MixViT,
        in_time={"window": WINDOW_FRAMES, "stem_kernel": 3, "stem_stride": 2, "kernel": 3},
        structure=("widths", "depths", "stem_width", "dim_head", "channel_heads", "mlp_ratio", "in_channels"),
        head_breaks=_mixvit_head_breaks,
        exactness="float64: error under 1e-6; in float32 channel attention amplifies rounding",
    ),
    MixFormerSpec: _windowed(
        MixFormer,
        in_time={"window": WINDOW_FRAMES, "stem_stride": 2, "kernel": 3},
        structure=("widths", "depths", "heads", "mlp_ratio", "head_width", "in_channels"),
    ),
    MPViTSpec: _windowed(
        MPViT,
        in_time={"stem_stride": 2, "kernel": 3},
        structure=("widths", "depths", "paths", "heads", "position_kernels", "mlp_ratio", "in_channels"),
    ),
}
