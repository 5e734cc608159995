"""Moving MNIST made on the training device, by tensor operations alone: no workers, no transfer, no waiting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from stvit.datasets.counter_random import item_bases, word_steps
from stvit.datasets.digits import Digits
from stvit.datasets.moving_mnist import (
    TRAIN_STREAM,
    Draws,
    MovingMNISTSpec,
    SequenceBatch,
    check_digits,
    corners,
    draw,
    stream_epoch,
    words_per_sequence,
)
from stvit.errors import UserError

# Bytes of frames, a digit a layer, that are made at once: many batches share the launches of some hundred kernels.
PORTION = 2**28


class DeviceMovingMNIST:
    """The sequences of :class:`stvit.datasets.MovingMNIST`, bit for bit, computed on ``device``.

    Nothing here waits for the device. It is meant to run eagerly: a compiler may fuse a product and a sum into one
    rounding, which changes a pixel now and then. The arithmetic is in float64; a device without it (MPS) is refused
    with :class:`UserError`.
    """

    def __init__(
        self,
        digits: Digits,
        spec: MovingMNISTSpec,
        seed: int,
        device: torch.device | str,
        stream: int = TRAIN_STREAM,
    ) -> None:
        check_digits(digits, spec)
        self.device = torch.device(device)
        if self.device.type == "mps":
            raise UserError("Moving MNIST cannot be made on mps, which has no float64: let loader workers make it")
        self.spec, self.seed, self.stream = spec, seed, stream
        self._images = torch.from_numpy(np.array(digits.images)).to(self.device)
        self._steps = torch.from_numpy(word_steps(words_per_sequence(spec))).to(self.device)
        self._choices = torch.tensor(spec.n_digits, dtype=torch.int64, device=self.device)
        self._order = torch.arange(max(spec.n_digits), device=self.device)

    def batches(self, epoch: int, indices: Iterable[Sequence[int]]) -> Iterator[SequenceBatch]:
        """The batches of one epoch whose sequences have these indices, made many at a time."""
        (height, width), frames, layers = self.spec.canvas, self.spec.frames, max(self.spec.n_digits)
        sequences = PORTION // (frames * height * width * layers)
        for portion in _portions(indices, sequences):
            made = self.batch(epoch, torch.tensor([index for batch in portion for index in batch]))
            sizes = [len(batch) for batch in portion]
            parts = zip(made.frames.split(sizes), made.indices.split(sizes), strict=True)
            yield from (SequenceBatch(frames_of, epoch, indices_of) for frames_of, indices_of in parts)

    @torch.no_grad()
    def batch(self, epoch: int, indices: torch.Tensor) -> SequenceBatch:
        """The sequences of one epoch at int64 ``(B,)`` indices below 2**32, which may lie on any device."""
        moved = indices.to(self.device, non_blocking=True)
        bases = item_bases(moved, self.seed, self.stream, stream_epoch(self.stream, epoch))
        draws = draw(bases, self._steps, self._choices, len(self._images))
        return SequenceBatch(self._render(draws)[:, :, None], epoch, indices)

    def _render(self, draws: Draws[torch.Tensor]) -> torch.Tensor:
        """uint8 ``(B, frames, H, W)``: each frame is a window onto a digit in the middle of a long run of black.

        Reading windows needs no writes that could collide, unlike pasting, so it is deterministic on every device.
        """
        (height, width), side = self.spec.canvas, self.spec.digit_size
        down, right = self.spec.travel
        furthest = down * width + right
        top, left = corners(draws, self.spec)
        shown = self._order < draws.shown[:, None]
        digits = self._images[draws.image] * shown[:, :, None, None]
        runs = F.pad(digits, (0, right)).flatten(2)  # rows as long as the canvas's: (B, n, side * W)
        runs = F.pad(runs, (furthest, (height - side) * width))
        windows = runs.unfold(2, height * width, 1)  # (B, n, furthest + 1, H * W), a view
        sequence = torch.arange(len(top), device=self.device)[:, None, None]
        frames = windows[sequence, self._order[:, None], furthest - (top * width + left)]
        return frames.amax(1).unflatten(2, (height, width))


def _portions(batches: Iterable[Sequence[int]], sequences: int) -> Iterator[list[Sequence[int]]]:
    """Consecutive batches together, so many sequences at most, or one batch."""
    portion: list[Sequence[int]] = []
    for batch in batches:
        if portion and sum(map(len, portion)) + len(batch) > sequences:
            yield portion
            portion = []
        portion.append(batch)
    if portion:
        yield portion
