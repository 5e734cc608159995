"""Which videos there are, and of which class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoList:
    """Labelled videos, in the order of their list."""

    source: Path  # the list file, or the folder of class folders
    files: NDArray[np.bytes_]  # (N,) full paths, or relative to ``root``; bytes, because a million str weigh 100 MB
    labels: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...] | None  # names in the order of the labels, where they are known
    root: Path  # what relative paths are relative to

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Where a video is."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The path as its list writes it, for messages and reports."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """The list's line of a video, ``train.csv:17``, or its path; for messages."""
        raise NotImplementedError

    def identity(self) -> dict[str, object]:
        """Plain values that are equal for lists of the same files with the same labels."""
        raise NotImplementedError


@dataclass(frozen=True)
class VideoSplits:
    """What a run reads; parts that it does not need are None."""

    train: VideoList | None
    validation: VideoList | None
    test: VideoList | None
    classes: tuple[str, ...] | None
    validation_is_test: bool  # there is no test list of its own

    @property
    def identity(self) -> dict[str, object]:
        """Plain values that say which videos these are, for checkpoints and results."""
        raise NotImplementedError


def read_video_list(
    path: Path, *, root: Path | None = None, separator: str = "", classes: tuple[str, ...] | None = None
) -> VideoList:
    """A list file with ``path label`` a line.

    Args:
        path: the file.
        root: what relative paths are relative to (DATA.PATH_PREFIX); None: the list's folder.
        separator: between path and label (DATA.PATH_LABEL_SEPARATOR); empty: told from the file, space, comma or tab.
        classes: the names of the labels; a label is then a number or one of them.
    """
    raise NotImplementedError


def video_splits(
    root: Path, *, training: bool, testing: bool, prefix: str = "", separator: str = "", label_file: str = ""
) -> VideoSplits:
    """``train``, ``val`` and ``test`` of a folder: lists ``train.csv`` (or ``.txt``, ``.tsv``), or class folders
    ``train/CLASS/...``.
    """
    raise NotImplementedError
