"""MixViT's image networks, as timm's MaxxViT names its parts, and its backbone for detection.

Beside the names, the grid branch's three parts of ``qkv`` play the roles (v, q, k). The wavelet filters are stored in
float32; ours come from PyWavelets in the compute type, so the stored ones are checked and dropped. Files of detectors
hold the backbone as ``backbone.``, with a norm for each map (``map_norm=True``) and without a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from einops import rearrange
from torch import Tensor

from stvit.checkpoint.layouts.renames import Pairs, inverse, rename
from stvit.errors import UserError
from stvit.layers.wavelet import analysis_filters

NAME = "mixvit"
BACKBONE = "backbone."  # before every name in files of detectors
WAVELET = "haar"  # the only one that was published
GRID_ROLES = (1, 2, 0)  # our q, k, v are their k, v, q

BLOCK: Pairs = (("attn_block.", "window."), ("attn_channel.", "channel."), ("attn_grid.", "grid."))
PARTS: Pairs = (
    ("shortcut.expand.", "shortcut."),
    ("conv1_1x1.", "expand."),
    ("conv2_kxk.", "depthwise."),
    ("conv3_1x1.", "project."),
    ("cpe.0.proj.", "cpe1.conv."),
    ("cpe.1.proj.", "cpe2.conv."),
    ("relative_position_bias_table", "table"),
)
HEAD: Pairs = (("head.pre_logits.fc.", "head.pre_logits."), ("head.fc.", "head.projection."))
NORMS: Pairs = (("norm{i}.norm.", "map_norms.{i}."),)
FILTERS = ("stem.dwt_l2.w_l", "stem.dwt_l2.w_h")


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of the image networks, of a detector's backbone too."""
    key = "stages.0.blocks.0.attn_channel.cpe.0.proj.weight"
    return key in state_dict or BACKBONE + key in state_dict


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """The wavelet filters, which stvit computes, and what a detector has beside its backbone."""
    prefix = _prefix(state_dict)
    return tuple(key for key in state_dict if not key.startswith(prefix) or key.removeprefix(prefix) in FILTERS)


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names and layouts.

    Raises:
        UserError: stored wavelet filters that are not Haar's, a network of another wavelet, or norms of maps for a
            network that has none.
    """
    our_wavelet(spec)
    prefix, left_out = _prefix(state_dict), unused(state_dict)
    converted = {}
    for key, value in state_dict.items():
        name = key.removeprefix(prefix)
        if key in left_out:
            if name in FILTERS:
                check_filter(name, value)
            continue
        new = _renamed(name)
        if new.startswith("map_norms.") and not getattr(spec, "map_norm", True):
            raise UserError(f"it has a norm for every map ({key}, ...): create the model with map_norm=True")
        if re.search(r"\.grid\.attn\.qkv\.", new):
            value = rotated(value, GRID_ROLES)
        converted[new] = value
    return converted


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names and layouts: the exact inverse of :func:`to_stvit`, filters included.

    For networks of the Haar wavelet alone: a state dict does not tell its wavelet, and the filters written are Haar's.
    """
    converted = dict(zip(FILTERS, stored_filters(), strict=True))
    for key, value in state_dict.items():
        new = rename(key, inverse((*HEAD, *NORMS)))
        if new.startswith("stages."):
            new = rename(rename(new, inverse(PARTS)), inverse(BLOCK))
        if re.search(r"\.grid\.attn\.qkv\.", key):
            value = rotated(value, inverse_roles())
        converted[new] = value
    return converted


def _prefix(state_dict: Mapping[str, Tensor]) -> str:
    return BACKBONE if any(key.startswith(f"{BACKBONE}stages.") for key in state_dict) else ""


def _renamed(name: str) -> str:
    return rename(rename(rename(name, BLOCK), PARTS) if name.startswith("stages.") else name, (*HEAD, *NORMS))


def rotated(qkv: Tensor, roles: Collection[int]) -> Tensor:
    """Rows of a projection to three parts, in another order."""
    parts = rearrange(qkv, "(three c) ... -> three c ...", three=3)
    return rearrange(parts[list(roles)], "three c ... -> (three c) ...")


def inverse_roles() -> list[int]:
    """What puts the rows of a grid branch back in their order."""
    return [GRID_ROLES.index(role) for role in range(3)]


def our_wavelet(spec: object) -> None:
    """Raise :class:`UserError` for a network of another wavelet: no weight has another size there."""
    wavelet = getattr(spec, "wavelet", WAVELET)
    if wavelet != WAVELET:
        raise UserError(f"it is for wavelet {WAVELET!r} and the model has {wavelet!r}: create it with {WAVELET!r}")


def other_wavelet(spec: object) -> Iterator[str]:
    """Why a network of another wavelet cannot be written in a layout that stores filters."""
    wavelet = getattr(spec, "wavelet", WAVELET)
    if wavelet != WAVELET:
        yield f"its layout stores filters of the wavelet {WAVELET!r}, and this has {wavelet!r}"


def stored_filters() -> Iterator[Tensor]:
    """The low and the high filter as their files hold them, ``(1, L)`` float32."""
    return (torch.tensor(taps[::-1]).unsqueeze(0) for taps in analysis_filters(WAVELET))


def check_filter(key: str, stored: Tensor) -> None:
    """Raise :class:`UserError` for a stored filter that is not Haar's."""
    low, high = analysis_filters(WAVELET)
    expected = torch.tensor((low if key.endswith("w_l") else high)[::-1])
    # Files in half precision hold the filters rounded to it; 1e-6 for single and double ones.
    rounding = max(torch.finfo(stored.dtype).eps, 1e-6) if stored.is_floating_point() else 0.0
    same_size = stored.numel() == expected.numel()
    if not same_size or not torch.allclose(stored.flatten().float(), expected, rtol=0, atol=rounding):
        raise UserError(f"{key} holds {stored.flatten().tolist()}, not the {WAVELET} filter that this layout has")
