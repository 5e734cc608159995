"""One way to read frames from a video, whichever library decodes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from stvit.errors import UserError

# What DATA.DECODER may say; auto is pyav.
DECODERS = ("auto", "pyav", "decord", "torchcodec")


class UndecodableVideoError(UserError):
    """A file that is no video, a broken one, or one without frames; names the file and the first cause."""


class Closing:
    """What is closed at the end of its ``with`` block."""

    def close(self) -> None:
        """Give back what is open; nothing is, unless a class says what."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class VideoReader(Protocol):
    """An open video. Frames are counted from 0 in the order in which they are shown; close it after use."""

    @property
    def times(self) -> NDArray[np.float64]:
        """When each frame is shown, ``(N,)`` seconds, increasing, 0 for the first; N counts the decodable frames."""

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels as shown, after the rotation that the file asks for."""

    @property
    def fps(self) -> float:
        """Frames per second on average; of a single frame what the file declares, or 1."""

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames of these numbers, in this order, repeated ones too: ``(len(indices), H, W, 3)`` RGB.

        Raises:
            UndecodableVideoError: one of them cannot be decoded.
            IndexError: there is no such frame.
        """

    def close(self) -> None:
        """Give back file and memory; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def open_video(path: str | PathLike[str], decoder: str = "auto", *, folder_fps: float = 30.0) -> VideoReader:
    """Open a video file, or a folder of numbered images as one of ``folder_fps`` frames a second.

    Raises:
        UndecodableVideoError: see there; also a file without a video stream.
        UserError: no such file, no permission, an unknown decoder or one that is not installed.
    """
    path = Path(path)
    if decoder not in DECODERS:
        raise UserError(f"there is no decoder {decoder!r} (DATA.DECODER); known are {', '.join(DECODERS)}")
    check_readable(path)
    if path.is_dir():
        from stvit.datasets.video.frame_folder import FrameFolder

        return FrameFolder(path, folder_fps)
    if decoder == "decord":
        from stvit.datasets.video.decord_reader import DecordReader

        return DecordReader(path)
    if decoder == "torchcodec":
        from stvit.datasets.video.torchcodec_reader import TorchCodecReader

        return TorchCodecReader(path)
    from stvit.datasets.video.pyav_reader import PyAVReader

    return PyAVReader(path)


def check_readable(path: Path) -> None:
    """Raises UserError for what is no file or folder that may be read; a pipe would be waited for without end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist; give a video file or a folder of numbered images") from error
    except (PermissionError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is neither a file nor a folder; give a video file or a folder of numbered images")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise UserError(f"{path} cannot be read: permission denied; change its rights with chmod")


def refuse_other_times(
    path: Path, decoder: str, times: NDArray[np.float64], found: NDArray[np.float64] | None, count: int | None = None
) -> None:
    """A backend has to show the frames of our list at their times; without ``found`` only their number is compared."""
    count = len(found) if found is not None else count
    if count != len(times):
        raise UndecodableVideoError(f"{path}: {decoder} counts {count} frames, there are {len(times)}: use auto")
    if found is None or len(times) < 2:
        return
    tolerance = max(1e-4, float(np.diff(times).min()) / 4)
    wrong = np.flatnonzero(np.abs(found - times) > tolerance)
    if len(wrong):
        n = wrong[0]
        raise UndecodableVideoError(
            f"{path}: {decoder} shows frame {n} at {found[n]:.3f} s, it is due at {times[n]:.3f} s: use auto"
        )
