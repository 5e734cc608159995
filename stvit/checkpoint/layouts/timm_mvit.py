"""timm's ``mvitv2_*``: blocks are counted within stages, and the projection of the skip says which branch it is of.

Where timm disagrees with the original, which stvit follows, with equal weights: residual pooling adds the query to the
class token as well, so that every network of timm's with a class token (``mvitv2_*_cls``) gives other outputs than the
network its weights were trained in. timm's networks take the input size that they were built for and no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import accumulate

from torch import Tensor

from stvit.checkpoint.layouts.renames import inverse, rename

NAME = "timm"

RENAMES = (
    ("shortcut_proj_attn.", "proj."),
    ("shortcut_proj_mlp.", "proj."),
    ("head.fc.", "head.projection."),
)


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of timm's MultiScaleVit."""
    return "stages.0.blocks.0.attn.pool_k.weight" in state_dict and "patch_embed.proj.weight" in state_dict


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """Nothing is left out."""
    return ()


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names."""
    places = {(int(m[1]), int(m[2])) for key in state_dict if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key))}
    number = {place: i for i, place in enumerate(sorted(places))}
    return {
        rename(_located(key, number), RENAMES) if key.startswith(("stages.", "head.")) else key: value
        for key, value in state_dict.items()
    }


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names: the inverse of :func:`to_stvit`. Its sizes tell where stages begin."""
    depths = stage_depths(state_dict)
    starts = [0, *accumulate(depths)]
    branch = "attn" if widens_in_attention(state_dict) else "mlp"
    converted = {}
    for key, value in state_dict.items():
        new = rename(key, inverse(RENAMES[2:]))
        if block := re.match(r"blocks\.(\d+)\.(proj\.)?(.*)", key):
            stage = next(s for s, end in enumerate(starts[1:]) if int(block[1]) < end)
            part = f"shortcut_proj_{branch}." if block[2] else ""
            new = f"stages.{stage}.blocks.{int(block[1]) - starts[stage]}.{part}{block[3]}"
        converted[new] = value
    return converted


def stage_depths(state_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How many blocks each stage has, in stvit's layout: a stage begins where attention gets wider."""
    numbers = sorted(int(m[1]) for key in state_dict if (m := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.weight", key)))
    widths = [state_dict[f"blocks.{i}.attn.qkv.weight"].shape[0] for i in numbers]
    starts = [i for i in range(len(widths)) if i == 0 or widths[i] != widths[i - 1]]
    return tuple(end - start for start, end in zip(starts, [*starts[1:], len(widths)], strict=True))


def widens_in_attention(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether attention gets wider in its own projections, in stvit's layout; otherwise the MLP before it does."""
    qkv = (weight for key, weight in state_dict.items() if key.endswith(".attn.qkv.weight"))
    return any(weight.shape[0] != 3 * weight.shape[1] for weight in qkv)


def _located(key: str, number: Mapping[tuple[int, int], int]) -> str:
    return re.sub(r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda m: f"blocks.{number[int(m[1]), int(m[2])]}.", key, count=1)
