"""The official MViT: facebookresearch/mvit (images) and facebookresearch/SlowFast (video, and images as clips of one).

Names and shapes are stvit's own, but for the poolings of image networks: SlowFast's image mode stores them with an axis
of time, ``(d, 1, 1, h, w)``, and published image files may hold either form. What tells an official file then is its
wrapper, ``model_state``.

Where the libraries disagree with equal weights: facebookresearch/mvit resizes no table of positions, so it computes
sizes other than the one it was built for wrongly or not at all; stvit follows SlowFast there. Both give probabilities
in evaluation mode, stvit logits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from einops import rearrange
from torch import Tensor

NAME = "slowfast/mvit"
WRAPPER = "model_state"
_POOLS = ("attn.pool_q.weight", "attn.pool_k.weight", "attn.pool_v.weight")


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are the official ones, and the wrapper or the poolings tell that the file is not stvit's."""
    patch, pool = state_dict.get("patch_embed.proj.weight"), state_dict.get("blocks.0.attn.pool_k.weight")
    if patch is None or pool is None:
        return False
    return WRAPPER in entries or (patch.ndim, pool.ndim) == (4, 5)


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """Nothing is left out."""
    return ()


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Image networks' poolings without an axis of time; everything else as it is."""
    image = state_dict["patch_embed.proj.weight"].ndim == 4
    return {
        key: rearrange(value, "d one 1 h w -> d one h w") if image and _pooling_of_clips(key, value) else value
        for key, value in state_dict.items()
    }


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As facebookresearch/mvit names and shapes the weights, which is as stvit does."""
    return dict(state_dict)


def to_slowfast(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As SlowFast stores the weights: poolings of image networks get an axis of time."""
    return {
        key: rearrange(value, "d one h w -> d one 1 h w") if key.endswith(_POOLS) and value.ndim == 4 else value
        for key, value in state_dict.items()
    }


def _pooling_of_clips(key: str, value: Tensor) -> bool:
    return key.endswith(_POOLS) and value.ndim == 5
