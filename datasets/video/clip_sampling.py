"""Which frames of a video make a clip: the rules of SlowFast, by which the published networks were trained and tested.

A *position* counts frames from 0, in fractions too. Positions beyond the last frame mean the last frame: a clip of a
video that is shorter than it ends with repeats.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stvit.errors import UserError
from stvit.preprocessing import CLIP_SAMPLINGS


@dataclass(frozen=True)
class ClipSampling:
    """How frames are chosen; see :class:`stvit.preprocessing.Preprocessing` for the fields."""

    frames: int
    method: str = "dense"  # dense or segments
    rate: int = 4
    target_fps: float = 30.0
    fps_jitter: float = 0.0  # dense, training: up to so much is added to target_fps at random
    offset: bool = True  # dense: test views start at i * floor(room / (views - 1)) (SlowFast's USE_OFFSET_SAMPLING)

    def __post_init__(self) -> None:
        if self.method not in CLIP_SAMPLINGS:
            raise UserError(f"clips are sampled by {' or '.join(CLIP_SAMPLINGS)}, not {self.method!r}")
        for name, least in (("frames", 1), ("rate", 1)):
            if getattr(self, name) < least:
                raise UserError(f"clips cannot have {name} {getattr(self, name)}: at least {least}")
        if not self.target_fps > 0 or self.fps_jitter < 0:
            raise UserError(
                f"clips cannot be sampled at {self.target_fps} frames a second with a jitter of {self.fps_jitter}: "
                "the first must be above 0, the second at least 0"
            )


def random_clip(sampling: ClipSampling, times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Frame numbers of a random training clip, ``(frames,)``; draws from the global generators (Python's).

    Args:
        sampling: the rule. Dense: the clip begins anywhere between the first frame and the last place where it fits.
            Segments: of each equal part of the video any frame.
        times: when each frame of the video is shown, ``(N,)`` seconds, increasing from 0.
        fps: its frames per second on average.
    """
    if sampling.method == "segments":
        return _frames_at([float(random.randint(*part)) for part in _segments(sampling, len(times))], times)
    target = sampling.target_fps + random.uniform(0, sampling.fps_jitter)
    length = _length(sampling, fps, target)
    return _dense(sampling, random.uniform(0, max(len(times) - length, 0)), length, times)


def view_clip(
    sampling: ClipSampling, times: NDArray[np.float64], fps: float, view: int, views: int
) -> NDArray[np.int64]:
    """Frame numbers of test view ``view`` of ``views``, ``(frames,)``; of one view the middle.

    Dense views are spread over the video. Segments: view ``i`` takes of each part the frame ``(2i + 1) / 2 views`` of
    the way through it, so that views differ where parts have several frames (SlowFast gives all views the middle).
    """
    if not 0 <= view < views:
        raise ValueError(f"view {view} is outside 0..{views - 1}")
    if sampling.method == "segments":
        parts = _segments(sampling, len(times))
        return _frames_at([float(a + (b - a) * (2 * view + 1) // (2 * views)) for a, b in parts], times)
    length = _length(sampling, fps, sampling.target_fps)
    room = max(len(times) - length, 0)
    if not sampling.offset:
        start = room * view / views
    elif views == 1:
        start = math.floor(room / 2)
    else:
        start = view * math.floor(room / (views - 1))
    return _dense(sampling, start, length, times)


def _length(sampling: ClipSampling, fps: float, target_fps: float) -> float:
    """The clip's length in frames of the video."""
    # Rounded, because an average taken of timestamps (30.000000000000004) must not move a start by a frame.
    return round(sampling.rate * sampling.frames * fps / target_fps, 6)


def _dense(sampling: ClipSampling, start: float, length: float, times: NDArray[np.float64]) -> NDArray[np.int64]:
    # torch's float32, because its rounding decides which frame a whole number becomes when it is truncated
    return _frames_at(torch.linspace(start, start + length - 1, sampling.frames).double().tolist(), times)


def _segments(sampling: ClipSampling, count: int) -> list[tuple[int, int]]:
    """First and last frame of each of ``frames`` equal parts of a video of ``count`` frames; neighbours share one."""
    size = (count - 1) / sampling.frames
    return [(round(size * i), round(size * (i + 1))) for i in range(sampling.frames)]


def _frames_at(positions: list[float], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Frame numbers of positions.

    Where the frame rate varies, so that a frame is shown half a mean frame or more beside its even place, a position
    stands for a moment, and the frame is the one that is shown then.
    """
    last = len(times) - 1
    clamped = np.clip(np.array(positions), 0, last)
    if last > 0:
        spacing = (times[-1] - times[0]) / last
        moments = times - times[0]
        if np.abs(moments - np.arange(last + 1) * spacing).max() >= spacing / 2:
            # A thousandth of a frame of grace, because sums of timestamps are not exact.
            return np.searchsorted(moments, (clamped + 1e-3) * spacing, side="right") - 1
    return clamped.astype(np.int64)
