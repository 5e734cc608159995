"""What timings of training come to: speed, arithmetic and memory, as a line of a table and in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.trainee import Timing
from fvcore.common.config import CfgNode

from stvit.engine.flops import Cost
from stvit.visual.files import replace_files

# Dense bf16 products in TFLOP/s with sums in float32, as NVIDIA's data sheets give them (halved where they count
# sparsity). The first whose words are all in the device's name counts.
PEAKS: dict[str, float] = {
    "GH200": 989,
    "H200 NVL": 835,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "B200": 2250,
    "A100": 312,
    "A30": 165,
    "A40": 150,
    "L40S": 362,
    "L4": 121,
}


@dataclass(frozen=True)
class Figures:
    """What one network did on one rung with one batch size; written to the file as it is."""

    network: str
    rung: str
    batch: int
    samples_per_step: int  # batch x TRAIN.ACCUMULATE_STEPS
    ms_per_step: float  # median over the windows
    samples_per_s: float
    data_wait: float  # share of the time in which the host waited for data
    tflops: float | None  # executed a second, a step being three forward passes; None of a network nobody counted
    peak_share: float | None  # of the chip's bf16 peak
    peak_memory_bytes: int | None
    start_s: float
    run_minutes: float | None  # of all the config's steps, by the mean over the windows
    steps_per_window: int
    window_s: tuple[float, ...]
    waited_s: tuple[float, ...]


@dataclass
class Records:
    """All that a ladder gives, as it is written to the file."""

    about: dict[str, object]
    left_out: dict[str, str] = field(default_factory=dict)  # rung -> reason
    figures: list[Figures] = field(default_factory=list)
    failed: list[dict[str, object]] = field(default_factory=list)
    profile: dict[str, object] | None = None

    def write(self, file: Path | None) -> None:
        """Replace the file, if there is to be one.

        Raises:
            OSError: it cannot be written.
        """
        if file is not None:
            content = {
                **self.about,
                "left_out": self.left_out,
                "figures": [asdict(row) for row in self.figures],
                "failed": self.failed,
                "profile": self.profile,
            }
            replace_files({file: json.dumps(content, indent=1).encode() + b"\n"})


def peak_tflops(device: str) -> float | None:
    """The dense bf16 peak of a device by its name, TFLOP/s; None if it is not known, or is a part of a chip (MIG)."""
    words = device.split()
    if "MIG" in words:
        return None
    # "NVIDIA A100-SXM4-80GB" is one of the A100's.
    words = [part for word in words for part in word.split("-")]
    return next((peak for name, peak in PEAKS.items() if set(name.split()) <= set(words)), None)


def figures_of(
    network: str, rung: str, cfg: CfgNode, timing: Timing, cost: Cost | None, peak: float | None, steps: int | None
) -> Figures:
    """What a timing comes to; ``peak`` in TFLOP/s, ``steps`` of the whole run."""
    seconds = timing.step_seconds
    samples = cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS
    # Two operations a multiply-accumulate; the backward pass takes two forward passes.
    tflops = None if cost is None else 6 * cost.total() * samples / seconds / 1e12
    return Figures(
        network=network,
        rung=rung,
        batch=cfg.TRAIN.BATCH_SIZE,
        samples_per_step=samples,
        ms_per_step=1e3 * seconds,
        samples_per_s=samples / seconds,
        data_wait=timing.data_wait,
        tflops=tflops,
        peak_share=tflops / peak if tflops is not None and peak is not None else None,
        peak_memory_bytes=timing.peak_bytes,
        start_s=timing.start_seconds,
        run_minutes=None if steps is None else steps * timing.mean_step_seconds / 60,
        steps_per_window=timing.pace.steps,
        window_s=tuple(window.seconds for window in timing.windows),
        waited_s=tuple(window.waited for window in timing.windows),
    )


def columns(samples: str) -> str:
    """The heading of the lines of :func:`line`."""
    return (
        f"{'rung':<26}{'batch':>6}{'ms/step':>10}{'':18}{samples + '/s':>12}{'wait':>7}{'GB':>8}{'TFLOP/s':>9}"
        f"{'of peak':>9}{'start s':>9}{'run min':>11}"
    )


def line(row: Figures) -> str:
    """A line of the table; what is not known is a dash."""

    def cell(value: float | None, form: str, width: int) -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    name = row.rung if row.network == "stvit" else f"{row.rung}, {row.network}"
    shortest, longest = (1e3 * pick(row.window_s) / row.steps_per_window for pick in (min, max))
    memory = None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e9
    return (
        f"{name:<26}{row.batch:>6}{row.ms_per_step:>10.2f}{f' ({shortest:.2f}-{longest:.2f})':18}"
        f"{row.samples_per_s:>12.1f}{row.data_wait:>7.1%}{cell(memory, '.2f', 8)}{cell(row.tflops, '.3g', 9)}"
        f"{cell(row.peak_share, '.1%', 9)}{row.start_s:>9.1f}{cell(row.run_minutes, '.1f', 11)}"
    )
