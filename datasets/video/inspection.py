"""What one video file is, and whether it can be decoded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stvit.datasets.video.reading import UndecodableVideoError, open_video
from stvit.errors import UserError

_ROOM = 256 * 2**20  # bytes of decoded frames that are held at once


class Inspection(NamedTuple):
    """A video's outcome and what is known of it; None and empty where it is not."""

    outcome: str  # sound, missing, unreadable, undecodable; of a lost process: crashed, timeout
    cause: str = ""  # the first one, without the path
    bytes: int | None = None
    container: str = ""
    codec: str = ""
    pixels: str = ""  # FFmpeg's name of their format
    size: tuple[int, int] | None = None  # (H, W) as shown
    fps: float | None = None
    frames: int | None = None
    duration: float | None = None  # seconds
    rotation: int | None = None  # degrees clockwise that the file asks for
    digest: str = ""  # SHA-256 of the file


def inspect_video(path: Path, frames: int | None, decoder: str = "auto", digest: bool = False) -> Inspection:
    """Open a video and decode some of its frames.

    Args:
        path: a file, or a folder of images.
        frames: how many, spread evenly from the first to the last; None: all.
        decoder: see :func:`stvit.datasets.video.reading.open_video`.
        digest: whether the content of a file is hashed.
    """
    if not path.exists():
        return Inspection("missing", "is not there")
    known = Inspection("sound")
    try:
        if path.is_file():
            known = _header(path)
            known = known._replace(digest=_sha256(path)) if digest else known
        else:
            known = known._replace(container="folder of images")
        return _decoded(path, frames, decoder, known)
    except UndecodableVideoError as error:
        return known._replace(outcome="undecodable", cause=_without(path, str(error)))
    except UserError as error:
        return known._replace(outcome="unreadable", cause=_without(path, str(error)))
    except PermissionError as error:
        return known._replace(outcome="unreadable", cause=f"may not be read: {error.strerror}")
    except OSError as error:
        return known._replace(outcome="unreadable", cause=f"cannot be read: {error.strerror or error}")


def _decoded(path: Path, frames: int | None, decoder: str, known: Inspection) -> Inspection:
    with open_video(path, decoder) as reader:
        total = len(reader.times)
        height, width = reader.size
        seconds = float(reader.times[-1]) + 1 / reader.fps
        known = known._replace(size=(height, width), fps=round(reader.fps, 3), frames=total, duration=round(seconds, 3))
        wanted = np.arange(total) if frames is None else np.unique(np.linspace(0, total - 1, frames).round())
        step = max(1, _ROOM // (height * width * 3))
        try:
            for start in range(0, len(wanted), step):
                reader.read(wanted[start : start + step].astype(np.int64))
        except UndecodableVideoError as error:
            return known._replace(outcome="undecodable", cause=_without(path, str(error)))
        # Decoding may have shown that the file holds other frames than its header says.
        return known._replace(frames=len(reader.times))


def _header(path: Path) -> Inspection:
    """What PyAV tells without and of the first frame; nothing of a file that it cannot open."""
    import av

    from stvit.datasets.video.pyav_index import open_stream, orientation, packets

    known = Inspection("sound", bytes=path.stat().st_size)
    try:
        container, stream = open_stream(path)
    except UndecodableVideoError:
        return known
    with container:
        context = stream.codec_context
        known = known._replace(
            container=container.format.name,
            codec=context.codec.canonical_name,
            pixels=getattr(context.format, "name", ""),
        )
        try:
            for packet in packets(path, container, stream):
                for frame in stream.decode(packet):
                    return known._replace(rotation=90 * orientation(frame)[0], pixels=frame.format.name)
        except (av.FFmpegError, UndecodableVideoError):
            pass  # the reader says it, in words for people
    return known


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _without(path: Path, message: str) -> str:
    """A cause without the path at its beginning."""
    return message.removeprefix(str(path)).lstrip(" :")
