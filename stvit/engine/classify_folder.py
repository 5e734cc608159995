"""Classify every video in a folder, and write what was found as a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from stvit.datasets.video.class_folders import videos_below
from stvit.datasets.video.list_lines import VIDEO_SUFFIXES
from stvit.engine.class_prediction import checked_top_k
from stvit.engine.classify_clips import ClipPrediction, classify_clip
from stvit.engine.inference import described_classifier
from stvit.errors import UserError


@dataclass(frozen=True)
class FolderRow:
    """One video of a folder: what it was taken for, or why it could not be."""

    name: str  # its path in the folder; what is no text is escaped
    prediction: ClipPrediction | None
    error: str = ""  # one line


def classify_folder(folder: Path, model: nn.Module, *, top_k: int = 5) -> Iterator[FolderRow]:
    """Classify all videos in a folder and below it, one after the other, sorted by path.

    A video is a file with a usual ending, or a folder with images in it. A video that cannot be read becomes a row that
    says so.

    Args:
        folder: where the videos are.
        model: a classifier of clips.
        top_k: how many classes at most.

    Raises:
        UserError: no videos, a folder that may not be read, a model that does not classify clips.
    """
    checked_top_k(top_k)
    described_classifier(model, clips=True)
    files = videos_below(folder)
    if not files:
        raise UserError(f"{folder} holds neither images nor videos; known are {', '.join(VIDEO_SUFFIXES)}")
    return (_row(folder, file, model, top_k) for file in files)


def _row(folder: Path, file: bytes, model: nn.Module, top_k: int) -> FolderRow:
    name = file.decode("utf-8", "backslashreplace")
    try:
        return FolderRow(name, classify_clip(folder / os.fsdecode(file), model, top_k=top_k, over_time=False))
    except (UserError, OSError) as error:
        return FolderRow(name, None, " ".join(str(error).split()) or type(error).__name__)


def as_csv(rows: Iterable[FolderRow], top_k: int) -> bytes:
    """A table with a line for each video: ``video, label_1, score_1, ..., error``; UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [column for k in range(1, top_k + 1) for column in (f"label_{k}", f"score_{k}")]
    writer.writerow(["video", *pairs, "error"])
    for row in rows:
        cells: list[str] = []
        if row.prediction is not None:
            for label, score in zip(row.prediction.labels, row.prediction.probabilities, strict=True):
                cells += [label, f"{score:.6f}"]
        writer.writerow([row.name, *cells, *[""] * (len(pairs) - len(cells)), row.error])
    return text.getvalue().encode("utf-8", "backslashreplace")
