"""Folders of images, one a class, as ImageNet is kept: ``ROOT/{train,val,test}/CLASS/...``."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from stvit.datasets.frame_sources import IMAGE_SUFFIXES, PILLOW_ERRORS
from stvit.datasets.image_transforms import AUGMENTATION_STREAM, Transform, sample_seed, seeded
from stvit.errors import UserError

# An image's key: its index, or (epoch, index) in training.
Key = int | tuple[int, int]


class ImageSample(NamedTuple):
    """One view of one image: ``(C, H, W)``, its class, its number in the list."""

    image: Tensor
    label: int
    number: int


class ImageBatch(NamedTuple):
    """Views of images and where they came from.

    ``images``: float32 ``(B, C, H, W)``, normalised. ``labels`` and ``indices``: int64 ``(B,)``. ``epoch`` and
    ``indices`` identify every image, for messages and for replay.
    """

    images: Tensor
    labels: Tensor
    epoch: int
    indices: Tensor


@dataclass(frozen=True)
class ImageList:
    """Which images there are, and of which class."""

    folder: Path  # with a folder for each class
    classes: tuple[str, ...]  # all that labels count, also those without an image here
    files: NDArray[np.bytes_]  # (N,) relative to the folder; bytes, because a million str objects weigh 100 MB
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Where an image is."""
        return self.folder / os.fsdecode(bytes(self.files[index]))

    def identity(self) -> dict[str, object]:
        """Plain values that are equal for lists of the same files; what is in the files is not looked at."""
        return {
            "kind": "image folder",
            "folder": self.folder.name,
            "images": len(self),
            "classes": len(self.classes),
            "files_sha256": hashlib.sha256(b"\n".join(self.files.tolist())).hexdigest(),
        }


def class_names(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, sorted as torchvision's ``ImageFolder`` does; their order is that of the labels.

    Raises:
        UserError: there is no such folder, or nothing in it that could be a class.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: images belong in {folder}/CLASS/ (DATA.PATH_TO_DATA_DIR)")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder} holds no folders: images belong in {folder}/CLASS/, one folder a class")
    return tuple(names)


def list_images(folder: Path, classes: Sequence[str] | None = None) -> ImageList:
    """All images below ``folder/CLASS/``, in the order of their paths.

    Images are files with the usual endings (JPEG, PNG, BMP, WebP, TIFF); names that begin with a dot are passed over.

    Args:
        folder: holds a folder for each class.
        classes: the names that labels count, when another folder (``train``) decides them; each class here must be one
            of them. None: those of this folder, each of which must then have an image.

    Raises:
        UserError: no folder, no class, a class that is none of ``classes``, or one without images.
    """
    present = class_names(folder)
    known = present if classes is None else tuple(classes)
    number = {name: label for label, name in enumerate(known)}
    files: list[bytes] = []
    labels: list[int] = []
    for name in present:
        if name not in number:
            raise UserError(
                f"{folder / name} is a class that {folder.parent / 'train'} has not: move it away, or train with it"
            )
        found = sorted(_images_below(folder / name, name))
        if not found and classes is None:
            raise UserError(f"{folder / name} holds no images ({', '.join(IMAGE_SUFFIXES)}): fill or remove it")
        files += found
        labels += [number[name]] * len(found)
    if not files:
        raise UserError(f"the classes in {folder} hold no images; known are {', '.join(IMAGE_SUFFIXES)}")
    return ImageList(folder, known, np.array(files), np.array(labels, np.int64))


def _images_below(folder: Path, prefix: str) -> list[bytes]:
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            found += _images_below(folder / entry.name, name)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            found.append(os.fsencode(name))
    return found


class ImageFolder(Dataset[ImageSample]):
    """The images of a list, as tensors.

    ``dataset[index]`` and ``dataset[epoch, index]`` give one :class:`ImageSample`; a loader gets whole batches. What a
    transform draws at random is a function of (seed, epoch, index), so that workers, processes and a resumed run all
    see the same views.
    A loader's index may go on above the number of images: there they come again, in other views.
    """

    def __init__(self, images: ImageList, transform: Transform, seed: int = 0, views: int = 1) -> None:
        """``views`` of each image follow each other in a batch."""
        self.images, self.transform, self.seed, self.views = images, transform, seed, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> ImageSample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and none has number {index}")
        return self._view(self._read(index), epoch, index, 0)

    def __getitems__(self, keys: Sequence[Key]) -> ImageBatch | UserError:
        """A batch; or the mistake that an image is, which a loader's worker hands over instead of a traceback."""
        samples, epoch = [], 0
        for key in keys:
            epoch, index = key if isinstance(key, tuple) else (0, key)
            repeat, index = divmod(index, len(self))
            try:
                image = self._read(index)
            except UserError as error:
                return error
            first = repeat * self.views
            samples += [self._view(image, epoch, index, view) for view in range(first, first + self.views)]
        pixels, labels, indices = zip(*samples, strict=True)
        return ImageBatch(torch.stack(pixels), torch.tensor(labels), epoch, torch.tensor(indices))

    def _read(self, index: int) -> Image.Image:
        try:
            return read_image(self.images.path(index))
        except UndecodableImageError as error:
            raise UserError(f"{error}; replace or remove it") from error

    def _view(self, image: Image.Image, epoch: int, index: int, view: int) -> ImageSample:
        with seeded(sample_seed(self.seed, AUGMENTATION_STREAM, epoch, index, view)):
            return ImageSample(self.transform(image), int(self.images.labels[index]), index)


class UndecodableImageError(UserError):
    """A file, or a folder, that is not an image or a broken one; what to do about it is for the caller to say."""


def read_image(path: str | PathLike[str]) -> Image.Image:
    """An image file as 8-bit RGB.

    Rotated and mirrored as its EXIF orientation says; CMYK, palettes and grey become RGB as Pillow converts them, and
    transparency is dropped; 16 bits of grey keep their upper 8; of an animation the first picture counts.

    Raises:
        UndecodableImageError: it is a folder, something else than an image, broken or cut off.
        UserError: there is no such file, or it has more than 16 bits a pixel and channel.
    """
    path = Path(path)
    if path.is_dir():
        raise UndecodableImageError(f"{path} is a folder, not an image")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # about metadata and transparency that are of no use here
            return rgb(ImageOps.exif_transpose(image), str(path))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {path}") from None
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}") from error
    except UnidentifiedImageError as error:  # whose words say no more than the path
        raise UndecodableImageError(
            f"{path} cannot be decoded as an image: its content is none that is known"
        ) from error
    except PILLOW_ERRORS as error:
        raise UndecodableImageError(f"{path} cannot be decoded as an image: {error or type(error).__name__}") from error


def rgb(image: Image.Image, where: str) -> Image.Image:
    """A Pillow image as 8-bit RGB, by the rules of :func:`read_image`; ``where`` names it in errors."""
    if image.mode == "F":
        raise UserError(f"{where} holds floating-point pixels (mode F): save it with 8 bits a channel")
    if image.mode.startswith("I"):  # Pillow would clip what is above 255
        levels = np.asarray(image).astype(np.int64)
        if levels.size and not 0 <= levels.min() <= levels.max() < 2**16:
            raise UserError(f"{where} holds more than 16 bits a pixel: save it with 8 bits a channel")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    return image.convert("RGB")
