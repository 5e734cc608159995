"""What several settings decide together: a classifier's arguments, how its input is prepared, a batch's rates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from fvcore.common.config import CfgNode

from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from stvit.datasets.video.clip_sampling import ClipSampling

# DATA.VAL_CROP_RATIO where neither the settings nor the model say it, by TEST.NUM_SPATIAL_CROPS: SlowFast's.
_USUAL_CROP_FRACTION = {1: 0.875, 3: 1.0}


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


def clip_preprocessing(cfg: CfgNode, own: Preprocessing) -> Preprocessing:
    """How clips are chosen from videos and prepared: as :func:`image_preprocessing`, with the keys of videos.

    Where DATA.VAL_CROP_RATIO is open, ``own`` decides the crop if it is for as many crops, otherwise SlowFast's rule:
    the centre of a short side of TEST_CROP_SIZE / 0.875, or three crops of a short side of TEST_CROP_SIZE.
    """
    crops, dense = cfg.TEST.NUM_SPATIAL_CROPS, cfg.DATA.DATASET != "ssv2"
    prepared = image_preprocessing(cfg, own)
    if not cfg.DATA.VAL_CROP_RATIO and crops != own.test_crops:
        prepared = dataclasses.replace(prepared, crop_fraction=_USUAL_CROP_FRACTION[crops])
    return dataclasses.replace(
        prepared,
        crop_mode="center" if crops > 1 else prepared.crop_mode,  # a squashed frame has no longer side
        frames=cfg.DATA.NUM_FRAMES,
        clip_sampling="dense" if dense else "segments",
        sampling_rate=cfg.DATA.SAMPLING_RATE if dense else own.sampling_rate,
        target_fps=cfg.DATA.TARGET_FPS if dense else own.target_fps,
        test_views=cfg.TEST.NUM_ENSEMBLE_VIEWS,
        test_crops=crops,
        offset_sampling=cfg.DATA.USE_OFFSET_SAMPLING if dense else own.offset_sampling,
    )


def clip_sampling(cfg: CfgNode, preprocessing: Preprocessing) -> ClipSampling:
    """Which frames make a clip, in training and in evaluation, which leaves the random speed out.

    Args:
        cfg: the settings, for what a model's description does not hold.
        preprocessing: of :func:`clip_preprocessing`.
    """
    from stvit.datasets.video.clip_sampling import ClipSampling  # reading settings needs no data sets

    assert preprocessing.frames is not None
    return ClipSampling(
        frames=preprocessing.frames,
        method=preprocessing.clip_sampling,
        rate=preprocessing.sampling_rate,
        target_fps=preprocessing.target_fps,
        fps_jitter=cfg.DATA.TRAIN_JITTER_FPS,
        offset=preprocessing.offset_sampling,
    )


# Which setting decides each part of how images and clips are prepared.
_PREPARED_BY = {
    "input_size": "DATA.TEST_CROP_SIZE",
    "mean": "DATA.MEAN",
    "std": "DATA.STD",
    "interpolation": "AUG.INTERPOLATION",
    "frames": "DATA.NUM_FRAMES",
    "clip_sampling": "DATA.DATASET",
    "sampling_rate": "DATA.SAMPLING_RATE",
    "target_fps": "DATA.TARGET_FPS",
    "test_views": "TEST.NUM_ENSEMBLE_VIEWS",
    "offset_sampling": "DATA.USE_OFFSET_SAMPLING",
    "test_crops": "TEST.NUM_SPATIAL_CROPS",
    "crop_fraction": "DATA.VAL_CROP_RATIO",
    "crop_mode": "DATA.VAL_CROP_MODE",
}

# What follows from another part, and is not a contradiction of its own where that one differs.
_FOLLOWS = {
    "crop_fraction": "test_crops",
    "crop_mode": "test_crops",
    "sampling_rate": "clip_sampling",
    "target_fps": "clip_sampling",
    "offset_sampling": "clip_sampling",
}


def contradictions(prepared: Preprocessing, own: Preprocessing, whose: str) -> list[str]:
    """A sentence for each setting that makes ``prepared`` differ from ``own``; ``whose`` it is, for the sentence."""
    kind = "images" if prepared.frames is None else "clips"
    different = [name for name in _PREPARED_BY if getattr(prepared, name) != getattr(own, name)]
    return [
        f"{_PREPARED_BY[name]} prepares {kind} with {name.replace('_', ' ')} {getattr(prepared, name)}; {whose} has "
        f"{getattr(own, name)}"
        for name in different
        if _FOLLOWS.get(name) not in different
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
