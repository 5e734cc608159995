"""Videos of moving digits whose class is the motion, as real files: a data set for demonstrations that needs no data.

A digit moves over a small canvas whose left edge continues at its right and whose top continues at its bottom, so
that it can be anywhere at any time. Whatever is random in a video, where its digit starts, how fast it is, its size and
brightness and how long the file is, is drawn before anybody asks for the class, and each motion keeps places and sizes
distributed evenly: a single frame of a video says nothing of its class. The classes come in pairs that are each other's
reverse in time: frames in random order say no more than the pair.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from stvit.datasets.digits import load_digits, sklearn_labels

# In the order of their labels; each pair (0, 1), (2, 3), ... is one motion forwards and backwards.
MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "growing", "shrinking")

SIDE = 64  # pixels of a frame
FPS = 15
_LENGTH = (16, 32)  # frames, both included
_SPEED = (1.5, 2.5)  # pixels a frame, of straight motions
_PERIOD = (24.0, 32.0)  # frames, of a turn and of growing from the smallest to the largest
_RADIUS = (8.0, 12.0)  # pixels, of a circle
_SIZES = (20.0, 36.0)  # pixels of a digit's box; from the largest it goes on with the smallest
_BRIGHTNESS = (0.5, 1.0)
_VALIDATION_DIGITS = 200  # of those that train; no training video shows them


@dataclass(frozen=True)
class Course:
    """All that is random in a video beside its digit; the class has no part in it."""

    frames: int
    start: tuple[float, float]  # (y, x) in pixels: of the digit's centre, or of the circle that it moves on
    speed: float
    period: float
    radius: float
    angle: float  # on the circle, radians
    size: float  # how far it has grown, in [0, 1)
    brightness: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Course:
        """A random one."""
        return cls(
            frames=int(rng.integers(_LENGTH[0], _LENGTH[1] + 1)),
            start=(rng.uniform(0, SIDE), rng.uniform(0, SIDE)),
            speed=rng.uniform(*_SPEED),
            period=rng.uniform(*_PERIOD),
            radius=rng.uniform(*_RADIUS),
            angle=rng.uniform(0, 2 * math.pi),
            size=rng.uniform(),
            brightness=rng.uniform(*_BRIGHTNESS),
        )


def places(course: Course, motion: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the digit is, centres ``(T, 2)`` as (y, x) on the canvas, and how large its box is, ``(T,)``; pixels."""
    t = np.arange(course.frames)
    sign = 1 if MOTIONS.index(motion) % 2 else -1  # -1: left, up, clockwise, growing
    centre, grown = np.tile(course.start, (course.frames, 1)), np.full(course.frames, course.size)
    if motion in ("left", "right"):
        centre[:, 1] += sign * course.speed * t
    elif motion in ("up", "down"):
        centre[:, 0] += sign * course.speed * t
    elif motion in ("clockwise", "counterclockwise"):  # y points down: a growing angle turns clockwise
        angle = course.angle - sign * 2 * math.pi * t / course.period
        centre += course.radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    else:
        grown = grown - sign * t / course.period
    smallest, largest = _SIZES
    return centre % SIDE, smallest * (largest / smallest) ** (grown % 1)


def draw_frames(digit: NDArray[np.uint8], course: Course, motion: str) -> NDArray[np.uint8]:
    """A digit ``(S, S)``, white on black, as it moves: grey frames ``(T, 64, 64)``."""
    centre, size = (torch.from_numpy(values).float() for values in places(course, motion))
    pixels = torch.arange(SIDE) + 0.5
    # From each pixel the short way round to the digit's centre, in units of half a box: the digit lies in [-1, 1].
    y, x = (((pixels - at[:, None] + SIDE / 2) % SIDE - SIDE / 2) / (size[:, None] / 2) for at in centre.T)
    grid = torch.stack([x[:, None, :].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)], dim=-1)
    ink = torch.from_numpy(digit).float().expand(course.frames, 1, -1, -1)
    drawn = F.grid_sample(ink, grid, align_corners=False)[:, 0]
    return (course.brightness * drawn).round().byte().numpy()


def encode_mp4(frames: NDArray[np.uint8]) -> bytes:
    """Grey frames ``(T, H, W)`` with even sides as the content of an H.264 file."""
    import av  # heavy, and needed here only

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        # No key frames where the picture jumps: they would tell that a digit grows.
        options = {"preset": "veryfast", "crf": "18", "g": "12", "sc_threshold": "0", "threads": "1"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        out.mux(stream.encode())
    return buffer.getvalue()


def padded(content: bytes, size: int) -> bytes:
    """An .mp4 as a file of ``size`` bytes, 8 more than it has or above: it ends with a box that players skip.

    That is the box ``free`` of ISO 14496-12, 8.1.2.
    """
    rest = size - len(content)
    return content + struct.pack(">I4s", rest, b"free") + bytes(rest - 8)


@dataclass(frozen=True)
class Counts:
    """How many videos each part of the data set has; multiples of the number of classes are balanced."""

    train: int = 1600
    val: int = 160
    test: int = 400


def write_data_set(folder: Path, counts: Counts, seed: int) -> None:
    """Lists ``train.csv``, ``val.csv`` and ``test.csv`` of videos, ``labels.txt``, and ``images/``: three frames of
    each training and validation video, in a folder of its digit. Does nothing if it has done the same before.

    The parts share no image of a digit: those of test are the test digits of :func:`stvit.datasets.load_digits`. All
    videos have files of one size.

    Raises:
        OSError: something cannot be written.
    """
    done = folder / "complete.json"
    wanted = json.dumps({**asdict(counts), "seed": seed, "motions": MOTIONS})
    if done.exists() and done.read_text() == wanted:
        return
    done.unlink(missing_ok=True)
    videos: dict[Path, bytes] = {}
    for place, part in enumerate(("train", "val", "test")):
        digits, shown = _digits_of(part)
        lines = []
        for number in range(getattr(counts, part)):
            rng = np.random.default_rng([seed, place, number])
            chosen, course, label = int(rng.integers(len(digits))), Course.draw(rng), number % len(MOTIONS)
            frames = draw_frames(digits[chosen], course, MOTIONS[label])
            videos[folder / part / f"{number:04}.mp4"] = encode_mp4(frames)
            lines.append(f"{part}/{number:04}.mp4,{label}\n")
            if part != "test":
                for t in (0, len(frames) // 2, len(frames) - 1):
                    _write(folder / "images" / part / str(shown[chosen]) / f"{number:04}_{t:02}.png", _png(frames[t]))
        _write(folder / f"{part}.csv", "".join(lines).encode())
    size = max(map(len, videos.values())) + 8
    for path, content in videos.items():
        _write(path, padded(content, size))
    _write(folder / "labels.txt", "".join(f"{motion}\n" for motion in MOTIONS).encode())
    _write(done, wanted.encode())


def _digits_of(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``(N, 28, 28)`` for a part of the data set, and which digits they show."""
    split = "test" if part == "test" else "train"
    images, shown = load_digits("sklearn", split).images, sklearn_labels(split)
    own = {"train": slice(_VALIDATION_DIGITS, None), "val": slice(_VALIDATION_DIGITS), "test": slice(None)}[part]
    return images[own], shown[own]


def _png(frame: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
