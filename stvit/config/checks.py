"""What a run can be: values and combinations that cannot work stop here, before anything is read or written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn, Protocol

from fvcore.common.config import CfgNode

from stvit.config.clip_checks import check_areas, check_clips
from stvit.config.defaults import default_config
from stvit.config.reading import COMMAND_LINE, leaves
from stvit.errors import UserError, nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "DATA.DATASET": ("moving_mnist", "imagenet", "kinetics", "ssv2"),
    "DATA.VAL_CROP_MODE": ("", "center", "squash"),
    "DATA.DECODER": ("auto", "pyav", "decord", "torchcodec"),
    "DATA.ON_BAD_VIDEO": ("raise", "skip", "replace"),
    "AUG.INTERPOLATION": ("bicubic", "bilinear", "random"),
    "AUG.RE_MODE": ("pixel", "rand", "const"),
    "MOVING_MNIST.DIGITS": ("mnist", "sklearn"),
    "BN.NORM_TYPE": ("batchnorm", "sync_batchnorm"),
    "TRAIN.PRECISION": ("auto", "fp32", "bf16", "fp16"),
    "SOLVER.OPTIMIZING_METHOD": ("sgd", "adam", "adamw"),
    "SOLVER.LR_POLICY": ("onecycle", "cosine"),
}

AT_LEAST_ONE = (
    "LOG_PERIOD",
    "MODEL.NUM_CLASSES",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "AUG.NUM_SAMPLE",
    "AUG.REPEATS",
    "AUG.RE_COUNT",
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
    "TEST.NUM_ENSEMBLE_VIEWS",
    "SOLVER.MAX_EPOCH",
)

NOT_NEGATIVE = (
    "NUM_GPUS",
    "RNG_SEED",
    "DATA.TRAIN_JITTER_FPS",
    "DATA.MAX_BAD_PERCENT",
    "AUG.COLOR_JITTER",
    "MIXUP.ALPHA",
    "MIXUP.CUTMIX_ALPHA",
    "DATA_LOADER.NUM_WORKERS",
    "TRAIN.CHECKPOINT_STEPS",
    "SOLVER.BASE_LR_BATCH_SIZE",
    "SOLVER.DAMPENING",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.WARMUP_START_LR",
    "SOLVER.COSINE_END_LR",
    "SOLVER.CLIP_GRAD_L2NORM",
)

AT_MOST: dict[str, int] = {
    "DATA.MAX_BAD_PERCENT": 100,
    "RNG_SEED": 2**63 - 1,  # what torch's generators and the counters of the sequences take
    "MOVING_MNIST.TRAIN_SEQUENCES": 2**31,
    "MOVING_MNIST.VAL_SEQUENCES": 2**31,
    "MOVING_MNIST.TEST_SEQUENCES": 2**31,
}

# Side of the windows of the structural similarity (stvit.metrics.windows, which needs torch).
SSIM_WINDOW = 7

# From 0 to 1, both included.
PROBABILITIES = ("DATA.VAL_CROP_RATIO", "AUG.RE_PROB", "MIXUP.PROB", "MIXUP.SWITCH_PROB")

# At least 0 and below 1.
FRACTIONS = ("MIXUP.LABEL_SMOOTH_VALUE", "SOLVER.MOMENTUM", "SOLVER.EMA_DECAY")

# Above 0, and 1 or less.
RATIOS = ("SOLVER.LAYER_DECAY", "MOVING_MNIST.STEP")

ABOVE_ZERO = ("DATA.TARGET_FPS", "SOLVER.BASE_LR", "SOLVER.ONECYCLE_DIV", "SOLVER.ONECYCLE_FINAL_DIV")


def check(cfg: CfgNode, places: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for the first impossible value; ``places`` says where each key was set."""
    values = leaves(cfg)

    def refuse(key: str, wanted: str) -> NoReturn:
        raise UserError(f"{places.get(key, 'defaults')}: {key} is {values[key]!r}, but {wanted}")

    for key, choices in CHOICES.items():
        if values[key] not in choices:
            listed = ", ".join(choice or "empty" for choice in choices)
            refuse(key, f"it must be one of {listed}{nearest(str(values[key]), choices)}")
    _check_ranges(values, refuse)
    if not cfg.OUTPUT_DIR:
        refuse("OUTPUT_DIR", "a run needs a folder to write to")
    if not cfg.MODEL.NAME:
        refuse("MODEL.NAME", "a run needs a model; stvit.list_models() names them")
    _check_devices(cfg, refuse)
    _check_solver(cfg, places, refuse)
    _check_test(cfg, refuse)
    if cfg.MODEL.INIT and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        said = f"TRAIN.CHECKPOINT_FILE_PATH is {cfg.TRAIN.CHECKPOINT_FILE_PATH!r}"
        refuse("MODEL.INIT", f"{said}: a run begins from one of them; leave the other out")
    if cfg.DATA.DATASET == "moving_mnist":
        _check_moving_mnist(cfg, refuse)
    else:
        _check_classification(cfg, refuse)
        if cfg.DATA.DATASET != "imagenet":
            check_clips(cfg, refuse)


class Refuse(Protocol):
    """Raises for a key, with what it must be."""

    def __call__(self, key: str, wanted: str) -> NoReturn: ...


def _check_ranges(values: Mapping[str, object], refuse: Refuse) -> None:
    ranges: tuple[tuple[Iterable[str], Callable[[float], bool], str], ...] = (
        (AT_LEAST_ONE, lambda value: value >= 1, "it must be at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "it must not be negative"),
        (PROBABILITIES, lambda value: 0 <= value <= 1, "it must lie between 0 and 1"),
        (FRACTIONS, lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
        (RATIOS, lambda value: 0 < value <= 1, "it must be above 0 and at most 1"),
        (ABOVE_ZERO, lambda value: value > 0, "it must be above 0"),
    )
    for keys, holds, wanted in ranges:
        for key in keys:
            if not holds(values[key]):  # type: ignore[arg-type]
                refuse(key, wanted)
    for key, highest in AT_MOST.items():
        if values[key] > highest:  # type: ignore[operator]
            refuse(key, f"it must be at most {highest}")


def _check_devices(cfg: CfgNode, refuse: Refuse) -> None:
    if cfg.NUM_GPUS == 0 and cfg.TRAIN.ENABLE and cfg.TRAIN.PRECISION == "fp16":
        refuse("TRAIN.PRECISION", "fp16 needs a GPU; use fp32 or bf16")
    if cfg.TRAIN.ENABLE and cfg.TRAIN.CUDA_GRAPHS:
        _check_recording(cfg, refuse)
    if cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE % max(1, cfg.NUM_GPUS):
        refuse("TRAIN.BATCH_SIZE", f"it is over all processes together and is divided among NUM_GPUS {cfg.NUM_GPUS}")
    if cfg.BN.NORM_TYPE == "sync_batchnorm" and cfg.MODEL.FROZEN_BN:
        refuse("BN.NORM_TYPE", "MODEL.FROZEN_BN is True: frozen statistics are not computed, together or apart")


def _check_recording(cfg: CfgNode, refuse: Refuse) -> None:
    for key, value, wanted in (
        ("NUM_GPUS", cfg.NUM_GPUS, 1),
        ("TRAIN.ACCUMULATE_STEPS", cfg.TRAIN.ACCUMULATE_STEPS, 1),
    ):
        if value != wanted:
            refuse("TRAIN.CUDA_GRAPHS", f"a recorded step needs {key} {wanted}, which is {value}; set it to False")
    if cfg.MODEL.ACT_CHECKPOINT and not cfg.TRAIN.COMPILE:
        refuse(
            "TRAIN.CUDA_GRAPHS", "MODEL.ACT_CHECKPOINT asks the GPU for its random state; set TRAIN.COMPILE True too"
        )
    if cfg.TRAIN.PRECISION == "fp16":
        refuse("TRAIN.CUDA_GRAPHS", "TRAIN.PRECISION fp16 decides after each step whether it counts; use bf16")


def _check_solver(cfg: CfgNode, places: Mapping[str, str], refuse: Refuse) -> None:
    solver = cfg.SOLVER
    if not all(0 <= beta < 1 for beta in solver.BETAS):
        refuse("SOLVER.BETAS", "both must be at least 0 and below 1")
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and not (solver.MOMENTUM and not solver.DAMPENING):
        refuse("SOLVER.NESTEROV", "looking ahead needs SOLVER.MOMENTUM above 0 and SOLVER.DAMPENING 0")
    if solver.LR_POLICY == "onecycle":
        _check_onecycle(cfg, refuse)
    else:
        _check_cosine(cfg, places, refuse)


def _check_onecycle(cfg: CfgNode, refuse: Refuse) -> None:
    if not 0 < cfg.SOLVER.ONECYCLE_PCT_START < 1:
        refuse("SOLVER.ONECYCLE_PCT_START", "it must lie between 0 and 1")
    for key in ("WARMUP_EPOCHS", "WARMUP_START_LR", "COSINE_END_LR"):
        if cfg.SOLVER[key]:
            refuse(f"SOLVER.{key}", "SOLVER.LR_POLICY onecycle does not use it; its keys are SOLVER.ONECYCLE_*")


def _check_cosine(cfg: CfgNode, places: Mapping[str, str], refuse: Refuse) -> None:
    solver = cfg.SOLVER
    for key, default in default_config().SOLVER.items():
        if key.startswith("ONECYCLE_") and solver[key] != default:
            refuse(f"SOLVER.{key}", "SOLVER.LR_POLICY cosine does not use it; its keys are WARMUP_* and COSINE_END_LR")
    start = "SOLVER.WARMUP_START_LR"
    # In a file it may stand for runs that do warm up; SOLVER.WARMUP_EPOCHS 0 on the command line is then enough.
    if solver.WARMUP_START_LR and not solver.WARMUP_EPOCHS and places.get(start) == COMMAND_LINE:
        refuse(start, "SOLVER.WARMUP_EPOCHS is 0: there is no warm-up to start; leave it out")
    if solver.WARMUP_EPOCHS >= solver.MAX_EPOCH:
        whole = f"the whole run is SOLVER.MAX_EPOCH {solver.MAX_EPOCH}"
        refuse("SOLVER.WARMUP_EPOCHS", f"{whole}: lower it (0: no warm-up) or train longer")
    for key in ("WARMUP_START_LR", "COSINE_END_LR") if solver.WARMUP_EPOCHS else ("COSINE_END_LR",):
        if solver[key] > solver.BASE_LR:
            refuse(f"SOLVER.{key}", f"the highest learning rate is SOLVER.BASE_LR {solver.BASE_LR}")


def _check_moving_mnist(cfg: CfgNode, refuse: Refuse) -> None:
    data = cfg.MOVING_MNIST
    if not data.NUM_DIGITS or min(data.NUM_DIGITS) < 1:
        refuse("MOVING_MNIST.NUM_DIGITS", "it must name at least one number of digits, each at least 1")
    if data.TEST_NUM_DIGITS and min(data.TEST_NUM_DIGITS) < 1:
        refuse("MOVING_MNIST.TEST_NUM_DIGITS", "each number of digits must be at least 1")
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
    if cfg.TEST.ENABLE and cfg.TEST.BASELINES and data.FRAMES_IN < 2:
        refuse("MOVING_MNIST.FRAMES_IN", "TEST.BASELINES extrapolate motion from two frames; set it to False")


def _check_classification(cfg: CfgNode, refuse: Refuse) -> None:
    for key in ("MEAN", "STD"):
        if len(cfg.DATA[key]) not in (0, 3):
            refuse(f"DATA.{key}", "it has a number for each of the 3 channels, or none: then it is the model's own")
    if not all(0 <= mean <= 1 for mean in cfg.DATA.MEAN):
        refuse("DATA.MEAN", "it is the mean of channels that lie between 0 and 1")
    if not all(0 < std <= 1 for std in cfg.DATA.STD):
        refuse("DATA.STD", "each must be above 0 and at most 1: the channels lie between 0 and 1")
    check_areas(cfg, refuse)
    problem = randaugment_problem(cfg.AUG.AA_TYPE) if cfg.AUG.AA_TYPE else None
    if problem:
        refuse("AUG.AA_TYPE", problem)
    mixup = cfg.MIXUP
    if mixup.ENABLE and mixup.PROB and not (mixup.ALPHA or mixup.CUTMIX_ALPHA):
        refuse("MIXUP.ENABLE", "MIXUP.ALPHA and MIXUP.CUTMIX_ALPHA are both 0: there is nothing to mix by")
    # Processes that torchrun started divide the batch first, and their task looks at what each of them gets.
    alone = "WORLD_SIZE" not in os.environ
    if cfg.TRAIN.ENABLE and mixup.ENABLE and mixup.PROB and cfg.TRAIN.BATCH_SIZE * cfg.AUG.NUM_SAMPLE % 2 and alone:
        refuse("TRAIN.BATCH_SIZE", "images are mixed in pairs: it must be even, or MIXUP.ENABLE False")


# The parts of a RandAugment text, with the values that each may have.
_RANDAUGMENT = {
    "m": (0, 10, "the magnitude, from 0 to 10"),
    "n": (1, 100, "the number of operations, at least 1"),
    "p": (0, 1, "the probability of an operation, from 0 to 1"),
    "w": (0, 1, "0 or 1, whether operations have weights"),
    "inc": (0, 1, "0 or 1, whether every operation grows with the magnitude"),
    "mstd": (0, 100, "the spread of the magnitude, not negative"),
    "mmax": (0, 100, "the highest magnitude"),
}


def randaugment_problem(text: str) -> str | None:
    """What is wrong with a RandAugment text in timm's spelling (``rand-m9-n6-mstd0.5-inc1``), or None."""
    kind, *parts = text.split("-")
    if kind != "rand":
        return "only RandAugment is offered: rand-m9-n6-mstd0.5-inc1 and the like, or an empty text for none"
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if match is None or match[1] not in _RANDAUGMENT:
            return f"{part!r} is no part of RandAugment{nearest(part.rstrip('0123456789.'), _RANDAUGMENT)}"
        low, high, meaning = _RANDAUGMENT[match[1]]
        if not low <= float(match[2]) <= high or (match[1] not in ("mstd", "p") and "." in match[2]):
            return f"in {part!r} the number is {meaning}"
    return None


def _check_test(cfg: CfgNode, refuse: Refuse) -> None:
    if not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE:
        refuse("TRAIN.ENABLE", "TEST.ENABLE is False too: there is nothing to do")
    if cfg.TRAIN.ENABLE and cfg.TEST.CHECKPOINT_FILE_PATH:
        refuse(
            "TEST.CHECKPOINT_FILE_PATH", "a training run evaluates its own best; TRAIN.ENABLE False evaluates a file"
        )
