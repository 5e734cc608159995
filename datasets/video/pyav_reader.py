"""Videos through PyAV: the default, because its list of frames is checked by every frame that is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.indexed_reader import IndexedReader
from stvit.datasets.video.pyav_index import keep_index, open_stream, packets, picture, undecodable, video_index
from stvit.datasets.video.reading import UndecodableVideoError

if TYPE_CHECKING:
    from av import VideoFrame

# Decoding on costs less than starting anew for a key frame that is only so many frames ahead.
_FRAMES_WORTH_A_SEEK = 2
_NEVER = -(1 << 62)  # a timestamp before all others


class _WrongIndexError(Exception):
    """The decoder puts out other frames than the packets promised."""


class _UncleanKeyError(Exception):
    """Decoding that starts at this key frame's timestamp gives damaged frames: they refer to what was before it."""

    def __init__(self, key: int) -> None:
        self.key = key


class PyAVReader(IndexedReader):
    """See :class:`stvit.datasets.video.reading.VideoReader`."""

    def __init__(self, path: Path) -> None:
        self._container, self._stream = open_stream(path)
        try:
            super().__init__(path, video_index(path, (self._container, self._stream)))
        except UndecodableVideoError:
            self._container.close()
            raise

    def _decode(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._index.stamps is not None:
            try:
                return self._from_clean_keys(wanted, self._index.stamps)
            except _WrongIndexError:
                due = self._index.times[wanted]
                self._index = video_index(self._path, counted=True)
                wanted = self._shown_at(due, wanted)
        return self._collect(wanted, self._counted(wanted))

    def _from_clean_keys(self, wanted: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames; key frames that are none (recovery points of H.264, say) are found by their damage, and left."""
        index = self._index
        try:
            return self._collect(wanted, self._timed(wanted, stamps))
        except _UncleanKeyError as unclean:
            self._index = replace(index, keys=index.keys[:1])  # from the beginning, where damage is the file's
            clip = self._collect(wanted, self._timed(wanted, stamps))
            self._index = replace(index, keys=index.keys[index.keys != unclean.key])
            keep_index(self._path, self._index)
            return clip

    def _shown_at(self, due: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers in the new list of frames that had other ones in the list before."""
        times = self._index.times
        found = np.abs(times[None] - due[:, None]).argmin(axis=1)
        missing = np.abs(times[found] - due) > (np.diff(times).min() / 4 if len(times) > 1 else 0)
        if missing.any():
            raise UndecodableVideoError(f"{self._path} cannot be decoded at frame {numbers[missing][0]}: it is missing")
        return found

    def _collect(self, wanted: NDArray[np.int64], frames: Iterator[VideoFrame]) -> NDArray[np.uint8]:
        import av

        clip = np.empty((len(wanted), *self.size, 3), np.uint8)
        for k, frame in enumerate(frames):
            try:
                shown = picture(frame)
            except (av.FFmpegError, ValueError) as error:  # of a format that has no way to RGB
                raise undecodable(self._path, error, f" at frame {wanted[k]}") from error
            if shown.shape != clip.shape[1:]:
                was, now = (f"{shape[1]}x{shape[0]}" for shape in (clip.shape[1:], shown.shape))
                raise UndecodableVideoError(f"{self._path} changes its size from {was} to {now} at frame {wanted[k]}")
            clip[k] = shown
        return clip

    def _timed(self, wanted: NDArray[np.int64], stamps: NDArray[np.int64]) -> Iterator[VideoFrame]:
        """The wanted frames, told by their timestamps; from key frame to key frame where that saves work."""
        keys = self._index.keys
        frames: Iterator[VideoFrame] | None = None
        following = 0  # number of the frame that comes next
        began = int(keys[0])  # the key frame that decoding started at
        for n in wanted.tolist():
            key = int(keys[np.searchsorted(keys, stamps[n], side="right") - 1])
            first = int(np.searchsorted(stamps, key))  # shown first after that key frame
            if frames is None or first > following + _FRAMES_WORTH_A_SEEK:
                frames, following, began = self._from_key(key), first, key
            for frame in frames:
                number = int(np.searchsorted(stamps, _NEVER if frame.pts is None else frame.pts))
                if number < following and following == first:  # shown before the key frame, but coded after it
                    continue
                if number != following or frame.pts != stamps[number]:
                    raise _WrongIndexError
                if frame.is_corrupt:
                    if began != keys[0]:
                        raise _UncleanKeyError(began)
                    raise UndecodableVideoError(
                        f"{self._path} cannot be decoded at frame {n}: frame {number} is damaged"
                    )
                following += 1
                if number == n:
                    yield frame
                    break
            else:
                raise _WrongIndexError

    def _from_key(self, key: int) -> Iterator[VideoFrame]:
        """Decoded frames from the key frame of this timestamp on."""
        import av

        try:
            self._container.seek(key, stream=self._stream)
        except av.FFmpegError as error:
            raise _WrongIndexError from error
        return self._decoded(key)

    def _decoded(self, key: int) -> Iterator[VideoFrame]:
        import av

        for packet in packets(self._path, self._container, self._stream):
            try:
                yield from self._stream.decode(packet)
            except av.FFmpegError as error:
                # Frames shown before the key frame may refer to what was not decoded.
                if packet.pts is None or packet.pts >= key:
                    where, stamps = "", self._index.stamps
                    if stamps is not None and packet.pts is not None:
                        where = f" at frame {np.searchsorted(stamps, packet.pts)}"
                    raise undecodable(self._path, error, where) from error

    def _counted(self, wanted: NDArray[np.int64]) -> Iterator[VideoFrame]:
        """The wanted frames, counted from the beginning of the file."""
        self._container.close()
        self._container, self._stream = open_stream(self._path)
        numbers = iter(wanted.tolist())
        n = next(numbers, None)
        for k, frame in enumerate(self._decoded(_NEVER)):
            if k == n:
                yield frame
                n = next(numbers, None)
                if n is None:
                    return
        raise UndecodableVideoError(f"{self._path} cannot be decoded at frame {n}: the video ends before it")

    def close(self) -> None:
        self._container.close()
