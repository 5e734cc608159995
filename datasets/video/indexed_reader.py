"""What the readers of all decoders do alike with the list of a video's frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.pyav_index import VideoIndex
from stvit.datasets.video.reading import Closing


class IndexedReader(Closing):
    """A :class:`stvit.datasets.video.reading.VideoReader` by a list of frames; a decoder adds :meth:`_decode`."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index

    @property
    def times(self) -> NDArray[np.float64]:
        return self._index.times

    @property
    def size(self) -> tuple[int, int]:
        return self._index.size

    @property
    def fps(self) -> float:
        return mean_rate(self._index.times, self._index.rate)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """See :meth:`stvit.datasets.video.reading.VideoReader.read`; each frame is decoded once."""
        numbers = checked_numbers(indices, len(self.times), self._path)
        if not len(numbers):
            return np.zeros((0, *self.size, 3), np.uint8)
        wanted, places = np.unique(numbers, return_inverse=True)
        clip = self._decode(wanted)
        return clip if len(places) == len(wanted) and (np.diff(places) > 0).all() else clip[places]

    def _decode(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames of these numbers, which increase: ``(len(wanted), H, W, 3)``."""
        raise NotImplementedError


def mean_rate(times: NDArray[np.float64], declared: float) -> float:
    """Frames a second of frames shown at these times; of a single one what its file declares."""
    return float((len(times) - 1) / times[-1]) if len(times) > 1 else declared


def checked_numbers(indices: Sequence[int] | NDArray[np.int64], frames: int, path: Path) -> NDArray[np.int64]:
    """Frame numbers as an array; IndexError unless the video has them all."""
    numbers = np.asarray(indices, np.int64).reshape(-1)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < frames:
        bad = numbers[(numbers < 0) | (numbers >= frames)][0]
        raise IndexError(f"{path} has frames 0 to {frames - 1}; there is no frame {bad}")
    return numbers
