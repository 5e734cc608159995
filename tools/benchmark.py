"""Measure parts of stvit against plain references, interleaved in one process. Each subject is a subcommand.

Example:
    python tools/benchmark.py data
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy starts its threads

import numpy as np
import torch

from stvit.cli import ArgumentParser, run
from stvit.datasets import MovingMNIST, MovingMNISTSpec, load_digits
from stvit.datasets.moving_mnist import Draws, render
from stvit.metrics.frames import FrameMetrics, ssim


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and run one subject."""
    parser = ArgumentParser(__doc__)
    subjects = parser.add_subparsers(dest="subject", required=True, parser_class=argparse.ArgumentParser)
    for name, (measure, add_arguments) in SUBJECTS.items():
        subject = subjects.add_parser(name, help=measure.__doc__, description=measure.__doc__)
        add_arguments(subject)
        subject.set_defaults(measure=measure)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.measure(args)


def median_seconds(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median process CPU time of each contestant; they take turns, and the order is reversed every other round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():  # first use pays for caches and imports
        contestant()
    for turn in range(rounds):
        for name in list(contestants) if turn % 2 == 0 else reversed(list(contestants)):
            start = time.process_time()
            contestants[name]()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


# --- data: Moving MNIST -----------------------------------------------------------------------------------------


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--digits", default="sklearn", help="mnist or sklearn (default)")
    parser.add_argument("--root", default="data", help="folder of MNIST's idx files")
    parser.add_argument("--batch", type=int, default=64, help="sequences made at a time")
    parser.add_argument("--rounds", type=int, default=25)


def benchmark_data(args: argparse.Namespace) -> None:
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


# --- metrics: structural similarity ---------------------------------------------------------------------------------


def add_metrics_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=16, help="sequences of 10 frames")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=25)


def benchmark_metrics(args: argparse.Namespace) -> None:
    """SSIM of a batch, and all metrics together, beside scikit-image's SSIM frame by frame."""
    from skimage.metrics import structural_similarity  # heavy, and only the reference

    r = torch.Generator().manual_seed(0)
    truth = torch.rand((args.batch, 10, args.channels, *args.size), generator=r)
    pred = (truth + 0.2 * torch.randn(truth.shape, generator=r)).clamp(0, 1)
    pairs = list(zip(pred.flatten(0, 1).numpy(), truth.flatten(0, 1).numpy(), strict=True))

    def reference() -> float:
        return float(np.mean([structural_similarity(p, t, data_range=1.0, channel_axis=0) for p, t in pairs]))

    seconds = median_seconds(
        {
            "scikit-image SSIM, frame by frame": reference,
            "stvit SSIM": lambda: ssim(pred, truth, data_range=1.0),
            "stvit, all metrics": lambda: FrameMetrics().update(pred, truth),
        },
        args.rounds,
    )
    print(f"{len(pairs)} frames of {args.channels}x{args.size[0]}x{args.size[1]}, 1 thread")
    print(f"difference of the two SSIM: {abs(ssim(pred, truth, data_range=1.0) - reference()):.1e}")
    theirs, *ours = seconds.items()
    print(f"{theirs[0]:34s} {1000 * theirs[1]:8.1f} ms")
    for name, value in ours:
        print(f"{name:34s} {1000 * value:8.1f} ms   {theirs[1] / value:.1f} times as fast")


# --- the subjects: name -> what runs it, and what adds its options -------------------------------------------------

Subject = tuple[Callable[[argparse.Namespace], None], Callable[[argparse.ArgumentParser], None]]
SUBJECTS: dict[str, Subject] = {
    "data": (benchmark_data, add_data_arguments),
    "metrics": (benchmark_metrics, add_metrics_arguments),
}

if __name__ == "__main__":
    sys.exit(run(main))
