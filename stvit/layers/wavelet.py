"""The undecimated (stride one) single-level wavelet transform of MixViT's stem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stvit.errors import UserError, nearest

BANDS = ("LL", "LH", "HL", "HH")  # first letter: filter along W, second: along H


def analysis_filters(wavelet: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """PyWavelets' low and high decomposition filters, in double precision and in its order.

    Raises:
        UserError: a name that PyWavelets does not list among its discrete wavelets.
    """
    import pywt  # only models with a wavelet stem need it

    if wavelet not in pywt.wavelist(kind="discrete"):
        raise UserError(
            f"PyWavelets has no discrete wavelet {wavelet!r}{nearest(wavelet, pywt.wavelist(kind='discrete'))}"
        )
    bank = pywt.Wavelet(wavelet)
    return tuple(bank.dec_lo), tuple(bank.dec_hi)


class UndecimatedWavelet(nn.Module):
    """Frame-wise wavelet bands at full resolution: ``(B, C, [T,] H, W) -> (B, 4 C, [T,] H, W)``.

    Bands come in the order of :data:`BANDS`, C channels each. Along one axis, for a filter ``f`` of length L,
    ``y[i] = sum_j f[j] z[(i + j - (L/2 - 1)) mod N]``: the published transform works by FFT at side N, the smallest
    power of two that holds the longer image side, with zeros after the image. So a 64 x 64 frame wraps around and a
    224 x 224 one sees zeros beyond its end. Here that is one small convolution on a padded frame, which holds for
    every size (the published code fails when exactly one side is the power of two), has gradients, and compiles.
    Filters longer than N, which the published transform cannot hold, take the next N that does.

    Args:
        wavelet: any discrete wavelet of PyWavelets.
    """

    kernels: Tensor

    def __init__(self, wavelet: str = "haar") -> None:
        super().__init__()
        self.wavelet = wavelet
        low, high = (np.asarray(f) for f in analysis_filters(wavelet))
        # (band, 1, along H, along W)
        self._exact = np.stack([np.outer(low, low), np.outer(high, low), np.outer(low, high), np.outer(high, high)])
        self.length = len(low)
        self.register_buffer("kernels", self._kernels(torch.get_default_dtype()), persistent=False)

    def _kernels(self, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(self._exact).to(dtype).unsqueeze(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> UndecimatedWavelet:
        # A cast from float32 up to float64 would keep float32's rounding: make the filters anew in the new type.
        super()._apply(fn, recurse)
        self.kernels = self._kernels(self.kernels.dtype).to(self.kernels.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        frames = rearrange(x, "b c t h w -> (b t) c h w") if x.ndim == 5 else x
        bands = self._transform(frames)
        return rearrange(bands, "(b t) c h w -> b c t h w", b=x.shape[0]) if x.ndim == 5 else bands

    def _transform(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        side = 1
        while side < max(height, width, self.length):
            side *= 2
        x = rearrange(x, "b c h w -> (b c) 1 h w")
        zeros = [min(side - n, self.length - 1) for n in (height, width)]
        x = F.pad(x, (0, zeros[1], 0, zeros[0]))
        for axis in (2, 3):
            x = _wrap(x, axis, before=self.length // 2 - 1, after=self.length // 2)
        bands = F.conv2d(x, self.kernels.to(x.dtype))[..., :height, :width]
        return rearrange(bands, "(b c) band h w -> b (band c) h w", c=channels)

    def extra_repr(self) -> str:
        return repr(self.wavelet)


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Circular padding by slices, which every exporter knows."""
    size = x.shape[axis]
    head = x.narrow(axis, size - before, before)
    tail = x.narrow(axis, 0, after)
    return torch.cat([head, x, tail], dim=axis)
