"""torchvision.models.video: mvit_v2_s, and mvit_v1_b with its absolute positions.

Where torchvision disagrees with SlowFast, which stvit follows, with equal weights: it rounds relative distances in
another order, so that some pairs differ where the ratio of the query grid to the key grid is not exact (at 312x312, not
at 224x224). It takes clips of the size that it was built for and no other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from stvit.checkpoint.layouts.renames import inverse, rename

NAME = "torchvision"

RENAMES = (
    ("conv_proj.", "patch_embed.proj."),
    ("pos_encoding.class_token", "cls_token"),
    ("pos_encoding.spatial_pos", "pos_embed_spatial"),
    ("pos_encoding.temporal_pos", "pos_embed_temporal"),
    ("pos_encoding.class_pos", "pos_embed_class"),
    ("attn.project.0.", "attn.proj."),
    *((f"attn.pool_{role}.pool.", f"attn.pool_{role}.") for role in "qkv"),
    *((f"attn.pool_{role}.norm_act.0.", f"attn.norm_{role}.") for role in "qkv"),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
    ("blocks.{i}.project.", "blocks.{i}.proj."),
    ("head.1.", "head.projection."),
)
# Axes of length 1 that ours have in front and theirs do not.
LEADING_AXES = {"cls_token": 2, "pos_embed_class": 2, "pos_embed_spatial": 1, "pos_embed_temporal": 1}


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of torchvision's MViT."""
    return "conv_proj.weight" in state_dict and "blocks.0.attn.pool_k.pool.weight" in state_dict


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """Nothing is left out."""
    return ()


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names; tokens and positions get their leading axes."""
    renamed = {rename(key, RENAMES): value for key, value in state_dict.items()}
    return {key: value[(None,) * LEADING_AXES[key]] if key in LEADING_AXES else value for key, value in renamed.items()}


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names: the inverse of :func:`to_stvit`."""
    return {
        rename(key, inverse(RENAMES)): value[(0,) * LEADING_AXES[key]] if key in LEADING_AXES else value
        for key, value in state_dict.items()
    }
