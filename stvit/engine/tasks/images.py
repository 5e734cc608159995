"""Classification of images in folders as a task of the engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from stvit.config.derived import image_preprocessing
from stvit.datasets import ImageBatch, ImageFolder, ImageList
from stvit.datasets.image_splits import image_splits, logits_of_classes
from stvit.datasets.image_transforms import Augmentation, evaluation_transform, training_transform
from stvit.engine.distributed import World, rank_slice
from stvit.engine.evaluate_classes import evaluate_classes
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.engine.tasks.classification import Classification, unspoilt
from stvit.engine.tasks.task import EvaluatedSet, Scoring
from stvit.preprocessing import Preprocessing


class ImageClassification(Classification[ImageBatch]):
    """ImageNet's task."""

    frames_per_sample = 1
    speed_in = ("images", 1)

    def __init__(self, cfg: CfgNode, world: World) -> None:
        """List the images.

        Raises:
            UserError: folders that are missing or unfit, or settings that do not fit them.
        """
        self.root = Path(cfg.DATA.PATH_TO_DATA_DIR).expanduser()
        self.splits = image_splits(self.root, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE)
        self.identity = self.splits.identity
        super().__init__(cfg, world)
        if self.splits.train is not None:
            self._make_training_batches(cfg, self.splits.train)

    def _make_training_batches(self, cfg: CfgNode, images: ImageList) -> None:
        self._sampler = self._training_sampler(cfg, len(images), str(images.folder))
        views = training_transform(augmentation(cfg, self.preprocessing))
        self._loader = self._load(ImageFolder(images, views, self._seed, views=cfg.AUG.NUM_SAMPLE), self._sampler)

    def _logits_of_labels(self, names: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor]:
        logits, named = logits_of_classes(self.splits.classes, self.num_classes, names, self.training, str(self.root))
        return named, torch.tensor(logits)

    def _prepared(self, own: Preprocessing) -> Preprocessing:
        return image_preprocessing(self._cfg, own)

    def notes(self) -> list[str]:
        """What a reader of run and results must know about the data, a line each."""
        notes = []
        if self.training and len(self.splits.classes) < self.num_classes == len(self.names):
            notes.append(f"{len(self.splits.classes)} of the {self.num_classes} classes of ImageNet-1k are learnt.")
        elif self.training and len(self.splits.classes) < self.num_classes:
            notes.append(
                f"{self.root} has {len(self.splits.classes)} classes and the network {self.num_classes}; the other "
                f"logits learn to be never right (MODEL.NUM_CLASSES {len(self.splits.classes)} leaves them out)."
            )
        if self.splits.test is not None and self.splits.validation_is_test:
            notes.append(f"There is no test/ with classes in {self.root}: val/ is evaluated, as is ImageNet's habit.")
        return notes

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[ImageBatch]:
        """See :class:`stvit.engine.tasks.Task`.

        Raises:
            UserError: an image cannot be read.
        """
        self._sampler.set_epoch(epoch, start_batch)
        yield from unspoilt(self._loader)

    def name_of(self, index: int) -> str:
        """The path of a training image below its folder."""
        images = self.splits.train
        assert images is not None
        return str(images.path(index).relative_to(images.folder))

    def on_device(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` and the numbers of their true logits ``(B,)`` where the network computes."""
        images = batch.images.to(self.device, non_blocking=True)
        return images, self.logits[batch.labels].to(self.device, non_blocking=True)

    def _validation_batches(self) -> Iterator[ImageBatch]:
        assert self.splits.validation is not None
        return self.eval_batches(self.splits.validation)

    def eval_batches(self, images: ImageList) -> Iterator[ImageBatch]:
        """This process's share of the images, in order, each once.

        Raises:
            UserError: an image cannot be read.
        """
        dataset: Dataset[object] = cast(
            "Dataset[object]", ImageFolder(images, evaluation_transform(self.preprocessing))
        )
        if self.world.size > 1:
            dataset = Subset(dataset, rank_slice(len(images), self.world))
        yield from unspoilt(self._load(dataset, self._eval_batch))

    def evaluated_sets(self) -> dict[str, EvaluatedSet]:
        """See :class:`stvit.engine.tasks.Task`."""

        def batches(images: ImageList) -> Iterator[Scoring]:
            for batch in self.eval_batches(images):
                yield functools.partial(self._forward, batch)

        sets = {"validation": self.splits.validation, "test": self.splits.test}
        return {
            name: EvaluatedSet(len(images), functools.partial(batches, images))
            for name, images in sets.items()
            if images is not None
        }

    def evaluate(self, cfg: CfgNode, model: nn.Module, stop: StopRequest, trained: TrainingRecord) -> Outcome:
        """See :class:`stvit.engine.tasks.Task`."""
        return evaluate_classes(cfg, model, self, stop, trained)


def augmentation(cfg: CfgNode, preprocessing: Preprocessing) -> Augmentation:
    """The random views that the settings ask for, normalised as the model's images are."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    return Augmentation(
        size=(size, size),
        mean=preprocessing.mean,
        std=preprocessing.std,
        area=tuple(cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE) or Augmentation.area,
        flip=0.5 if cfg.DATA.RANDOM_FLIP else 0.0,
        auto_augment=cfg.AUG.AA_TYPE,
        color_jitter=cfg.AUG.COLOR_JITTER,
        interpolation=cfg.AUG.INTERPOLATION,
        erase=cfg.AUG.RE_PROB,
        erase_mode=cfg.AUG.RE_MODE,
        erase_count=cfg.AUG.RE_COUNT,
    )
