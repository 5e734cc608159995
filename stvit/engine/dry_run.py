"""A run rehearsed: its settings, its data and its memory tried on a few batches, and how long it will take."""

from __future__ import annotations

import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit.engine.advice import MUCH_WAITING, VIDEOS, failures_in_a_line, faster_data, usable_cores
from stvit.engine.cuda_graph import WARM_UP
from stvit.engine.distributed import World, is_launched, refuse_missing_gpus, seed_everything
from stvit.engine.evaluate import load_weights
from stvit.engine.output import refuse_unfit_output
from stvit.engine.run import build_model, process_notes, refuse_missing_weights, start_notes
from stvit.engine.state import new_state
from stvit.engine.steps import training_step
from stvit.engine.tasks import Task, build_task
from stvit.engine.tasks.task import EvaluatedSet
from stvit.engine.train import set_training
from stvit.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Seconds that a batch takes in one process."""

    samples: int
    data: float  # to read, decode and augment it
    network: float  # to compute it

    def seconds(self, cfg: CfgNode) -> float:
        """For a batch in a run, whose workers load while the network computes; with neither in the other's way.

        On the CPU both share its cores.
        """
        if not cfg.DATA_LOADER.NUM_WORKERS:
            return self.data + self.network
        cores = max(1.0, usable_cores() / max(1, cfg.NUM_GPUS))  # for each process
        longest = max(self.network, self.data / min(cfg.DATA_LOADER.NUM_WORKERS, cores))
        if cfg.NUM_GPUS:
            return longest
        return max(longest, (self.network * torch.get_num_threads() + self.data) / cores)

    def waiting(self, cfg: CfgNode) -> float:
        """The share of that time that goes into data."""
        seconds = self.seconds(cfg)
        return (seconds - self.network) / seconds


def dry_run(cfg: CfgNode) -> None:
    """Try what a run of these settings does on a few of its samples, and print what it needs; OUTPUT_DIR is not made.

    One process does the part of one: it loads batches, trains a step to warm up and a step to measure, and evaluates a
    batch of each set. (The sets that Moving MNIST makes once are made, if they are not there.)

    Raises:
        UserError: a mistake in settings or files, a sample that cannot be used.
        OSError: a file could not be read, or memory is full.
    """
    if is_launched():
        raise UserError("a dry run is one process: start it by python tools/main.py, without torchrun")
    refuse_missing_gpus(cfg.NUM_GPUS)
    refuse_missing_weights(cfg)
    refuse_unfit_output(cfg)
    with failures_in_a_line(cfg):
        _rehearse(cfg)


def _rehearse(cfg: CfgNode) -> None:
    alone = World(torch.device("cuda", 0) if cfg.NUM_GPUS else torch.device("cpu"))
    part = World(alone.device, 0, max(1, cfg.NUM_GPUS))  # which samples are this process's, with nobody to wait for
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    model = build_model(cfg, alone)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"dry run: {cfg.MODEL.NAME} ({parameters / 1e6:.1f} M parameters) on {_device_name(alone.device)}", flush=True
    )
    task = build_task(in_process(cfg), part)
    task.attach(model)
    notes = [*start_notes(cfg), *process_notes(cfg, model, part)]
    if not cfg.TRAIN.ENABLE:
        notes += task.adopt(load_weights(cfg, model, task.selected_by)[1].preprocessing)
    for note in [*notes, *task.notes()]:
        print(f"note: {note}", flush=True)
    costs: dict[str, Cost] = {}
    if cfg.TRAIN.ENABLE:
        costs["training"] = train_a_step(cfg, model, task, alone)
        print(cost_line(cfg, "training", costs["training"]), flush=True)
    model.eval()
    sets = task.evaluated_sets()
    for name, evaluated in sets.items():
        costs[name] = evaluate_a_batch(model, evaluated, alone.device)
        print(cost_line(cfg, name, costs[name]), flush=True)
    print(f"memory: {_peak_memory(alone.device)}")
    print(estimate(cfg, task, sets, costs))
    print("\n".join(closing_lines(cfg, task, costs)), flush=True)


def in_process(cfg: CfgNode) -> CfgNode:
    """The settings of a run that loads its data itself, so that their time can be told, and has no OUTPUT_DIR."""
    changed = cfg.clone()
    changed.defrost()
    changed.OUTPUT_DIR = ""
    changed.DATA_LOADER.NUM_WORKERS = 0
    changed.freeze()
    return changed


def train_a_step(cfg: CfgNode, model: nn.Module, task: Task, world: World) -> Cost:
    """Steps to warm up, one as a rule, and a step to measure, each of one batch."""
    state = new_state(model, cfg, world, max(1, task.batches_per_epoch // cfg.TRAIN.ACCUMULATE_STEPS), task)
    set_training(model, cfg)
    batches = itertools.chain.from_iterable(task.train_batches(epoch, 0) for epoch in itertools.count())
    waited = network = math.nan
    for _ in range(WARM_UP + 2 if cfg.TRAIN.CUDA_GRAPHS else 2):  # the last one replays what the one before recorded
        waited, batch = timed(partial(next, batches), world.device)
        step = partial(training_step, state.gradients, [batch], state.optimizer, state.precision)
        network, (loss, _) = timed(step, world.device)
        if not math.isfinite(float(loss)):
            raise UserError(f"the loss of {task.describe(batch)} is {float(loss):g}: check data, weights and precision")
    return Cost(cfg.TRAIN.BATCH_SIZE // max(1, cfg.NUM_GPUS), waited, network)


@torch.no_grad()
def evaluate_a_batch(model: nn.Module, evaluated: EvaluatedSet, device: torch.device) -> Cost:
    """The first batch of a set, computed twice, the first time to warm up."""
    batches = evaluated.batches()
    waited, score = timed(partial(next, batches), device)
    score(model)
    network, samples = timed(partial(score, model), device)
    return Cost(max(1, samples), waited, network)


def timed(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Seconds that a piece of work takes, on the GPU too, and what it gives."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.monotonic()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - begun, result


def cost_line(cfg: CfgNode, name: str, cost: Cost) -> str:
    """What a batch costs, in a line."""
    return (
        f"{name}: a batch of {cost.samples} takes {cost.network:.3f} s to compute and {cost.data:.3f} s to load in one "
        f"process; with DATA_LOADER.NUM_WORKERS {cfg.DATA_LOADER.NUM_WORKERS} the run waits for data "
        f"{cost.waiting(cfg):.0%} of its time"
    )


def estimate(cfg: CfgNode, task: Task, sets: Mapping[str, EvaluatedSet], costs: Mapping[str, Cost]) -> str:
    """How long the run takes, in a line."""
    total, parts = 0.0, []
    if "training" in costs:
        epochs, accumulated = cfg.SOLVER.MAX_EPOCH, cfg.TRAIN.ACCUMULATE_STEPS
        steps = task.batches_per_epoch // accumulated
        seconds = epochs * steps * accumulated * costs["training"].seconds(cfg)
        total += seconds
        parts.append(f"{epochs} epochs of {steps} steps {duration(seconds)}")
    times = {"validation": math.ceil(cfg.SOLVER.MAX_EPOCH / cfg.TRAIN.EVAL_PERIOD), "test": 1}
    for name, (samples, _) in sets.items():
        sharing = task.world.size if name == "validation" or task.shares_test_set else 1
        seconds = times[name] * samples / sharing / costs[name].samples * costs[name].seconds(cfg)
        total += seconds
        parts.append(f"{times[name]} x {name} of {samples} samples {duration(seconds)}")
    return f"the run takes about {duration(total)} (h:mm:ss): {', '.join(parts)}"


def closing_lines(cfg: CfgNode, task: Task, costs: Mapping[str, Cost]) -> Iterator[str]:
    """What was found on the way, and what to do next."""
    bad = task.unusable()
    for name, cause in bad.items():
        yield f"bad: {name}: {cause}"
    if cfg.DATA.DATASET in VIDEOS and not bad:
        yield "bad videos: none of those that were tried"
    longest = next(iter(costs.values()), None)  # training, where there is any
    if longest is not None and longest.waiting(cfg) > MUCH_WAITING:
        yield f"faster data: {faster_data(cfg)}"
    if cfg.DATA.DATASET in VIDEOS:
        yield "next: tools/check_data.py LIST tries every video of a list; the same command without --dry-run runs"
    else:
        yield "next: the same command without --dry-run runs"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads, {usable_cores()} cores)"


def _peak_memory(device: torch.device) -> str:
    """The most that was held so far; each loader worker of a run holds batches of its own beside it."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    shown = f"{own / 1e9:.2f} GB at the peak in this process"
    if device.type != "cuda":
        return shown
    whole = torch.cuda.get_device_properties(device).total_memory
    return f"{torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB of {whole / 1e9:.0f} on the GPU; {shown}"
