"""Classification of images in folders as a task of the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from stvit.config.derived import classifier_settings, contradictions, image_preprocessing
from stvit.datasets import EpochBatchSampler, ImageBatch, ImageFolder, ImageList, batch_loader
from stvit.datasets.image_splits import image_splits, logits_of_classes
from stvit.datasets.image_transforms import (
    MIXING_STREAM,
    Augmentation,
    evaluation_transform,
    make_mixer,
    sample_seed,
    seeded,
    training_transform,
)
from stvit.engine.distributed import World, rank_slice, sum_over_ranks
from stvit.engine.signals import StopRequest, leave_signals_to_parent
from stvit.errors import UserError
from stvit.metrics.accuracy import ranks
from stvit.model import Model
from stvit.preprocessing import Preprocessing
from stvit.registry import model_preprocessing

_NAMED = 4  # images of a batch that a message names


class ImageClassification:
    """ImageNet's task: soft cross-entropy in training, top-1 error for selection."""

    selected_by = "top1_error"
    frames_per_sample = 1

    def __init__(self, cfg: CfgNode, world: World) -> None:
        """List the images.

        Raises:
            UserError: folders that are missing or unfit, or settings that do not fit them.
        """
        self.world, self.device = world, world.device
        self.root = Path(cfg.DATA.PATH_TO_DATA_DIR).expanduser()
        self.splits = image_splits(self.root, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE)
        self.identity = self.splits.identity
        self.num_classes = cfg.MODEL.NUM_CLASSES
        self.training = cfg.TRAIN.ENABLE
        # A checkpoint that is tested alone may bring names, and say which logits these classes are (adopt).
        self.names: tuple[str, ...] = ()
        self.logits = torch.empty(0, dtype=torch.int64)  # (folders,)
        if self.training:
            self._name_logits(None)
        self._cfg = cfg
        self._published = model_preprocessing(cfg.MODEL.NAME, **classifier_settings(cfg))
        self.preprocessing = replace(image_preprocessing(cfg, self._published), labels=self.names or None)
        self._eval_batch = math.ceil(cfg.TEST.BATCH_SIZE / world.size)
        self._workers = min(cfg.DATA_LOADER.NUM_WORKERS, os.cpu_count() or 1)  # more only wait for each other
        self._pin_memory = cfg.DATA_LOADER.PIN_MEMORY and self.device.type == "cuda"
        self._seed = cfg.RNG_SEED
        self.batches_per_epoch = 0
        if self.splits.train is not None:
            self._make_training_batches(cfg, self.splits.train)

    def _make_training_batches(self, cfg: CfgNode, images: ImageList) -> None:
        batch, each = cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.BATCH_SIZE // self.world.size
        self.batches_per_epoch = len(images) // batch
        if self.batches_per_epoch < cfg.TRAIN.ACCUMULATE_STEPS:
            raise UserError(
                f"{images.folder} holds {len(images)} images, fewer than one optimiser step takes: lower "
                f"TRAIN.BATCH_SIZE {batch} (x TRAIN.ACCUMULATE_STEPS {cfg.TRAIN.ACCUMULATE_STEPS})"
            )
        self._smoothing, self._mix = cfg.MIXUP.LABEL_SMOOTH_VALUE, None
        if cfg.MIXUP.ENABLE and (cfg.MIXUP.ALPHA or cfg.MIXUP.CUTMIX_ALPHA):
            if each * cfg.AUG.NUM_SAMPLE % 2:
                raise UserError(
                    f"MIXUP mixes images in pairs, and TRAIN.BATCH_SIZE {batch} leaves {each * cfg.AUG.NUM_SAMPLE} to "
                    f"each process: make it a multiple of {2 * self.world.size}, or set MIXUP.ENABLE False"
                )
            self._mix = make_mixer(
                mixup=cfg.MIXUP.ALPHA,
                cutmix=cfg.MIXUP.CUTMIX_ALPHA,
                probability=cfg.MIXUP.PROB,
                switch=cfg.MIXUP.SWITCH_PROB,
                smoothing=self._smoothing,
                classes=self.num_classes,
            )
        views = training_transform(augmentation(cfg, self.preprocessing))
        dataset = ImageFolder(images, views, self._seed, views=cfg.AUG.NUM_SAMPLE)
        self._sampler = EpochBatchSampler(
            len(images), each, seed=self._seed, rank=self.world.rank, world_size=self.world.size, shuffle=True,
            repeats=cfg.AUG.REPEATS, step_batches=cfg.TRAIN.ACCUMULATE_STEPS,
        )  # fmt: skip
        self._loader = self._load(dataset, self._sampler)

    def _load(
        self, images: ImageFolder | Subset[object], batches: EpochBatchSampler | int
    ) -> DataLoader[ImageBatch | UserError]:
        loader = batch_loader(images, batches, self._workers, self._pin_memory, worker_init_fn=leave_signals_to_parent)
        return cast("DataLoader[ImageBatch | UserError]", loader)

    def _name_logits(self, names: Sequence[str] | None) -> None:
        classes = self.splits.classes
        logits, self.names = logits_of_classes(classes, self.num_classes, names, self.training, str(self.root))
        self.logits = torch.tensor(logits)

    def attach(self, model: nn.Module) -> None:
        """Make the model say what it learns from: size, mean and deviation, class names; its checkpoints carry them."""
        assert isinstance(model, Model)
        model.preprocessing = replace(self.preprocessing, channels=model.preprocessing.channels)

    def adopt(self, described: Preprocessing | None) -> list[str]:
        """Follow what a checkpoint that is tested alone says of its images, None for one that says nothing.

        Its class names decide which logit stands for which folder, and it decides how images are prepared where the
        settings leave that open.

        Returns:
            A line for each setting that contradicts it, or of one that says nothing the published model.

        Raises:
            UserError: the folders are not among its classes, or it has no names and another number of classes.
        """
        if self.training:
            return []
        self._name_logits(described.labels if described else None)
        own = described or self._published
        self.preprocessing = image_preprocessing(self._cfg, own)
        return contradictions(self.preprocessing, own, "the checkpoint" if described else "the published model")

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
        yield from _unspoilt(self._loader)

    def describe(self, batch: ImageBatch) -> str:
        """See :class:`stvit.engine.tasks.Task`."""
        images = self.splits.train
        assert images is not None
        numbers = batch.indices.unique_consecutive().tolist()
        named = ", ".join(str(images.path(number).relative_to(images.folder)) for number in numbers[:_NAMED])
        more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
        return f"images {named}{more} of epoch {batch.epoch + 1}"

    def loss(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Cross-entropy with mixed and smoothed targets, mean over the batch, float32."""
        images, targets = self.on_device(batch)
        if self._mix is None:
            return F.cross_entropy(model(images).float(), targets, label_smoothing=self._smoothing)
        with seeded(sample_seed(self._seed, MIXING_STREAM, batch.epoch, int(batch.indices[0]))):
            images, targets = self._mix(images, targets)
        return F.cross_entropy(model(images).float(), targets)

    def on_device(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` and the numbers of their true logits ``(B,)`` where the network computes."""
        images = batch.images.to(self.device, non_blocking=True)
        return images, self.logits[batch.labels].to(self.device, non_blocking=True)

    @torch.no_grad()
    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """Top-1 and top-5 error in percent and the cross-entropy, in float32; NaN if a logit is."""
        assert self.splits.validation is not None
        model.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # outside top 1 and top 5, loss, images
        for batch in stop.between(self.eval_batches(self.splits.validation)):
            images, targets = self.on_device(batch)
            logits = model(images).float()
            loss = F.cross_entropy(logits, targets, reduction="sum").double()
            placed = ranks(logits, targets)
            unsure = torch.where(logits.isfinite().all(), 0.0, math.nan)
            outside = [(placed >= k).sum().double() + unsure for k in (1, 5)]
            sums += torch.stack([*outside, loss, torch.full_like(loss, len(images))])
        top1, top5, loss_sum, images_seen = sum_over_ranks(sums, self.world).tolist()
        return {
            "top1_error": 100 * top1 / images_seen,
            "top5_error": 100 * top5 / images_seen,
            "loss": loss_sum / images_seen,
        }

    def eval_batches(self, images: ImageList) -> Iterator[ImageBatch]:
        """This process's share of the images, in order, each once.

        Raises:
            UserError: an image cannot be read.
        """
        dataset: ImageFolder | Subset[object] = ImageFolder(images, evaluation_transform(self.preprocessing))
        if self.world.size > 1:
            dataset = Subset(cast("ImageFolder", dataset), rank_slice(len(images), self.world))
        yield from _unspoilt(self._load(dataset, self._eval_batch))


def augmentation(cfg: CfgNode, preprocessing: Preprocessing) -> Augmentation:
    """The random views that the settings ask for, normalised as the model's images are."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    return Augmentation(
        size=(size, size),
        mean=preprocessing.mean,
        std=preprocessing.std,
        auto_augment=cfg.AUG.AA_TYPE,
        color_jitter=cfg.AUG.COLOR_JITTER,
        interpolation=cfg.AUG.INTERPOLATION,
        erase=cfg.AUG.RE_PROB,
        erase_mode=cfg.AUG.RE_MODE,
        erase_count=cfg.AUG.RE_COUNT,
    )


def _unspoilt(batches: DataLoader[ImageBatch | UserError]) -> Iterator[ImageBatch]:
    """The batches; a mistake among them is raised here, in the process that can tell the user."""
    for batch in batches:
        if isinstance(batch, UserError):
            # Not the error itself: its traceback would hold this frame, and the frame it. Such a ring would keep the
            # loader's workers alive, and the process would wait for them at its end.
            raise UserError(str(batch))
        yield batch
