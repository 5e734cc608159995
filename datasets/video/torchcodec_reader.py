"""Videos through torchcodec, which uses the FFmpeg of the system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.indexed_reader import IndexedReader
from stvit.datasets.video.pyav_index import refuse_for, undecodable, video_index
from stvit.datasets.video.reading import UndecodableVideoError, refuse_other_times
from stvit.errors import UserError

_NAME = "torchcodec"


class TorchCodecReader(IndexedReader):
    """See :class:`stvit.datasets.video.reading.VideoReader`.

    The list of frames is PyAV's. torchcodec applies rotations but no mirroring: such files are refused. Its
    approximate seeking, which shows wrong frames where the rate varies, is never used.
    """

    def __init__(self, path: Path) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: it finds no FFmpeg
            raise UserError(
                f"DATA.DECODER {_NAME} cannot be used: pip install 'stvit[torchcodec]' and install FFmpeg, or use auto"
            ) from error
        super().__init__(path, video_index(path))
        refuse_for(_NAME, path, self._index)
        if self._index.mirrored:
            raise UndecodableVideoError(f"{path} is to be shown mirrored, which {_NAME} does not do: use auto")
        try:
            self._decoder: VideoDecoder | None = VideoDecoder(
                str(path),
                stream_index=self._index.stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError) as error:
            raise undecodable(path, _cause(error), f" by {_NAME} (use auto)") from error
        self._start = self._decoder.metadata.begin_stream_seconds_from_content
        refuse_other_times(path, _NAME, self._index.times, None, len(self._decoder))

    def _decode(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._decoder is None:
            raise ValueError(f"{self._path} was closed")
        try:
            batch = self._decoder.get_frames_at(wanted.tolist())
        except (RuntimeError, IndexError) as error:
            raise undecodable(self._path, _cause(error), f" by {_NAME} (use auto)") from error
        clip = batch.data.numpy()
        if clip.shape[1:] != (*self.size, 3):
            raise UndecodableVideoError(
                f"{self._path}: {_NAME} gives frames of shape {clip.shape[1:]}, not {(*self.size, 3)}: use auto"
            )
        refuse_other_times(self._path, _NAME, self.times[wanted], batch.pts_seconds.numpy() - self._start)
        return clip

    def close(self) -> None:
        self._decoder = None


def _cause(error: Exception) -> Exception:
    """The last line is about what happened; those before it may be a stack."""
    return ValueError(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
