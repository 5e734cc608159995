"""Everything a training run is at one moment, to and from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from stvit.checkpoint import pack_model, set_rng_state
from stvit.config import config_to_dict, default_config
from stvit.config.reading import leaves
from stvit.engine.cuda_graph import RecordedGradients
from stvit.engine.distributed import World, seed_rank, share_gradients
from stvit.engine.optim import Precision, build_ema, build_optimizer, build_precision, build_scheduler
from stvit.engine.steps import Gradients, Interval, MeanGradients, Objective
from stvit.errors import UserError

# Settings that a resumed run may change: they move no weight beyond rounding. Which videos a list names, and as what,
# is compared by itself (refuse_changed_data).
FREE_TO_CHANGE = (
    "LOG_PERIOD",
    "OUTPUT_DIR",
    "NUM_GPUS",
    "DETERMINISTIC",
    "MODEL.INIT",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.PATH_PREFIX",
    "DATA.PATH_LABEL_SEPARATOR",
    "DATA.LABEL_FILE",
    "DATA.DECODER",
    "DATA.MAX_BAD_PERCENT",
    "DATA.USE_OFFSET_SAMPLING",
    "DATA.CACHE_DIR",
    "DATA.DOWNLOAD",
    "DATA_LOADER.",
    "TENSORBOARD.",
    "TEST.",
    "MOVING_MNIST.TEST_",
    "TRAIN.ENABLE",
    "TRAIN.AUTO_RESUME",
    "TRAIN.CHECKPOINT_PERIOD",
    "TRAIN.CHECKPOINT_STEPS",
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TRAIN.COMPILE",
    "TRAIN.CHANNELS_LAST",
    "TRAIN.CUDA_GRAPHS",
    "MOVING_MNIST.ON_DEVICE",
)
# How images are prepared, which sequences are not.
OF_IMAGES = ("AUG.", "MIXUP.", "DATA.MEAN", "DATA.STD", "DATA.VAL_CROP_")


@dataclass
class TrainingState:
    """The moving parts of a run, and how far it is."""

    model: nn.Module
    network: nn.Module  # the same as training calls it: its gradients shared by all processes, compiled if asked for
    gradients: Gradients[Any]  # of a batch of the run's task
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    precision: Precision
    steps_per_epoch: int
    epoch: int = 0  # epochs that are complete, validation included
    step: int = 0  # optimiser steps done inside the next one
    best: float | None = None  # the validation metric of checkpoints/best.pt
    interval: Interval = field(default_factory=Interval)
    seconds_before: float = 0.0  # of training in the processes that this one resumes
    _begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Wall time of training in all processes of the run."""
        return self.seconds_before + time.monotonic() - self._begun

    @property
    def total_step(self) -> int:
        """Optimiser steps since the beginning."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def evaluated_model(self) -> nn.Module:
        """What validation measures: the running mean of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module


def new_state(
    model: nn.Module, cfg: CfgNode, world: World, steps_per_epoch: int, objective: Objective[Any]
) -> TrainingState:
    """The state before the first step towards an objective; the model is on its device already."""
    optimizer = build_optimizer(model, cfg)
    precision = build_precision(cfg.TRAIN.PRECISION, world.device)
    network = share_gradients(model, world)  # compiled afterwards: the compiler then cuts the graph where it sends
    if cfg.TRAIN.COMPILE:
        network = cast("nn.Module", torch.compile(network))
    plain = MeanGradients(network, objective, optimizer, precision, cfg.SOLVER.CLIP_GRAD_L2NORM)
    return TrainingState(
        model=model,
        network=network,
        gradients=RecordedGradients(plain) if cfg.TRAIN.CUDA_GRAPHS else plain,
        ema=build_ema(model, cfg.SOLVER.EMA_DECAY),
        optimizer=optimizer,
        scheduler=build_scheduler(optimizer, cfg, steps_per_epoch),
        precision=precision,
        steps_per_epoch=steps_per_epoch,
    )


def model_payload(state: TrainingState, cfg: CfgNode, data: Mapping[str, object]) -> dict[str, object]:
    """What it takes to rebuild and use the model, and what made it; the content of ``best.pt``.

    ``data``: the task's identity, which says what the model has learnt from.
    """
    return {
        **pack_model(state.model, None if state.ema is None else state.ema.module.state_dict()),
        "epoch": state.epoch,
        "step": state.step,
        "best": state.best,
        "config": config_to_dict(cfg),
        "data": data,
        "precision": state.precision.name,
    }


def training_payload(
    state: TrainingState,
    cfg: CfgNode,
    data: Mapping[str, object],
    generators: Sequence[Mapping[str, object]],
    metrics_bytes: int,
) -> dict[str, object]:
    """All of it; the content of ``last.pt``.

    Args:
        generators: the states of the random generators of every process (:func:`stvit.checkpoint.rng_state`).
        metrics_bytes: how much of metrics.jsonl belongs to it.
    """
    payload = {
        **model_payload(state, cfg, data),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": state.precision.scaler.state_dict(),
        "rng": generators[0],
        "interval": state.interval.state(),
        "seconds": state.seconds,
        "metrics_bytes": metrics_bytes,
    }
    return payload if len(generators) == 1 else {**payload, "rng_of_other_ranks": list(generators[1:])}


def number_of_processes(checkpoint: Mapping[str, object]) -> int:
    """How many processes were at the work that :func:`training_payload` wrote down."""
    others = checkpoint.get("rng_of_other_ranks", [])
    return 1 + len(cast("list[object]", others))


def restore(state: TrainingState, checkpoint: Mapping[str, object], seed: int, world: World) -> int:
    """Make ``state`` what it was when :func:`training_payload` wrote it; returns ``metrics_bytes``.

    Another number of processes than wrote it goes on with the same samples and steps, because TRAIN.BATCH_SIZE counts
    those of all; a process that had no counterpart draws random numbers (for dropout) of its own from ``seed``.
    """
    saved = cast("Mapping[str, Any]", checkpoint)  # what training_payload wrote
    state.model.load_state_dict(saved["state_dict"])
    if state.ema is not None:
        state.ema.module.load_state_dict(saved["ema"])
    load_optimizer(state.optimizer, saved["optimizer"])
    state.scheduler.load_state_dict(saved["scheduler"])
    state.precision.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.step, state.best = saved["epoch"], saved["step"], saved["best"]
    state.interval = Interval(**saved["interval"])
    state.seconds_before = saved["seconds"]
    generators = [saved["rng"], *saved.get("rng_of_other_ranks", ())]
    if world.rank < len(generators):
        set_rng_state(generators[world.rank])
    else:
        seed_rank(seed, world, state.total_step)
    return saved["metrics_bytes"]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore an optimiser, which goes on as it was built: fused on a GPU, its means laid out as the weights are.

    torch restores the way and the layout of the run that saved it.
    """
    ways = [group.get("fused") for group in optimizer.param_groups]
    groups = [{**group, "fused": way} for group, way in zip(saved["param_groups"], ways, strict=True)]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def refuse_changed_run(checkpoint: Mapping[str, object], cfg: CfgNode, path: str) -> None:
    """Raise :class:`UserError` if a setting that shapes the run is not what the checkpoint was trained with.

    A setting that the checkpoint does not know (it is older than the setting) counts as its default.
    """
    before = {**leaves(default_config()), **leaves(CfgNode(checkpoint["config"]))}
    now = leaves(cfg)
    for key, value in now.items():
        free = key.startswith(FREE_TO_CHANGE) and not (
            key.startswith("MOVING_MNIST.TEST_") and cfg.MOVING_MNIST.VALIDATE_ON_TEST
        )
        free |= cfg.DATA.DATASET == "moving_mnist" and key.startswith(OF_IMAGES)
        if not free and before.get(key) != value:
            raise UserError(
                f"{path} was trained with {key} {before.get(key)!r} and this run has {value!r}: "
                "go back to that value to resume, or choose another OUTPUT_DIR"
            )


# Why a test file was not used depends on the folder, not on the sequences.
NOT_PART_OF_THE_DATA = "published_file_unused_because"


def refuse_changed_data(checkpoint: Mapping[str, object], data: Mapping[str, object], path: str) -> None:
    """Raise :class:`UserError` if training or validation data are not what the checkpoint was trained with.

    The settings can be the same and the data others: DATA.PATH_TO_DATA_DIR may hold other files. A checkpoint that
    does not say what its data were (it is older than that record) is taken at its settings' word.
    """
    saved = checkpoint.get("data")
    if not isinstance(saved, Mapping):
        return
    parts = ["generator_version", "train", "validation", *(["test"] if data.get("validation_is_test") else [])]
    before, now = ({k: v for part in parts for k, v in _flat(whole.get(part), part)} for whole in (saved, data))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{path} was trained on data whose {key} is {before.get(key)!r} and this run's is {now.get(key)!r}: "
                "go back to those files (DATA.PATH_TO_DATA_DIR) to resume, or choose another OUTPUT_DIR"
            )


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != NOT_PART_OF_THE_DATA:
                yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, value
