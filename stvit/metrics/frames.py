"""How good predicted frames are: MSE, MAE, RMSE, SSIM and PSNR, as functions and as a streaming accumulator.

All take frames ``(N, T, C, H, W)`` in [0, 1]: N sequences of T predicted frames. The conventions are those of the
published Moving MNIST tables:

* MSE and MAE are totals over a frame's C, H, W, averaged over sequences and frames, of the predictions as they are;
* RMSE is the square root of that MSE;
* SSIM and PSNR clip the prediction to [0, 1], score every frame by itself and average the scores.

Sums are taken in float64. The MPS backend has no float64, so frames that live there are scored on the CPU.

A frame whose error is exactly zero has an infinite PSNR. Such frames are left out of the mean, which can only lower it:
with them, a weak baseline that is exactly right once would have a mean of infinity. The mean is ``inf`` where no frame
has a finite value. :meth:`FrameMetrics.infinite_frames` says how many were left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stvit.errors import UserError
from stvit.metrics.windows import WINDOW, ssim_of_frames

METRICS = ("mse", "mae", "rmse", "ssim", "ssim_range2", "psnr", "psnr_uint8_wrapped")  # the keys of every result
_SUMMED = ("mse", "mae", "ssim", "ssim_range2", "psnr", "psnr_uint8_wrapped")  # rmse follows from mse

# Pixels scored at a time: in float64 the dozen intermediate maps of a piece stay in a CPU core's cache (measured:
# twice as fast as whole batches), and on an accelerator a piece is large enough to fill it and small enough to fit.
_CPU_PIXELS, _ACCELERATOR_PIXELS = 2**15, 2**24


def mse(pred: Tensor, target: Tensor) -> float:
    """Squared error summed over C, H, W, averaged over N and T; predictions are not clipped."""
    return _mean(_score(pred, target, _squared_error))


def mae(pred: Tensor, target: Tensor) -> float:
    """Absolute error summed over C, H, W, averaged over N and T; predictions are not clipped."""
    return _mean(_score(pred, target, _absolute_error))


def rmse(pred: Tensor, target: Tensor) -> float:
    """The square root of :func:`mse`: of the mean, not the mean of the frames' roots (the published formula)."""
    return math.sqrt(mse(pred, target))


def ssim(pred: Tensor, target: Tensor, *, data_range: float) -> float:
    """Structural similarity as scikit-image computes it, per frame and averaged; predictions are clipped to [0, 1].

    Args:
        pred, target: frames ``(N, T, C, H, W)`` of at least 7x7 pixels.
        data_range: the width of the value range: 1.0 for frames in [0, 1]. Tables made with OpenSTL and
            scikit-image below 0.20 used 2.0, the range of any float image there, which scores higher.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range must be a positive number, 1.0 for frames in [0, 1]; got {data_range!r}")
    return _mean(_score(pred, target, lambda p, t: _ssim(p, t, data_range), window=True))


def psnr(pred: Tensor, target: Tensor) -> float:
    """Peak signal to noise ratio in dB, peak 1, per frame and averaged; predictions are clipped to [0, 1].

    Frames predicted exactly are left out; ``inf`` if all are.
    """
    return _mean(_score(pred, target, _psnr))


def psnr_uint8_wrapped(pred: Tensor, target: Tensor) -> float:
    """What the 38.38 dB of the published table is; for comparison only, it does not measure quality.

    The published formula truncates both frames to uint8 and subtracts and squares in uint8, so that squares are
    taken modulo 256: an error of 15 grey levels counts 225, one of 16 or 128 counts nothing and one of 255 counts 1.
    No value lies below 24.17 dB, and a constant error of 16 levels scores ``inf``; frames with an infinite value are
    left out of the mean, where the published code returns ``inf`` for all.
    """
    return _mean(_score(pred, target, _psnr_uint8_wrapped))


class FrameMetrics:
    """All metrics of a stream of batches; holds a few sums per frame time and never a prediction.

    The result does not depend on how the stream was cut into batches or shared among processes::

        metrics = FrameMetrics()
        for pred, target in batches:
            sequence_mse = metrics.update(pred, target)
        for other in states_of_other_processes:
            metrics.merge(other)
        metrics.compute()["mse"], metrics.per_frame()["mse"]
    """

    def __init__(self) -> None:
        self._sequences = 0
        self._sums: dict[str, Tensor] = {}  # metric -> (T,) float64 on the CPU: the sum of its finite values
        self._counts: dict[str, Tensor] = {}  # metric -> (T,) int64: how many they were

    def update(self, pred: Tensor, target: Tensor) -> Tensor:
        """Add a batch; returns each sequence's MSE, ``(N,)`` float64 on the CPU.

        Raises:
            UserError: shapes that differ, a number of frames that earlier batches did not have, frames below 7x7
                pixels, values that are not finite or a truth outside [0, 1]; the sums then stay as they were.
        """
        scores = _score(pred, target, _every_score, window=True)
        N, T = scores.shape[1:]
        if self._sums and len(self._sums["mse"]) != T:
            raise UserError(f"this batch has {T} frames a sequence and earlier ones had {len(self._sums['mse'])}")
        for name, values in zip(_SUMMED, scores, strict=True):
            finite = values.isfinite()
            self._add(name, values.where(finite, 0).sum(dim=0), finite.sum(dim=0))
        self._sequences += N
        return scores[_SUMMED.index("mse")].mean(dim=1)

    def state(self) -> dict[str, Tensor]:
        """The sums as CPU tensors, to send to another process: :meth:`merge` takes them."""
        sums = {name: values.clone() for name, values in self._sums.items()}
        counts = {f"{name}_count": values.clone() for name, values in self._counts.items()}
        return {"sequences": torch.tensor(self._sequences), **sums, **counts}

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add the :meth:`state` of an accumulator that saw other sequences; one that saw none changes nothing."""
        if not int(state["sequences"]):
            return
        if self._sums and len(state["mse"]) != len(self._sums["mse"]):
            raise UserError(f"cannot merge metrics of {len(state['mse'])} and {len(self._sums['mse'])} frames")
        for name in _SUMMED:
            self._add(name, state[name], state[f"{name}_count"])
        self._sequences += int(state["sequences"])

    def compute(self) -> dict[str, float]:
        """The mean over all sequences and frames of every metric in :data:`METRICS`."""
        self._need_sequences()
        means = {name: _ratio(self._sums[name].sum(), self._counts[name].sum()) for name in _SUMMED}
        means["rmse"] = math.sqrt(means["mse"])
        return {name: means[name] for name in METRICS}

    def per_frame(self) -> dict[str, list[float]]:
        """The same as curves: for each metric its mean at frame 1 ... T."""
        self._need_sequences()
        curves = {name: [*map(_ratio, self._sums[name], self._counts[name])] for name in _SUMMED}
        curves["rmse"] = [math.sqrt(value) for value in curves["mse"]]
        return {name: curves[name] for name in METRICS}

    def infinite_frames(self) -> dict[str, int]:
        """How many frames had an infinite PSNR and are left out of its mean, by metric."""
        self._need_sequences()
        frames = self._sequences * len(self._sums["mse"])
        return {name: frames - int(self._counts[name].sum()) for name in ("psnr", "psnr_uint8_wrapped")}

    @property
    def sequences(self) -> int:
        """How many sequences the sums hold."""
        return self._sequences

    def _add(self, name: str, sums: Tensor, counts: Tensor) -> None:
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums.clone()
        self._counts[name] = self._counts[name] + counts if name in self._counts else counts.clone()

    def _need_sequences(self) -> None:
        if not self._sequences:
            raise UserError("no metrics: no sequences were measured (is the evaluation set empty?)")


# Each takes (N, C, H, W) twice, in the frames' own dtype, and returns (metrics, N) float64.


def _squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.double() - target.double()).square_().sum(dim=(-3, -2, -1))[None]


def _absolute_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.double() - target.double()).abs_().sum(dim=(-3, -2, -1))[None]


def _ssim(pred: Tensor, target: Tensor, *data_ranges: float) -> Tensor:
    return ssim_of_frames(pred.clamp(0, 1).double(), target.double(), data_ranges)


def _psnr(pred: Tensor, target: Tensor) -> Tensor:
    error = (pred.clamp(0, 1).double() - target.double()).square_().mean(dim=(-3, -2, -1))
    return -10 * error.log10()[None]


def _psnr_uint8_wrapped(pred: Tensor, target: Tensor) -> Tensor:
    """The product with 255 stays in the frames' own dtype: it may truncate to another grey level in float64."""
    difference = (pred.clamp(0, 1) * 255).to(torch.uint8) - (target * 255).to(torch.uint8)
    error = (difference * difference).sum(dim=(-3, -2, -1)).double() / difference[0].numel()
    return 20 * math.log10(255) - 10 * error.log10()[None]


def _every_score(pred: Tensor, target: Tensor) -> Tensor:
    """In the order of ``_SUMMED``."""
    p, t = pred.double(), target.double()
    scores = (_squared_error(p, t), _absolute_error(p, t), _ssim(p.clamp(0, 1), t, 1.0, 2.0), _psnr(p, t))
    return torch.cat([*scores, _psnr_uint8_wrapped(pred, target)])


Score = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def _score(pred: Tensor, target: Tensor, score: Score, *, window: bool = False) -> Tensor:
    """Check the frames and score them piece by piece: (N, T, C, H, W) twice -> (metrics, N, T) on the CPU."""
    _check(pred, target, window)
    if pred.device.type == "mps":
        pred = pred.cpu()
    target = target.to(pred.device)
    N, T, C, H, W = pred.shape
    frames = max(1, (_CPU_PIXELS if pred.device.type == "cpu" else _ACCELERATOR_PIXELS) // (C * H * W))
    pieces = zip(pred.flatten(0, 1).split(frames), target.flatten(0, 1).split(frames), strict=True)
    return torch.cat([score(p, t) for p, t in pieces], dim=1).unflatten(1, (N, T)).cpu()


def _mean(scores: Tensor) -> float:
    """Of the finite scores; infinite if there are none."""
    finite = scores.isfinite()
    return _ratio(scores[finite].sum(), finite.sum())


def _ratio(total: Tensor, count: Tensor) -> float:
    return float(total) / int(count) if count else math.inf


def _check(pred: Tensor, target: Tensor, window: bool) -> None:
    """Refuse, in one line, what would give a number that means nothing."""
    for name, frames in (("prediction", pred), ("truth", target)):
        if not isinstance(frames, Tensor):
            raise UserError(
                f"the {name} must be a tensor (N, T, C, H, W), not a {type(frames).__name__}: "
                "torch.from_numpy(x) makes one of an array, torch.from_numpy(x)[None] if it is (T, C, H, W)"
            )
        if frames.ndim != 5:
            one = ": x[None] makes one sequence a batch" if frames.ndim == 4 else ""
            raise UserError(f"the {name} must be (N, T, C, H, W), not of shape {tuple(frames.shape)}{one}")
    if pred.shape != target.shape:
        raise UserError(
            f"prediction and truth must have one shape; they have {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if not pred.numel():
        raise UserError(f"there are no frames to compare: the shape is {tuple(pred.shape)}")
    for name, frames in (("prediction", pred), ("truth", target)):
        if not frames.is_floating_point():
            raise UserError(f"the {name} must hold floats in [0, 1], not {frames.dtype}; divide 8-bit frames by 255")
    if window and min(pred.shape[-2:]) < WINDOW:
        size = f"{pred.shape[-2]}x{pred.shape[-1]}"
        raise UserError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels (its window); got {size}")
    low, high = (float(edge) for edge in target.aminmax())
    if not (low >= 0 and high <= 1):  # also true of NaN, which aminmax hands on
        raise UserError(f"the truth must lie in [0, 1]; it runs from {low:g} to {high:g}")
    # aminmax reads once and allocates nothing; which frame is at fault is looked for only when one is.
    if not all(math.isfinite(float(edge)) for edge in pred.aminmax()):
        bad = ~pred.isfinite()
        first = [int(i) for i in bad.flatten(2).any(dim=2).nonzero()[0]]
        raise UserError(
            f"{int(bad.sum())} predicted values are not finite, first in sequence {first[0]}, frame {first[1] + 1}"
        )
