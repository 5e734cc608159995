"""Classified images on a page: each with its true and its predicted class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stvit.errors import UserError

_SIDE, _GAP, _COLUMNS = 200, 16, 4  # pixels of a tile, between tiles; tiles in a row
_INK, _FAINT, _RIGHT, _WRONG, _PAPER = (20, 20, 20), (110, 110, 110), (0, 110, 40), (180, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Classified:
    """An image as the network saw it, and what came of it."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    truth: str
    predicted: str
    probability: float  # of the predicted class
    name: str  # of the file


def draw_gallery(sections: Mapping[str, Sequence[Classified]]) -> Image.Image:
    """Rows of tiles under the titles of their sections; sections without images are left out.

    Raises:
        UserError: there is no image at all.
    """
    shown = {title: images for title, images in sections.items() if images}
    if not shown:
        raise UserError("there is no classified image to show")
    tile = _SIDE + 3 * 20 + _GAP
    heights = [44 + -(-len(images) // _COLUMNS) * tile for images in shown.values()]
    sheet = Image.new("RGB", (2 * 16 + _COLUMNS * (_SIDE + _GAP) - _GAP, sum(heights) + 8), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (title, images), height in zip(shown.items(), heights, strict=True):
        draw.text((16, top + 12), title, _INK, _font(20))
        for k, image in enumerate(images):
            row, column = divmod(k, _COLUMNS)
            _draw_tile(sheet, image, 16 + column * (_SIDE + _GAP), top + 44 + row * tile)
        top += height
    return sheet


def _draw_tile(sheet: Image.Image, image: Classified, x: int, y: int) -> None:
    picture = Image.fromarray(image.pixels)
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    smooth = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.BICUBIC
    sheet.paste(picture.resize(size, smooth), (x + (_SIDE - size[0]) // 2, y + (_SIDE - size[1]) // 2))
    draw = ImageDraw.Draw(sheet)
    right = image.truth == image.predicted
    line = f"{image.probability:.0%} {image.predicted}"
    draw.text((x, y + _SIDE + 2), _fitting(line, 15), _RIGHT if right else _WRONG, _font(15))
    if not right:
        draw.text((x, y + _SIDE + 21), _fitting(f"is {image.truth}", 15), _INK, _font(15))
    draw.text((x, y + _SIDE + 41), _fitting(image.name, 12), _FAINT, _font(12))


def _fitting(text: str, size: int) -> str:
    """The text, its end left out where it is wider than a tile."""
    if _font(size).getlength(text) <= _SIDE:
        return text
    while text and _font(size).getlength(text + "...") > _SIDE:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
