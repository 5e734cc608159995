"""The weights of a 2D MixViT for the translator of the 3D predictor.

The translator's blocks are the blocks of consecutive stages of the image network, grown in time by the rules of
:mod:`stvit.inflation_rules`; what leads from the past to the future, and encoder and decoder, have no counterpart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from einops import repeat
from torch import Tensor

from stvit.backbones.mixvit import MixViT, MixViTSpec
from stvit.errors import UserError
from stvit.inflation import Inflated
from stvit.inflation_rules import Rule, inflate_kernel
from stvit.layers.position import BIAS_TABLE, resize_bias_table
from stvit.predictors.mixvit3d import MixViT3DPredictor, Predictor3DSpec

_BLOCKS = re.compile(r"translator\.stages\.(\d+)\.(blocks\..+)")
_CHANNEL_HEADS = MixViTSpec(widths=(), depths=()).channel_heads  # of every published variant


def inflate_into_predictor(predictor: MixViT3DPredictor, model2d: MixViT, *, rule: Rule = "centre") -> Inflated:
    """Give a predictor's translator the blocks of an image network; the predictor is changed in place.

    Raises:
        UserError: an image network without stages like the translator's.
    """
    heads = model2d.spec.channel_heads
    if heads != _CHANNEL_HEADS[: len(heads)]:
        raise UserError(f"the image network has {heads} channel heads, not {_CHANNEL_HEADS}")
    inflated = inflate_predictor_weights(model2d.state_dict(), predictor, rule=rule)
    predictor.load_state_dict(inflated.state_dict)
    return inflated


def inflate_predictor_weights(
    weights: Mapping[str, Tensor], predictor: MixViT3DPredictor, *, rule: Rule = "centre"
) -> Inflated:
    """The predictor's state dict with the blocks of an image network; the last of ``guarantees`` says how much it is.

    Kernels grow by ``rule``, tables of positions are resized to the predictor's windows and repeated in time, all else
    in a block is copied. Blocks that the image network does not have stay as they are.

    Args:
        weights: of an image MixViT, in stvit's layout.
        predictor: not changed.
        rule: ``centre`` puts a kernel on its middle frame, ``mean`` spreads it evenly.

    Raises:
        UserError: an image network without stages like the translator's.
    """
    first = first_stage(weights, predictor.spec)
    result = dict(predictor.state_dict())
    kinds: dict[str, list[str]] = {"copied": [], "inflated": [], "interpolated": [], "new": []}
    used = set()
    for key, present in result.items():
        match = _BLOCKS.fullmatch(key)
        name = f"stages.{first + int(match[1])}.{match[2]}" if match else ""
        if name not in weights:
            kinds["new"].append(key)
            continue
        source = weights[name]
        grown = _grown(key, source, present, rule)
        if grown.shape != present.shape:
            raise UserError(
                f"the image network's {name} is {tuple(source.shape)}, the predictor's {tuple(present.shape)}: "
                "both must have the same dim_head and mlp_ratio"
            )
        resized = key.endswith(BIAS_TABLE) and source.shape[1:] != present.shape[2:]
        kinds["interpolated" if resized else "inflated" if grown.ndim > source.ndim else "copied"].append(key)
        used.add(name)
        result[key] = grown.to(present)
    own = dict(predictor.translator.named_parameters(prefix="translator"))
    new = sum(own[key].numel() for key in kinds["new"] if key in own)
    total = sum(parameter.numel() for parameter in own.values())
    return Inflated(
        state_dict=result,
        rule=rule,
        copied=tuple(kinds["copied"]),
        inflated=tuple(kinds["inflated"]),
        interpolated=tuple(kinds["interpolated"]),
        new=tuple(kinds["new"]),
        left_out=tuple(key for key in weights if key not in used),
        law_holds=False,
        guarantees=(
            "still-video law does not apply: the step from past to future is new",
            f"{(total - new) / 1e6:.2f} M of the translator's {total / 1e6:.2f} M parameters are the image network's "
            f"({100 * (total - new) / total:.0f} %)",
        ),
    )


def first_stage(weights: Mapping[str, Tensor], spec: Predictor3DSpec) -> int:
    """Which stage of an image MixViT the translator's first one is: widths and channel heads decide.

    Raises:
        UserError: none is.
    """
    stems = [key for key in weights if re.fullmatch(r"stages\.\d+\.blocks\.0\.conv\.expand\.weight", key)]
    widths = [(weights[key].shape[1], weights[key].shape[0] // 4) for key in sorted(stems)]  # of input and stage
    wanted = list(zip((spec.mixing_width, *spec.widths), spec.widths, strict=False))
    for first in range(len(widths)):
        last = first + len(wanted)
        if widths[first:last] == wanted and _CHANNEL_HEADS[first:last] == spec.channel_heads:
            return first
    heads = dict(zip((width for _, width in widths), _CHANNEL_HEADS, strict=False))
    raise UserError(
        f"the image network has stages of (width: channel heads) {heads}, but the predictor's translator is "
        f"{dict(zip(spec.widths, spec.channel_heads, strict=True))} after {spec.mixing_width} channels: "
        "the default widths fit mixvit_t and mixvit_s"
    )


def _grown(key: str, source: Tensor, present: Tensor, rule: Rule) -> Tensor:
    if key.endswith(BIAS_TABLE):
        heads, times, *plane = present.shape
        return repeat(resize_bias_table(source, (heads, *plane)), "heads h w -> heads t h w", t=times)
    return inflate_kernel(source, present.shape[2], rule) if (source.ndim, present.ndim) == (4, 5) else source
