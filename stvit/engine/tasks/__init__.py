"""What a run's task decides: its model's settings, its data, its loss, and what chooses the best checkpoint."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from stvit.engine.distributed import World
from stvit.engine.tasks.clips import VideoClassification
from stvit.engine.tasks.images import ImageClassification
from stvit.engine.tasks.moving_mnist import MovingMNISTPrediction, predictor_settings
from stvit.engine.tasks.task import Task

__all__ = [
    "ImageClassification",
    "MovingMNISTPrediction",
    "Task",
    "VideoClassification",
    "build_task",
    "model_settings",
    "predictor_settings",
]

# What each DATA.DATASET is for.
TASKS: dict[str, type[MovingMNISTPrediction] | type[ImageClassification] | type[VideoClassification]] = {
    "moving_mnist": MovingMNISTPrediction,
    "imagenet": ImageClassification,
    "kinetics": VideoClassification,
    "ssv2": VideoClassification,
}


def model_settings(cfg: CfgNode) -> tuple[str, dict[str, object]]:
    """The registered name and the overrides of the run's model; reads no data.

    Raises:
        UserError: settings that contradict each other or do not fit the model.
    """
    return cfg.MODEL.NAME, TASKS[cfg.DATA.DATASET].model_settings(cfg)


def build_task(cfg: CfgNode, world: World) -> Task:
    """The task that DATA.DATASET names, with its data found or made.

    Raises:
        UserError: data that are missing or unfit.
        OSError: a failed download or write.
    """
    return TASKS[cfg.DATA.DATASET](cfg, world)
