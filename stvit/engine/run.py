"""A whole run: from settings to files in OUTPUT_DIR."""

from __future__ import annotations

from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit.backbones.base import Backbone
from stvit.builtin import is_builtin
from stvit.checkpoint import load_checkpoint
from stvit.checkpoint.fetch import is_url
from stvit.engine.advice import failures_in_a_line
from stvit.engine.distributed import (
    World,
    batch_norms,
    join_world,
    leave_world,
    main_first,
    seed_everything,
    seed_rank,
    share_batch_statistics,
)
from stvit.engine.evaluate import evaluate
from stvit.engine.output import refuse_unfit_output
from stvit.engine.signals import stop_on_signals
from stvit.engine.tasks import build_task, model_settings
from stvit.engine.train import train
from stvit.errors import UserError
from stvit.registry import create_model


def run(cfg: CfgNode) -> None:
    """Train and evaluate as the settings say; what is left to do of it, if OUTPUT_DIR holds a part already.

    Raises:
        UserError: a mistake in settings or files.
        Stopped: a signal came.
        Diverged: training gave NaN or infinity.
        OSError: a file could not be read or written, memory is full, or a loader worker has died.
    """
    with failures_in_a_line(cfg):
        _run(cfg)


def _run(cfg: CfgNode) -> None:
    training_seconds = None
    world = join_world(cfg)
    refuse_missing_weights(cfg)
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    model = build_model(cfg, world)  # before the data, which can take long to make
    seed_rank(cfg.RNG_SEED, world)
    if world.main:
        refuse_unfit_output(cfg)
    with main_first(world):
        task = build_task(cfg, world)
    task.attach(model)
    if world.main:
        for note in [*start_notes(cfg), *process_notes(cfg, model, world), *task.notes()]:
            print(f"note: {note}", flush=True)
    with stop_on_signals(world) as stop:
        if cfg.TRAIN.ENABLE:
            training_seconds = train(cfg, model, task, world, stop).seconds
        if cfg.TEST.ENABLE:
            evaluate(cfg, model, task, stop, training_seconds)
    leave_world(world)


def start_notes(cfg: CfgNode) -> list[str]:
    """What a reader must know about the start of training and the weights it is from, a line each."""
    compiles = "TRAIN.COMPILE is True: the first step waits for the compiler, which can take minutes"
    notes = [compiles] if cfg.TRAIN.ENABLE and cfg.TRAIN.COMPILE else []
    begins = cfg.TRAIN.ENABLE and not (Path(cfg.OUTPUT_DIR) / "checkpoints" / "last.pt").exists()
    if begins and cfg.TRAIN.NEW_HEAD and not (cfg.TRAIN.CHECKPOINT_FILE_PATH or cfg.MODEL.INIT):
        notes.append(
            "TRAIN.NEW_HEAD is True, but TRAIN.CHECKPOINT_FILE_PATH names no pretrained weights: the whole network "
            "starts from random ones"
        )
    return notes


def process_notes(cfg: CfgNode, model: nn.Module, world: World) -> list[str]:
    """What a reader must know about a run of several processes, a line each."""
    if world.size == 1 or not cfg.TRAIN.ENABLE:
        return []
    each = cfg.TRAIN.BATCH_SIZE // world.size
    notes = [f"{world.size} processes take {each} of each TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} samples"]
    if batch_norms(model) and not cfg.MODEL.FROZEN_BN and cfg.BN.NORM_TYPE != "sync_batchnorm":
        notes.append(
            f"each process normalises by its own {each} samples: the network has BatchNorm, and a single process would "
            "use all (BN.NORM_TYPE sync_batchnorm does so on GPUs)"
        )
    return notes


def refuse_missing_weights(cfg: CfgNode) -> None:
    """Raise :class:`UserError` if a file of weights that the settings name, or imply, is not there."""
    for key, source in (
        ("MODEL.INIT", cfg.MODEL.INIT if cfg.TRAIN.ENABLE else ""),
        ("TRAIN.CHECKPOINT_FILE_PATH", cfg.TRAIN.CHECKPOINT_FILE_PATH if cfg.TRAIN.ENABLE else ""),
        ("TEST.CHECKPOINT_FILE_PATH", cfg.TEST.CHECKPOINT_FILE_PATH),
    ):
        elsewhere = not source or is_url(source) or is_builtin(source)
        if not elsewhere and not Path(source).expanduser().is_file():
            raise UserError(f"{key} is {source!r}, and there is no such file")
    best = Path(cfg.OUTPUT_DIR) / "checkpoints" / "best.pt"
    if not cfg.TRAIN.ENABLE and not cfg.TEST.CHECKPOINT_FILE_PATH and not best.exists():
        raise UserError(f"there is nothing to evaluate: {best} is missing and TEST.CHECKPOINT_FILE_PATH is empty")


def build_model(cfg: CfgNode, world: World) -> nn.Module:
    """The model of the settings on its device, with the weights to start from if any are named."""
    name, settings = model_settings(cfg)
    model: nn.Module = create_model(name, checkpoint=None, **settings)  # type: ignore[arg-type]
    if isinstance(model, Backbone):
        model.set_grad_checkpointing(cfg.MODEL.ACT_CHECKPOINT)
    start = cfg.MODEL.INIT or cfg.TRAIN.CHECKPOINT_FILE_PATH
    if cfg.TRAIN.ENABLE and start:
        new_head = bool(cfg.MODEL.INIT) or cfg.TRAIN.NEW_HEAD
        with main_first(world):  # an address is fetched once
            loaded = load_checkpoint(model, start, allow_new_head=new_head)
        if world.main:
            print(loaded, flush=True)
    if cfg.TRAIN.ENABLE and cfg.BN.NORM_TYPE == "sync_batchnorm":
        model = share_batch_statistics(model, world)
    if cfg.TRAIN.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    return model.to(world.device)
