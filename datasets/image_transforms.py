"""From a decoded image to what a classifier takes: augmentation in training, resize and centre crop in evaluation.

The published recipe's parts are timm's and torchvision's. They draw from the global generators of Python, NumPy and
torch; :func:`seeded` makes every draw a function of a seed, and puts the generators back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stvit.datasets.counter_random import item_bases, mix, word_steps
from stvit.errors import UserError
from stvit.preprocessing import CROP_MODES, Preprocessing

if TYPE_CHECKING:
    from torchvision.transforms import Compose, InterpolationMode

Transform = Callable[[Image.Image], Tensor]
Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Streams of one seed, as in stvit.datasets.moving_mnist; the order of an epoch is drawn from stream 3.
AUGMENTATION_STREAM, MIXING_STREAM = range(2)


@dataclass(frozen=True)
class Augmentation:
    """Random views of an image; the defaults are MViTv2's recipe (arXiv:2112.01526, as DeiT's, arXiv:2012.12877)."""

    size: tuple[int, int]  # (H, W) of the crop, pixels
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    area: tuple[float, float] = (0.08, 1.0)  # of the crop, as a share of the image
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5  # probability of mirroring left and right
    auto_augment: str = "rand-m9-n6-mstd0.5-inc1"  # timm's notation; empty: none
    color_jitter: float = 0.4  # brightness, contrast and saturation; used where auto_augment is empty
    interpolation: str = "bicubic"  # "random": of each image bilinear or bicubic
    erase: float = 0.25  # probability of random erasing
    erase_mode: str = "pixel"
    erase_count: int = 1


def training_transform(augmentation: Augmentation) -> Transform:
    """RGB images to random views, ``(3, H, W)`` float32, normalised; timm's chain of transforms.

    Raises:
        UserError: ``auto_augment`` is not in timm's notation.
    """
    a = augmentation
    (transform,) = timm_chains(
        a.size,
        a.auto_augment,
        scale=a.area,
        ratio=a.aspect,
        hflip=a.flip,
        color_jitter=a.color_jitter,
        interpolation=a.interpolation,
        mean=a.mean,
        std=a.std,
        re_prob=a.erase,
        re_mode=a.erase_mode,
        re_count=a.erase_count,
    )
    return transform


def timm_chains(size: tuple[int, int], auto_augment: str, **settings: object) -> tuple[Compose, ...]:
    """What ``timm.data.create_transform`` makes for training, mended: one chain, or three with ``separate=True``.

    Raises:
        UserError: ``auto_augment`` is not in timm's notation.
    """
    from timm.data import create_transform  # heavy, and needed for training only

    try:
        made = create_transform(size, is_training=True, auto_augment=auto_augment or None, **settings)  # type: ignore[arg-type]
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"the augmentation {auto_augment!r} (AUG.AA_TYPE) is not in timm's notation, such as "
            f"'rand-m9-n6-mstd0.5-inc1': {error or type(error).__name__}"
        ) from error
    chains = made if isinstance(made, tuple) else (made,)
    for step in (step for chain in chains for step in chain.transforms):
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterized
    return chains


def _posterized(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """The upper ``bits`` of 8; of magnitude 10 timm keeps none, which Pillow from 13 on refuses: that is black."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """RGB images to ``(C, H, W)`` float32, as ``preprocessing`` says: resized, cropped at the centre, normalised."""
    return lambda image: normalised(cropped(image, preprocessing), preprocessing)


def cropped(image: Image.Image | Tensor, preprocessing: Preprocessing) -> Image.Image | Tensor:
    """Resize by input size over crop fraction (224 / 0.875 = 256), and cut out the centre.

    Mode ``center`` resizes until the image just covers that size: for square inputs torchvision's
    ``Resize(short side)`` and ``CenterCrop``. A longer side's fraction of a pixel is cut off, as there. Mode ``squash``
    resizes both sides to it, whatever the image's shape, as timm does. Antialiased, also on tensors ``(C, h, w)``.
    """
    from torchvision.transforms.v2.functional import center_crop, resize

    w, h = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    mode = interpolation_mode(preprocessing.interpolation)
    resized = resize(image, list(resized_size(h, w, preprocessing)), mode, antialias=True)
    return center_crop(resized, list(preprocessing.input_size))


def resized_size(h: int, w: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """``(H, W)`` that an image of ``(h, w)`` is resized to before it is cropped; see :func:`cropped`."""
    covered_h, covered_w = (int(side / preprocessing.crop_fraction) for side in preprocessing.input_size)
    if preprocessing.crop_mode not in CROP_MODES:
        raise UserError(
            f"images are cropped in one of the modes {', '.join(CROP_MODES)}, not {preprocessing.crop_mode!r}"
        )
    if preprocessing.crop_mode == "squash":
        return covered_h, covered_w
    if covered_h * w >= covered_w * h:
        return covered_h, int(covered_h * w / h)
    return int(covered_w * h / w), covered_w


def interpolation_mode(name: str) -> InterpolationMode:
    """torchvision's value for a name.

    Raises:
        UserError: there is none.
    """
    from torchvision.transforms.v2 import InterpolationMode

    try:
        return InterpolationMode(name)
    except ValueError:
        known = ", ".join(mode.value for mode in InterpolationMode)
        raise UserError(f"images are resized by one of {known}, not {name!r}") from None


def normalised(image: Image.Image | Tensor, preprocessing: Preprocessing) -> Tensor:
    """8-bit images, or tensors ``(C, H, W)`` in [0, 1], to ``(x - mean) / std``, float32."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    pixels = pil_to_tensor(image).float() / 255 if isinstance(image, Image.Image) else image.float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def shown(pixels: Tensor, preprocessing: Preprocessing) -> np.ndarray:
    """The inverse of :func:`normalised`, for pictures: ``(C, H, W)`` to uint8 ``(H, W, C)``."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    levels = ((pixels.float().cpu() * std + mean) * 255).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).numpy()


def make_mixer(mixup: float, cutmix: float, probability: float, switch: float, smoothing: float, classes: int) -> Mixer:
    """timm's mixup and CutMix: ``(B, C, H, W)`` and labels ``(B,)`` to mixed images and targets ``(B, classes)``.

    Image ``i`` of a batch of even size is mixed with image ``B - 1 - i``, all in one proportion. The images are changed
    in place.

    Args:
        mixup, cutmix: parameter of the beta distribution of the proportion; 0 for never.
        probability: how often a batch is mixed at all.
        switch: how often by CutMix, where both may be.
        smoothing: share of the target that is spread over all classes.
        classes: how many there are.
    """
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        prob=probability,
        switch_prob=switch,
        label_smoothing=smoothing,
        num_classes=classes,
    )


def sample_seed(seed: int, stream: int, epoch: int, index: int, repeat: int = 0) -> int:
    """63 bits for one sample: a function of the arguments alone, different for each of them."""
    base = item_bases(np.array([index]), seed, stream, epoch)
    return int(mix(base + word_steps(repeat + 1)[-1])[0]) & (2**63 - 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch (on the CPU) start from ``seed``; after, they are as before."""
    # torch.manual_seed would also seed the GPUs, whose dropout then repeats itself.
    go_back = rewinding()
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        go_back()


def rewinding() -> Callable[[], None]:
    """A function that puts the generators of Python, NumPy and torch (on the CPU) back to where they are now."""
    now = random.getstate(), np.random.get_state(), torch.default_generator.get_state()

    def go_back() -> None:
        random.setstate(now[0])
        np.random.set_state(now[1])
        torch.default_generator.set_state(now[2])

    return go_back
