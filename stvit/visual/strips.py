"""Predicted frames as something to look at: a picture strip, and an animation of past, truth and prediction."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stvit.errors import UserError

Frames = NDArray[np.floating]  # (T, C, H, W) in [0, 1], C of 1 (grey) or 3 (RGB)
Picture = NDArray[np.uint8]  # (H, W, 3)

_STRIP_FRAME, _GIF_FRAME = 112, 224  # shown size in pixels that small frames are enlarged towards
_GAP = 4  # pixels between frames
_INK, _FAINT, _PAPER, _EMPTY = (20, 20, 20), (110, 110, 110), (255, 255, 255), (236, 236, 236)
_LEGEND = "error: red where the prediction is too bright, blue where it is too dark"


@dataclass(frozen=True)
class Example:
    """One sequence to show. Truth may be absent, or end before the prediction does."""

    title: str
    past: Frames
    predicted: Frames
    truth: Frames | None = None

    def __post_init__(self) -> None:
        _, C, H, W = self.past.shape
        for name, frames in (("predicted", self.predicted), ("truth", self.truth)):
            if frames is not None and frames.shape[1:] != (C, H, W):
                raise UserError(f"{name} frames are {frames.shape[1:]}, the past ones {(C, H, W)} (channels, H, W)")
        if C not in (1, 3):
            raise UserError(f"frames to show need 1 or 3 channels, not {C}")


def encode_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def draw_strip(examples: Sequence[Example]) -> Image.Image:
    """Rows of frames for each example: input, truth, prediction and error, under frame numbers that start at t=1.

    Small frames are enlarged without smoothing. Without a truth only input and prediction are shown.
    """
    if not examples:
        raise UserError("there is no sequence to draw a strip of")
    scale = _enlargement(examples[0].past, _STRIP_FRAME)
    blocks = [_strip_block(example, scale) for example in examples]
    legend = _LEGEND if any(example.truth is not None for example in examples) else ""
    footer = 32 if legend else 0
    width = max(block.width for block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks) + footer), _PAPER)
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    ImageDraw.Draw(sheet).text((16, y), legend, _FAINT, _font(15))
    return sheet


def animation(example: Example, milliseconds: int = 200) -> bytes:
    """The bytes of a GIF: the past frames, then truth, prediction and error side by side in step.

    Args:
        example: without a truth only the prediction is shown.
        milliseconds: how long a frame stays; the last one stays five times as long before the loop starts again.
    """
    scale = _enlargement(example.past, _GIF_FRAME)
    pages = _gif_pages(example, scale)
    return encode_gif(pages, [milliseconds] * (len(pages) - 1) + [5 * milliseconds])


def encode_gif(pages: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """The bytes of a GIF file that repeats for ever; each page stays so long, and all share one palette."""
    palette = _shared_palette(pages)
    quantised = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    buffer = io.BytesIO()
    quantised[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=quantised[1:],
        duration=list(milliseconds),
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def error_colours(predicted: Frames, truth: Frames) -> Picture:
    """``(T, C, H, W)`` twice -> ``(T, H, W, 3)``: black where equal, red where too bright, blue where too dark.

    The brightness is the size of the error, averaged over the channels; an error of 1 is full colour.
    """
    error = (np.clip(predicted, 0, 1) - truth).mean(axis=1)[..., None]
    too_bright, too_dark = np.array([1.0, 0.25, 0.15]), np.array([0.25, 0.55, 1.0])
    colours = np.where(error > 0, error * too_bright, -error * too_dark)
    return (255 * np.clip(colours, 0, 1) + 0.5).astype(np.uint8)


def to_pictures(frames: Frames) -> Picture:
    """``(T, C, H, W)`` in [0, 1], clipped, C of 1 or 3 -> ``(T, H, W, 3)`` uint8."""
    pixels = (255 * np.clip(frames, 0, 1) + 0.5).astype(np.uint8)
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1)


def _strip_block(example: Example, scale: int) -> Image.Image:
    """One example: a title, then the rows, each with its name at the left and its frame numbers above."""
    rows, shown = [("input", to_pictures(example.past), 1)], len(example.past) + 1
    if example.truth is not None:
        rows.append(("truth", to_pictures(example.truth), shown))
    rows.append(("prediction", to_pictures(example.predicted), shown))
    if example.truth is not None:
        both = min(len(example.truth), len(example.predicted))
        rows.append(("error", error_colours(example.predicted[:both], example.truth[:both]), shown))

    H, W = example.past.shape[2] * scale, example.past.shape[3] * scale
    margin, title_height, number_height = 110, 44, 24
    columns = max(len(example.past), len(example.predicted))
    numbered = {0, 1}  # rows with frame numbers above them: the input, and the first row of what follows
    height = title_height + len(rows) * (H + _GAP) + len(numbered) * number_height + 20
    width = max(margin + columns * (W + _GAP) + 12, 32 + int(_font(20).getlength(example.title)))
    block = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((16, 12), example.title, _INK, _font(20))
    y = title_height
    for index, (name, pictures, first) in enumerate(rows):
        if index in numbered:
            for column in range(len(example.past) if index == 0 else len(example.predicted)):
                centre = margin + column * (W + _GAP) + W // 2
                draw.text((centre, y + number_height - 4), f"t={first + column}", _FAINT, _font(15), anchor="ms")
            y += number_height
        draw.text((margin - 12, y + H // 2), name, _INK, _font(16), anchor="rm")
        for column, picture in enumerate(pictures):
            block.paste(_enlarged(picture, scale), (margin + column * (W + _GAP), y))
        y += H + _GAP
    return block


def _gif_pages(example: Example, scale: int) -> list[Image.Image]:
    """Every page of the animation as RGB; panels that have nothing to show yet (or any more) are left pale."""
    past, predicted = to_pictures(example.past), to_pictures(example.predicted)
    panels: list[tuple[str, Picture]] = [("prediction", predicted)]
    if example.truth is not None:
        both = min(len(example.truth), len(example.predicted))
        errors = error_colours(example.predicted[:both], example.truth[:both])
        panels = [("truth", to_pictures(example.truth)), *panels, ("error", errors)]
    pages = []
    for t in range(len(past) + len(predicted)):
        later = t - len(past)
        shown: list[tuple[str, Picture | None]] = []
        for name, pictures in panels:
            if later < 0:
                shown.append(("input" if name != "error" else name, past[t] if name != "error" else None))
            else:
                shown.append((name, pictures[later] if later < len(pictures) else None))
        pages.append(_gif_page(example, shown, scale, t))
    return pages


def _gif_page(example: Example, shown: list[tuple[str, Picture | None]], scale: int, t: int) -> Image.Image:
    H, W = example.past.shape[2] * scale, example.past.shape[3] * scale
    total = len(example.past) + len(example.predicted)
    margin, top, gap = 12, 62, 12
    width = max(2 * margin + len(shown) * (W + gap) - gap, 24 + int(_font(17).getlength(example.title)))
    page = Image.new("RGB", (width, top + H + 40), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((margin, 10), example.title, _INK, _font(17))
    for column, (name, picture) in enumerate(shown):
        x = margin + column * (W + gap)
        draw.text((x + W // 2, top - 7), name, _INK if picture is not None else _FAINT, _font(16), anchor="ms")
        if picture is None:
            draw.rectangle((x, top, x + W - 1, top + H - 1), fill=_EMPTY)
        else:
            page.paste(_enlarged(picture, scale), (x, top))
    # A bar for the time, so that a loop's start and the step from past to future are seen.
    draw.text((margin, top + H + 26), f"t={t + 1} of {total}", _INK, _font(15), anchor="ls")
    left, right, y = margin + 110, width - margin, top + H + 21
    draw.line((left, y, right, y), fill=_EMPTY, width=6)
    draw.line((left, y, left + (right - left) * (t + 1) // total, y), fill=_FAINT, width=6)
    border = left + (right - left) * len(example.past) // total
    draw.line((border, y - 8, border, y + 8), fill=_INK, width=2)
    return page


def _shared_palette(pages: Sequence[Image.Image]) -> Image.Image:
    """One palette for all pages, so that nothing flickers: it is taken from all of them, side by side."""
    sheet = Image.new("RGB", (pages[0].width, sum(page.height for page in pages)))
    for index, page in enumerate(pages):
        sheet.paste(page, (0, index * page.height))
    return sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _enlargement(frames: Frames, wanted: int) -> int:
    """The smallest whole factor that brings the longer side to ``wanted`` pixels."""
    return math.ceil(wanted / max(frames.shape[2:]))


def _enlarged(picture: Picture, scale: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture.repeat(scale, 0).repeat(scale, 1)))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
