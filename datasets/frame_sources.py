"""Past frames from files: arrays, image folders, GIFs and videos; and from there to what a predictor takes."""

from __future__ import annotations

import fnmatch
import itertools
import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

Frames = NDArray[np.uint8] | NDArray[np.float32]  # (T, C, H, W): 0..255, or [0, 1]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
# Files stored (T, N, H, W): the published test set, and those that stvit.datasets.moving_mnist_splits writes.
_TIME_FIRST = ("mnist_test_seq.npy", "moving_mnist_*_v*.npy")
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}  # the first bytes of an array file and of a zip of them
_ACCEPTED = "an .npy or .npz array, a folder of images, a .gif or a video file"
_LAYOUTS = "(T, H, W), (T, H, W, C), (T, C, H, W), (N, T, H, W), (N, T, C, H, W) or (N, T, H, W, C), with C of 1 or 3"
_CHANNELS = (1, 3)
_SMALLEST = 5  # pixels a side; what is smaller is one picture's channels (RGBA has 4) taken for a width
# What Pillow raises for broken files, as seen when files were cut at every length.
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns RGB to grey


def read_frames(
    path: str | PathLike[str], *, sequence: int | None = None, start: int | None = None, count: int | None = None
) -> Frames:
    """Frames of a file or folder, ``(T, C, H, W)``: uint8, or float32 in [0, 1] from arrays of floats.

    * ``.npy``, ``.npz`` (with one array, or one named ``frames``): see :func:`frames_from_array`. Moving MNIST's
      published ``mnist_test_seq.npy`` and stvit's own test sets (``moving_mnist_..._v1.npy``) are stored
      (T, N, H, W); they are known by their names.
    * a folder: its images (PNG, JPEG, BMP, WebP, TIFF; 8 bits a channel; equal sizes) in natural order, so that
      ``2.png`` comes before ``10.png``. Other files and names that begin with a dot are passed over. RGB.
    * ``.gif``: its frames, RGB, whatever their durations.
    * any other file: a video. Its first video stream, rotated as its metadata say, RGB.

    Args:
        path: the file or folder.
        sequence: which sequence of an array that holds several, from 0.
        start: the first frame wanted, from 0. None: the frames at the end.
        count: how many frames, at most; only they are kept in memory. None: all (from ``start`` on).

    Raises:
        UserError: nothing there, nothing that can be decoded, or an array that is not frames.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give {_ACCEPTED}")
    if not path.is_dir() and path.suffix.lower() in (".npy", ".npz"):
        array, where = _load_array(path), str(path)
        if array.ndim == 4 and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in _TIME_FIRST):
            array = array.swapaxes(0, 1)
        return frames_from_array(array, where, sequence=sequence, start=start, count=count)
    if sequence is not None:
        raise UserError(f"{path} holds one sequence: a sequence number ({sequence}) is for arrays of several")
    if path.is_dir():
        files: Sequence[Path] = image_files(path)
        chosen = files[_span(len(files), start, count)]
        return _stack([read_image(file) for file in chosen], [file.name for file in chosen], path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} is one image and not a sequence; give {_ACCEPTED}")
    decoded = _gif_frames(path) if path.suffix.lower() == ".gif" else _video_frames(path)
    if start is None:
        frames = list(deque(decoded, maxlen=count))
    else:
        frames = list(itertools.islice(decoded, start, None if count is None else start + count))
    return _stack(frames, [f"frame {k}" for k in range(len(frames))], path)


def frames_from_array(
    array: np.ndarray,
    where: str,
    *,
    sequence: int | None = None,
    start: int | None = None,
    count: int | None = None,
) -> Frames:
    """Frames ``(T, C, H, W)`` from an array whose axes are told by their number and by where 1 or 3 channels stand.

    * 3 axes: (T, H, W).
    * 4 axes: (T, H, W, C) if the last is 1 or 3, (T, C, H, W) if the second is, else (N, T, H, W).
    * 5 axes: (N, T, H, W, C) if the last is 1 or 3, (N, T, C, H, W) if the third is.

    Both places at once, or neither where one is needed, is refused, and so is a height or width below 5 pixels.

    Args:
        array: uint8 (0..255), bool, or float16, float32 or float64 in [0, 1].
        where: names the array in error messages.
        sequence, start, count: as in :func:`read_frames`.

    Raises:
        UserError: another layout or type, no frames, values outside [0, 1] or not finite, uint8 masks of 0 and 1, or
            no choice of a sequence.
    """
    if array.dtype != np.uint8 and array.dtype != bool and array.dtype not in (np.float16, np.float32, np.float64):
        raise UserError(f"{where} holds {array.dtype}: frames are uint8 (0..255), bool, or floats in [0, 1]")
    if 0 in array.shape:
        raise UserError(f"{where} is empty: its shape is {array.shape}")
    batched, channel_axis = _layout(array.shape, where)
    if batched:
        N = len(array)
        if sequence is None and N > 1:
            raise UserError(f"{where} {array.shape} holds {N} sequences: choose one, from 0 to {N - 1} (--sequence)")
        if not 0 <= (sequence or 0) < N:
            raise UserError(f"{where} holds sequences 0 to {N - 1}; there is no sequence {sequence}")
        array = array[sequence or 0]
    elif sequence:
        raise UserError(f"{where} {array.shape} holds one sequence; there is no sequence {sequence}")
    frames = np.asarray(array[_span(len(array), start, count)])
    frames = frames[:, None] if channel_axis is None else np.moveaxis(frames, channel_axis - batched, 1)
    if frames.dtype == bool:
        return np.ascontiguousarray(frames).astype(np.uint8) * np.uint8(255)
    if frames.dtype == np.uint8:
        if frames.size and frames.max() == array.max() == 1:  # of the whole sequence: a few frames may be dark
            raise UserError(
                f"{where} holds uint8 of 0 and 1, which is nearly black: multiply it by 255, or give bool or floats"
            )
        return np.array(frames, order="C")  # a copy: a mapped file is read-only, and an array is the caller's
    if not np.isfinite(frames).all():
        raise UserError(
            f"{where} holds {int((~np.isfinite(frames)).sum())} values that are not finite (NaN or infinite)"
        )
    if frames.size and not 0 <= frames.min() <= frames.max() <= 1:
        low, high = frames.min(), frames.max()
        raise UserError(f"{where} holds floats from {low:g} to {high:g}, not in [0, 1]: scale them, or save uint8")
    return np.array(frames, dtype=np.float32, order="C")


def to_model_frames(frames: Frames, preprocessing: Preprocessing) -> Tensor:
    """Frames as a predictor takes them: ``(T, C, H, W)`` float32 in [0, 1] of its channels and size.

    uint8 is divided by 255. RGB becomes grey by BT.601's weights; grey becomes RGB by repetition. Frames of another
    size are resized with antialiasing, keeping their proportions, until they just cover the model's input, and what
    stands out is cut off equally on both sides; frames of the right size stay as they are.

    Raises:
        UserError: the model takes a number of channels that these frames cannot be turned into.
    """
    pixels = torch.from_numpy(frames)
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    have, want = pixels.shape[1], preprocessing.channels
    if (have, want) == (3, 1):
        pixels = (pixels * torch.tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True).clamp(0, 1)
    elif (have, want) == (1, 3):
        pixels = pixels.repeat(1, 3, 1, 1)
    elif have != want:
        raise UserError(
            f"the model takes frames of {want} channels, these have {have}; only grey and RGB are converted"
        )
    (H, W), (h, w) = preprocessing.input_size, pixels.shape[2:]
    if (h, w) == (H, W):
        return pixels
    scale = max(H / h, W / w)
    size = max(H, round(h * scale)), max(W, round(w * scale))
    pixels = F.interpolate(pixels, size, mode=_mode(preprocessing), antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - H) // 2, (size[1] - W) // 2
    return pixels[:, :, top : top + H, left : left + W].contiguous()


def _mode(preprocessing: Preprocessing) -> str:
    if preprocessing.interpolation not in ("bilinear", "bicubic"):
        raise UserError(f"frames are resized by 'bilinear' or 'bicubic', not {preprocessing.interpolation!r}")
    return preprocessing.interpolation


def _layout(shape: tuple[int, ...], where: str) -> tuple[bool, int | None]:
    """-> (whether the first axis counts sequences, which axis holds the channels)."""
    refused = UserError(f"{where} has shape {shape}, which is none of {_LAYOUTS}")
    if len(shape) == 3:
        batched, channel_axis = False, None
    elif len(shape) in (4, 5):
        places = [axis for axis in (len(shape) - 3, len(shape) - 1) if shape[axis] in _CHANNELS]
        if len(places) == 2:
            raise UserError(f"{where} has shape {shape}: two axes could be the channels; give one of {_LAYOUTS}")
        if len(shape) == 5 and not places:
            raise refused
        batched, channel_axis = len(shape) == 5 or not places, places[0] if places else None
    else:
        raise refused
    sides = [n for axis, n in enumerate(shape) if axis != channel_axis][-2:]
    if min(sides) < _SMALLEST:
        raise refused
    return batched, channel_axis


def _span(total: int, start: int | None, count: int | None) -> slice:
    """The frames wanted of ``total``: from ``start``, or the last ones."""
    if start is None:
        return slice(0 if count is None else max(0, total - count), total)
    return slice(start, None if count is None else start + count)


def _load_array(path: Path) -> np.ndarray:
    """Never unpickles. An .npy file is mapped, so that one sequence of a large file costs no more than itself."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        if not file.read(8).startswith(_MAGIC[suffix]):
            raise UserError(f"{path} is not a numpy array file ({suffix}): save it with np.save or np.savez")
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            if len(names) != 1 and "frames" not in names:
                raise UserError(f"{path} holds {len(names)} arrays {names}; name the one to use 'frames'")
            return arrays["frames" if "frames" in names else names[0]]
    except (UserError, PermissionError):
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds for broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason or "Python objects" in reason:
            reason = "it holds Python objects; save an array of numbers"
        raise UserError(f"{path} cannot be read as an array: {reason}") from error


def image_files(folder: Path) -> list[Path]:
    files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
    if not files:
        raise UserError(f"{folder} holds no images; known are {', '.join(IMAGE_SUFFIXES)}")
    return sorted(files, key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name.lower())])


def read_image(file: Path) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{file} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first"
                )
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UserError, PermissionError):
        raise
    except PILLOW_ERRORS as error:
        raise _undecodable(file, "an image", error) from error


def _gif_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield np.asarray(frame.convert("RGB"))
    except PermissionError:
        raise
    except PILLOW_ERRORS as error:
        raise _undecodable(path, "a GIF", error) from error


def _video_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    # heavy, and needed for videos only
    from stvit.datasets.video.pyav_index import all_pictures
    from stvit.datasets.video.reading import UndecodableVideoError, check_readable

    check_readable(path)
    try:
        yield from all_pictures(path)
    except UndecodableVideoError as error:
        raise UserError(f"{error}; give {_ACCEPTED}") from error


def _undecodable(path: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{path} cannot be decoded as {what}: {error or type(error).__name__}")


def _stack(pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) each -> (T, 3, H, W)."""
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = " and ".join(f"{p.shape[1]}x{p.shape[0]}" for p in (pictures[0], picture))
            raise UserError(f"the frames of {path} differ in size: {names[0]} and {name} have {sizes} pixels")
    if not pictures:
        return np.empty((0, 3, 0, 0), np.uint8)
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
