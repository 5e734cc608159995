"""Videos encoded anew, smaller and with many key frames, so that a clip of them is decoded fast."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.reading import UndecodableVideoError, open_video

if TYPE_CHECKING:
    from av import VideoFrame

_TICKS = 90_000  # a second; what stamps are rounded to
# H.264 for decoding: key frames only where they are due, no frames that refer to later ones.
_CODEC = {"preset": "fast", "crf": "20", "bf": "0", "sc_threshold": "0", "threads": "1"}


class _OtherFramesError(Exception):
    """The file holds other frames than its packets promise."""


def reencode(source: Path, target: Path, temporary: Path, *, short_side: int, gop: int) -> None:
    """Write a video as H.264 in .mp4, with the frames that :func:`stvit.datasets.video.reading.open_video` shows.

    They are turned as the file asks for, and as far apart in time as before. Sound is left out.

    Args:
        source: a file, or a folder of images.
        target: the file to write, in a folder that is there; it appears when it is whole.
        temporary: what it is called until then, on the same file system.
        short_side: pixels; smaller videos keep their size. Sides are made even, as the codec needs them.
        gop: frames from one key frame to the next.

    Raises:
        UndecodableVideoError: see there; nothing is written.
        UserError: no such file, no permission.
        OSError: ``target`` cannot be written.
    """
    try:
        try:
            _write(_pictures(source, counted=False), temporary, short_side, gop)
        except _OtherFramesError:
            _write(_pictures(source, counted=True), temporary, short_side, gop)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The even ``(H, W)`` of a video whose short side is to be at most ``short_side``, keeping its shape."""
    scale = min(1.0, short_side / min(height, width))
    even = [max(2, 2 * round(side * scale / 2)) for side in (height, width)]
    return even[0], even[1]


def _pictures(source: Path, counted: bool) -> Iterator[tuple[NDArray[np.uint8], float, float]]:
    """Each frame ``(H, W, 3)``, when it is shown in seconds, and the frames a second; decoded from first to last."""
    if source.is_dir():
        with open_video(source) as reader:
            for number, time in enumerate(reader.times.tolist()):
                yield reader.read([number])[0], time, reader.fps
        return
    import av

    from stvit.datasets.video.indexed_reader import mean_rate
    from stvit.datasets.video.pyav_index import opened, packets, picture, undecodable, video_index

    with open_video(source) as reader:  # says in words for people what is wrong with a file
        reader.read([0])
    index = video_index(source, counted=counted)
    times, rate = index.times.tolist(), mean_rate(index.times, index.rate)
    number = 0
    with opened(source) as (container, stream):
        for packet in packets(source, container, stream):
            try:
                for frame in stream.decode(packet):
                    if number == len(times) or not _is_due(frame, number, index.stamps):
                        raise _OtherFramesError
                    if frame.is_corrupt:
                        raise UndecodableVideoError(f"{source} cannot be decoded: frame {number} is damaged")
                    yield picture(frame), times[number], rate
                    number += 1
            except av.FFmpegError as error:
                if not (counted and number == len(times)):
                    raise undecodable(source, error, f" after frame {number - 1}" if number else "") from error
    if number < len(times):
        raise _OtherFramesError


def _is_due(frame: VideoFrame, number: int, stamps: NDArray[np.int64] | None) -> bool:
    return stamps is None or frame.pts == stamps[number]


def _write(pictures: Iterator[tuple[NDArray[np.uint8], float, float]], path: Path, short_side: int, gop: int) -> None:
    import av

    first, _, rate = next(pictures)
    height, width = resized(first.shape[0], first.shape[1], short_side)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        stream = out.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1001), options={**_CODEC, "g": str(gop)}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        last = -1
        for picture, time, _ in itertools.chain([(first, 0.0, rate)], pictures):
            if picture.shape != first.shape:
                raise UndecodableVideoError(f"the size of the frames changes at {time:.3f} seconds")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            last = max(last + 1, round(time * _TICKS))
            frame.pts, frame.time_base = last, Fraction(1, _TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
