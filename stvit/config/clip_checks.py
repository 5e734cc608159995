"""What a run that learns from videos can be: values and combinations of its keys that cannot work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from fvcore.common.config import CfgNode

Refuse = Callable[[str, str], NoReturn]


def check_clips(cfg: CfgNode, refuse: Refuse) -> None:
    """Call ``refuse`` with the first key of DATA or TEST whose value cannot be, and what it must be."""
    _check_crops(cfg, refuse)
    _check_views(cfg, refuse)
    if cfg.DATA.DATASET == "ssv2" and cfg.DATA.TRAIN_JITTER_FPS:
        refuse(
            "DATA.TRAIN_JITTER_FPS",
            "clips of DATA.DATASET ssv2 span their whole video, whatever its speed: set it to 0, or kinetics",
        )


def _check_crops(cfg: CfgNode, refuse: Refuse) -> None:
    """How training clips are cut out of frames."""
    data = cfg.DATA
    areas, aspects, sides = (
        data.TRAIN_JITTER_SCALES_RELATIVE,
        data.TRAIN_JITTER_ASPECT_RELATIVE,
        data.TRAIN_JITTER_SCALES,
    )
    if aspects and not _is_range(aspects):
        refuse(
            "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
            "it is the lowest and the highest width over height, [0.75, 1.3333] and the like, or [] for none",
        )
    if areas and not aspects:
        refuse(
            "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE is {areas}: set both, or both to [] for crops by TRAIN_JITTER_SCALES",
        )
    if not _is_range(sides):
        refuse("DATA.TRAIN_JITTER_SCALES", "it is the lowest and the highest short side in pixels, such as [256, 320]")
    if cfg.TRAIN.ENABLE and not areas and sides[0] < data.TRAIN_CROP_SIZE:
        refuse(
            "DATA.TRAIN_JITTER_SCALES",
            f"the crop is DATA.TRAIN_CROP_SIZE {data.TRAIN_CROP_SIZE}: no frame may be smaller than it",
        )


def check_areas(cfg: CfgNode, refuse: Refuse) -> None:
    """The same for the random areas of training crops, of images too."""
    areas = cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE
    if areas and not (_is_range(areas) and areas[1] <= 1):
        refuse(
            "DATA.TRAIN_JITTER_SCALES_RELATIVE",
            "it is the smallest and the largest share of a picture's area, [0.08, 1.0] and the like, or [] for none",
        )


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1]


def _check_views(cfg: CfgNode, refuse: Refuse) -> None:
    """How videos are evaluated."""
    crops = cfg.TEST.NUM_SPATIAL_CROPS
    if crops not in (1, 3):
        refuse("TEST.NUM_SPATIAL_CROPS", "it is 1, the centre, or 3 along the longer side")
    if crops == 3 and cfg.DATA.VAL_CROP_MODE == "squash":
        refuse("DATA.VAL_CROP_MODE", "TEST.NUM_SPATIAL_CROPS 3 needs a longer side, which a squashed frame has not")
