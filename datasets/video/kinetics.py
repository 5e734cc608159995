"""The classes of Kinetics-400."""

from __future__ import annotations


def kinetics400_names() -> tuple[str, ...]:
    """What the 400 classes are called, in the order of the logits of published weights (the alphabet's).

    They are those that torchvision keeps beside its MViTv2-S.
    """
    from torchvision.models.video import MViT_V2_S_Weights  # needed for 400 classes only

    return tuple(MViT_V2_S_Weights.KINETICS400_V1.meta["categories"])
