"""Which frames of a video make a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipSampling:
    """How frames are chosen; see :class:`stvit.preprocessing.Preprocessing` for the fields."""

    frames: int
    method: str = "dense"  # dense or segments
    rate: int = 4
    target_fps: float = 30.0
    fps_jitter: float = 0.0  # dense, training: up to so much is added to target_fps at random
    offset: bool = True  # dense: test views start at i * floor(room / (views - 1)) (SlowFast's USE_OFFSET_SAMPLING)


def random_clip(sampling: ClipSampling, times: NDArray[np.float64], fps: float) -> NDArray[np.int64]:
    """Frame numbers of a random training clip, ``(frames,)``; draws from the global generators (Python's)."""
    raise NotImplementedError


def view_clip(
    sampling: ClipSampling, times: NDArray[np.float64], fps: float, view: int, views: int
) -> NDArray[np.int64]:
    """Frame numbers of test view ``view`` of ``views``, ``(frames,)``; of one view the middle."""
    raise NotImplementedError
