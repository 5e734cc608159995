"""Where a classifier looks: Grad-CAM (Selvaraju et al., arXiv 1610.02391) of images and clips, and pictures of it.

The package ``grad-cam`` does not serve: it wants a layer whose output is one tensor, and MViT's blocks give the map
and the class token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from stvit.backbones.base import Backbone, stage_indices
from stvit.backbones.mixformer import MixFormer
from stvit.backbones.mpvit import MPViT
from stvit.backbones.mvit import MViT
from stvit.errors import UserError
from stvit.visual.strips import encode_gif

S = TypeVar("S")
Pixels = NDArray[np.uint8]  # (H, W, 3), of clips (T, H, W, 3)
Heat = NDArray[np.float32]  # (H, W), of clips (T, H, W), in [0, 1]

_INK, _FAINT, _WARNING, _PAPER = (20, 20, 20), (110, 110, 110), (180, 20, 20), (255, 255, 255)
_SIDE, _FRAME, _GAP = 320, 112, 6  # pixels of a panel's and of a strip frame's longer side, and between them
_LINE = 24  # pixels of a line of text
# From nothing to the strongest: black, violet, red, orange, pale yellow; lightness grows all along.
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


@dataclass(frozen=True)
class Cam:
    """How much each place of the input speaks for a class."""

    heat: Heat  # 1 at the strongest place; 0 everywhere if no place speaks for the class
    target: int  # the class
    probability: float  # that the network gives it
    module: str  # whose output the map is
    grid: tuple[int, ...]  # positions of that map


@dataclass(frozen=True)
class MapPlace:
    """Where a network has the map of a stage."""

    module: str  # the first tensor of its output is the map
    strides: tuple[int, ...]  # input positions per map position, for every axis
    first: tuple[float, ...]  # where in the input the first position has its centre; pixel 0 has it at 0
    channels_last: bool


def grad_cam(model: Backbone[S], x: Tensor, target: int | None = None, stage: int = -1) -> Cam:
    """The positive part of a stage's map, its channels weighed by what they do for the logit of a class.

    A channel's weight is the mean over all positions (of clips also over time) of the logit's derivative. The result
    is enlarged linearly to the input.

    Args:
        model: run in evaluation mode, and left in the mode it was in.
        x: one preprocessed input, ``(1, C, H, W)`` or ``(1, C, T, H, W)``.
        target: the class; None for the most probable.
        stage: whose map, from 0 or negative from the end; see :func:`map_place`.

    Raises:
        UserError: no such stage or class, a batch, a network without a classifier, logits that are not finite.
    """
    if len(x) != 1:
        raise UserError(f"a class activation map is of one input, not of a batch of {len(x)}")
    if not model.num_classes:
        raise UserError("this network has no classifier (num_classes=0), so there is no class to look for")
    place = map_place(model, stage)
    logits, features = _forward(model, x, place.module)
    chosen = _checked_class(logits[0], target)
    (gradient,) = torch.autograd.grad(logits[0, chosen], features)
    features = features.detach()
    if place.channels_last:
        features, gradient = features.movedim(-1, 1), gradient.movedim(-1, 1)
    weights = gradient.flatten(2).mean(2)
    heat = torch.einsum("bc,bc...->b...", weights, features).relu()
    probability = logits[0].softmax(0)[chosen].item()
    return Cam(_enlarged(heat, place, x.shape[2:]), chosen, probability, place.module, tuple(heat.shape[1:]))


def map_place(model: Backbone[S], stage: int) -> MapPlace:
    """Where the map of a stage is: the output of the module that ends it.

    But where the head reads the class token, nothing follows from the patches that the last block gives: their
    gradient is zero. So of the last stage the map is taken where its last block reads it, after that block's first
    norm; a last stage of one block reads the grid of the stage before.

    Raises:
        UserError: no such stage.
    """
    (index,) = stage_indices([stage], len(model.feature_info))
    every = [cast("tuple[int, ...]", info["strides"]) for info in model.feature_info]
    name, strides, tokens = model.feature_info.module_name()[index], every[index], isinstance(model, MViT)
    if isinstance(model, MViT) and model.spec.head_pooling == "class_token" and index == len(every) - 1:
        name, strides = f"{name}.norm1", every[index if model.spec.depths[-1] > 1 else index - 1]
    return MapPlace(name, strides, _first_centre(model, strides), tokens)


def _first_centre(model: Backbone[S], strides: Sequence[int]) -> tuple[float, ...]:
    """Where a map begins: what its first position is computed from lies around there, as the paddings have it."""
    if isinstance(model, MViT | MPViT):  # odd kernels, padded alike on both sides: position i is around i * stride
        return (0.0,) * len(strides)
    if isinstance(model, MixFormer):  # so is its first convolution; then kernels of 2, which are not padded
        return tuple((stride - stem) / 2 for stride, stem in zip(strides, model.spec.stem_stride, strict=True))
    return tuple((stride - 1) / 2 for stride in strides)  # MixViT: pooled blocks, padded at the end if at all


def _forward(model: Backbone[S], x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Logits, and the map that ``name`` gives on the way, with the graph between them."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, Tensor)
        if first.ndim == x.ndim:  # a norm is called for the class token too
            seen.append(first)

    training = model.training
    hook = model.get_submodule(name).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model.eval()(x.detach().requires_grad_())  # so that a frozen network has gradients too
    finally:
        hook.remove()
        model.train(training)
    return logits, seen[-1]


def _checked_class(logits: Tensor, target: int | None) -> int:
    if not logits.isfinite().all():
        raise UserError("the model gives logits that are not finite; its weights may be broken")
    if target is None:
        return int(logits.argmax())
    if not 0 <= target < len(logits):
        raise UserError(f"class {target} was asked for, and the classes go from 0 to {len(logits) - 1}")
    return target


def _enlarged(heat: Tensor, place: MapPlace, size: Sequence[int]) -> Heat:
    """``(1, *grid)`` to the input's size: linear between the centres of positions, constant outside of them."""
    heat = heat[0]
    for axis, (length, stride, first) in enumerate(zip(size, place.strides, place.first, strict=True)):
        last = heat.shape[axis] - 1
        at = ((torch.arange(length, device=heat.device) - first) / stride).clamp(0, last)
        below = at.long()
        share = (at - below).to(heat.dtype).view(-1, *(1,) * (heat.ndim - 1 - axis))
        low, high = (heat.index_select(axis, index) for index in (below, (below + 1).clamp_max(last)))
        heat = low + share * (high - low)
    return (heat / heat.max().clamp_min(torch.finfo(heat.dtype).tiny)).float().cpu().numpy()


# --- pictures


def heat_colours(heat: Heat) -> Pixels:
    """Values in [0, 1] to colours, on a last axis of three."""
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(heat, places, channel) for channel in _COLOURS.T], axis=-1).round().astype(np.uint8)


def overlaid(pixels: Pixels, heat: Heat) -> Pixels:
    """The picture in grey, with the colours of the heat over it, the stronger the denser."""
    grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    density = 0.75 * np.sqrt(heat)[..., None]
    return ((1 - density) * grey + density * heat_colours(heat)).round().astype(np.uint8)


def draw_overlay(pixels: Pixels, heat: Heat, lines: Sequence[str], warning: str = "") -> Image.Image:
    """Input, heat and overlay of an image ``(H, W, 3)`` beside each other, under lines of text.

    Args:
        pixels, heat: of one size.
        lines: above the pictures, the first one large.
        warning: in red below them.
    """
    panels = [_fitted(p, _SIDE) for p in (pixels, heat_colours(heat), overlaid(pixels, heat))]
    page, top = _page(3 * panels[0].width + 2 * _GAP, panels[0].height, lines, warning)
    for column, panel in enumerate(panels):
        page.paste(panel, (16 + column * (panel.width + _GAP), top))
    return page


def draw_clip(pixels: Pixels, heat: Heat, lines: Sequence[str], warning: str = "") -> Image.Image:
    """The same of a clip ``(T, H, W, 3)``: a row of frames, one of heat, one of overlays, in pieces of eight frames."""
    rows = [[_fitted(p, _FRAME) for p in clip] for clip in (pixels, heat_colours(heat), overlaid(pixels, heat))]
    width, height, columns = rows[0][0].width + _GAP, rows[0][0].height + _GAP, min(len(pixels), 8)
    pieces = range(0, len(pixels), columns)
    block = 3 * height + _LINE
    page, top = _page(columns * width - _GAP, len(pieces) * block, lines, warning)
    draw = ImageDraw.Draw(page)
    for piece, start in enumerate(pieces):
        for column, t in enumerate(range(start, min(start + columns, len(pixels)))):
            x, y = 16 + column * width, top + piece * block
            draw.text((x + width // 2, y + _LINE - 5), f"t={t + 1}", _FAINT, _font(14), anchor="ms")
            for line, row in enumerate(rows):
                page.paste(row[t], (x, y + _LINE + line * height))
    return page


def animate_clip(pixels: Pixels, heat: Heat, lines: Sequence[str], warning: str = "") -> bytes:
    """The bytes of a GIF: every frame of a clip ``(T, H, W, 3)`` and its overlay beside it."""
    pages = []
    for frame, over in zip(pixels, overlaid(pixels, heat), strict=True):
        left, right = _fitted(frame, _SIDE), _fitted(over, _SIDE)
        page, top = _page(2 * left.width + _GAP, left.height, lines, warning)
        page.paste(left, (16, top))
        page.paste(right, (16 + left.width + _GAP, top))
        pages.append(page)
    return encode_gif(pages, [200] * (len(pages) - 1) + [800])


def _page(width: int, height: int, lines: Sequence[str], warning: str) -> tuple[Image.Image, int]:
    """A sheet with its texts, and where the pictures go from the top."""
    texts = [(line, _font(19 if row == 0 else 14), _INK if row == 0 else _FAINT) for row, line in enumerate(lines)]
    top, below = 12 + _LINE * len(lines) + 6, _LINE if warning else 0
    widest = max([font.getlength(line) for line, font, _ in texts] + [_font(14).getlength(warning)])
    page = Image.new("RGB", (32 + max(width, int(widest) + 1), top + height + below + 12), _PAPER)
    draw = ImageDraw.Draw(page)
    for row, (line, font, ink) in enumerate(texts):
        draw.text((16, 12 + _LINE * row), line, ink, font)
    draw.text((16, top + height + 5), warning, _WARNING, _font(14))
    return page, top


def _fitted(pixels: Pixels, side: int) -> Image.Image:
    """The longer side becomes ``side``; small pictures are enlarged without smoothing."""
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
