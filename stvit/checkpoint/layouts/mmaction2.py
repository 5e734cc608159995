"""mmaction2's MViT: video networks. Networks without a class token store one all the same, which nothing uses.

See :mod:`.openmmlab` for where it disagrees. Its configuration of MViTv2-L normalises pixels with mean .45 and
deviation .225, where the weights were trained with ImageNet's values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from stvit.checkpoint.layouts import openmmlab

NAME = "mmaction2"
HEAD = (("cls_head.fc_cls.", "head.projection."),)
TOKEN = "cls_token"
_STORED_TOKEN = openmmlab.BACKBONE + TOKEN


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of a Recognizer3D with MViT."""
    return openmmlab.axes(state_dict) == 3


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """The class token of a network without one: as the spec says or, where there is none, if it is all zeros."""
    token = state_dict.get(_STORED_TOKEN)
    if token is None:
        return ()
    used = getattr(spec, "class_token", None)
    if used is None:
        used = token.is_meta or bool(token.any())
    return () if used else (_STORED_TOKEN,)


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names."""
    left_out = unused(state_dict, spec)
    return openmmlab.renamed({key: value for key, value in state_dict.items() if key not in left_out}, HEAD)


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names: the inverse of :func:`to_stvit`, with zeros for a token that is not used."""
    converted = openmmlab.restored(state_dict, HEAD)
    if _STORED_TOKEN not in converted:
        bias = state_dict["patch_embed.proj.bias"]
        converted[_STORED_TOKEN] = torch.zeros(1, 1, len(bias), dtype=bias.dtype, device=bias.device)
    return converted
