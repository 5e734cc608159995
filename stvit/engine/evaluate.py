"""The evaluation at the end of a run, or of a checkpoint alone: from weights to ``results.json`` and pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from stvit.checkpoint.load import load_into, open_checkpoint
from stvit.config import config_to_dict
from stvit.engine.provenance import TrainingRecord, code_commit, training_record, versions
from stvit.engine.signals import Stopped, StopRequest
from stvit.engine.tasks import Task
from stvit.errors import UserError
from stvit.visual.files import replace_files


def evaluate(cfg: CfgNode, model: nn.Module, task: Task, stop: StopRequest, training_seconds: float | None) -> None:
    """Measure the weights that the settings name on the task's test set; write ``results.json`` and the task's files
    to OUTPUT_DIR, all of them or none; print the table.

    All processes call it; they share the test set where the task says so, otherwise the first measures alone.

    Raises:
        UserError: there are no weights to evaluate, or they do not fit the model.
        Stopped: a signal came.
        OSError: the files cannot be read or written.
    """
    if task.shares_test_set:
        _evaluate(cfg, model, task, stop, training_seconds)
    else:
        stop.on_main(lambda: _evaluate(cfg, model, task, stop, training_seconds))


def _evaluate(cfg: CfgNode, model: nn.Module, task: Task, stop: StopRequest, training_seconds: float | None) -> None:
    weights, trained = load_weights(cfg, model, task.selected_by)
    begun = time.monotonic()
    model.eval()
    try:
        outcome = task.evaluate(cfg, model, stop, trained)
    except Stopped as stopped:
        line = "stopped in the evaluation; nothing of the training is lost, the same command evaluates again"
        raise Stopped(stopped.signum, line) from None
    if not task.world.main:
        return
    results = {
        "format": "stvit-results-1",
        **outcome.results,
        "data": task.identity,
        "trained_on": trained.data,
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
    files = {folder / name: content for name, content in outcome.files.items()}
    files[folder / "results.json"] = (json.dumps(finite(results), indent=2, allow_nan=False) + "\n").encode()
    replace_files(files)
    print(outcome.text)
    print("\n".join(["look at:", *(f"  {path}" for path in files)]), flush=True)


def load_weights(cfg: CfgNode, model: nn.Module, selected_by: str) -> tuple[dict[str, object], TrainingRecord]:
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
        f"best_validation_{selected_by}": content.get("best"),
    }
    return weights, training_record(content)


def finite(value: object) -> object:
    """The same tree for JSON, which has no infinity and no NaN: they become null."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
