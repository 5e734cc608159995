"""What weights of a MixFormer tell of its row, in stvit's layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from stvit.backbones.mixformer import MixFormerSpec
from stvit.checkpoint.recognise.blocks import stage_depths

CERTAIN = ("widths", "depths", "heads", "kernel", "mlp_ratio", "head_width")
LIKELY = ("window", "num_classes", "in_channels")


def mixformer_spec(weights: Mapping[str, Tensor]) -> MixFormerSpec | None:
    """The row of a MixFormer as far as its weights tell; None for weights of anything else, or not whole.

    The input size and the stem's stride change no weight: they are as in the registered networks, and so is the
    head's width where there is no head, in files of dense models.
    """
    try:
        return _told(weights)
    except (KeyError, ValueError):
        return None


def _told(weights: Mapping[str, Tensor]) -> MixFormerSpec:
    stem, fc1 = weights["patch_embed.stem.0.weight"], weights["stages.0.blocks.0.mlp.fc1.weight"]
    depths = stage_depths(weights)
    tables = [weights[f"stages.{stage}.blocks.0.mix.rel_pos.table"] for stage in range(len(depths))]
    window = tuple((side + 1) // 2 for side in tables[0].shape[1:])
    head, hidden = weights.get("head.projection.weight"), weights.get("head.hidden.weight")
    return MixFormerSpec(
        widths=tuple(weights[f"stages.{stage}.blocks.0.norm1.weight"].shape[0] for stage in range(len(depths))),
        depths=depths,
        heads=tuple(table.shape[0] for table in tables),
        input_size=(16, 224, 224)[-len(window) :],
        in_channels=stem.shape[1],
        num_classes=0 if head is None else head.shape[0],
        window=window,
        kernel=tuple(weights["stages.0.blocks.0.mix.depthwise.weight"].shape[2:]),
        stem_stride=(2,) * len(window),
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        head_width=MixFormerSpec.head_width if hidden is None else hidden.shape[0],
    )
