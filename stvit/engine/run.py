"""A whole run: from settings to files in OUTPUT_DIR."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import nn

from stvit.checkpoint import load_checkpoint
from stvit.config import config_to_dict
from stvit.engine.distributed import World, join_world, seed_everything
from stvit.engine.evaluate import evaluate
from stvit.engine.signals import stop_on_signals
from stvit.engine.tasks import MovingMNISTPrediction
from stvit.engine.train import train
from stvit.errors import UserError
from stvit.registry import create_model


def run(cfg: CfgNode) -> None:
    """Train and evaluate as the settings say; what is left to do of it, if OUTPUT_DIR holds a part already.

    Raises:
        UserError: a mistake in settings or files.
        Stopped: a signal came.
        Diverged: training gave NaN or infinity.
        OSError: a file could not be read or written.
    """
    started = time.monotonic()
    world = join_world(cfg)
    folder = prepare_output(cfg)
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    task = MovingMNISTPrediction(cfg, world)
    model = build_model(cfg, task, world)
    with stop_on_signals() as stop:
        if cfg.TRAIN.ENABLE:
            (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(cfg), sort_keys=False))
            train(cfg, model, task, world, stop)
        if cfg.TEST.ENABLE:
            evaluate(cfg, model, task, stop, started)


def prepare_output(cfg: CfgNode) -> Path:
    """OUTPUT_DIR, made and tried, before any work goes into what could not be kept.

    Raises:
        UserError: it holds a run already and TRAIN.AUTO_RESUME is False.
        OSError: it cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written: {error.strerror}") from error
    last = folder / "checkpoints" / "last.pt"
    if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME and last.exists():
        raise UserError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds a run already ({last}): "
            "choose another folder, or continue that run with TRAIN.AUTO_RESUME True"
        )
    return folder


def build_model(cfg: CfgNode, task: MovingMNISTPrediction, world: World) -> nn.Module:
    """The model of the settings on its device, with the weights to start from or to evaluate if any are named."""
    model = create_model(cfg.MODEL.NAME, **{**task.model_settings(), **cfg.MODEL.ARGS})
    task.check_model(model)
    source = cfg.TRAIN.CHECKPOINT_FILE_PATH if cfg.TRAIN.ENABLE else cfg.TEST.CHECKPOINT_FILE_PATH
    if source:
        print(load_checkpoint(model, source), flush=True)
    if cfg.TRAIN.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    return model.to(world.device)
