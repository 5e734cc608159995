"""What several settings decide together: the arguments of a classifier, and the learning rates of a batch."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from fvcore.common.config import CfgNode

from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


class LearningRates(NamedTuple):
    """The rates of a run's schedule."""

    base: float  # the highest
    start: float  # where the warm-up comes from
    end: float  # the last of a cosine


def learning_rates(cfg: CfgNode) -> LearningRates:
    """SOLVER.BASE_LR, WARMUP_START_LR and COSINE_END_LR for the samples of one optimiser step.

    They are proportional to it (Goyal et al., arXiv:1706.02677) where SOLVER.BASE_LR_BATCH_SIZE says which number of
    samples they are meant for; where that is 0 they are what the settings say.
    """
    solver = cfg.SOLVER
    samples = cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS
    scale = samples / solver.BASE_LR_BATCH_SIZE if solver.BASE_LR_BATCH_SIZE else 1.0
    return LearningRates(solver.BASE_LR * scale, solver.WARMUP_START_LR * scale, solver.COSINE_END_LR * scale)


def image_preprocessing(cfg: CfgNode, own: Preprocessing) -> Preprocessing:
    """How images are prepared: as the settings say, and where they leave it open as ``own``, a model's, says.

    Settings that are open are empty or 0 (DATA.MEAN, STD, VAL_CROP_RATIO, VAL_CROP_MODE), or AUG.INTERPOLATION random.
    """
    data, size = cfg.DATA, cfg.DATA.TEST_CROP_SIZE
    return dataclasses.replace(
        own,
        input_size=(size, size),
        mean=tuple(data.MEAN) or own.mean,
        std=tuple(data.STD) or own.std,
        interpolation=own.interpolation if cfg.AUG.INTERPOLATION == "random" else cfg.AUG.INTERPOLATION,
        crop_fraction=data.VAL_CROP_RATIO or own.crop_fraction,
        crop_mode=data.VAL_CROP_MODE or own.crop_mode,
    )


# Which setting decides each part of how images are prepared.
_PREPARED_BY = {
    "input_size": "DATA.TEST_CROP_SIZE",
    "mean": "DATA.MEAN",
    "std": "DATA.STD",
    "interpolation": "AUG.INTERPOLATION",
    "crop_fraction": "DATA.VAL_CROP_RATIO",
    "crop_mode": "DATA.VAL_CROP_MODE",
}


def contradictions(prepared: Preprocessing, own: Preprocessing, whose: str) -> list[str]:
    """A sentence for each setting that makes ``prepared`` differ from ``own``; ``whose`` it is, for the sentence."""
    return [
        f"{key} prepares images with {name.replace('_', ' ')} {value}; {whose} has {theirs}"
        for name, key in _PREPARED_BY.items()
        if (value := getattr(prepared, name)) != (theirs := getattr(own, name))
    ]


def classifier_settings(cfg: CfgNode) -> dict[str, object]:
    """The overrides of a classifier's row: MODEL.ARGS, its classes and the size of its images or clips.

    Raises:
        UserError: no such model, or one that does not classify what DATA.DATASET holds; MODEL.ARGS say again what
            other keys say.
    """
    from stvit.registry import model_spec  # reading settings needs no networks

    row, dataset = model_spec(cfg.MODEL.NAME), cfg.DATA.DATASET
    nominal = getattr(row, "input_size", None)
    if nominal is None or not hasattr(row, "num_classes"):
        raise UserError(f"MODEL.NAME is {cfg.MODEL.NAME!r}, but DATA.DATASET {dataset} needs a model that classifies")
    takes, holds = ("images", "clips")[len(nominal) - 2], "images" if dataset == "imagenet" else "clips"
    if takes != holds:
        raise UserError(
            f"MODEL.NAME is {cfg.MODEL.NAME!r}, which takes {takes}, but DATA.DATASET {dataset} holds {holds}"
        )
    frames = [cfg.DATA.NUM_FRAMES] if takes == "clips" else []
    given: dict[str, tuple[object, str]] = {
        "num_classes": (cfg.MODEL.NUM_CLASSES, "MODEL.NUM_CLASSES"),
        "input_size": (
            [*frames, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE],
            "DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE" if frames else "DATA.TRAIN_CROP_SIZE",
        ),
    }
    arguments = dict(cfg.MODEL.ARGS)
    for name, (_, key) in given.items():
        if name in arguments:
            raise UserError(f"MODEL.ARGS.{name} is {arguments[name]!r}, but {key} decides it: leave it out")
    return {**arguments, **{name: value for name, (value, _) in given.items()}}
