"""A table of methods and metrics in plain text or Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stvit.errors import UserError


@dataclass(frozen=True)
class Column:
    """How a metric is shown, and which of its values is the best."""

    heading: str
    decimals: int
    best: Literal["lowest", "highest", "unmarked"]


COLUMNS = {
    "mse": Column("MSE", 1, "lowest"),
    "mae": Column("MAE", 1, "lowest"),
    "rmse": Column("RMSE", 2, "lowest"),
    "ssim": Column("SSIM", 4, "highest"),
    "ssim_range2": Column("SSIM (range 2)", 4, "highest"),
    "psnr": Column("PSNR dB", 2, "highest"),
    "psnr_uint8_wrapped": Column("PSNR (uint8, wrapped) dB", 2, "unmarked"),  # a high value means nothing
    "top1_accuracy": Column("top-1 %", 2, "highest"),
    "top5_accuracy": Column("top-5 %", 2, "highest"),
    "mean_class_accuracy": Column("mean class %", 2, "highest"),
}


def results_table(
    results: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] = ("mse", "mae", "ssim", "psnr"),
    *,
    markdown: bool = False,
) -> str:
    """A row for each method and a column for each metric; the best of a column carries a ``*`` (bold in Markdown).

    Values that look the same as printed are all marked; a metric that a method lacks is shown as ``-``.

    Args:
        results: method -> metric -> value, as :meth:`FrameMetrics.compute` gives them.
        metrics: which columns, keys of :data:`COLUMNS`.
        markdown: a Markdown table instead of plain text.
    """
    for name in metrics:
        if name not in COLUMNS:
            raise UserError(f"no column is known for the metric {name!r}; known are {', '.join(COLUMNS)}")
    headings = ["method", *(COLUMNS[name].heading for name in metrics)]
    columns = [_cells([row.get(name) for row in results.values()], COLUMNS[name], markdown) for name in metrics]
    rows = [headings, *([method, *cells] for method, cells in zip(results, zip(*columns, strict=True), strict=True))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    if markdown:
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in (lines[0], rule, *lines[1:])) + "\n* best of its column"


def _cells(values: Sequence[float | None], column: Column, markdown: bool) -> list[str]:
    """Texts of equal right edges: in plain text every number is followed by a star or a blank."""
    shown = ["-" if value is None else f"{value:.{column.decimals}f}" for value in values]
    known = [value for value in values if value is not None and not math.isnan(value)]
    if column.best == "unmarked" or not known:
        best = None
    else:
        best = f"{(min if column.best == 'lowest' else max)(known):.{column.decimals}f}"
    if markdown:
        return [f"**{text}**" if text == best else text for text in shown]
    return [text + ("*" if text == best else " ") for text in shown]
