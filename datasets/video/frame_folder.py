"""A folder of numbered images as a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.frame_sources import image_files, read_image
from stvit.datasets.video.indexed_reader import checked_numbers
from stvit.datasets.video.reading import Closing, UndecodableVideoError
from stvit.errors import UserError


class FrameFolder(Closing):
    """See :class:`stvit.datasets.video.reading.VideoReader`; images in natural order, evenly spaced in time."""

    def __init__(self, folder: Path, fps: float) -> None:
        self._folder, self._fps = folder, fps
        try:
            self._files = image_files(folder)
        except UserError as error:
            raise UndecodableVideoError(str(error)) from error

    @property
    def times(self) -> NDArray[np.float64]:
        return np.arange(len(self._files)) / self._fps

    @property
    def size(self) -> tuple[int, int]:
        return self._read(0).shape[:2]

    @property
    def fps(self) -> float:
        return self._fps

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        numbers = checked_numbers(indices, len(self._files), self._folder)
        pictures = {n: self._read(n) for n in sorted(set(numbers.tolist()))}
        shapes = {picture.shape for picture in pictures.values()}
        if len(shapes) > 1:
            sizes = " and ".join(sorted(f"{shape[1]}x{shape[0]}" for shape in shapes))
            raise UndecodableVideoError(f"the frames of {self._folder} differ in size: {sizes} pixels")
        if not pictures:
            return np.zeros((0, *self.size, 3), np.uint8)
        return np.stack([pictures[n] for n in numbers.tolist()])

    def _read(self, number: int) -> NDArray[np.uint8]:
        try:
            return read_image(self._files[number])
        except UserError as error:
            raise UndecodableVideoError(str(error)) from error
