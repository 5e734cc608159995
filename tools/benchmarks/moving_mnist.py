"""The generator of Moving MNIST beside the published loop over single items."""

from __future__ import annotations

import argparse
import random

import numpy as np
import torch
from benchmarks.timing import median_seconds

from stvit.datasets import MovingMNIST, MovingMNISTSpec, load_digits
from stvit.datasets.moving_mnist import Draws, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--digits", default="sklearn", help="mnist or sklearn (default)")
    parser.add_argument("--root", default="data", help="folder of MNIST's idx files")
    parser.add_argument("--batch", type=int, default=64, help="sequences made at a time")
    parser.add_argument("--rounds", type=int, default=25)


def measure(args: argparse.Namespace) -> None:
    """Moving MNIST: sequences per second and core, beside the published loop over single items."""
    digits = load_digits(args.digits, "train", args.root)
    spec, batch = MovingMNISTSpec(), args.batch
    dataset = MovingMNIST(digits, spec, length=1_000_000, seed=0)
    draws = published_draws(batch, spec, len(digits.images))
    identical = np.array_equal(
        render(replay(draws), digits.images, spec), np.stack([published_frames(d, digits.images, spec) for d in draws])
    )
    indices = np.arange(batch)
    seconds = median_seconds(
        {
            "published loop, float32 items": lambda: published_batch(batch, digits.images, spec, as_float=True),
            "published loop, uint8 items": lambda: published_batch(batch, digits.images, spec, as_float=False),
            "stvit, uint8 batch": lambda: dataset.generate(0, indices),
        },
        args.rounds,
    )
    print(f"{spec.frames} frames of {spec.canvas}, {spec.n_digits[0]} digits ({digits.name}), batch {batch}, 1 thread")
    print(f"bit-exact with the published loop, given the same draws: {identical}")
    *loops, ours = seconds
    for name, value in seconds.items():
        ratio = f"   stvit is {value / seconds[ours]:.1f} times as fast" if name in loops else ""
        print(f"{name:32s} {batch / value:10.0f} sequences/s{ratio}")


PublishedDraw = list[tuple[float, float, float, int]]  # x, y, angle and image of each digit


def published_draws(count: int, spec: MovingMNISTSpec, n_images: int) -> list[PublishedDraw]:
    """What the published class draws, in its order, from Python's ``random``."""
    sequences = []
    for _ in range(count):
        shown = random.choice(spec.n_digits)
        sequences.append(
            [
                (random.random(), random.random(), random.random() * 2 * np.pi, random.randint(0, n_images - 1))
                for _ in range(shown)
            ]
        )
    return sequences


def published_frames(draw: PublishedDraw, images: np.ndarray, spec: MovingMNISTSpec) -> np.ndarray:
    """One sequence ``(frames, H, W)``, float32 0..255: every digit and every frame in turn."""
    side, (down, right) = spec.digit_size, spec.travel
    frames = np.zeros((spec.frames, *spec.canvas), np.float32)
    for x, y, angle, image in draw:
        speed_y, speed_x = np.sin(angle), np.cos(angle)
        path_y, path_x = np.zeros(spec.frames), np.zeros(spec.frames)
        for t in range(spec.frames):
            y += speed_y * spec.step
            x += speed_x * spec.step
            if x <= 0:
                x, speed_x = 0, -speed_x
            if x >= 1.0:
                x, speed_x = 1.0, -speed_x
            if y <= 0:
                y, speed_y = 0, -speed_y
            if y >= 1.0:
                y, speed_y = 1.0, -speed_y
            path_y[t], path_x[t] = y, x
        tops, lefts = (down * path_y).astype(np.int32), (right * path_x).astype(np.int32)
        for t in range(spec.frames):
            place = (t, slice(tops[t], tops[t] + side), slice(lefts[t], lefts[t] + side))
            frames[place] = np.maximum(frames[place], images[image])
    return frames


def published_batch(count: int, images: np.ndarray, spec: MovingMNISTSpec, as_float: bool) -> torch.Tensor:
    """A collated batch, item by item: as float32 in [0, 1] like the published class, or as uint8."""
    items = []
    for draw in published_draws(count, spec, len(images)):
        frames = published_frames(draw, images, spec)[:, None]
        items.append(
            torch.from_numpy(frames / 255.0).float() if as_float else torch.from_numpy(frames.astype(np.uint8))
        )
    return torch.stack(items)


def replay(draws: list[PublishedDraw]) -> Draws[np.ndarray]:
    """Published draws, with equally many digits in all sequences, in the form that stvit's renderer takes."""
    x, y, angle, image = np.moveaxis(np.array(draws), 2, 0)
    heading = np.stack([np.cos(angle), np.sin(angle)], 2)
    return Draws(np.full(len(x), x.shape[1]), image.astype(np.int64), np.stack([x, y], 2), heading)
