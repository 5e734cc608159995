"""MViTv2 beside torchvision's mvit_v2_s (clips) and timm's mvitv2_tiny (images), with the same weights."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.timing import median_seconds
from torch import Tensor, nn

import stvit
from stvit.checkpoint import convert
from stvit.engine.flops import count_macs

Work = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]

# glibc then gives freed memory back at once, and the resident set follows the tensors that are alive.
TRIMMING = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="alternations of each comparison")
    parser.add_argument("--batch", type=int, default=1, help="clips or images at once")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--compile", action="store_true", help="compile ours with torch.compile (minutes)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out peak memory")


def measure(args: argparse.Namespace) -> None:
    """MViTv2: time, memory and outputs beside torchvision (16x224 clips) and timm (224 images), one thread, float32."""
    for rival in args.rivals:
        theirs, ours, x = pair(rival, args.batch)
        print(f"{rival}, {tuple(x.shape)}, float32, {torch.get_num_threads()} thread, {args.rounds} alternations")
        report_difference(theirs, ours, x)
        report_arithmetic(ours, x)
        contestant = torch.compile(ours, fullgraph=True) if args.compile else ours
        for work in args.work:
            ratio = compare_times(rival, theirs, contestant, x, work, args.rounds)
            memory = compare_peaks(rival, work, args.batch) if args.memory and not args.compile else ""
            print(f"  {work:10s}{ratio}{memory}", flush=True)


def compare_times(rival: str, theirs: nn.Module, ours: Callable[[Tensor], Tensor], x: Tensor, work: str, n: int) -> str:
    """Median CPU time of both, in turns."""
    run = WORK[work]
    seconds = median_seconds({rival: lambda: run(theirs, x), "stvit": lambda: run(ours, x)}, n)
    ratio = seconds[rival] / seconds["stvit"]
    return f"{seconds[rival]:.3f} -> {seconds['stvit']:.3f} s CPU, {ratio:.2f} times as fast"


def compare_peaks(rival: str, work: str, batch: int) -> str:
    """Peak memory of both, each in a process of its own."""
    theirs, ours = (peak_in_a_process(rival, who, work, batch) for who in ("rival", "stvit"))
    return f"; peak {theirs:.0f} -> {ours:.0f} MiB, {ours / theirs:.2f} of theirs"


def infer(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def train(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Forward and backward, dropout and drop path off (the models are in evaluation mode)."""
    if isinstance(model, nn.Module):
        model.zero_grad(set_to_none=True)
    logits = model(x)
    logits.square().mean().backward()
    return logits


def torchvision_pair() -> tuple[nn.Module, nn.Module]:
    from torchvision.models.video import mvit_v2_s

    return mvit_v2_s(), stvit.create_model("mvitv2_small_16x4")


def timm_pair() -> tuple[nn.Module, nn.Module]:
    import timm

    return timm.create_model("mvitv2_tiny"), stvit.create_model("mvitv2_tiny")


WORK: dict[str, Work] = {"inference": infer, "training": train}
RIVALS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {"torchvision": torchvision_pair, "timm": timm_pair}
SHAPES = {"torchvision": (3, 16, 224, 224), "timm": (3, 224, 224)}


def pair(rival: str, batch: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Both networks in evaluation mode with the same random weights, position tables of std 0.2, and an input."""
    torch.manual_seed(0)
    theirs, ours = RIVALS[rival]()
    for name, parameter in theirs.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter, std=0.2)
    stvit.load_checkpoint(ours, theirs.state_dict())
    return theirs.eval(), ours.eval(), torch.randn(batch, *SHAPES[rival])


def report_difference(theirs: nn.Module, ours: nn.Module, x: Tensor) -> None:
    """The largest difference of a logit, relative to the largest, and of all gradients together, by their norm."""
    logits = [train(model, x).detach() for model in (theirs, ours)]
    error = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
    gradients = [{k: p.grad for k, p in m.named_parameters() if p.grad is not None} for m in (theirs, ours)]
    want = convert(gradients[0], to="stvit", model=ours)  # the same names
    difference = torch.stack([(gradients[1][k] - g).norm() for k, g in want.items()]).norm()
    relative = difference / torch.stack([g.norm() for g in want.values()]).norm()
    print(f"  relative difference of logits {error:.1e}, of all gradients {relative:.1e}")


def report_arithmetic(ours: nn.Module, x: Tensor) -> None:
    """Multiply-accumulates of the published arithmetic, and of the fused form that runs."""
    counts = {}
    for way in ("published", "fused", "auto"):  # ends as it was
        ours.set_attention(way)  # type: ignore[operator]
        counts[way] = sum(count_macs(ours, x[:1]).values()) / 1e9
    print(f"  {counts['published']:.2f} GMACs as published, {counts['fused']:.2f} executed by the fused form")


# --- peak memory, each measurement in a process of its own ----------------------------------------------------------


def peak_in_a_process(rival: str, who: str, work: str, batch: int) -> float:
    """MiB by which the resident set grows during one call, after a first one."""
    command = [sys.executable, __file__, rival, who, work, str(batch)]
    here = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, env={**os.environ, **TRIMMING, "PYTHONPATH": here}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def peak_growth(call: Callable[[], object]) -> float:
    """MiB of resident memory above what there was before, sampled every millisecond."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before, peak, done = resident(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak - before


if __name__ == "__main__":
    _rival, _who, _work, _batch = sys.argv[1:]
    torch.set_num_threads(1)
    _theirs, _ours, _x = pair(_rival, int(_batch))
    _model = _theirs if _who == "rival" else _ours
    WORK[_work](_model, _x)
    print(peak_growth(lambda: WORK[_work](_model, _x)))
