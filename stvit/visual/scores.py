"""What a video was taken for over time, under some of its frames."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_WIDTH = 10.0  # inches of the time axis
_CELL = 240  # pixels of a frame's width
_SHAPES = (0.4, 1.6)  # least and greatest height of a shown frame, as a share of its width; others get margins


def scores_png(
    frames: NDArray[np.uint8],
    duration: float,
    spans: Sequence[tuple[float, float]],
    scores: NDArray[np.float64],
    names: Sequence[str],
    title: str = "",
) -> bytes:
    """The probabilities of classes over the time of a video, as the bytes of a PNG file.

    Each window is a level line from its start to its end; thin lines join their middles.

    Args:
        frames: ``(N, H, W, 3)``, taken in the middle of N equal parts of the video; they stand above the curves.
        duration: of the video, seconds.
        spans: start and end of each window, seconds.
        scores: ``(classes, windows)``, probabilities.
        names: of the classes.
        title: stands above all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and needed here only
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    strip = _strip(frames)
    heights = [_WIDTH * strip.shape[0] / strip.shape[1], 3.4]
    figure = Figure(figsize=(_WIDTH + 0.9, sum(heights) + 1.3 + 0.22 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, axis = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    above.imshow(strip, extent=(0, duration, 0, 1), aspect="auto")
    above.axis("off")
    starts, ends = np.array(spans).T
    for row, (name, values) in enumerate(zip(names, scores, strict=True)):
        width = 3.2 if row == 0 else 2.2
        # A dollar sign would begin a formula, and a name that begins with an underscore would not be shown.
        label = name.replace("$", r"\$").replace("_", "\u200b_", 1)
        axis.hlines(values, starts, ends, color=f"C{row}", linewidth=width, label=label, zorder=3 - row / 10)
        axis.plot((starts + ends) / 2, values, color=f"C{row}", linewidth=0.8, alpha=0.6)
    axis.set_xlim(0, duration)
    highest = min(1.0, 1.15 * float(scores.max())) or 1.0
    axis.set_ylim(-0.01 * highest, 1.01 * highest)  # room for the width of lines at 0 and 1
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("time in the video, seconds")
    axis.set_ylabel("probability")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1 if max(map(len, names)) > 45 else 2, frameon=False)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _strip(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames beside each other, with white between them."""
    shape = min(max(frames.shape[1] / frames.shape[2], _SHAPES[0]), _SHAPES[1])
    size = (_CELL - 6, max(1, round(_CELL * shape) - 6))
    cells = [ImageOps.pad(Image.fromarray(frame), size, color="white") for frame in frames]
    return np.hstack([np.pad(np.asarray(cell), ((3, 3), (3, 3), (0, 0)), constant_values=255) for cell in cells])
