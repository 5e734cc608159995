"""What weights of an MPViT tell of its row, in stvit's layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count, takewhile

from torch import Tensor

from stvit.backbones.mpvit import MPViTSpec

CERTAIN = ("widths", "depths", "paths", "position_kernels", "kernel", "mlp_ratio")
LIKELY = ("heads", "num_classes", "in_channels")


def mpvit_spec(weights: Mapping[str, Tensor]) -> MPViTSpec | None:
    """The row of an MPViT as far as its weights tell; None for weights of anything else, or not whole.

    Of the heads, weights tell the share of each kernel; they are taken to be as few as that allows, as in the published
    networks. The input size and the stem's stride change no weight: they are as in the registered networks.
    """
    try:
        return _told(weights)
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _told(weights: Mapping[str, Tensor]) -> MPViTSpec:
    stem, fc1 = weights["stem.0.conv.weight"], weights["stages.0.paths.0.blocks.0.mlp.fc1.weight"]
    stages = range(_number(weights, "stages.{}.aggregate.conv.weight"))
    positions = "stages.0.paths.0.crpe.convs.{}.weight"
    kernels = [weights[positions.format(index)] for index in range(_number(weights, positions))]
    share = math.gcd(*(kernel.shape[0] for kernel in kernels))
    head, ndim = weights.get("head.projection.weight"), stem.ndim - 2
    return MPViTSpec(
        widths=tuple(weights[f"stages.{stage}.paths.0.cpe.conv.weight"].shape[0] for stage in stages),
        depths=tuple(_number(weights, f"stages.{stage}.paths.0.blocks.{{}}.norm1.weight") for stage in stages),
        paths=tuple(_number(weights, f"stages.{stage}.paths.{{}}.cpe.conv.weight") for stage in stages),
        input_size=(16, 224, 224)[-ndim:],
        in_channels=stem.shape[1],
        num_classes=0 if head is None else head.shape[0],
        heads=tuple(kernel.shape[0] // share for kernel in kernels),
        position_kernels=tuple(kernel.shape[-1] for kernel in kernels),
        kernel=tuple(stem.shape[2:]),
        stem_stride=(2,) * ndim,
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
    )


def _number(weights: Mapping[str, Tensor], name: str) -> int:
    """How many of a numbered weight there are, at least one; KeyError otherwise."""
    found = sum(1 for _ in takewhile(lambda index: name.format(index) in weights, count()))
    if not found:
        raise KeyError(name)
    return found
