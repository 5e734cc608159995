"""Moving MNIST, made on the fly: handwritten digits that drift and bounce on a black canvas.

The motion is that of the published protocol (Srivastava et al., "Unsupervised learning of video representations
using LSTMs", ICML 2015, in the form that SimVP, OpenSTL and MixViT train on). Each digit gets a start in the unit
square, a direction and a speed of 0.1 of the free space per frame. Every frame it takes its step first, then a
coordinate that left [0, 1] is clamped and its velocity reversed; the recorded position, scaled to the free pixels,
is truncated. Digits are composited by their maximum.

What differs from the published class is only where the random numbers come from: every sequence is a function of
(seed, stream, epoch, index), see :mod:`stvit.datasets.counter_random`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch.utils.data import Dataset

from stvit.datasets.counter_random import (
    EPOCH_LIMIT,
    INDEX_LIMIT,
    Array,
    below,
    item_bases,
    mix,
    stack,
    to_int64,
    uniform,
    unit_vectors,
    where,
    word_steps,
)
from stvit.datasets.digits import Digits
from stvit.errors import UserError

# Raised whenever the same (seed, epoch, index) would give other pixels: part of the names of generated files.
GENERATOR_VERSION = 1

# Streams of one seed: disjoint by construction, so that no validation sequence is ever trained on.
TRAIN_STREAM, VALIDATION_STREAM, TEST_STREAM = range(3)

# An item's key: its index in the epoch, or (epoch, index).
Key = int | tuple[int, int]


class SequenceBatch(NamedTuple):
    """A batch of frame sequences and where it came from.

    ``frames``: uint8 ``(B, T, C, H, W)``, T = input and future frames together; scaling to [0, 1] is left to the
    device. ``epoch`` and ``indices`` (int64 ``(B,)``) identify every sequence, for messages and for replay.
    """

    frames: torch.Tensor
    epoch: int
    indices: torch.Tensor


@dataclass(frozen=True)
class MovingMNISTSpec:
    """What the sequences look like.

    ``n_digits``: the numbers of digits to choose from, with equal chances, for each sequence. ``image_size``: canvas
    ``(H, W)`` in pixels, or one number for a square. ``digit_size``: side of a digit in pixels. ``frames``: length of
    a sequence. ``step``: distance per frame, as a fraction of the free space (0.1 is the published value).
    Raises :class:`UserError` for settings that no sequence can have.
    """

    n_digits: tuple[int, ...] = (2,)
    image_size: int | tuple[int, int] = (64, 64)
    digit_size: int = 28
    frames: int = 20
    step: float = 0.1

    def __post_init__(self) -> None:
        size = self.image_size
        object.__setattr__(self, "image_size", (size, size) if isinstance(size, int) else tuple(size))
        object.__setattr__(self, "n_digits", tuple(self.n_digits))
        if not self.n_digits or min(self.n_digits) < 1:
            raise UserError(f"n_digits is {self.n_digits}: give one or more numbers of digits, each at least 1")
        if len(self.canvas) != 2 or not 1 <= self.digit_size <= min(self.canvas):
            raise UserError(
                f"digits of {self.digit_size} pixels do not fit image_size {self.image_size}: "
                "make the canvas at least as large as a digit"
            )
        if self.frames < 1:
            raise UserError(f"frames is {self.frames}: a sequence needs at least 1 frame")
        if not 0 < self.step <= 1:
            raise UserError(f"step is {self.step}: it is a fraction of the free space per frame, above 0 and up to 1")

    @property
    def canvas(self) -> tuple[int, int]:
        """Canvas ``(H, W)`` in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size

    @property
    def travel(self) -> tuple[int, int]:
        """Pixels that a digit's corner can move, ``(down, right)``."""
        return self.canvas[0] - self.digit_size, self.canvas[1] - self.digit_size


@dataclass(frozen=True)
class Draws(Generic[Array]):
    """Everything random about a batch of sequences; ``n`` is the largest number of digits.

    ``shown``: int64 ``(B,)``, digits in each sequence (the first ``shown`` of ``n``). ``image``: int64 ``(B, n)``,
    which digit image. ``start``: float64 ``(B, n, 2)``, (x, y) in the unit square before the first step.
    ``heading``: float64 ``(B, n, 2)``, unit vector (x, y) = (cosine, sine).
    """

    shown: Array
    image: Array
    start: Array
    heading: Array


def words_per_sequence(spec: MovingMNISTSpec) -> int:
    """64-bit words one sequence uses: one for the number of digits; x, y, direction and image for each digit."""
    return 1 + 4 * max(spec.n_digits)


def draw(bases: Array, steps: Array, choices: Array, n_images: int) -> Draws[Array]:
    """The draws of a batch.

    ``bases``: int64 ``(B,)`` from :func:`item_bases`; ``steps``: ``word_steps(words_per_sequence(spec))``;
    ``choices``: ``spec.n_digits`` as int64; ``n_images``: digit images to choose from, with replacement.
    """
    words = mix(bases[:, None] + steps)
    shown = choices[below(words[:, 0], len(choices))]
    start = stack([uniform(words[:, 1::4]), uniform(words[:, 2::4])], axis=2)
    sine, cosine = unit_vectors(words[:, 3::4])
    return Draws(shown, below(words[:, 4::4], n_images), start, stack([cosine, sine], axis=2))


def corners(draws: Draws[Array], spec: MovingMNISTSpec) -> tuple[Array, Array]:
    """Pixel rows and columns of the digits' top left corners, each int64 ``(B, n, frames)``.

    Only sums, products and clamping of float64, in the published order: the same bits on every device.
    """
    position, velocity, path = draws.start, draws.heading * spec.step, []
    for _ in range(spec.frames):
        position = (position + velocity).clip(0.0, 1.0)
        velocity = where((position <= 0.0) | (position >= 1.0), -velocity, velocity)
        path.append(position)
    places = stack(path, axis=2)
    down, right = spec.travel
    return to_int64(places[..., 1] * down), to_int64(places[..., 0] * right)


def render(draws: Draws[np.ndarray], images: np.ndarray, spec: MovingMNISTSpec) -> np.ndarray:
    """The frames of a batch, uint8 ``(B, frames, H, W)``; ``images``: uint8 digits ``(N, digit_size, digit_size)``.

    A digit laid out with the canvas's row length is one run of bytes, from its first pixel to its last; moving it
    moves the run, and the zeros between its rows never wrap onto the canvas as ink. Pasting is therefore one
    indexed copy of contiguous runs for all frames of all sequences.
    """
    (height, width), side = spec.canvas, spec.digit_size
    sequences, frames, run = len(draws.shown), spec.frames, (side - 1) * width + side
    canvas = np.zeros(sequences * frames * height * width, np.uint8)
    runs = as_strided(canvas, (canvas.size - run + 1, run), (1, 1))
    top, left = corners(draws, spec)
    first_pixel = np.arange(sequences * frames).reshape(sequences, 1, frames) * (height * width)
    places = first_pixel + top * width + left
    for k in range(places.shape[1]):
        here = np.flatnonzero(draws.shown > k)
        if here.size == 0:
            continue
        rows = np.zeros((here.size, side, width), np.uint8)
        rows[:, :, :side] = images[draws.image[here, k]]
        digit, place = rows.reshape(here.size, 1, -1)[:, :, :run], places[here, k]
        runs[place] = digit if k == 0 else np.maximum(runs[place], digit)  # the first one falls on black
    return canvas.reshape(sequences, frames, height, width)


class MovingMNIST(Dataset[SequenceBatch]):
    """Moving MNIST as a map-style dataset of ``length`` sequences per epoch, made when they are asked for.

    A key is ``(epoch, index)``, as :class:`stvit.datasets.sampling.EpochBatchSampler` gives them, or an index alone
    (epoch 0). The epoch travels in the key, so that persistent workers need not be told of it. Only the training
    stream changes with the epoch; validation and test streams are fixed sets.
    """

    def __init__(
        self, digits: Digits, spec: MovingMNISTSpec, length: int, seed: int, stream: int = TRAIN_STREAM
    ) -> None:
        check_digits(digits, spec)
        if not 1 <= length <= INDEX_LIMIT:
            raise UserError(f"length is {length}: give 1 to {INDEX_LIMIT} sequences per epoch")
        self.digits, self.spec, self.length, self.seed, self.stream = digits, spec, length, seed, stream
        self._steps = word_steps(words_per_sequence(spec))
        self._choices = np.array(spec.n_digits, np.int64)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> SequenceBatch:
        """One sequence, as a batch of one; ``IndexError`` past the end."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> SequenceBatch:
        """A batch in one go (torch's loader calls this with all keys of a batch, which share an epoch)."""
        epoch, indices = split_keys(keys, self.length)
        frames = self.generate(epoch, indices)
        return SequenceBatch(torch.from_numpy(frames[:, :, None]), epoch, torch.from_numpy(indices))

    def generate(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """The frames of int64 ``(B,)`` indices: uint8 ``(B, frames, H, W)``."""
        bases = item_bases(indices, self.seed, self.stream, stream_epoch(self.stream, epoch))
        return render(draw(bases, self._steps, self._choices, len(self.digits.images)), self.digits.images, self.spec)


def split_keys(keys: Sequence[Key], length: int) -> tuple[int, np.ndarray]:
    """Keys of one batch as their common epoch and int64 indices ``(B,)``, each checked to be in ``[0, length)``."""
    pairs = [(0, key) if isinstance(key, int) else key for key in keys]
    epochs = {epoch for epoch, _ in pairs}
    if len(epochs) != 1:
        raise ValueError(f"a batch holds sequences of one epoch, not of {sorted(epochs)}")
    indices = np.array([index for _, index in pairs], np.int64)
    if indices.min() < 0 or indices.max() >= length:
        raise IndexError(f"sequence {indices.min() if indices.min() < 0 else indices.max()} of {length}")
    return epochs.pop(), indices


def stream_epoch(stream: int, epoch: int) -> int:
    """The epoch that enters the counter: 0 for the fixed sets; checked to fit."""
    if not 0 <= epoch < EPOCH_LIMIT:
        raise ValueError(f"epoch {epoch} is outside 0..{EPOCH_LIMIT - 1}")
    return epoch if stream == TRAIN_STREAM else 0


def check_digits(digits: Digits, spec: MovingMNISTSpec) -> None:
    """Raise :class:`UserError` unless the digit images have the size that the spec names."""
    if digits.images.shape[1:] != (spec.digit_size, spec.digit_size):
        raise UserError(
            f"digits {digits.name!r} are {digits.images.shape[1]} pixels wide but the spec says {spec.digit_size}: "
            "load them with size=spec.digit_size"
        )
