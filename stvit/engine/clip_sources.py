"""What a classifier of clips takes for a video: files, folders of frames, arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from stvit.datasets.frame_sources import IMAGE_SUFFIXES, PILLOW_ERRORS, Frames
from stvit.datasets.video.class_folders import holds_images
from stvit.datasets.video.list_lines import VIDEO_SUFFIXES
from stvit.datasets.video.reading import Closing, VideoReader, open_video
from stvit.engine.inference import Source, read_sequence
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

_ARRAY_SUFFIXES = (".npy", ".npz")


class FrameArray(Closing):
    """Frames in memory as an open video; see :class:`stvit.datasets.video.reading.VideoReader`."""

    def __init__(self, frames: Frames, fps: float) -> None:
        """``frames`` are ``(T, C, H, W)`` of 1 or 3 channels, uint8 or float32 in [0, 1]."""
        self._frames, self.fps = frames, fps
        self.times: NDArray[np.float64] = np.arange(len(frames)) / fps
        self.size: tuple[int, int] = (frames.shape[2], frames.shape[3])

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames ``(len(indices), H, W, 3)``; floats are rounded to 8 bits, grey is repeated."""
        chosen = np.moveaxis(self._frames[np.asarray(indices)], 1, -1)
        levels = chosen if chosen.dtype == np.uint8 else (255 * chosen).round().astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:3], 3)))


@dataclass(frozen=True)
class ClipSource:
    """An open video, and what else is known of it."""

    video: VideoReader
    where: str  # what to call it in messages
    is_clip: bool  # its frames are those that the network takes, chosen already


@contextmanager
def open_clip(source: Source, described: Preprocessing, sequence: int | None = None) -> Iterator[ClipSource]:
    """Open what a network of clips classifies; closed again after the ``with`` block.

    * a video file, GIFs too: its frames, each at its own time.
    * a folder of images: a video of ``described.target_fps`` frames a second, as in training.
    * an array, a tensor, an ``.npy`` or ``.npz`` file, a GIF that says nothing of times
      (:func:`stvit.datasets.frame_sources.read_frames`): as many frames as the network takes are the clip itself; any
      other number is a video of ``described.target_fps`` frames a second.

    Args:
        source: one of these.
        described: what the network takes.
        sequence: which sequence of an array that holds several.

    Raises:
        UserError: something else, a file or folder that cannot be read, a folder of videos.
    """
    path = Path(source) if isinstance(source, str | PathLike) else None
    if path is None or not path.exists() or _is_array(path) or (sequence is None and _is_timeless_gif(path)):
        frames, where = read_sequence(source, sequence, None, None)
        yield ClipSource(FrameArray(frames, _fps(len(frames), described)), where, len(frames) == described.frames)
        return
    if sequence is not None:
        raise UserError(f"{path} holds one sequence: a sequence number ({sequence}) is for arrays of several")
    if path.is_dir():
        if not is_frame_folder(path):
            raise UserError(
                f"{path} is no folder of images, and a clip is one video: give a video, or a folder of its frames; "
                "tools/predict.py classifies all videos in a folder"
            )
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(
            f"{path} is one image, and the network classifies clips: give a video, a GIF, a folder of images or an "
            "array; images are for networks of images"
        )
    with open_video(path, folder_fps=described.target_fps) as video:
        yield ClipSource(video, str(path), False)


def is_frame_folder(folder: Path) -> bool:
    """Whether a folder is one clip: images lie in it, and no video files. Any other folder is one of videos."""
    return holds_images(folder) and not any(
        entry.name.lower().endswith(VIDEO_SUFFIXES) for entry in folder.iterdir() if entry.name[0] != "."
    )


def _is_array(path: Path) -> bool:
    return path.suffix.lower() in _ARRAY_SUFFIXES and not path.is_dir()


def _is_timeless_gif(path: Path) -> bool:
    """Whether a GIF gives no times at all; FFmpeg takes all the frames of such a file for one."""
    if path.suffix.lower() != ".gif" or path.is_dir():
        return False
    try:
        with Image.open(path) as image:
            timed = ["duration" in frame.info for frame in ImageSequence.Iterator(image)]
    except PILLOW_ERRORS:  # opening it as a video says what is wrong
        return False
    return len(timed) > 1 and not any(timed)


def _fps(count: int, described: Preprocessing) -> float:
    """Frames a second of ``count`` frames without times: a clip's are ``sampling_rate`` apart."""
    apart = described.sampling_rate if count == described.frames and described.clip_sampling == "dense" else 1
    return described.target_fps / apart
