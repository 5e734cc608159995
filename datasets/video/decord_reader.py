"""Videos through decord, where it shows the same frames as PyAV; other files it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.indexed_reader import IndexedReader
from stvit.datasets.video.pyav_index import refuse_for, undecodable, video_index
from stvit.datasets.video.reading import UndecodableVideoError, refuse_other_times
from stvit.errors import UserError

_NAME = "decord"


class DecordReader(IndexedReader):
    """See :class:`stvit.datasets.video.reading.VideoReader`.

    The list of frames is PyAV's. decord applies rotations but no mirroring, chooses among several video streams by
    itself and hands out pixels wrongly whose rows it pads: such files are refused.
    """

    def __init__(self, path: Path) -> None:
        try:
            import decord
        except (ImportError, OSError) as error:
            raise UserError(f"DATA.DECODER {_NAME} is not installed: pip install decord, or use auto") from error
        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (decord.DECORDError, RuntimeError)
        self._open = partial(decord.VideoReader, str(path), num_threads=1)
        super().__init__(path, video_index(path))
        refuse_for(_NAME, path, self._index)
        if self._index.streams > 1:
            raise UndecodableVideoError(
                f"{path} has {self._index.streams} video streams, {_NAME} may take any: use auto"
            )
        if self._index.mirrored:
            raise UndecodableVideoError(f"{path} is to be shown mirrored, which {_NAME} does not do: use auto")
        try:
            self._reader = self._open()
            starts = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0]
        except self._errors as error:
            raise undecodable(path, _cause(error), f" by {_NAME} (use auto)") from error
        refuse_other_times(path, _NAME, self._index.times, starts - starts[0])

    def _decode(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        try:
            reader, self._reader = self._reader or self._open(), None
            batch = reader.get_batch(wanted.tolist())
        except (*self._errors, IndexError) as error:
            raise undecodable(self._path, _cause(error), f" by {_NAME} (use auto)") from error
        del reader  # else its thread goes on decoding what nobody asked for
        # What comes depends on decord's bridge, which belongs to the whole process: left as it is.
        clip = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
        if clip.shape[1:] != (*self.size, 3):
            raise UndecodableVideoError(
                f"{self._path}: {_NAME} gives frames of shape {clip.shape[1:]}, not {(*self.size, 3)}: use auto"
            )
        return clip

    def close(self) -> None:
        self._reader = None


def _cause(error: Exception) -> Exception:
    """decord's messages begin with a place in its source and end with a stack; between them stands the cause."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ValueError(line.split("Check failed:")[-1].split("]")[-1].strip() or line)
