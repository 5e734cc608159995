"""Which classes are taken for which."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stvit.errors import UserError

MOST_CLASSES = 40  # that fit a page with their names


def confusion_png(counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], title: str = "") -> bytes:
    """A confusion matrix as the bytes of a PNG file: a row for each true class, coloured by its shares.

    Args:
        counts: ``(rows, columns)``, how many images of a true class were taken for which.
        rows, columns: the names, :data:`MOST_CLASSES` at most.
        title: stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and needed here only
    from matplotlib.figure import Figure

    if not counts.size or max(counts.shape) > MOST_CLASSES:
        raise UserError(f"a confusion matrix of {counts.shape} cannot be drawn: 1 to {MOST_CLASSES} classes fit")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    longest = max(map(len, (*rows, *columns)))
    width = max(4.5, 0.5 * len(columns)) + 0.09 * longest
    figure = Figure(
        figsize=(width + 1.2, max(3.5, 0.45 * len(rows) + 0.09 * longest + 1.2)), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axis, label="share of the true class")
    axis.set_xticks(range(len(columns)), columns, rotation=0 if longest <= 8 and len(columns) <= 6 else 90)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    if title:
        axis.set_title(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
