r"""Is an axis of time worth it? The published predictor and the one with 3D blocks, both small, on Moving MNIST.

An MNIST digit moves on 48x48 pixels, 10 frames are seen and 10 predicted. Both networks are trained from the same seed
on the same sequences with the same schedule (configs/moving_mnist/mixvit3d_predictor_study.yaml), in one thread, and
the published one once more for as many seconds as the other takes. After every epoch they are measured on the
validation sequences, and the processor time that training took so far is noted.

Example:
    python tools/predictor_study.py --data FOLDER_WITH_MNIST --output output/predictor_study

Writes a folder for each network, results.json and curves.png, and prints the table. Runs that were interrupted go on;
--only trains one network, so that two processes can share the work. --full-size STEPS takes a few steps with the
networks of full size instead and prints what one costs.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit.cli import ArgumentParser, run
from stvit.config import load_config
from stvit.engine.distributed import ALONE, World, seed_everything
from stvit.engine.flops import count_macs
from stvit.engine.signals import StopRequest, stop_on_signals
from stvit.engine.tasks import MovingMNISTPrediction, model_settings
from stvit.engine.train import train
from stvit.errors import UserError
from stvit.metrics.frames import FrameMetrics
from stvit.registry import create_model
from stvit.visual.files import replace_files

CONFIG = Path(__file__).parents[1] / "configs" / "moving_mnist" / "mixvit3d_predictor_study.yaml"
ARMS: dict[str, tuple[str, ...]] = {  # name -> model and what differs from the configuration
    "mixvit_predictor": ("mixvit_predictor_mini",),
    "mixvit3d_predictor": ("mixvit3d_predictor_mini",),
    # The published one in as many seconds as the other takes, with a schedule made for them.
    "mixvit_predictor_longer": ("mixvit_predictor_mini", "SOLVER.MAX_EPOCH", "15"),
}
FULL_SIZE = ("mixvit_predictor", "mixvit3d_predictor")
SHOWN = ("mse", "mae", "ssim", "psnr")
FULL_BATCH = 4

Curve = list[dict[str, float]]  # after each epoch: epoch, cpu_s and the metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, train what lacks, draw and print."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="the folder with the MNIST files")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results; made if missing")
    parser.add_argument("--only", choices=ARMS, help="train this one alone")
    parser.add_argument("--full-size", type=int, metavar="STEPS", help="take so many steps at full size, and stop")
    parser.add_argument("settings", metavar="KEY VALUE", nargs="*", help="settings that differ from the configuration")
    options = parser.parse_args(argv)
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file; give a folder")
    if options.full_size is not None and options.full_size < 1:
        raise UserError(f"--full-size {options.full_size}: give at least 1 step")
    torch.set_num_threads(1)
    words = ["DATA.PATH_TO_DATA_DIR", str(options.data), *options.settings]
    if options.full_size is not None:
        for name in FULL_SIZE:
            print(full_size(name, options.full_size, words))
        return
    for arm in [options.only] if options.only else ARMS:
        study(arm, options.output / arm, words)
    curves = {arm: read_curve(options.output / arm) for arm in ARMS}
    done = {arm: curve for arm, curve in curves.items() if curve}
    sizes = {arm: cost(settings(ARMS[arm][0], words)) for arm in done}
    results = {arm: {**sizes[arm], "curve": curve} for arm, curve in done.items()}
    replace_files(
        {
            options.output / "results.json": json.dumps(results, indent=1).encode(),
            options.output / "curves.png": curves_png(done),
        }
    )
    print(table(done, sizes))


def settings(name: str, words: Sequence[str]) -> CfgNode:
    """The configuration for the model ``name``."""
    return load_config(str(CONFIG), ["MODEL.NAME", name, *words])


def network(cfg: CfgNode) -> nn.Module:
    """The model of a configuration, with fresh weights."""
    name, arguments = model_settings(cfg)
    return create_model(name, checkpoint=None, **arguments)  # type: ignore[arg-type]


# ---- Training -----------------------------------------------------------------------------------------------------


class TimedPrediction(MovingMNISTPrediction):
    """Moving MNIST measured by every metric, with the processor time of training so far among them."""

    def __init__(self, cfg: CfgNode, world: World, spent: float) -> None:
        super().__init__(cfg, world)
        self._start = time.process_time() - spent

    @property
    def spent(self) -> float:
        """Seconds of processor time that training took so far, in earlier processes too."""
        return time.process_time() - self._start

    @torch.no_grad()
    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """All metrics, and ``cpu_s``, in which the time of validation does not count."""
        began, spent = time.process_time(), self.spent
        model.eval()
        metrics = FrameMetrics()
        for batch in stop.between(self.eval_batches(self.splits.val)):
            past, future = self.past_and_future(batch)
            metrics.update(model(past, self.frames_out), future)
        values = metrics.compute() | {"cpu_s": spent}
        self._start += time.process_time() - began
        return values


def study(arm: str, folder: Path, words: Sequence[str]) -> None:
    """Train one network, or what is left of its epochs."""
    name, *own = ARMS[arm]
    cfg = settings(name, [*own, *words, "OUTPUT_DIR", str(folder)])
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    clock = folder / "seconds.txt"  # up to a stop between two validations
    known = [line["cpu_s"] for line in read_curve(folder)]
    known += [float(clock.read_text())] if clock.exists() else []
    task = TimedPrediction(cfg, ALONE, max(known, default=0.0))
    model = network(cfg)
    try:
        with stop_on_signals(ALONE) as stop:
            train(cfg, model, task, ALONE, stop)
    finally:
        if folder.is_dir():
            replace_files({clock: f"{task.spent:.3f}".encode()})


def read_curve(folder: Path) -> Curve:
    """The validations of a run; none before the first one."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [record for record in map(json.loads, lines) if "cpu_s" in record]


# ---- Costs --------------------------------------------------------------------------------------------------------


def cost(cfg: CfgNode) -> dict[str, float]:
    """Parameters in millions and GMACs of one sequence."""
    model = network(cfg)
    side = cfg.MOVING_MNIST.IMAGE_SIZE
    macs = count_macs(model, torch.zeros(1, cfg.MOVING_MNIST.FRAMES_IN, 1, side, side))
    return {"params_m": sum(p.numel() for p in model.parameters()) / 1e6, "gmacs": sum(macs.values()) / 1e9}


def full_size(name: str, steps: int, words: Sequence[str]) -> str:
    """Some training steps of the network of full size, in one line: what it is, its losses, seconds a step."""
    size = ["MOVING_MNIST.IMAGE_SIZE", "64", "MOVING_MNIST.DIGIT_SIZE", "28", "TRAIN.BATCH_SIZE", str(FULL_BATCH)]
    cfg = settings(name, [*words, *size, "MOVING_MNIST.TRAIN_SEQUENCES", str(FULL_BATCH * (steps + 1))])
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    model = network(cfg).train()
    task = MovingMNISTPrediction(cfg, ALONE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses, began = [], time.process_time()
    for step, batch in enumerate(task.train_batches(0, 0)):
        began = time.process_time() if step == 1 else began  # the first one warms up
        loss = task.loss(model, task.inputs(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    seconds = (time.process_time() - began) / steps
    numbers = cost(cfg)
    shown = " ".join(f"{loss:.4f}" for loss in losses)
    return (
        f"{name}: {numbers['params_m']:.2f} M parameters, {numbers['gmacs']:.2f} GMACs, "
        f"{seconds:.1f} s of processor time a step of {FULL_BATCH}, losses {shown}"
    )


# ---- Results ------------------------------------------------------------------------------------------------------


def table(curves: dict[str, Curve], sizes: dict[str, dict[str, float]]) -> str:
    """Sizes, metrics of some epochs and processor time, in Markdown."""
    lines = [
        "| network | params M | GMACs | epoch | CPU s | MSE | MAE | SSIM | PSNR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, curve in curves.items():
        for place in shown_epochs(len(curve)):
            line = curve[place]
            cells = [f"{sizes[arm]['params_m']:.2f}", f"{sizes[arm]['gmacs']:.3f}", f"{line['epoch']}"]
            cells += [f"{line['cpu_s']:.0f}", f"{line['mse']:.1f}", f"{line['mae']:.1f}"]
            lines.append(f"| {arm} | " + " | ".join([*cells, f"{line['ssim']:.3f}", f"{line['psnr']:.2f}"]) + " |")
    return "\n".join(lines)


def shown_epochs(count: int) -> Iterable[int]:
    """Indices of the epochs in the table: a quarter, half, all."""
    return sorted({max(count * part // 4 - 1, 0) for part in (1, 2, 4)})


def curves_png(curves: dict[str, Curve]) -> bytes:
    """MSE over epochs and over processor time, as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and needed here only
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    axes = (("epoch", 1.0, "epochs"), ("cpu_s", 60.0, "minutes of processor time, one thread"))
    for axis, (key, unit, label) in zip(panels, axes, strict=True):
        for (arm, curve), style in zip(curves.items(), ("--", "-", ":"), strict=False):
            x = [line[key] / unit for line in curve]
            axis.plot(x, [line["mse"] for line in curve], style, marker="o", markersize=3.5, linewidth=2, label=arm)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("validation MSE (sum over a frame)")
    panels[0].legend(frameon=False)
    figure.suptitle("Moving MNIST, one digit on 48x48, 10 -> 10 frames: small networks", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(run(main))
