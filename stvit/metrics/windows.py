"""Structural similarity from 7x7 windows, for whole batches of frames at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOW = 7  # pixels a side, the default of scikit-image and of the published tables
K1, K2 = 0.01, 0.03  # the constants of Wang et al., IEEE TIP 13(4), 2004, section III-B


def _slide7(x: Tensor, dim: int) -> Tensor:
    """Sums of 7 neighbours along ``dim`` in four additions: 7 = 4 + 2 + 1, and 4 = 2 + 2."""
    length = x.shape[dim]
    two = x.narrow(dim, 0, length - 1) + x.narrow(dim, 1, length - 1)
    out = two.narrow(dim, 0, length - 6) + two.narrow(dim, 2, length - 6)
    out += two.narrow(dim, 4, length - 6)
    out += x.narrow(dim, 6, length - 6)
    return out


def ssim_of_frames(pred: Tensor, target: Tensor, data_ranges: Sequence[float]) -> Tensor:
    """The mean structural similarity of every frame, for one or more data ranges at the price of one.

    Uniform 7x7 windows that lie inside the frame, sample covariance (divisor 48), channels averaged:
    ``skimage.metrics.structural_similarity`` with its defaults. The window statistics do not depend on the
    data range, so further ranges cost only the closing formula.

    Args:
        pred: ``(N, C, H, W)`` float64. Wang et al.'s ``E[x^2] - E[x]^2`` loses about eight digits on bright flat
            frames, which float32 does not have and float64 does.
        target: as ``pred``.
        data_ranges: the widths of the value range, 1.0 for frames in [0, 1].

    Returns:
        ``(len(data_ranges), N)`` float64.
    """
    points = WINDOW * WINDOW
    # s = x + y and d = x - y need two squares where x and y need two squares and a product:
    # var x + var y = (var s + var d) / 2 and 2 cov xy = (var s - var d) / 2; the same holds for the means.
    maps = torch.empty(4, *pred.shape, dtype=pred.dtype, device=pred.device)  # s, d, s^2, d^2
    torch.add(pred, target, out=maps[0])
    torch.sub(pred, target, out=maps[1])
    torch.mul(maps[:2], maps[:2], out=maps[2:])

    sums = _slide7(_slide7(maps, -2), -1)
    squares = sums[:2].square_()
    spreads = sums[2:].sub_(squares, alpha=1 / points)  # (points - 1) times the sample variances of s and d
    mean_squares = (squares[0] + squares[1]).mul_(0.5 / points**2)  # mu_x^2 + mu_y^2
    mean_product = (squares[0] - squares[1]).mul_(0.5 / points**2)  # 2 mu_x mu_y
    variances = (spreads[0] + spreads[1]).mul_(0.5 / (points - 1))  # var x + var y
    covariance = (spreads[0] - spreads[1]).mul_(0.5 / (points - 1))  # 2 cov xy

    scores = []
    for data_range in data_ranges:
        c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
        above = (mean_product + c1).mul_(covariance + c2)
        below = (mean_squares + c1).mul_(variances + c2)
        scores.append(above.div_(below).mean(dim=(-3, -2, -1)))
    return torch.stack(scores)
