"""The published MixViT frame predictor: a fork of OpenSTL (SimVP_Model with model_type "mixvit").

Beside the names, three things differ from ours in every block: the rows of window and grid ``qkv`` are head-first,
(heads, 3, d); the grid branch's three parts play the roles (v, q, k); position tables follow Swin. The wavelet filters
are stored in float32; ours come from PyWavelets in the compute type, so the stored ones are checked and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from einops import rearrange
from torch import Tensor

from stvit.checkpoint.layouts.mixvit import (
    BLOCK,
    GRID_ROLES,
    PARTS,
    check_filter,
    inverse_roles,
    our_wavelet,
    rotated,
    stored_filters,
)
from stvit.checkpoint.layouts.renames import inverse, rename
from stvit.checkpoint.layouts.swin_tables import square_window
from stvit.layers.position import table_from_swin, table_to_swin

NAME = "openstl-mixvit"

STEMS = (
    ("enc.enc.{i}.conv.conv.", "encoder.stages.{i}.conv."),
    ("enc.enc.{i}.conv.norm.", "encoder.stages.{i}.norm."),
    ("dec.dec.{i}.conv.conv.0.", "decoder.stages.{i}.conv."),  # followed by pixel shuffle
    ("dec.dec.{i}.conv.conv.", "decoder.stages.{i}.conv."),
    ("dec.dec.{i}.conv.norm.", "decoder.stages.{i}.norm."),
    ("dec.readout.", "decoder.readout."),
    ("hid.enc.{i}.reduction.", "translator.projections.{i}."),
    ("hid.enc.{i}.block.", "translator.blocks.{i}."),
)
DROPPED = ("dwt_l2.w_l", "dwt_l2.w_h")  # computed, not loaded


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the keys are those of SimVP_Model with MixViT blocks."""
    return "hid.enc.0.block.attn_grid.attn.qkv.weight" in state_dict and "enc.enc.0.conv.conv.weight" in state_dict


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """The wavelet filters: stvit computes them."""
    return tuple(key for key in DROPPED if key in state_dict)


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names and layouts.

    Raises:
        UserError: stored wavelet filters that are not Haar's, or a network of another wavelet.
    """
    our_wavelet(spec)
    converted = {}
    for key, value in state_dict.items():
        if key in DROPPED:
            check_filter(key, value)
            continue
        new = rename(rename(rename(key, STEMS), BLOCK), PARTS)
        if new.endswith("rel_pos.table"):
            value = table_from_swin(value, square_window(value))
        elif branch := re.search(r"\.(window|grid)\.attn\.qkv\.", new):
            heads = state_dict[re.sub(r"qkv\.\w+$", "rel_pos.relative_position_bias_table", key)].shape[1]
            value = rearrange(value, "(h three d) ... -> (three h d) ...", three=3, h=heads)
            value = rotated(value, GRID_ROLES) if branch[1] == "grid" else value
        converted[new] = value
    return converted


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names and layouts: the exact inverse of :func:`to_stvit`, filters included.

    For networks of the Haar wavelet alone: a state dict does not tell its wavelet, and the filters written are Haar's.
    """
    converted = dict(zip(DROPPED, stored_filters(), strict=True))
    for key, value in state_dict.items():
        if branch := re.search(r"\.(window|grid)\.attn\.qkv\.", key):
            heads = state_dict[re.sub(r"qkv\.\w+$", "rel_pos.table", key)].shape[0]
            value = rotated(value, inverse_roles()) if branch[1] == "grid" else value
            value = rearrange(value, "(three h d) ... -> (h three d) ...", three=3, h=heads)
        elif key.endswith("rel_pos.table"):
            value = table_to_swin(value)
        new = rename(rename(rename(key, inverse(PARTS)), inverse(BLOCK)), inverse(STEMS))
        converted[re.sub(r"(dec\.dec\.\d*[13579]\.conv\.conv\.)0\.", r"\1", new)] = value
    return converted
