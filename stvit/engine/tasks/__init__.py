"""What a run's task decides: its model's settings, its data, its loss, and what chooses the best checkpoint."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from stvit.config.derived import classifier_settings
from stvit.engine.distributed import World
from stvit.engine.tasks.images import ImageClassification
from stvit.engine.tasks.moving_mnist import MovingMNISTPrediction, predictor_settings
from stvit.engine.tasks.task import Task
from stvit.errors import UserError

__all__ = ["ImageClassification", "MovingMNISTPrediction", "Task", "build_task", "model_settings", "predictor_settings"]


def model_settings(cfg: CfgNode) -> tuple[str, dict[str, object]]:
    """The registered name and the overrides of the run's model; reads no data.

    Raises:
        UserError: settings that contradict each other or do not fit the model, a data set that cannot be used yet.
    """
    if cfg.DATA.DATASET == "moving_mnist":
        return cfg.MODEL.NAME, predictor_settings(cfg)
    settings = classifier_settings(cfg)
    if cfg.DATA.DATASET != "imagenet":
        raise UserError(
            f"DATA.DATASET is {cfg.DATA.DATASET!r}: training and evaluation on lists of videos do not exist yet; its "
            f"network can be built (stvit.create_model({cfg.MODEL.NAME!r}))"
        )
    return cfg.MODEL.NAME, settings


def build_task(cfg: CfgNode, world: World) -> MovingMNISTPrediction | ImageClassification:
    """The task that DATA.DATASET names, with its data found or made.

    Raises:
        UserError: data that are missing or unfit.
        OSError: a failed download or write.
    """
    return MovingMNISTPrediction(cfg, world) if cfg.DATA.DATASET == "moving_mnist" else ImageClassification(cfg, world)
