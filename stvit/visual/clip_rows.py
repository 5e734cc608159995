"""Classified clips on a page: a row of frames each, and below it where the network looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from stvit.errors import UserError
from stvit.visual.cam import Heat, Pixels, overlaid

_SIDE, _GAP, _LINE = 88, 4, 26  # pixels of a frame's longer side, between frames, of a line of text
_INK, _FAINT, _RIGHT, _WRONG, _PAPER = (20, 20, 20), (110, 110, 110), (0, 110, 40), (180, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class ClassifiedClip:
    """A clip as the network saw it, and what came of its video."""

    pixels: Pixels  # (T, H, W, 3)
    heat: Heat  # (T, H, W) in [0, 1], for the predicted class
    truth: str
    predicted: str
    probability: float  # of the predicted class


def draw_clip_rows(title: str, clips: Sequence[ClassifiedClip], columns: int = 2) -> Image.Image:
    """Clips of one length and size under a title, ``columns`` of them beside each other.

    Raises:
        UserError: there is no clip.
    """
    if not clips:
        raise UserError("there is no classified clip to show")
    T, H, W, _ = clips[0].pixels.shape
    scale = _SIDE / max(H, W)
    width, height = round(W * scale), round(H * scale)
    block = (T * (width + _GAP) + 28, 2 * (height + _GAP) + _LINE + 14)
    rows = -(-len(clips) // columns)
    page = Image.new("RGB", (16 + columns * block[0], 52 + rows * block[1]), _PAPER)
    ImageDraw.Draw(page).text((16, 14), title, _INK, _font(20))
    for k, clip in enumerate(clips):
        row, column = divmod(k, columns)
        _draw_clip(page, clip, (16 + column * block[0], 52 + row * block[1]), (width, height))
    return page


def _draw_clip(page: Image.Image, clip: ClassifiedClip, corner: tuple[int, int], size: tuple[int, int]) -> None:
    (x, y), (width, height) = corner, size
    draw = ImageDraw.Draw(page)
    right = clip.truth == clip.predicted
    said = f"{clip.predicted} {clip.probability:.0%}"
    draw.text((x, y), said, _RIGHT if right else _WRONG, _font(16))
    if not right:
        draw.text((x + _font(16).getlength(said) + 10, y), f"is {clip.truth}", _INK, _font(16))
    for t, pictures in enumerate(zip(clip.pixels, overlaid(clip.pixels, clip.heat), strict=True)):
        for line, picture in enumerate(pictures):
            place = (x + t * (width + _GAP), y + _LINE + line * (height + _GAP))
            page.paste(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), place)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, on white."""
    page = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), _PAPER)
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def beside(pictures: Sequence[Image.Image], width: int) -> Image.Image:
    """Pictures beside each other, shrunk to fit ``width`` pixels together, on white."""
    share = width // len(pictures)
    page = Image.new("RGB", (width, max(round(p.height * share / p.width) for p in pictures)), _PAPER)
    for k, picture in enumerate(pictures):
        size = (share, round(picture.height * share / picture.width))
        page.paste(picture.resize(size, Image.Resampling.LANCZOS), (k * share, 0))
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
