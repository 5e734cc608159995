"""The evaluation on the test set: metrics of the model beside simple baselines, as numbers and as pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit.checkpoint.load import load_into, open_checkpoint
from stvit.config import config_to_dict
from stvit.engine.provenance import TrainingRecord, code_commit, training_record, versions
from stvit.engine.signals import Stopped, StopRequest
from stvit.engine.tasks import MovingMNISTPrediction
from stvit.errors import UserError
from stvit.metrics.frames import FrameMetrics
from stvit.predictors.baselines import BASELINES
from stvit.visual.curves import curves_png
from stvit.visual.files import replace_files
from stvit.visual.report import results_table
from stvit.visual.strips import Example, animation, draw_strip, encode_png

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


def evaluate(
    cfg: CfgNode, model: nn.Module, task: MovingMNISTPrediction, stop: StopRequest, training_seconds: float | None
) -> None:
    """Measure the weights that the settings name and write ``results.json``, ``strips.png``, ``prediction.gif`` and
    ``curves.png`` to OUTPUT_DIR, all of them or none; print the table.

    Raises:
        UserError: there are no weights to evaluate, or they do not fit the model.
        Stopped: a signal came.
        OSError: the files cannot be read or written.
    """
    weights, trained = load_weights(cfg, model)
    begun = time.monotonic()
    model.eval()
    methods: dict[str, Predict] = {cfg.MODEL.NAME: model, **(BASELINES if cfg.TEST.BASELINES else {})}
    print(f"evaluating on {len(task.splits.test)} test sequences", flush=True)
    try:
        measured = measure(methods, task, stop)
    except Stopped as stopped:
        line = "stopped in the evaluation; nothing of the training is lost, the same command evaluates again"
        raise Stopped(stopped.signum, line) from None
    examples = pick_examples(model, task, measured.sequence_mse)
    results = {
        "format": "stvit-results-1",
        "methods": {name: summary(metrics) for name, metrics in measured.metrics.items()},
        "peak_brightness": measured.peak_brightness,
        "protocol": PROTOCOL,
        "notes": [*task.notes(), *([FLATTERED] if cfg.MOVING_MNIST.VALIDATE_ON_TEST or trained.chosen_on_test else [])],
        "data": task.splits.identity,
        "trained_on": trained.data,
        "sequences": measured.metrics[cfg.MODEL.NAME].sequences,
        "checkpoint": weights,
        "model": {
            "name": cfg.MODEL.NAME,
            "args": model.model_args,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "config": config_to_dict(cfg),
        "commit": code_commit(),
        "versions": versions(),
        "device": str(task.device) if task.device.type == "cpu" else torch.cuda.get_device_name(task.device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "precision": trained.precision,
        "training_seconds": training_seconds,
        "evaluation_seconds": time.monotonic() - begun,
    }
    folder = Path(cfg.OUTPUT_DIR)
    files = {
        folder / "strips.png": encode_png(draw_strip(examples)),
        folder / "prediction.gif": animation(examples[1]),
        folder / "curves.png": draw_curves(measured, task, cfg.MODEL.NAME),
        folder / "results.json": (json.dumps(finite(results), indent=2, allow_nan=False) + "\n").encode(),
    }
    replace_files(files)
    print(report(measured, task, cfg.MODEL.NAME))
    print("\n".join(["look at:", *(f"  {path}" for path in files)]), flush=True)


def load_weights(cfg: CfgNode, model: nn.Module) -> tuple[dict[str, object], TrainingRecord]:
    """Load what TEST.CHECKPOINT_FILE_PATH names, or the best of the run in OUTPUT_DIR; returns what it was, and what
    it says of its training.

    The running mean of the weights is taken where the file has one.
    """
    source = cfg.TEST.CHECKPOINT_FILE_PATH
    if not source:
        best = Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.pt"
        if not best.exists():
            raise UserError(f"there is nothing to evaluate: {best} is missing and TEST.CHECKPOINT_FILE_PATH is empty")
        source = str(best)
    content, name = open_checkpoint(source)
    loaded = load_into(model, content, name)
    weights = {
        "source": source,
        "layout": loaded.layout,
        "weights": loaded.weights,
        "epochs": content.get("epoch"),
        "best_validation_mse": content.get("best"),
    }
    return weights, training_record(content)


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


def finite(value: object) -> object:
    """The same tree for JSON, which has no infinity and no NaN: they become null."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
