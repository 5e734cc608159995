"""Frame prediction on the test set: metrics of the model beside simple baselines, as numbers and as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.metrics.frames import FrameMetrics
from stvit.predictors.baselines import BASELINES
from stvit.visual.curves import curves_png
from stvit.visual.report import results_table
from stvit.visual.strips import Example, animation, draw_strip, encode_png

if TYPE_CHECKING:
    from stvit.engine.tasks.moving_mnist import MovingMNISTPrediction

Predict = Callable[[Tensor, int], Tensor]

# How each number of results.json is computed, in the file itself.
PROTOCOL = {
    "mse": "squared error summed over C, H, W of a frame; mean over frames and sequences; predictions not clipped",
    "mae": "absolute error summed over C, H, W of a frame; mean over frames and sequences; predictions not clipped",
    "rmse": "square root of mse",
    "ssim": "scikit-image's, 7x7 uniform windows, data range 1; predictions clipped to [0, 1]; mean over frames",
    "ssim_range2": "as ssim with data range 2, as in tables made with scikit-image below 0.20; scores higher",
    "psnr": "dB, peak 1; predictions clipped to [0, 1]; mean over frames, those without any error left out",
    "psnr_uint8_wrapped": "what older tables call PSNR: squares of uint8 differences modulo 256; no measure of quality",
    "peak_brightness": "brightest pixel of a frame, clipped to [0, 1]; mean over sequences, per predicted frame",
}
FLATTERED = (
    "The best checkpoint was chosen on the test set itself (MOVING_MNIST.VALIDATE_ON_TEST), the habit of published "
    "tables: these numbers flatter the model and serve only for comparison with such tables."
)


def evaluate_frames(
    cfg: CfgNode, model: nn.Module, task: MovingMNISTPrediction, stop: StopRequest, trained: TrainingRecord
) -> Outcome:
    """Measure the model, in evaluation mode, beside the baselines on the test set.

    Raises:
        Stopped: a signal came.
    """
    methods: dict[str, Predict] = {cfg.MODEL.NAME: model, **(BASELINES if cfg.TEST.BASELINES else {})}
    print(f"evaluating on {len(task.splits.test)} test sequences", flush=True)
    measured = measure(methods, task, stop)
    examples = pick_examples(model, task, measured.sequence_mse)
    flattered = cfg.MOVING_MNIST.VALIDATE_ON_TEST or trained.chosen_on_test
    return Outcome(
        results={
            "methods": {name: summary(metrics) for name, metrics in measured.metrics.items()},
            "peak_brightness": measured.peak_brightness,
            "protocol": PROTOCOL,
            "notes": [*task.notes(), *([FLATTERED] if flattered else [])],
            "sequences": measured.metrics[cfg.MODEL.NAME].sequences,
        },
        files={
            "strips.png": encode_png(draw_strip(examples)),
            "prediction.gif": animation(examples[1]),
            "curves.png": draw_curves(measured, task, cfg.MODEL.NAME),
        },
        text=report(measured, task, cfg.MODEL.NAME),
    )


@dataclass(frozen=True)
class Measured:
    """What one pass over the test set gives."""

    metrics: dict[str, FrameMetrics]  # by method, the model first
    sequence_mse: Tensor  # (N,) float64, of the model
    peak_brightness: dict[str, list[float]]  # "prediction" and "truth", per predicted frame


@torch.no_grad()
def measure(methods: Mapping[str, Predict], task: MovingMNISTPrediction, stop: StopRequest) -> Measured:
    """One pass over the test set for all methods together; the first is the model. Holds no predictions."""
    metrics = {name: FrameMetrics() for name in methods}
    model = next(iter(methods))
    errors, peaks = [], torch.zeros(2, task.frames_out, dtype=torch.float64)
    for batch in stop.between(task.eval_batches(task.splits.test)):
        past, future = task.past_and_future(batch)
        for name, predict in methods.items():
            predicted = predict(past, task.frames_out)
            sequence_mse = metrics[name].update(predicted, future)
            if name == model:
                errors.append(sequence_mse)
                shown = torch.stack((predicted.clamp(0, 1), future)).double()
                peaks += shown.amax(dim=(-3, -2, -1)).sum(dim=1).cpu()
    sequence_errors = torch.cat(errors)
    predicted_peaks, true_peaks = (peaks / len(sequence_errors)).tolist()
    return Measured(metrics, sequence_errors, {"prediction": predicted_peaks, "truth": true_peaks})


@torch.no_grad()
def pick_examples(model: nn.Module, task: MovingMNISTPrediction, sequence_mse: Tensor) -> list[Example]:
    """The sequences that the model predicts best, in the middle (the lower median) and worst."""
    order = sequence_mse.argsort(stable=True).tolist()
    chosen = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
    past, future = task.past_and_future(task.splits.test.__getitems__(list(chosen.values())))
    predicted = model(past, task.frames_out).cpu().numpy()
    return [
        Example(
            f"{rank} of {len(order)} test sequences: number {index}, MSE {sequence_mse[index]:.1f}",
            past[k].cpu().numpy(),
            predicted[k],
            future[k].cpu().numpy(),
        )
        for k, (rank, index) in enumerate(chosen.items())
    ]


def summary(metrics: FrameMetrics) -> dict[str, object]:
    """A method's part of results.json."""
    return {
        "mean": metrics.compute(),
        "per_frame": metrics.per_frame(),
        "frames_without_error": metrics.infinite_frames(),
    }


def draw_curves(measured: Measured, task: MovingMNISTPrediction, model: str) -> bytes:
    """The per-frame curves as a PNG."""
    curves = {label(name): metrics.per_frame() for name, metrics in measured.metrics.items()}
    title = f"{model} on {len(measured.sequence_mse)} test sequences"
    return curves_png(curves, first_frame=task.frames_in + 1, title=title)


def label(method: str) -> str:
    """A method's name in tables and pictures: a model's as it is, a baseline's in words."""
    return method.replace("_", " ") if method in BASELINES else method


def report(measured: Measured, task: MovingMNISTPrediction, model: str) -> str:
    """What the screen shows at the end."""
    last, middle = task.frames_out, (task.frames_out + 1) // 2
    curves = {name: metrics.per_frame()["mse"] for name, metrics in measured.metrics.items()}
    tenth = ", ".join(f"{label(name)} {curve[-1]:.1f}" for name, curve in curves.items())
    peaks = measured.peak_brightness
    ratio = peaks["prediction"][middle - 1] / peaks["truth"][middle - 1]
    return "\n".join(
        [
            f"test set: {task.describe_test_set()}",
            results_table({label(name): metrics.compute() for name, metrics in measured.metrics.items()}),
            f"MSE of predicted frame {last}: {tenth}",
            f"peak brightness of predicted frame {middle}: {ratio:.2f} of the truth's",
        ]
    )
