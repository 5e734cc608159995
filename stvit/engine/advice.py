"""What to do when data come slowly, memory is full, a loader worker has died, or a network does not compile."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.common.config import CfgNode

# Share of the time spent waiting for data above which a run says what to do about it.
MUCH_WAITING = 0.2

VIDEOS = ("kinetics", "ssv2")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def faster_data(cfg: CfgNode) -> str:
    """What makes the data of these settings come faster."""
    workers, cores = cfg.DATA_LOADER.NUM_WORKERS, usable_cores()
    more = (
        f"raise DATA_LOADER.NUM_WORKERS {workers} (this process may use {cores} cores)"
        if workers < cores
        else f"DATA_LOADER.NUM_WORKERS {workers} takes all {cores} cores already"
    )
    if cfg.DATA.DATASET in VIDEOS:
        return f"{more}; tools/resize_videos.py makes videos that decode faster, tools/benchmark.py data measures it"
    if cfg.DATA.DATASET == "moving_mnist":
        return f"{more}; MOVING_MNIST.ON_DEVICE True makes sequences on the GPU"
    return f"{more}; images that were resized beforehand decode faster"


@contextmanager
def failures_in_a_line(cfg: CfgNode) -> Iterator[None]:
    """Around a run: what :func:`remedy` knows becomes an :class:`OSError` of one line with a way out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        line = remedy(error, cfg)
        if line is None:
            raise
        raise OSError(line) from error


def remedy(error: BaseException, cfg: CfgNode) -> str | None:
    """One line about full memory, a dead loader worker or a failed compilation, None for anything else."""
    said = " ".join(f"{error} {error.__cause__ or error.__context__ or ''}".split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full ({_wanted(said)}): {_smaller(cfg)}"
    if isinstance(error, MemoryError) or "can't allocate memory" in said:
        return f"the machine's memory is full ({_wanted(said)}): {_smaller(cfg)}"
    if cfg.TRAIN.COMPILE and compilation_failed(error):
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        return f"the network could not be compiled ({reason}): set TRAIN.COMPILE False, or mend the compiler"
    if not said.startswith("DataLoader worker"):
        return None
    if "Bus error" in said or "shared memory" in said:
        return (
            f"a loader worker has died for want of shared memory (/dev/shm): enlarge it, or lower "
            f"DATA_LOADER.NUM_WORKERS {cfg.DATA_LOADER.NUM_WORKERS} (0 does without) or TRAIN.BATCH_SIZE"
        )
    killed = re.search(r"by signal: (\w+( \w+)?)", said)
    find = "; if a file crashes its decoder, tools/check_data.py LIST finds it" if cfg.DATA.DATASET in VIDEOS else ""
    return (
        f"a loader worker has died ({killed[1] if killed else 'without a word'}): where the system ended it for its "
        f"memory, lower DATA_LOADER.NUM_WORKERS {cfg.DATA_LOADER.NUM_WORKERS} or TRAIN.BATCH_SIZE "
        f"{cfg.TRAIN.BATCH_SIZE}{find}; the same command goes on from the last checkpoint"
    )


def compilation_failed(error: BaseException) -> bool:
    """Whether an error is of ``torch.compile`` making code, and not of the code."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def _wanted(said: str) -> str:
    amount = re.search(r"(?:allocate|Unable to allocate) ([\d.]+ ?\w+)", said)
    return f"{amount[1]} more were asked for" if amount else "it has no room for more"


def _smaller(cfg: CfgNode) -> str:
    if not cfg.TRAIN.ENABLE:
        return f"lower TEST.BATCH_SIZE {cfg.TEST.BATCH_SIZE}"
    checkpoint = "" if cfg.MODEL.ACT_CHECKPOINT else ", or set MODEL.ACT_CHECKPOINT True"
    return (
        f"lower TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} and raise TRAIN.ACCUMULATE_STEPS "
        f"{cfg.TRAIN.ACCUMULATE_STEPS} as much{checkpoint}; in evaluation lower TEST.BATCH_SIZE {cfg.TEST.BATCH_SIZE}"
    )
