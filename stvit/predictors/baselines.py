"""Predictions that need no learning; a predictor is worth its training only where it beats them.

Each takes past frames ``(B, T, C, H, W)`` in [0, 1] and the number of frames wanted, and returns
``(B, out_frames, C, H, W)`` in [0, 1], of the same dtype and on the same device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor

from stvit.errors import UserError

Baseline = Callable[[Tensor, int], Tensor]


def black(past: Tensor, out_frames: int) -> Tensor:
    """Nothing but zeros: hard to beat in MSE where most of a frame is black."""
    return torch.zeros_like(past[:, :1]).repeat(1, out_frames, 1, 1, 1)


def last_frame(past: Tensor, out_frames: int) -> Tensor:
    """The last frame again and again: everything stands still."""
    return repeat(past[:, -1], "b c h w -> b t c h w", t=out_frames)


def mean_frame(past: Tensor, out_frames: int) -> Tensor:
    """The mean of all past frames."""
    return repeat(past.mean(dim=1), "b c h w -> b t c h w", t=out_frames)


def linear_extrapolation(past: Tensor, out_frames: int) -> Tensor:
    """``last + k (last - previous)`` for frame k = 1, 2, ..., every pixel by itself, clipped to [0, 1].

    Clipped because frames cannot leave that range: unclipped errors would grow with k squared, and a baseline is to be
    as good as what is known without learning makes it.
    """
    _need_two(past, "linear_extrapolation")
    steps = torch.arange(1, out_frames + 1, device=past.device, dtype=past.dtype)[:, None, None, None]
    last, previous = past[:, -1:], past[:, -2:-1]
    return (last + steps * (last - previous)).clamp(0, 1)


def shifted_last_frame(past: Tensor, out_frames: int) -> Tensor:
    """The last frame moved on: by k times the displacement between the last two frames, in whole pixels.

    One displacement for the whole frame, from :func:`displacement`; zeros move in, and what leaves is lost.
    """
    _need_two(past, "shifted_last_frame")
    C, H, W = past.shape[2:]
    down, right = displacement(past[:, -2], past[:, -1]).unbind(dim=1)
    k = torch.arange(1, out_frames + 1, device=past.device)
    # The pixel (row, column) of frame k shows what the last frame has at (row - k down, column - k right).
    rows = torch.arange(H, device=past.device) - (k * down[:, None])[..., None]  # (B, K, H)
    columns = torch.arange(W, device=past.device) - (k * right[:, None])[..., None]  # (B, K, W)
    inside = ((rows >= 0) & (rows < H))[..., :, None] & ((columns >= 0) & (columns < W))[..., None, :]
    source = rows.clamp(0, H - 1)[..., :, None] * W + columns.clamp(0, W - 1)[..., None, :]
    pixels = repeat(past[:, -1], "b c h w -> b t c (h w)", t=out_frames)
    moved = pixels.gather(3, repeat(source, "b t h w -> b t c (h w)", c=C))
    return rearrange(moved, "b t c (h w) -> b t c h w", h=H) * inside[:, :, None]


def displacement(before: Tensor, after: Tensor) -> Tensor:
    """By how many whole pixels frames have moved, from the peak of their phase correlation.

    Kuglin and Hines, Proc. IEEE Conf. on Cybernetics and Society, 1975. The correlation is circular: moves of up to
    half a frame are told from their complements. Equal or empty frames have moved by nothing.

    Args:
        before, after: ``(B, C, H, W)``; the channels are summed.

    Returns:
        ``(B, 2)`` int64: down and right.
    """
    _, _, H, W = before.shape
    spectra = [torch.fft.rfft2(frames.sum(dim=1).float()) for frames in (before, after)]
    cross = spectra[1] * spectra[0].conj()
    # Frequencies that both frames lack carry noise only: at the size of rounding errors they must not get weight 1.
    floor = 1e-6 * cross.abs().amax(dim=(-2, -1), keepdim=True)
    correlation = torch.fft.irfft2(cross / (cross.abs() + floor + torch.finfo(torch.float32).tiny), s=(H, W))
    peak = correlation.flatten(1).argmax(dim=1)
    down, right = peak // W, peak % W
    return torch.stack([(down + H // 2) % H - H // 2, (right + W // 2) % W - W // 2], dim=1)


def _need_two(past: Tensor, name: str) -> None:
    if past.shape[1] < 2:
        raise UserError(f"the baseline {name} needs at least 2 past frames to see a motion; got {past.shape[1]}")


BASELINES: dict[str, Baseline] = {  # in the order of the tables
    "black": black,
    "last_frame": last_frame,
    "mean_frame": mean_frame,
    "linear_extrapolation": linear_extrapolation,
    "shifted_last_frame": shifted_last_frame,
}
