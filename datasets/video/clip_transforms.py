"""From decoded frames to what a network of clips takes: on the CPU as 8 bits, then on the device as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stvit.preprocessing import Preprocessing


@dataclass(frozen=True)
class ClipAugmentation:
    """Random views of a clip, the same decisions for all of its frames; the defaults are MViTv2's recipe."""

    size: tuple[int, int]  # (H, W) of the crop, pixels
    area: tuple[float, float] | None = (0.08, 1.0)  # of the crop, as a share of the frame; None: see short_side
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    short_side: tuple[int, int] = (256, 320)  # without area: the frame is resized to a side of these, then cropped
    inverse_uniform: bool = False  # draw 1 / short_side evenly instead of short_side
    flip: float = 0.5  # probability of mirroring left and right; 0 where labels have sides
    auto_augment: str = "rand-m7-n4-mstd0.5-inc1"  # timm's notation; empty: none
    color_jitter: float = 0.4  # used where auto_augment is empty
    interpolation: str = "bicubic"  # "random": of each clip bilinear or bicubic


def training_clip(frames: NDArray[np.uint8], augmentation: ClipAugmentation) -> Tensor:
    """Frames ``(T, H, W, 3)`` to a random view, uint8 ``(3, T, h, w)``; draws from the global generators."""
    raise NotImplementedError


def view_crops(frames: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Frames ``(T, H, W, 3)`` to the crops of a test view, uint8 ``(test_crops, 3, T, h, w)``."""
    raise NotImplementedError


def normalised_clips(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``(B, 3, T, h, w)`` on any device to float32 ``(x / 255 - mean) / std``."""
    raise NotImplementedError


def erased(clips: Tensor, probability: float, mode: str, count: int, seeds: Sequence[int]) -> Tensor:
    """Random erasing of normalised clips ``(B, 3, T, h, w)``: the same box and filling in all frames of a clip."""
    raise NotImplementedError


def shown_clip(clip: Tensor) -> NDArray[np.uint8]:
    """uint8 ``(3, T, h, w)`` as pictures ``(T, h, w, 3)``."""
    raise NotImplementedError
