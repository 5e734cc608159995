"""What the MViT layouts of mmpretrain and mmaction2 share: they differ in the number of axes and in the head's name.

Where both disagree with the original, which stvit follows: asked for several scales (``out_scales``), they apply each
stage's norm to the tokens that go on to the next stage, so that asking for more maps changes the later ones. A file
trained that way has norms besides the last and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from stvit.checkpoint.layouts.renames import Pairs, inverse, rename
from stvit.errors import UserError

BACKBONE = "backbone."
_NAMES = (("patch_embed.projection.", "patch_embed.proj."), ("norm3.", "norm."))


def axes(state_dict: Mapping[str, Tensor]) -> int:
    """2 for an image network of OpenMMLab's MViT, 3 for a video network, 0 for anything else."""
    kernel = state_dict.get(f"{BACKBONE}patch_embed.projection.weight")
    known = kernel is not None and f"{BACKBONE}blocks.0.attn.pool_k.weight" in state_dict
    return kernel.ndim - 2 if known and kernel is not None else 0


def renamed(state_dict: Mapping[str, Tensor], head: Pairs) -> dict[str, Tensor]:
    """Their tensors in our names; ``head`` renames the classifier.

    Raises:
        UserError: norms of several scales, which change what the network computes.
    """
    norms = sorted({m[0] for key in state_dict if (m := re.match(r"backbone\.norm[0-2]\.", key))})
    if norms:
        raise UserError(
            f"it was trained with several out_scales, whose {', '.join(norms)}* norm the tokens between stages, which "
            "only that library does: delete them from the file to load the rest"
        )
    return {
        rename(key.removeprefix(BACKBONE), _NAMES) if key.startswith(BACKBONE) else rename(key, head): value
        for key, value in state_dict.items()
    }


def restored(state_dict: Mapping[str, Tensor], head: Pairs) -> dict[str, Tensor]:
    """Our tensors in their names: the inverse of :func:`renamed`."""
    return {
        rename(key, inverse(head)) if key.startswith("head.") else BACKBONE + rename(key, inverse(_NAMES)): value
        for key, value in state_dict.items()
    }
