"""What a run can be: values and combinations that cannot work stop here, before anything is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, Protocol

from fvcore.common.config import CfgNode

from stvit.config.defaults import default_config
from stvit.config.reading import leaves
from stvit.errors import UserError, nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "DATA.DATASET": ("moving_mnist",),
    "MOVING_MNIST.DIGITS": ("mnist", "sklearn"),
    "TRAIN.PRECISION": ("auto", "fp32", "bf16", "fp16"),
    "SOLVER.OPTIMIZING_METHOD": ("adam", "adamw"),
    "SOLVER.LR_POLICY": ("onecycle", "cosine"),
}

AT_LEAST_ONE = (
    "LOG_PERIOD",
    "MOVING_MNIST.DIGIT_SIZE",
    "MOVING_MNIST.FRAMES_IN",
    "MOVING_MNIST.FRAMES_OUT",
    "MOVING_MNIST.TRAIN_SEQUENCES",
    "MOVING_MNIST.VAL_SEQUENCES",
    "MOVING_MNIST.TEST_SEQUENCES",
    "TRAIN.BATCH_SIZE",
    "TRAIN.ACCUMULATE_STEPS",
    "TRAIN.EVAL_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD",
    "TEST.BATCH_SIZE",
    "SOLVER.MAX_EPOCH",
)

NOT_NEGATIVE = (
    "NUM_GPUS",
    "RNG_SEED",
    "DATA_LOADER.NUM_WORKERS",
    "TRAIN.CHECKPOINT_STEPS",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.WARMUP_START_LR",
    "SOLVER.COSINE_END_LR",
    "SOLVER.CLIP_GRAD_L2NORM",
)

AT_MOST: dict[str, int] = {
    "RNG_SEED": 2**63 - 1,  # what torch's generators and the counters of the sequences take
    "MOVING_MNIST.TRAIN_SEQUENCES": 2**31,
    "MOVING_MNIST.VAL_SEQUENCES": 2**31,
    "MOVING_MNIST.TEST_SEQUENCES": 2**31,
}

# Side of the windows of the structural similarity (stvit.metrics.windows, which needs torch).
SSIM_WINDOW = 7

ABOVE_ZERO = ("SOLVER.BASE_LR", "SOLVER.ONECYCLE_DIV", "SOLVER.ONECYCLE_FINAL_DIV")


def check(cfg: CfgNode, places: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for the first impossible value; ``places`` says where each key was set."""
    values = leaves(cfg)

    def refuse(key: str, wanted: str) -> NoReturn:
        raise UserError(f"{places.get(key, 'defaults')}: {key} is {values[key]!r}, but {wanted}")

    for key, choices in CHOICES.items():
        if values[key] not in choices:
            refuse(key, f"it must be one of {', '.join(choices)}{nearest(str(values[key]), choices)}")
    for keys, lowest, wanted in (
        (AT_LEAST_ONE, 1, "it must be at least 1"),
        (NOT_NEGATIVE, 0, "it must not be negative"),
    ):
        for key in keys:
            if values[key] < lowest:  # type: ignore[operator]
                refuse(key, wanted)
    for key, highest in AT_MOST.items():
        if values[key] > highest:  # type: ignore[operator]
            refuse(key, f"it must be at most {highest}")
    for key in ABOVE_ZERO:
        if values[key] <= 0:  # type: ignore[operator]
            refuse(key, "it must be above 0")
    if not cfg.OUTPUT_DIR:
        refuse("OUTPUT_DIR", "a run needs a folder to write to")
    if not cfg.MODEL.NAME:
        refuse("MODEL.NAME", "a run needs a model; stvit.list_models() names them")
    _check_devices(cfg, refuse)
    _check_solver(cfg, refuse)
    _check_moving_mnist(cfg, refuse)
    _check_test(cfg, refuse)


class Refuse(Protocol):
    """Raises for a key, with what it must be."""

    def __call__(self, key: str, wanted: str) -> NoReturn: ...


def _check_devices(cfg: CfgNode, refuse: Refuse) -> None:
    if cfg.NUM_GPUS > 1:
        refuse("NUM_GPUS", "several GPUs are not supported yet; use 1, or 0 for the CPU")
    if cfg.NUM_GPUS == 0 and cfg.TRAIN.ENABLE and cfg.TRAIN.PRECISION == "fp16":
        refuse("TRAIN.PRECISION", "fp16 needs a GPU; use fp32 or bf16")


def _check_solver(cfg: CfgNode, refuse: Refuse) -> None:
    solver = cfg.SOLVER
    if not all(0 <= beta < 1 for beta in solver.BETAS):
        refuse("SOLVER.BETAS", "both must be at least 0 and below 1")
    if not 0 <= solver.EMA_DECAY < 1:
        refuse("SOLVER.EMA_DECAY", "it must be at least 0 (none) and below 1")
    if solver.LR_POLICY == "onecycle":
        if not 0 < solver.ONECYCLE_PCT_START < 1:
            refuse("SOLVER.ONECYCLE_PCT_START", "it must lie between 0 and 1")
        for key in ("WARMUP_EPOCHS", "WARMUP_START_LR", "COSINE_END_LR"):
            if solver[key]:
                refuse(f"SOLVER.{key}", "SOLVER.LR_POLICY onecycle does not use it; its keys are SOLVER.ONECYCLE_*")
        return
    for key, default in default_config().SOLVER.items():
        if key.startswith("ONECYCLE_") and solver[key] != default:
            refuse(f"SOLVER.{key}", "SOLVER.LR_POLICY cosine does not use it; its keys are WARMUP_* and COSINE_END_LR")
    if solver.WARMUP_START_LR and not solver.WARMUP_EPOCHS:
        refuse("SOLVER.WARMUP_START_LR", "SOLVER.WARMUP_EPOCHS is 0: there is no warm-up to start")
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        refuse("SOLVER.WARMUP_EPOCHS", f"the whole run is SOLVER.MAX_EPOCH {solver.MAX_EPOCH}")
    for key in ("WARMUP_START_LR", "COSINE_END_LR"):
        if solver[key] > solver.BASE_LR:
            refuse(f"SOLVER.{key}", f"the highest learning rate is SOLVER.BASE_LR {solver.BASE_LR}")


def _check_moving_mnist(cfg: CfgNode, refuse: Refuse) -> None:
    data = cfg.MOVING_MNIST
    if not data.NUM_DIGITS or min(data.NUM_DIGITS) < 1:
        refuse("MOVING_MNIST.NUM_DIGITS", "it must name at least one number of digits, each at least 1")
    if data.TEST_NUM_DIGITS and min(data.TEST_NUM_DIGITS) < 1:
        refuse("MOVING_MNIST.TEST_NUM_DIGITS", "each number of digits must be at least 1")
    if not 0 < data.STEP <= 1:
        refuse("MOVING_MNIST.STEP", "it is a fraction of the room a digit has, above 0 and up to 1")
    if data.IMAGE_SIZE < SSIM_WINDOW:
        refuse("MOVING_MNIST.IMAGE_SIZE", f"SSIM, which is measured on it, needs at least {SSIM_WINDOW} pixels")
    if data.DIGIT_SIZE > data.IMAGE_SIZE:
        refuse("MOVING_MNIST.DIGIT_SIZE", f"the canvas is MOVING_MNIST.IMAGE_SIZE {data.IMAGE_SIZE}")
    step_samples = cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS
    if cfg.TRAIN.ENABLE and step_samples > data.TRAIN_SEQUENCES:
        refuse(
            "MOVING_MNIST.TRAIN_SEQUENCES",
            f"one optimiser step takes {step_samples} (TRAIN.BATCH_SIZE x TRAIN.ACCUMULATE_STEPS)",
        )


def _check_test(cfg: CfgNode, refuse: Refuse) -> None:
    if cfg.TEST.ENABLE and cfg.TEST.BASELINES and cfg.MOVING_MNIST.FRAMES_IN < 2:
        refuse("MOVING_MNIST.FRAMES_IN", "TEST.BASELINES extrapolate motion from two frames; set it to False")
    if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:
        refuse("TRAIN.ENABLE", "TEST.ENABLE is False too: there is nothing to do")
    if cfg.TRAIN.ENABLE and cfg.TEST.CHECKPOINT_FILE_PATH:
        refuse(
            "TEST.CHECKPOINT_FILE_PATH", "a training run evaluates its own best; TRAIN.ENABLE False evaluates a file"
        )
