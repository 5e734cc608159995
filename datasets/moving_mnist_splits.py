"""Training, validation and test sets of a Moving MNIST run, and a record of exactly what they were."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stvit.datasets.digits import load_digits
from stvit.datasets.frame_sequences import (
    FrameSequences,
    file_digest,
    open_array,
    open_frame_sequences,
    write_sequences,
)
from stvit.datasets.moving_mnist import (
    GENERATOR_VERSION,
    TEST_STREAM,
    TRAIN_STREAM,
    VALIDATION_STREAM,
    MovingMNIST,
    MovingMNISTSpec,
)
from stvit.errors import UserError

PUBLISHED_TEST_FILE = "mnist_test_seq.npy"  # uint8 (20, 10000, 64, 64), two digits of MNIST's test images
_TEST_FILE_FOLDERS = (".", "MovingMNIST")  # the second is where torchvision puts it
_CACHE_FOLDER = "moving_mnist_cache"
_CHECKED_SEQUENCES = 32  # of a cached test set, evenly spread
PUBLISHED_TEST_LENGTH = 10_000
_PUBLISHED_FRAMES = 20
_PUBLISHED_CANVAS = (64, 64)


@dataclass(frozen=True)
class Splits:
    """The three sets, and ``identity``: plain values for the results file that say what each of them is."""

    train: MovingMNIST
    val: MovingMNIST | FrameSequences
    test: FrameSequences
    identity: dict[str, object]


def moving_mnist_splits(
    digits: str = "sklearn",
    root: str | Path = "data",
    cache: str | Path | None = None,
    n_digits: tuple[int, ...] = (2,),
    test_n_digits: tuple[int, ...] | None = None,
    image_size: int | tuple[int, int] = 64,
    digit_size: int = 28,
    step: float = 0.1,
    frames_in: int = 10,
    frames_out: int = 10,
    train_length: int = 10_000,
    val_length: int = 1_000,
    test_length: int | None = None,
    seed: int = 42,
    download: bool = False,
    validate_on_test: bool = False,
) -> Splits:
    """Everything a run needs, by the published protocol unless told otherwise.

    * Training: ``train_length`` sequences per epoch, new ones every epoch, of training digits.
    * Validation: ``val_length`` fixed sequences of training digits, otherwise like the training sequences. They come
      from another stream of the same seed. The counter of a sequence packs its stream beside its epoch and index, and
      the way from counter to random words is one-to-one, so no training sequence of any epoch can draw the words of a
      validation sequence. ``validate_on_test`` makes validation the test set itself, the habit of the published code,
      for comparisons; the identity says so.
    * Test: ``test_n_digits`` digits, as in training by default. The published ``mnist_test_seq.npy`` in ``root`` or
      ``root/MovingMNIST`` if it is there and has what is asked for (two digits of MNIST, the image size, enough
      frames). Otherwise seeded sequences of test digits, written once to ``cache`` (``root/moving_mnist_cache`` by
      default), and the identity says why a published file that is there was not used.
      ``test_length``: sequences, by default all of the file, or 10,000.

    Sizes are in pixels; see :class:`MovingMNISTSpec` for ``n_digits`` to ``step`` and :func:`load_digits` for
    ``digits``, ``root`` and ``download``. Raises :class:`UserError` for settings and files a user can mend, and
    ``OSError`` for failed downloads and writes.
    """
    if frames_in < 1 or frames_out < 1:
        raise UserError(f"frames in and out are {frames_in} and {frames_out}: each must be at least 1")
    spec = MovingMNISTSpec(n_digits, image_size, digit_size, frames_in + frames_out, step)
    test_spec = replace(spec, n_digits=test_n_digits or n_digits)
    root = Path(root)
    train_digits = load_digits(digits, "train", root, download, digit_size)
    train = MovingMNIST(train_digits, spec, train_length, seed, TRAIN_STREAM)
    own_val = MovingMNIST(train_digits, spec, val_length, seed, VALIDATION_STREAM)

    published, reason = _published_test_file(root, digits, test_spec)
    if published is not None:
        test, test_identity = _published_test_set(published, test_spec.frames, test_length)
    else:
        test_digits = load_digits(digits, "test", root, download, digit_size)
        source = MovingMNIST(
            test_digits, test_spec, PUBLISHED_TEST_LENGTH if test_length is None else test_length, seed, TEST_STREAM
        )
        test = _seeded_test_set(source, Path(cache) if cache is not None else root / _CACHE_FOLDER)
        test_identity = {**_generated_identity(source), "file": Path(test.name).name, "sha256": file_digest(test.name)}
        if reason:
            test_identity["published_file_unused_because"] = reason
    val_identity = _generated_identity(own_val)
    if validate_on_test:
        val_identity = {"kind": "the test set (published habit: the model is selected on test data)"}
    identity: dict[str, object] = {
        "dataset": "moving_mnist",
        "generator_version": GENERATOR_VERSION,
        "frames_in": frames_in,
        "frames_out": frames_out,
        "train": _generated_identity(train),
        "validation": val_identity,
        "validation_is_test": validate_on_test,
        "test": test_identity,
    }
    return Splits(train, test if validate_on_test else own_val, test, identity)


def _published_test_file(root: Path, digits: str, spec: MovingMNISTSpec) -> tuple[Path | None, str | None]:
    """The published test file if it is there and answers the settings; else None and, if it is there, why not.

    :class:`UserError` for a damaged or other file of that name, whatever the settings: only they may be a reason.
    """
    paths = (root / folder / PUBLISHED_TEST_FILE for folder in _TEST_FILE_FOLDERS)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None, None
    wanted = {"digits": digits, "n_digits": spec.n_digits, "digit_size": spec.digit_size, "step": spec.step}
    fixed = {"digits": "mnist", "n_digits": (2,), "digit_size": 28, "step": 0.1}
    differing = [f"{key} is {wanted[key]}, not {fixed[key]}" for key in fixed if wanted[key] != fixed[key]]
    frames = _published_frames(path)
    if spec.canvas != _PUBLISHED_CANVAS:
        differing.append(f"image_size is {spec.canvas}, not {_PUBLISHED_CANVAS}")
    if frames < spec.frames:
        differing.append(f"{spec.frames} frames are needed, it has {frames}")
    return (None, "; ".join(differing)) if differing else (path, None)


def _published_frames(path: Path) -> int:
    """The frames a sequence of the published test file; :class:`UserError` unless the file has its type and shape."""
    array, height_width = open_array(path), _PUBLISHED_CANVAS
    fits = (
        array.ndim == 4 and len(array) >= _PUBLISHED_FRAMES and array.shape[1] > 0 and array.shape[2:] == height_width
    )
    if array.dtype != np.uint8 or not fits:
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}, but the published file of this name holds uint8 of "
            "shape (20, 10000, 64, 64): fetch it again, or move or rename this one"
        )
    return len(array)


def _published_test_set(path: Path, frames: int, length: int | None) -> tuple[FrameSequences, dict[str, object]]:
    test = open_frame_sequences(path, frames, length)
    identity: dict[str, object] = {
        "kind": "published file",
        "file": path.name,
        "sha256": file_digest(path),
        "shape": list(test.array.shape),
        "length": len(test),
    }
    return test, identity


def _seeded_test_set(source: MovingMNIST, folder: Path) -> FrameSequences:
    """The set's file in ``folder``, written if it is not there; its name holds every setting."""
    path = folder / _file_name(source)
    if not os.path.exists(path):  # False, not an error, in a folder that may not be entered: writing then explains it
        write_sequences(source, path)
    test = open_frame_sequences(path, source.spec.frames, len(source))
    # A sample, because making the whole set anew would cost what the file saves. It finds a foreign file and most
    # damaged ones; the digest of the whole file in the results settles whether two runs had the same set.
    sample = np.unique(np.linspace(0, len(source) - 1, _CHECKED_SEQUENCES).astype(np.int64))
    made = source.generate(0, sample).swapaxes(0, 1)
    if test.array.shape != (made.shape[0], len(source), *made.shape[2:]) or not np.array_equal(
        test.array[:, sample], made
    ):
        raise UserError(f"{path} does not hold what its name says: delete it, it will be made again")
    return test


def _file_name(source: MovingMNIST) -> str:
    spec, digits = source.spec, source.digits
    height, width = spec.canvas
    return (
        f"moving_mnist_{digits.name}-{digits.digest[:12]}_n{'-'.join(map(str, spec.n_digits))}_{height}x{width}"
        f"_d{spec.digit_size}_t{spec.frames}_step{spec.step}_seed{source.seed}_len{len(source)}"
        f"_v{GENERATOR_VERSION}.npy"
    )


def _generated_identity(source: MovingMNIST) -> dict[str, object]:
    stream = {TRAIN_STREAM: "training", VALIDATION_STREAM: "validation", TEST_STREAM: "test"}[source.stream]
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(source.spec).items()}
    return {
        "kind": "generated",
        "digits": source.digits.name,
        "digits_sha256": source.digits.digest,
        "digit_images": len(source.digits.images),
        "seed": source.seed,
        "stream": stream,
        "length": len(source),
        **settings,
    }
