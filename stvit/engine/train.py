"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

import yaml
from fvcore.common.config import CfgNode
from torch import nn

from stvit.checkpoint import read_checkpoint, rng_state, save_checkpoint
from stvit.config import config_to_dict
from stvit.engine.advice import MUCH_WAITING, compilation_failed, faster_data
from stvit.engine.distributed import World, barrier, batch_norms, gather_objects, share_buffers
from stvit.engine.logging import Board, MetricsFile, Progress
from stvit.engine.output import make_output
from stvit.engine.signals import Stopped, StopRequest
from stvit.engine.state import (
    TrainingState,
    model_payload,
    new_state,
    number_of_processes,
    refuse_changed_data,
    refuse_changed_run,
    restore,
    training_payload,
)
from stvit.engine.steps import Diverged, Interval, training_step
from stvit.engine.tasks import Task
from stvit.errors import UserError
from stvit.visual.files import replace_files

Batch = TypeVar("Batch")


def train(cfg: CfgNode, model: nn.Module, task: Task, world: World, stop: StopRequest) -> TrainingState:
    """Train ``model`` (on its device) to ``SOLVER.MAX_EPOCH``, from the last checkpoint of OUTPUT_DIR if there is one.

    Writes ``checkpoints/last.pt``, ``checkpoints/best.pt`` (lowest validation metric), ``metrics.jsonl``,
    ``config.yaml`` and, if asked for, ``tensorboard/`` in OUTPUT_DIR.

    Raises:
        Stopped: a signal came; ``last.pt`` holds the step it came in.
        Diverged: a loss, a gradient or the validation metric is not finite; the checkpoints are from before.
        UserError: the checkpoint belongs to another run.
        OSError: a file cannot be written; the files before it are whole.
    """
    steps_per_epoch = task.batches_per_epoch // cfg.TRAIN.ACCUMULATE_STEPS
    state = new_state(model, cfg, world, steps_per_epoch, task)
    folder = Path(cfg.OUTPUT_DIR)
    last = folder / "checkpoints" / "last.pt"
    metrics_bytes = resume(state, cfg, task.identity, last, world) if found_by_all(last, world) else 0
    if world.main:
        make_output(folder)
        replace_files({folder / "config.yaml": yaml.safe_dump(config_to_dict(cfg), sort_keys=False).encode()})
    records = Records(cfg, state, world, metrics_bytes)

    def save() -> None:
        state.interval.settle(state.precision, world)
        with state.interval.pause():
            generators = gather_objects(rng_state(), world)
            if world.main:
                save_checkpoint(last, training_payload(state, cfg, task.identity, generators, records.metrics_bytes))

    try:
        while state.epoch < cfg.SOLVER.MAX_EPOCH:
            train_epoch(cfg, state, task, records, stop, save)
            epoch = state.epoch + 1
            if epoch % cfg.TRAIN.EVAL_PERIOD == 0 or epoch == cfg.SOLVER.MAX_EPOCH:
                with state.interval.pause():
                    validate(cfg, state, task, records, world, stop)
            state.epoch, state.step = epoch, 0
            if epoch % cfg.TRAIN.CHECKPOINT_PERIOD == 0 or epoch == cfg.SOLVER.MAX_EPOCH:
                save()
    except Stopped as stopped:  # on all processes after the same step
        save()
        barrier(world)  # none leaves, for its launcher to see, before the file is there
        done = f"stopped after step {state.total_step} of {cfg.SOLVER.MAX_EPOCH * steps_per_epoch}, kept in {last}"
        raise Stopped(stopped.signum, f"{done}; {same_command(cfg)} goes on") from None
    except RuntimeError as error:
        # A signal to the whole group of processes ends the compiler, in the middle of a step that cannot be kept.
        if stop.signum is None or not compilation_failed(error):
            raise
        done = "stopped while the network was being compiled"
        raise Stopped(stop.signum, f"{done}; {same_command(cfg)} goes on from the last checkpoint") from None
    finally:
        records.close()
    return state


def same_command(cfg: CfgNode) -> str:
    """What to give again to go on."""
    return "the same command" if cfg.TRAIN.AUTO_RESUME else "the same command with TRAIN.AUTO_RESUME True"


def train_epoch(
    cfg: CfgNode, state: TrainingState, task: Task, records: Records, stop: StopRequest, save: Callable[[], None]
) -> None:
    """The rest of an epoch, from the step that ``state`` stands at."""
    if state.step == state.steps_per_epoch:
        return  # stopped between its last step and its validation
    set_training(state.model, cfg)
    batches = iter(task.train_batches(state.epoch, start_batch=state.step * cfg.TRAIN.ACCUMULATE_STEPS))
    while state.step < state.steps_per_epoch:
        lr = take_step(cfg, state, batches, task.describe)
        records.progress.step()
        # Epochs that are shorter than the period are reported too, at their ends.
        if state.total_step % min(cfg.LOG_PERIOD, state.steps_per_epoch) == 0:
            records.training(state, lr, task)
        inside = state.step < state.steps_per_epoch
        if inside and cfg.TRAIN.CHECKPOINT_STEPS and state.total_step % cfg.TRAIN.CHECKPOINT_STEPS == 0:
            save()
        stop.check()


def set_training(model: nn.Module, cfg: CfgNode) -> None:
    """Put a model into the mode that the settings train it in."""
    model.train()
    if cfg.MODEL.FROZEN_BN:
        for layer in batch_norms(model):
            layer.eval()


def take_step(cfg: CfgNode, state: TrainingState, batches: Iterator[Batch], describe: Callable[[Batch], str]) -> float:
    """A step of optimiser, schedule and running mean on the next batches; returns the learning rate it had."""
    accumulate = cfg.TRAIN.ACCUMULATE_STEPS
    asked = time.monotonic()
    group = list(islice(batches, accumulate))
    state.interval.wait(time.monotonic() - asked)
    loss, norm = training_step(state.gradients, group, state.optimizer, state.precision)
    lr: float = state.optimizer.param_groups[0]["lr"]
    state.scheduler.step()
    if state.ema is not None:
        state.ema.update(state.model, step=state.total_step + 1)
    state.step += 1
    where = f"epoch {state.epoch + 1}, step {state.step} ({'; '.join(map(describe, group))})"
    state.interval.add(where, loss, norm, cfg.TRAIN.BATCH_SIZE * accumulate)
    return lr


def validate(cfg: CfgNode, state: TrainingState, task: Task, records: Records, world: World, stop: StopRequest) -> None:
    """Measure the model on the validation set and keep it as ``best.pt`` if none was better."""
    state.interval.settle(state.precision, world)
    share_buffers(state.evaluated_model, world)
    values = task.validate(state.evaluated_model, stop)
    value = values[task.selected_by]
    if not math.isfinite(value):
        raise Diverged(f"training diverged in epoch {state.epoch + 1}: the validation {task.selected_by} is {value:g}")
    better = state.best is None or value < state.best
    records.validation(state, values, better)
    if better:
        state.best = value
    if better and world.main:
        complete = {"epoch": state.epoch + 1, "step": 0}  # nothing of the epoch is missing in this file
        payload = {**model_payload(state, cfg, task.identity), **complete}
        save_checkpoint(Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.pt", payload)


def found_by_all(path: Path, world: World) -> bool:
    """Whether the file is there, which all processes must see alike.

    Raises:
        UserError: some do and some do not.
    """
    found = gather_objects(path.exists(), world)
    if any(found) and not all(found):
        raise UserError(
            f"process {found.index(False)} of {world.size} does not see {path}, others do: OUTPUT_DIR must be on a "
            "file system that all machines share"
        )
    return all(found)


def resume(state: TrainingState, cfg: CfgNode, data: Mapping[str, object], path: Path, world: World) -> int:
    """Restore ``state`` from ``last.pt``; returns how many bytes of metrics.jsonl belong to it."""
    checkpoint = read_checkpoint(path)
    if "optimizer" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint that stvit's training wrote; choose another OUTPUT_DIR")
    refuse_changed_run(checkpoint, cfg, str(path))
    refuse_changed_data(checkpoint, data, str(path))
    written_by = number_of_processes(checkpoint)
    if world.main and written_by != world.size:
        print(
            f"note: {path} was written by {written_by} process{'es' * (written_by > 1)} and {world.size} go on: with "
            "the same samples in the same steps, and with other random numbers for dropout",
            flush=True,
        )
    return restore(state, checkpoint, cfg.RNG_SEED, world)


Record = dict[str, str | int | float]  # a line of metrics.jsonl


class Records:
    """Where a run's figures go: the screen, metrics.jsonl and TensorBoard; from rank 0 alone."""

    def __init__(self, cfg: CfgNode, state: TrainingState, world: World, metrics_bytes: int) -> None:
        folder = Path(cfg.OUTPUT_DIR)
        self._world, self._cfg, self._advised = world, cfg, False
        self.epochs, self.log_period = cfg.SOLVER.MAX_EPOCH, cfg.LOG_PERIOD
        self.metrics = MetricsFile(folder / "metrics.jsonl", keep=metrics_bytes) if world.main else None
        board = folder / "tensorboard" if cfg.TENSORBOARD.ENABLE and world.main else None
        self.board = Board(board, state.total_step + 1)
        self.progress = Progress(self.epochs * state.steps_per_epoch, state.total_step, quiet=not world.main)
        if state.total_step:
            self.progress.say(f"resumed after step {state.total_step} of {self.epochs * state.steps_per_epoch}")

    @property
    def metrics_bytes(self) -> int:
        """How long metrics.jsonl is."""
        return self.metrics.size if self.metrics is not None else 0

    def training(self, state: TrainingState, lr: float, task: Task) -> None:
        """Check, write and begin anew the interval of training steps."""
        state.interval.settle(state.precision, self._world)
        samples_per_s, data_wait = state.interval.speed()
        loss = state.interval.loss_sum / state.interval.steps
        record: Record = {
            "kind": "train",
            "epoch": state.epoch + 1,
            "step": state.total_step,
            "loss": loss,
            "lr": lr,
            "grad_norm_max": state.interval.norm_max,
            "frames_per_s": samples_per_s * task.frames_per_sample,
            "data_wait": data_wait,
        }
        self._write(record)
        where = f"epoch {state.epoch + 1}/{self.epochs} step {state.step}/{state.steps_per_epoch}"
        unit, each = task.speed_in
        self.progress.report(where, loss, lr, samples_per_s * each, data_wait, unit)
        self._advise(data_wait, first=state.total_step <= state.interval.steps)
        state.interval = Interval()

    def _advise(self, data_wait: float, first: bool) -> None:
        """Once a run, say what to do about slow data; in the first interval the wait is for workers to start."""
        if data_wait > MUCH_WAITING and not first and not self._advised:
            self._advised = True
            self.progress.say(f"note: {data_wait:.0%} of the time goes into waiting for data: {faster_data(self._cfg)}")

    def validation(self, state: TrainingState, values: dict[str, float], better: bool) -> None:
        """Write a validation."""
        self._write({"kind": "validation", "epoch": state.epoch + 1, "step": state.total_step, **values})
        figures = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        best = " (best so far)" if better else ""
        self.progress.say(f"epoch {state.epoch + 1}/{self.epochs} validation: {figures}{best}")

    def _write(self, record: Record) -> None:
        if self.metrics is not None:
            self.metrics.write(record)
            self.board.write(record)

    def close(self) -> None:
        """Close the files and the bar."""
        if self.metrics is not None:
            self.metrics.close()
        self.board.close()
        self.progress.close()
