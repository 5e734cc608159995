"""The structural similarity of batches beside scikit-image's of single frames."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from benchmarks.timing import median_seconds

from stvit.metrics.frames import FrameMetrics, ssim


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=16, help="sequences of 10 frames")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=25)


def measure(args: argparse.Namespace) -> None:
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
