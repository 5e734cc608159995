"""What classifying images and classifying clips have in common: class names, batches, mixed targets, errors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stvit.config.derived import classifier_settings, contradictions
from stvit.datasets import EpochBatchSampler, batch_loader
from stvit.datasets.image_transforms import MIXING_STREAM, make_mixer, sample_seed, seeded
from stvit.engine.distributed import World, sum_over_ranks
from stvit.engine.signals import StopRequest, leave_signals_to_parent
from stvit.engine.steps import Inputs
from stvit.engine.tasks.task import EvaluatedSet
from stvit.errors import UserError
from stvit.metrics.accuracy import ranks
from stvit.model import Model
from stvit.preprocessing import Preprocessing
from stvit.registry import model_preprocessing

_NAMED = 4  # samples of a batch that a message names


class Labelled(Protocol):
    """What all batches of classifiers say of their samples."""

    @property
    def labels(self) -> Tensor: ...  # int64 (B,)

    @property
    def epoch(self) -> int: ...

    @property
    def indices(self) -> Tensor: ...  # int64 (B,), numbers in the list


Batch = TypeVar("Batch", bound=Labelled)


class Classification(Generic[Batch]):
    """A task whose samples have one class each: soft cross-entropy in training, top-1 error for selection.

    Its subclasses find the samples and bring them to the device.
    """

    selected_by = "top1_error"
    shares_test_set = True
    model_settings = staticmethod(classifier_settings)
    samples = "images"  # what they are called in messages
    make_mixer = staticmethod(make_mixer)

    def __init__(self, cfg: CfgNode, world: World) -> None:
        self.world, self.device = world, world.device
        self.num_classes = cfg.MODEL.NUM_CLASSES
        self.training = cfg.TRAIN.ENABLE
        # A checkpoint that is tested alone may bring names, and say which logits these classes are (adopt).
        self.names: tuple[str, ...] = ()
        self.logits = torch.empty(0, dtype=torch.int64)  # (labels,)
        if self.training:
            self.names, self.logits = self._logits_of_labels(None)
        self._cfg = cfg
        self._published = model_preprocessing(cfg.MODEL.NAME, **classifier_settings(cfg))
        self.preprocessing = replace(self._prepared(self._published), labels=self.names or None)
        self._eval_batch = math.ceil(cfg.TEST.BATCH_SIZE / world.size)
        self._workers = min(cfg.DATA_LOADER.NUM_WORKERS, os.cpu_count() or 1)  # more only wait for each other
        self._pin_memory = cfg.DATA_LOADER.PIN_MEMORY and self.device.type == "cuda"
        self._seed = cfg.RNG_SEED
        self.batches_per_epoch = 0

    def _logits_of_labels(self, names: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor]:
        """The names of the logits, and the number of each label's logit ``(labels,)``; ``names`` are a checkpoint's."""
        raise NotImplementedError

    def _prepared(self, own: Preprocessing) -> Preprocessing:
        """How the settings prepare samples, where they leave it open as ``own`` does."""
        raise NotImplementedError

    def on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the network takes, ``(B, C, ...)``, and the numbers of the true logits ``(B,)``, where it computes."""
        raise NotImplementedError

    def _validation_batches(self) -> Iterator[Batch]:
        """This process's share of the validation set, each sample once."""
        raise NotImplementedError

    def name_of(self, index: int) -> str:
        """What a training sample is called in messages."""
        raise NotImplementedError

    def _training_sampler(self, cfg: CfgNode, length: int, where: str) -> EpochBatchSampler:
        """The batches of an epoch over ``length`` samples, this process's part; makes the mixing too.

        Raises:
            UserError: they do not fill one step, or not in pairs.
        """
        batch, each = cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.BATCH_SIZE // self.world.size
        self.batches_per_epoch = length // batch
        if self.batches_per_epoch < cfg.TRAIN.ACCUMULATE_STEPS:
            raise UserError(
                f"{where} holds {length} {self.samples}, fewer than one optimiser step takes: lower "
                f"TRAIN.BATCH_SIZE {batch} (x TRAIN.ACCUMULATE_STEPS {cfg.TRAIN.ACCUMULATE_STEPS})"
            )
        self._smoothing, self._mix = cfg.MIXUP.LABEL_SMOOTH_VALUE, None
        if cfg.MIXUP.ENABLE and (cfg.MIXUP.ALPHA or cfg.MIXUP.CUTMIX_ALPHA):
            if each * cfg.AUG.NUM_SAMPLE % 2:
                raise UserError(
                    f"MIXUP mixes {self.samples} in pairs, and TRAIN.BATCH_SIZE {batch} leaves "
                    f"{each * cfg.AUG.NUM_SAMPLE} to each process: make it a multiple of {2 * self.world.size}, or set "
                    "MIXUP.ENABLE False"
                )
            self._mix = self.make_mixer(
                mixup=cfg.MIXUP.ALPHA,
                cutmix=cfg.MIXUP.CUTMIX_ALPHA,
                probability=cfg.MIXUP.PROB,
                switch=cfg.MIXUP.SWITCH_PROB,
                smoothing=self._smoothing,
                classes=self.num_classes,
            )
        return EpochBatchSampler(
            length, each, seed=self._seed, rank=self.world.rank, world_size=self.world.size, shuffle=True,
            repeats=cfg.AUG.REPEATS, step_batches=cfg.TRAIN.ACCUMULATE_STEPS,
        )  # fmt: skip

    def _load(self, samples: Dataset[object], batches: EpochBatchSampler | int) -> DataLoader[Batch | UserError]:
        loader = batch_loader(samples, batches, self._workers, self._pin_memory, worker_init_fn=leave_signals_to_parent)
        return cast("DataLoader[Batch | UserError]", loader)

    def attach(self, model: nn.Module) -> None:
        """Make the model say what it learns from: size, mean and deviation, class names; its checkpoints carry them."""
        assert isinstance(model, Model)
        model.preprocessing = replace(self.preprocessing, channels=model.preprocessing.channels)

    def adopt(self, described: Preprocessing | None) -> list[str]:
        """Follow what a checkpoint that is tested alone says of its samples, None for one that says nothing.

        Its class names decide which logit stands for which class here, and it decides how samples are prepared where
        the settings leave that open.

        Returns:
            A line for each setting that contradicts it, or of one that says nothing the published model.

        Raises:
            UserError: the classes here are not among its own, or it has no names and another number of classes.
        """
        if self.training:
            return []
        self.names, self.logits = self._logits_of_labels(described.labels if described else None)
        own = described or self._published
        self.preprocessing = self._prepared(own)
        return contradictions(self.preprocessing, own, "the checkpoint" if described else "the published model")

    def describe(self, batch: Batch) -> str:
        """See :class:`stvit.engine.tasks.Task`."""
        numbers = batch.indices.unique_consecutive().tolist()
        if not numbers:
            return f"no {self.samples} of epoch {batch.epoch + 1}"
        named = ", ".join(map(self.name_of, numbers[:_NAMED]))
        more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
        return f"{self.samples} {named}{more} of epoch {batch.epoch + 1}"

    def inputs(self, batch: Batch) -> Inputs:
        """Samples ``(B, C, ...)`` and their targets: true logits ``(B,)``, or after mixing shares ``(B, classes)``."""
        return self._mixed(batch, *self.on_device(batch))

    def _mixed(self, batch: Batch, samples: Tensor, targets: Tensor) -> Inputs:
        if self._mix is None:
            return samples, targets
        with seeded(sample_seed(self._seed, MIXING_STREAM, batch.epoch, int(batch.indices[0]))):
            return self._mix(samples, targets)

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Cross-entropy with mixed and smoothed targets, mean over the batch, float32."""
        samples, targets = inputs
        smoothing = self._smoothing if self._mix is None else 0.0  # mixed targets are smoothed already
        return F.cross_entropy(model(samples).float(), targets, label_smoothing=smoothing)

    @torch.no_grad()
    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """Top-1 and top-5 error in percent and the cross-entropy, in float32; NaN if a logit is."""
        model.eval()
        # outside top 1 and top 5, and all; loss, and those that have one
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for batch in stop.between(self._validation_batches()):
            missed = self._undecodable(batch)
            sums[:3] += missed
            samples, targets = self.on_device(batch)
            if not len(samples):
                continue
            logits = model(samples).float()
            loss = F.cross_entropy(logits, targets, reduction="sum").double()
            placed = ranks(logits, targets)
            unsure = torch.where(logits.isfinite().all(), 0.0, math.nan)
            outside = [(placed >= k).sum().double() + unsure for k in (1, 5)]
            count = torch.full_like(loss, len(samples))
            sums += torch.stack([*outside, count, loss, count])
        top1, top5, samples_seen, loss_sum, scored = sum_over_ranks(sums, self.world).tolist()
        return {
            "top1_error": 100 * top1 / samples_seen,
            "top5_error": 100 * top5 / samples_seen,
            "loss": loss_sum / max(1.0, scored),
        }

    def evaluated_sets(self) -> dict[str, EvaluatedSet]:
        """See :class:`stvit.engine.tasks.Task`."""
        raise NotImplementedError

    def _forward(self, batch: Batch, model: nn.Module) -> int:
        samples, _ = self.on_device(batch)
        model(samples)
        return len(samples)

    def unusable(self) -> dict[str, str]:
        """See :class:`stvit.engine.tasks.Task`."""
        return {}

    def _undecodable(self, batch: Batch) -> int:
        """How many samples of a validation batch could not be decoded, which count as mistakes."""
        return 0


def unspoilt(batches: Iterable[Batch | UserError]) -> Iterator[Batch]:
    """The batches; a mistake among them is raised here, in the process that can tell the user."""
    for batch in batches:
        if isinstance(batch, UserError):
            # Not the error itself: its traceback would hold this frame, and the frame it. Such a ring would keep the
            # loader's workers alive, and the process would wait for them at its end.
            raise UserError(str(batch))
        yield batch
