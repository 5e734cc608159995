"""From decoded frames to what a network of clips takes: on the CPU as 8 bits, then on the device as numbers.

The parts are timm's and torchvision's, which were made for images. Whatever is drawn at random is drawn once for a
clip, so that a still clip stays still: geometry is done to all frames at once, timm's operations on Pillow images are
repeated on each frame from the same state of the generators, and erasing and mixing see the frames of a clip as
channels of one image, ``(C * T, h, w)``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stvit.datasets.image_transforms import (
    Mixer,
    Transform,
    interpolation_mode,
    make_mixer,
    resized_size,
    rewinding,
    seeded,
    timm_chains,
)
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

Box = tuple[int, int, int, int]  # top, left, height, width


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

    def __post_init__(self) -> None:
        if self.area is None and self.short_side[0] < max(self.size):
            raise UserError(
                f"clips cannot be cropped to {self.size[0]}x{self.size[1]} from frames with a short side of "
                f"{self.short_side[0]}: raise DATA.TRAIN_JITTER_SCALES or lower DATA.TRAIN_CROP_SIZE"
            )


def training_clip(frames: NDArray[np.uint8], augmentation: ClipAugmentation) -> Tensor:
    """Frames ``(T, H, W, 3)`` to a random view, uint8 ``(3, T, h, w)``; draws from the global generators.

    In this order: crop and resize (bicubic or bilinear, antialiased), flip, RandAugment or colour jitter. What is drawn
    depends on the frames' size alone, not on their number or content. In memory the channels lie innermost.

    Raises:
        UserError: ``auto_augment`` is not in timm's notation, or there is no such interpolation.
    """
    from torchvision.transforms.v2.functional import horizontal_flip, resize

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W)
    top, left, height, width = _random_box(pixels, augmentation)
    name = augmentation.interpolation
    mode = interpolation_mode(random.choice(("bilinear", "bicubic")) if name == "random" else name)
    pixels = pixels[..., top : top + height, left : left + width]
    pixels = resize(pixels, list(augmentation.size), mode, antialias=True)
    if random.random() < augmentation.flip:
        pixels = horizontal_flip(pixels)
    operations = _image_operations(augmentation)
    if operations is not None:
        pixels = _on_each_frame(operations, pixels)
    return pixels.transpose(0, 1)


def _random_box(pixels: Tensor, augmentation: ClipAugmentation) -> Box:
    """The crop, in pixels of the frame."""
    from torchvision.transforms import RandomResizedCrop

    if augmentation.area is not None:
        box: Box = RandomResizedCrop.get_params(pixels, list(augmentation.area), list(augmentation.aspect))
        return box
    # Resizing the frame to a short side and cropping then is the same as cropping a smaller part and resizing that
    # (but for a fraction of a pixel), at a fraction of the cost.
    low, high = augmentation.short_side
    side = 1 / random.uniform(1 / high, 1 / low) if augmentation.inverse_uniform else random.uniform(low, high)
    h, w = pixels.shape[-2:]
    height, width = (max(1, round(length * min(h, w) / round(side))) for length in augmentation.size)
    return random.randint(0, h - height), random.randint(0, w - width), height, width


@lru_cache(maxsize=4)
def _image_operations(augmentation: ClipAugmentation) -> Transform | None:
    """timm's RandAugment or colour jitter for Pillow images; None if there is neither.

    Pixels that move in from outside are mid-grey, as in SlowFast.
    """
    if not augmentation.auto_augment and not augmentation.color_jitter:
        return None
    _, operations, _ = timm_chains(
        augmentation.size,
        augmentation.auto_augment,
        color_jitter=augmentation.color_jitter or None,
        interpolation=augmentation.interpolation,
        mean=(0.5, 0.5, 0.5),
        separate=True,
    )
    return operations


def _on_each_frame(operations: Transform, pixels: Tensor) -> Tensor:
    """timm's operations on ``(T, 3, h, w)``, each frame with the same draws."""
    go_back = rewinding()
    changed = []
    for frame in pixels.permute(0, 2, 3, 1).contiguous().numpy():
        go_back()
        changed.append(np.asarray(operations(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)


def view_crops(frames: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Frames ``(T, H, W, 3)`` to the crops of a test view, uint8 ``(test_crops, 3, T, h, w)``.

    Frames are resized as images are (:func:`stvit.datasets.image_transforms.cropped`). One crop is the centre; of three
    the first is at the left end and the last at the right end, or at top and bottom of frames with more to spare in
    height (SlowFast's ``uniform_crop``).

    Raises:
        UserError: another number of crops, or no such interpolation or crop mode.
    """
    from torchvision.transforms.v2.functional import resize

    if preprocessing.test_crops not in (1, 3):
        raise UserError(f"test views have 1 or 3 crops, not {preprocessing.test_crops} (TEST.NUM_SPATIAL_CROPS)")
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)  # (3, T, H, W)
    size = resized_size(pixels.shape[-2], pixels.shape[-1], preprocessing)
    mode = interpolation_mode(preprocessing.interpolation)
    pixels = resize(pixels.transpose(0, 1), list(size), mode, antialias=True).transpose(0, 1)
    H, W = preprocessing.input_size
    spare = size[0] - H, size[1] - W
    middle = -(-spare[0] // 2), -(-spare[1] // 2)
    corners = [middle]
    if preprocessing.test_crops == 3 and spare[0] > spare[1]:
        corners = [(0, middle[1]), middle, (spare[0], middle[1])]
    elif preprocessing.test_crops == 3:
        corners = [(middle[0], 0), middle, (middle[0], spare[1])]
    return torch.stack([pixels[..., top : top + H, left : left + W] for top, left in corners])


def normalised_clips(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``(B, 3, T, h, w)`` on any device to float32 ``(x / 255 - mean) / std``."""
    pixels = clips.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    mean, std = (
        torch.tensor(values).to(clips.device, non_blocking=True)[:, None, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    return pixels.sub_(mean).div_(std)


def erased(clips: Tensor, probability: float, mode: str, count: int, seeds: Sequence[int]) -> Tensor:
    """Random erasing of normalised clips ``(B, 3, T, h, w)``: the same box and filling in all frames of a clip.

    Args:
        clips: on any device; changed in place.
        probability: of each clip.
        mode: what fills the boxes, timm's ``pixel`` (noise), ``rand`` (one colour) or ``const`` (zero, the mean).
        count: the highest number of boxes in a clip.
        seeds: one for each clip; what is drawn is a function of it, on any device.
    """
    from timm.data.random_erasing import RandomErasing

    # timm's would take a clip for a batch of images of T channels. It gets an image of which only boxes are numbers.
    erase = RandomErasing(probability, mode=mode, max_count=count, device="cpu")
    for clip, seed in zip(clips, seeds, strict=True):
        with seeded(seed):
            filling = erase(torch.full((clip.shape[0], *clip.shape[-2:]), torch.nan))
        if not filling.isnan().all():
            filling = filling[:, None].to(clip.device, non_blocking=True)
            clip.copy_(torch.where(filling.isnan(), clip, filling))
    return clips


def make_clip_mixer(
    mixup: float, cutmix: float, probability: float, switch: float, smoothing: float, classes: int
) -> Mixer:
    """:func:`stvit.datasets.image_transforms.make_mixer` for clips ``(B, C, T, h, w)``, which are changed in place.

    A CutMix box has the same place in all frames. The last clip of an odd batch, as a video that was left out makes
    one, is not mixed.
    """
    from timm.data.mixup import mixup_target

    mix_images = make_mixer(mixup, cutmix, probability, switch, smoothing, classes)

    def mix(clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        B, C, T, h, w = clips.shape
        images, even = clips.view(B, C * T, h, w), B // 2 * 2
        targets = mixup_target(labels, classes, 1.0, smoothing)
        if even:
            images[:even], targets[:even] = mix_images(images[:even], labels[:even])
        return clips, targets

    return mix


def shown_clip(clip: Tensor) -> NDArray[np.uint8]:
    """uint8 ``(3, T, h, w)`` as pictures ``(T, h, w, 3)``."""
    return clip.permute(1, 2, 3, 0).contiguous().cpu().numpy()
