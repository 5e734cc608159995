"""Images of handwritten digits, the raw material of Moving MNIST.

Two sources: ``mnist`` (LeCun et al., 60,000 training and 10,000 test images of 28x28, as idx files) and ``sklearn``
(1,797 real digits of 8x8 that scikit-learn ships: the test part of UCI's "Optical recognition of handwritten digits",
Alpaydin & Kaynak 1998), which needs neither files nor a network.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stvit.datasets.counter_random import item_bases
from stvit.errors import UserError, nearest

SOURCES = ("mnist", "sklearn")
_MNIST_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_MNIST_FOLDERS = (".", "MNIST/raw")  # the second is where torchvision puts them
_IDX_IMAGES_MAGIC = 0x00000803  # unsigned bytes, three axes

# The 1,797 digits are put in a fixed order of their own; the first part trains, the rest is the test set.
SKLEARN_TRAIN_COUNT = 1437
_SKLEARN_SPLIT_SEED = 1998

_WEIGHT_ONE = 1 << 12  # resampling weights are integers: the same pixels, and digest, on every machine


@dataclass(frozen=True)
class Digits:
    """Digit images ``(N, size, size)`` uint8, white on black, with the name of their origin.

    ``name``: source and split, such as ``mnist-train``. ``digest``: SHA-256 of the image bytes, in hex.
    """

    images: np.ndarray
    name: str
    digest: str

    @classmethod
    def of(cls, images: np.ndarray, name: str) -> Digits:
        """Digits from an array, with its digest taken; :class:`UserError` unless it is ``(N, S, S)`` uint8, N > 0."""
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2] or len(images) == 0:
            raise UserError(
                f"digits {name!r} are {images.dtype} of shape {images.shape}: give uint8 images (N, size, size)"
            )
        images = np.ascontiguousarray(images)
        return cls(images, name, hashlib.sha256(images.tobytes()).hexdigest())


def load_digits(source: str, split: str, root: str | Path = "data", download: bool = False, size: int = 28) -> Digits:
    """The digits of one source and split, as squares of ``size`` pixels.

    ``source``: ``mnist`` or ``sklearn``; ``split``: ``train`` or ``test``, which share no image. ``root`` is where
    MNIST's idx files are looked for (plain or .gz, also in ``MNIST/raw``) and downloaded to when ``download`` is set.
    Raises :class:`UserError` for missing or damaged files and for a ``root`` that is no folder, and ``OSError`` when a
    download fails.
    """
    if source not in SOURCES:
        raise UserError(f"no digit source {source!r}: choose {' or '.join(SOURCES)}{nearest(source, SOURCES)}")
    if split not in _MNIST_FILES:
        raise UserError(f"no digit split {split!r}: choose train or test")
    if size < 1:
        raise UserError(f"digit size is {size}: it must be at least 1 pixel")
    if Path(root).is_file():
        raise UserError(f"{root} is a file, not a folder: set DATA.PATH_TO_DATA_DIR to the folder of the data")
    images = _sklearn_images(split, size) if source == "sklearn" else _mnist_images(split, Path(root), download, size)
    return Digits.of(images, f"{source}-{split}")


def _mnist_images(split: str, root: Path, download: bool, size: int) -> np.ndarray:
    path = _find_mnist(root, split)
    if path is None and download:
        _download_mnist(root, split)
        path = _find_mnist(root, split)
    if path is None:
        what = f"no {_MNIST_FILES[split]}[.gz] in" if root.is_dir() else "there is no folder"
        raise UserError(
            f"{what} {root}: put MNIST's idx files there, set DATA.DOWNLOAD True to fetch them, "
            "or set MOVING_MNIST.DIGITS sklearn, which needs no files"
        )
    images = read_idx_images(path)
    if images.shape[1:] != (28, 28):
        raise UserError(f"{path} holds images of {images.shape[1]}x{images.shape[2]}, not MNIST's 28x28")
    return images if size == 28 else _resize(images, size)


def _find_mnist(root: Path, split: str) -> Path | None:
    candidates = (root / folder / (_MNIST_FILES[split] + ext) for folder in _MNIST_FOLDERS for ext in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _download_mnist(root: Path, split: str) -> None:
    from torchvision.datasets import MNIST

    target = root / "MNIST" / "raw"  # torchvision makes it before it knows whether anything can be fetched
    new_folders = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        MNIST(str(root), train=split == "train", download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError after mirrors
        for folder in new_folders:  # from the innermost outwards
            with suppress(OSError):  # never made, or not empty
                folder.rmdir()
        reason = " ".join(str(error).split())
        raise OSError(
            f"could not download MNIST to {root} ({reason}): put the idx files there by hand, "
            "or set MOVING_MNIST.DIGITS sklearn, which needs no files"
        ) from error


def read_idx_images(path: Path) -> np.ndarray:
    """An idx3-ubyte file, plain or gzip-compressed (by its ``.gz`` ending), as uint8 ``(N, rows, columns)``.

    Format: http://yann.lecun.com/exdb/mnist/. Raises :class:`UserError` for any other or damaged content.
    """
    data = _read_gzip(path) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 16:
        raise UserError(f"{path} has {len(data)} bytes, too few for an idx header: fetch the file again")
    magic, count, rows, columns = struct.unpack(">4I", data[:16])
    if magic != _IDX_IMAGES_MAGIC:
        raise UserError(
            f"{path} starts with {magic:#010x}, not {_IDX_IMAGES_MAGIC:#010x} (idx images of bytes): "
            "it is another kind of file, put MNIST's images there"
        )
    if count == 0 or len(data) - 16 != count * rows * columns:
        raise UserError(
            f"{path} announces {count} images of {rows}x{columns} = {count * rows * columns} bytes but holds "
            f"{len(data) - 16}: fetch the file again"
        )
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, rows, columns)


def _read_gzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or no gzip file ({error}): fetch the file again") from error


def _sklearn_images(split: str, size: int) -> np.ndarray:
    from sklearn.datasets import load_digits as load_sklearn_digits

    images = load_sklearn_digits().images.astype(np.int64)  # (1797, 8, 8), each 0..16: inked pixels of a 4x4 cell
    chosen = _sklearn_split(split, len(images))
    # The strokes touch the border of the 8x8 box. One empty cell around lets them end smoothly and leaves, of
    # 28 pixels, 22 for the digit: about the margin that MNIST has.
    images = np.pad(images[chosen], ((0, 0), (1, 1), (1, 1)))
    grey = _resize((images * 255 + 8) // 16, size).astype(np.int64)
    # Interpolation leaves soft slopes as wide as a cell. The middle half of the range is stretched over the whole,
    # so that strokes are white with an edge of about two pixels, as MNIST's are.
    return np.clip((grey - 64) * 2, 0, 255).astype(np.uint8)


def sklearn_labels(split: str) -> np.ndarray:
    """Which digit each image of ``load_digits("sklearn", split)`` shows, int64 ``(N,)``."""
    from sklearn.datasets import load_digits as load_sklearn_digits

    labels = load_sklearn_digits().target.astype(np.int64)
    return labels[_sklearn_split(split, len(labels))]


def _sklearn_split(split: str, count: int) -> np.ndarray:
    order = np.argsort(item_bases(np.arange(count), _SKLEARN_SPLIT_SEED, stream=0, epoch=0), kind="stable")
    return order[:SKLEARN_TRAIN_COUNT] if split == "train" else order[SKLEARN_TRAIN_COUNT:]


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """Square images ``(N, S, S)`` of integers 0..255 to uint8 ``(N, size, size)`` by cubic resampling (Keys 1981).

    The kernel widens when shrinking, against aliasing. Integer arithmetic throughout, so exact everywhere.
    """
    weights = _cubic_weights(images.shape[1], size)
    rows = np.einsum("oi,nij->noj", weights, images.astype(np.int64))
    both = np.einsum("oj,nij->nio", weights, rows)
    one = _WEIGHT_ONE * _WEIGHT_ONE
    return np.clip((both + one // 2) // one, 0, 255).astype(np.uint8)


def _cubic_weights(size_in: int, size_out: int) -> np.ndarray:
    """Resampling matrix ``(size_out, size_in)`` in units of ``1 / _WEIGHT_ONE``, pixel centres at halves."""
    scale = size_in / size_out
    centres = (np.arange(size_out) + 0.5) * scale - 0.5
    x = np.abs(np.arange(size_in) - centres[:, None]) / max(scale, 1.0)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return np.rint(weights / weights.sum(1, keepdims=True) * _WEIGHT_ONE).astype(np.int64)
