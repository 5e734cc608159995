"""What weights of a MixViT tell of its row, in stvit's layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from stvit.backbones.mixvit import MixViTSpec
from stvit.checkpoint.recognise.blocks import stage_depths
from stvit.layers.wavelet import BANDS

CERTAIN = ("widths", "depths", "stem_width", "dim_head", "mlp_ratio", "stem_kernel", "kernel", "head_hidden")
LIKELY = ("window", "num_classes", "in_channels")


def mixvit_spec(weights: Mapping[str, Tensor]) -> MixViTSpec | None:
    """The row of a MixViT as far as its weights tell; None for weights of anything else, or not whole.

    Strides, the heads of the channel attention and the wavelet change no weight: they are as in the published networks.
    """
    try:
        return _told(weights)
    except (KeyError, IndexError):
        return None


def _told(weights: Mapping[str, Tensor]) -> MixViTSpec:
    conv1, fc1 = weights["stem.conv1.weight"], weights["stages.0.blocks.0.window.mlp.fc1.weight"]
    depths = stage_depths(weights)
    starts = [f"stages.{stage}.blocks.0." for stage in range(len(depths))]
    widths = tuple(weights[f"{start}conv.project.weight"].shape[0] for start in starts)
    table = weights["stages.0.blocks.0.window.attn.rel_pos.table"]
    window = tuple((side + 1) // 2 for side in table.shape[1:])
    head, hidden = weights.get("head.projection.weight"), weights.get("head.pre_logits.weight")
    image = tuple(32 * side for side in window[-2:])
    stem_stride = (2,) * len(window)
    return MixViTSpec(
        widths=widths,
        depths=depths,
        stem_width=conv1.shape[0],
        input_size=image if len(window) == 2 else (16, *image),
        in_channels=conv1.shape[1] // len(BANDS),
        num_classes=0 if head is None else head.shape[0],
        window=window,
        dim_head=widths[0] // table.shape[0],
        head_hidden=widths[-1] if hidden is None else hidden.shape[0],
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        stem_kernel=tuple(conv1.shape[2:]),
        stem_stride=stem_stride,
        kernel=tuple(weights["stages.0.blocks.0.channel.cpe1.conv.weight"].shape[2:]),
        map_norm="map_norms.0.weight" in weights,
    )
