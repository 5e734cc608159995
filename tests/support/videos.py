"""Small real videos for tests: frames that carry their number, in many containers, and ways to spoil a file."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_BITS = 10  # of a frame's number, drawn as black and white blocks over the upper half
_CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx-vp9"}
_CODECS |= {".mpg": "mpeg1video", ".ts": "mpeg2video", ".3gp": "mpeg4"}
_AUDIO = {".webm": "libopus", ".avi": "mp2", ".mpg": "mp2"}  # else AAC
_RATE = 48000  # samples of sound a second


def numbered_frames(count: int, height: int = 24, width: int = 32, first: int = 0) -> NDArray[np.uint8]:
    """Frames ``(count, height, width, 3)`` that show their numbers from ``first`` on: see :func:`frame_numbers`.

    The lower half is a ramp, dark at the left and bottom, in colours that change slowly; a turned or mirrored frame
    differs from an upright one.
    """
    frames = np.zeros((count, height, width, 3), np.uint8)
    edges = [width * k // _BITS for k in range(_BITS + 1)]
    rows, columns = np.mgrid[0 : height - height // 2, 0:width]
    ramp = 40 + 120 * columns / width - 30 * rows / height
    for t in range(count):
        for k in range(_BITS):
            if (first + t) >> (_BITS - 1 - k) & 1:
                frames[t, : height // 2, edges[k] : edges[k + 1]] = 255
        frames[t, height // 2 :] = (ramp[..., None] + np.array([0, t % 40, -t % 40])).clip(0, 255)
    return frames


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """The numbers that upright frames ``(T, H, W, 3)`` show, read from their pixels after any coding."""
    height, width = frames.shape[1:3]
    edges = [width * k // _BITS for k in range(_BITS + 1)]
    upper = frames[:, 1 : max(2, height // 2 - 1)].mean(axis=(1, 3))
    bits = np.stack([upper[:, a:b].mean(axis=1) > 127 for a, b in itertools.pairwise(edges)], axis=1)
    return [int(n) for n in bits @ (1 << np.arange(_BITS)[::-1])]


def write_video(
    path: Path,
    frames: NDArray[np.uint8] | int,
    *,
    fps: Fraction | int = 25,
    codec: str | None = None,
    gop: int = 12,
    b_frames: int = 0,
    open_gop: bool = False,
    pts: Sequence[int] | None = None,
    hidden: int = 0,
    turn: int = 0,
    mirror: bool = False,
    pix_fmt: str = "yuv420p",
    audio: bool = False,
    second: NDArray[np.uint8] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode frames ``(T, H, W, 3)``, or so many numbered ones, and return the path; its suffix says the container.

    Args:
        codec: FFmpeg's name of the encoder; None: a usual one of the container.
        gop: frames from one key frame to the next.
        b_frames: so many frames between two others are predicted from both (codecs that have them).
        open_gop: x264: the frames before a key frame in the order shown may refer to the key frame before.
        pts: when each frame is shown, in units of 1 / (1000 fps) seconds; None: 1000 apart.
        hidden: .mp4, .mov: an edit list starts the video after so many frames, which stay in the file.
        turn: .mp4, .mov: players turn the picture clockwise by so many quarters.
        mirror: .mp4, .mov: players show it mirrored left and right (before the turn).
        audio: a sound track of the video's length.
        second: frames of a second video stream, of another size and not the default one.
        options: of the encoder; ``container`` of the muxer.
    """
    shown = numbered_frames(frames) if isinstance(frames, int) else frames
    codec = codec or _CODECS[path.suffix]
    settings = {"g": str(gop), "bf": str(b_frames), "threads": "1"} | (options or {})
    if codec == "libx264":
        settings = {"preset": "ultrafast", "crf": "8", "sc_threshold": "0", "b_strategy": "0"} | settings
        settings |= {"x264-params": "open-gop=1"} if open_gop else {}
    elif codec in ("mpeg4", "mpeg1video", "mpeg2video", "mjpeg"):
        settings = {"qmin": "2", "qmax": "2", "flags": "+qscale", "global_quality": str(2 * 118)} | settings
    elif codec == "libvpx-vp9":
        settings = {"crf": "10", "b": "0", "cpu-used": "8", "deadline": "realtime"} | settings
    with av.open(str(path), "w", options=container or {}) as out:
        streams = [(_video_stream(out, codec, fps, shown, pix_fmt, settings), shown)]
        if second is not None:
            streams.append((_video_stream(out, codec, fps, second, pix_fmt, settings), second))
            streams[1][0].disposition = int(av.stream.Disposition(0))  # PyAV 14 takes no other
        sound = out.add_stream(_AUDIO.get(path.suffix, "aac"), rate=_RATE) if audio else None
        base = Fraction(1, 1000) / Fraction(fps)
        for stream, pictures in streams:
            ticks = range(0, 1000 * len(pictures), 1000) if pts is None else pts
            for picture, tick in zip(pictures, ticks, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = tick - 1000 * hidden, base
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        if sound is not None:
            _write_sound(out, sound, seconds=float(len(shown) / fps))
    if turn or mirror:
        _set_matrix(path, turn % 4, mirror, shown.shape[2], shown.shape[1])
    return path


def _video_stream(
    out: av.container.OutputContainer,
    codec: str,
    fps: Fraction | int,
    frames: NDArray[np.uint8],
    pix_fmt: str,
    options: dict[str, str],
) -> av.VideoStream:
    stream = out.add_stream(codec, rate=Fraction(fps), options=dict(options))
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    if codec not in ("mpeg4", "mpeg1video", "mpeg2video"):  # those write no finer times than their rate
        stream.codec_context.time_base = Fraction(1, 1000) / Fraction(fps)
    return stream


def _write_sound(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = (np.sin(np.arange(int(_RATE * seconds)) / 20) * 8000).astype(np.int16)
    step = 960
    for start in range(0, len(samples), step):
        block = samples[None, start : start + step]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, start, Fraction(1, _RATE)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """A file of sound alone."""
    with av.open(str(path), "w") as out:
        _write_sound(out, out.add_stream(_AUDIO.get(path.suffix, "aac"), rate=_RATE), seconds)
    return path


def _set_matrix(path: Path, turn: int, mirror: bool, width: int, height: int) -> None:
    """Write the display matrix of the first track header of an .mp4 or .mov (ISO 14496-12, 8.3.2)."""
    # A point (x, y) of the picture is shown at (a x + c y + tx, b x + d y + ty).
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turn]
    tx, ty = [(0, 0), (height, 0), (width, height), (0, width)][turn]
    if mirror:  # x -> width - x first
        tx, ty, a, b = tx + a * width, ty + b * width, -a, -b
    one = 1 << 16
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4
    start += 52 if content[start] else 40  # version 1 has longer times
    content[start : start + 36] = struct.pack(
        ">9i", a * one, b * one, 0, c * one, d * one, 0, tx * one, ty * one, 1 << 30
    )
    path.write_bytes(content)


def truncate(path: Path, share: float) -> Path:
    """Cut a file's end off, keeping ``share`` of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def corrupt(path: Path, start: float, stop: float, seed: int = 0) -> Path:
    """Overwrite the bytes from ``start`` to ``stop``, shares of the file's length, by random ones."""
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * start), int(len(content) * stop)
    content[first:last] = np.random.default_rng(seed).bytes(last - first)
    path.write_bytes(content)
    return path
