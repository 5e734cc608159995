"""Classification of clips of videos, in lists or in folders, as a task of the engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from stvit.config.derived import clip_preprocessing, clip_sampling
from stvit.datasets.image_splits import logits_of_classes
from stvit.datasets.image_transforms import MIXING_STREAM, sample_seed
from stvit.datasets.video.bad_videos import BadVideo, BadVideos
from stvit.datasets.video.clip_transforms import ClipAugmentation, erased, make_clip_mixer, normalised_clips
from stvit.datasets.video.clips import ClipBatch, EvaluationViews, TrainingClips, ViewBatch
from stvit.datasets.video.lists import VideoList, video_splits
from stvit.engine.distributed import World, gather_objects, rank_slice
from stvit.engine.evaluate_clips import evaluate_clips
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.engine.steps import Inputs
from stvit.engine.tasks.classification import Classification, unspoilt
from stvit.engine.tasks.task import EvaluatedSet, Scoring
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


class VideoClassification(Classification[ClipBatch]):
    """The task of Kinetics and Something-Something: training on random clips, evaluation on views of whole videos."""

    samples = "videos"
    make_mixer = staticmethod(make_clip_mixer)

    def __init__(self, cfg: CfgNode, world: World) -> None:
        """Read the lists.

        Raises:
            UserError: lists that are missing or unfit, or settings that do not fit them.
        """
        self.root = Path(cfg.DATA.PATH_TO_DATA_DIR).expanduser()
        self.splits = video_splits(
            self.root, training=cfg.TRAIN.ENABLE, testing=cfg.TEST.ENABLE, prefix=cfg.DATA.PATH_PREFIX,
            separator=cfg.DATA.PATH_LABEL_SEPARATOR, label_file=cfg.DATA.LABEL_FILE,
        )  # fmt: skip
        self.identity = self.splits.identity
        super().__init__(cfg, world)
        self.frames_per_sample = cfg.DATA.NUM_FRAMES * cfg.AUG.NUM_SAMPLE
        self.speed_in = ("clips", cfg.AUG.NUM_SAMPLE)
        for videos in (self.splits.train, self.splits.validation, self.splits.test):
            if videos is not None and self.splits.classes is None:  # numbers that nothing was held against yet
                refuse_labels_beyond(videos, self.num_classes)
        self._erasing = (cfg.AUG.RE_PROB, cfg.AUG.RE_MODE, cfg.AUG.RE_COUNT)
        self._found_bad: list[BadVideo] = []  # in training, since the processes last told each other
        self._unusable: dict[str, str] = {}
        if self.splits.train is not None:
            self._make_training_batches(cfg, self.splits.train)

    def _make_training_batches(self, cfg: CfgNode, videos: VideoList) -> None:
        assert self.splits.validation is not None
        self._sampler = self._training_sampler(cfg, len(videos), str(videos.source))
        clips = TrainingClips(
            videos, clip_sampling(cfg, self.preprocessing), clip_augmentation(cfg), seed=self._seed,
            views=cfg.AUG.NUM_SAMPLE, decoder=cfg.DATA.DECODER, on_bad=cfg.DATA.ON_BAD_VIDEO,
        )  # fmt: skip
        self._loader = self._load(cast("Dataset[object]", clips), self._sampler)
        self._bad = self._ledger(videos, "bad_videos.csv")
        self._bad_in_validation = self._ledger(self.splits.validation, "bad_videos_of_validation.csv")

    def _ledger(self, videos: VideoList, name: str) -> BadVideos:
        folder = self._cfg.OUTPUT_DIR  # a dry run has none
        file = Path(folder) / name if folder and self.world.main else None
        return BadVideos(file, len(videos), self._cfg.DATA.MAX_BAD_PERCENT)

    def _logits_of_labels(self, names: Sequence[str] | None) -> tuple[tuple[str, ...], Tensor]:
        classes = self.splits.classes
        if classes is None:  # the lists number their classes, and a number is that of the logit
            return tuple(names or ()), torch.arange(self.num_classes)
        logits, named = logits_of_classes(classes, self.num_classes, names, self.training, str(self.root))
        return named, torch.tensor(logits)

    def _prepared(self, own: Preprocessing) -> Preprocessing:
        return clip_preprocessing(self._cfg, own)

    def notes(self) -> list[str]:
        """What a reader of run and results must know about the data, a line each."""
        notes = []
        if self.splits.train is not None:
            notes += unseen_classes(self.splits.train, self.splits.classes, self.num_classes)
        if self.splits.test is not None and self.splits.validation_is_test:
            tested = self.splits.test.source.name
            notes.append(f"{self.root} has no test videos apart from those of validation: {tested} is evaluated.")
        return notes

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[ClipBatch]:
        """See :class:`stvit.engine.tasks.Task`.

        Raises:
            UserError: a video cannot be decoded (DATA.ON_BAD_VIDEO raise), or too many cannot.
        """
        self._sampler.set_epoch(epoch, start_batch)
        for batch in unspoilt(self._loader):
            self._found_bad += batch.bad
            self._unusable.update((video.name, video.cause) for video in batch.bad)
            self._bad.note(batch.bad)
            yield batch

    def name_of(self, index: int) -> str:
        """The path of a training video as its list writes it."""
        assert self.splits.train is not None
        return self.splits.train.name(index)

    def on_device(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Clips ``(B, 3, T, h, w)``, normalised, and the numbers of their true logits ``(B,)``."""
        targets = self.logits[batch.labels].to(self.device, non_blocking=True)
        return self.normalised(batch.clips), targets

    def normalised(self, clips: Tensor) -> Tensor:
        """uint8 clips as the network takes them, where it computes."""
        return normalised_clips(clips.to(self.device, non_blocking=True), self.preprocessing)

    def inputs(self, batch: ClipBatch) -> Inputs:
        """As of images; of a batch whose videos are all bad no clips."""
        clips, targets = self.on_device(batch)
        if not len(clips):
            return clips, targets
        return self._mixed(batch, erased(clips, *self._erasing, self._erasing_seeds(batch)), targets)

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Cross-entropy with mixed and smoothed targets, mean over the batch, float32.

        Bad videos may have left fewer clips in a batch, which then weigh more: a step is the mean of its batches. Of an
        empty one the loss is 0, and still the network's, because other processes wait for its gradients.
        """
        clips, _ = inputs
        if not len(clips):
            statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
            # Two, because batch norms refuse one.
            loss = model(clips.new_zeros(2, *clips.shape[1:])).float().sum() * 0.0
            for buffer, before in statistics:  # which nothing was learnt for
                buffer.data.copy_(before)
            return loss
        return super().loss(model, inputs)

    def _erasing_seeds(self, batch: ClipBatch) -> list[int]:
        """One for each clip; a function of seed, epoch, video and view, as all that is random in a clip."""
        # Number 0 of a video is what mixing a batch draws from.
        return [
            sample_seed(self._seed, MIXING_STREAM, batch.epoch, index, 1 + view)
            for index, view in zip(batch.indices.tolist(), batch.views.tolist(), strict=True)
        ]

    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """As of images, on the centre view of each video; one that cannot be decoded is a mistake.

        Raises:
            UserError: a video cannot be decoded (DATA.ON_BAD_VIDEO raise), or too many cannot.
        """
        self._note_together(self._bad, self._found_bad)
        self._found_bad = []
        self._found_bad_in_validation: list[BadVideo] = []
        errors = super().validate(model, stop)
        self._note_together(self._bad_in_validation, self._found_bad_in_validation)
        return errors

    def _note_together(self, ledger: BadVideos, found: Sequence[BadVideo]) -> None:
        """Write what all processes found into the first one's file; above the cap all of them raise."""
        ledger.note(video for part in gather_objects(list(found), self.world) for video in part)

    def _undecodable(self, batch: ClipBatch) -> int:
        self._found_bad_in_validation += batch.bad
        return len(batch.bad)

    def _validation_batches(self) -> Iterator[ClipBatch]:
        assert self.splits.validation is not None
        one_view = replace(self.preprocessing, test_views=1, test_crops=1, offset_sampling=True)
        for batch in self.view_batches(self.splits.validation, one_view, self._eval_batch):
            only = torch.zeros_like(batch.indices)
            yield ClipBatch(batch.clips.flatten(0, 1), batch.labels, 0, batch.indices, only, batch.bad)

    def test_batches(self, videos: VideoList) -> Iterator[ViewBatch]:
        """This process's share of the videos, each once with all its views; about TEST.BATCH_SIZE clips at once."""
        views = self.preprocessing.test_views * self.preprocessing.test_crops
        return self.view_batches(videos, self.preprocessing, max(1, self._eval_batch // views))

    def view_batches(self, videos: VideoList, preprocessing: Preprocessing, batch_size: int) -> Iterator[ViewBatch]:
        """This process's share of the videos, ``batch_size`` at once, with the views that ``preprocessing`` says."""
        views: Dataset[object] = cast("Dataset[object]", self.views_of(videos, preprocessing))
        if self.world.size > 1:
            views = Subset(views, rank_slice(len(videos), self.world))
        for batch in cast("Iterator[ViewBatch]", unspoilt(self._load(views, batch_size))):
            self._unusable.update((video.name, video.cause) for video in batch.bad)
            yield batch

    def views_of(self, videos: VideoList, preprocessing: Preprocessing) -> EvaluationViews:
        """The videos of a list, each with all its views."""
        data = self._cfg.DATA
        sampling = clip_sampling(self._cfg, preprocessing)
        return EvaluationViews(videos, sampling, preprocessing, decoder=data.DECODER, on_bad=data.ON_BAD_VIDEO)

    @property
    def clips_at_once(self) -> int:
        """How many this process evaluates in one pass of the network: its part of TEST.BATCH_SIZE."""
        return self._eval_batch

    def evaluated_sets(self) -> dict[str, EvaluatedSet]:
        """See :class:`stvit.engine.tasks.Task`; samples are videos, in the test with all their views."""
        sets: dict[str, EvaluatedSet] = {}
        if self.splits.validation is not None:
            sets["validation"] = EvaluatedSet(len(self.splits.validation), self._scorings_in_validation)
        if self.splits.test is not None:
            sets["test"] = EvaluatedSet(len(self.splits.test), functools.partial(self._scorings, self.splits.test))
        return sets

    def _scorings_in_validation(self) -> Iterator[Scoring]:
        for batch in self._validation_batches():
            yield functools.partial(self._forward, batch)

    def _scorings(self, videos: VideoList) -> Iterator[Scoring]:
        for batch in self.test_batches(videos):
            yield functools.partial(self._forward_views, batch)

    def _forward_views(self, batch: ViewBatch, model: nn.Module) -> int:
        for clips in batch.clips.flatten(0, 1).split(self.clips_at_once):
            model(self.normalised(clips))
        return len(batch.clips)

    def unusable(self) -> dict[str, str]:
        """See :class:`stvit.engine.tasks.Task`; paths as their lists write them."""
        return self._unusable

    def evaluate(self, cfg: CfgNode, model: nn.Module, stop: StopRequest, trained: TrainingRecord) -> Outcome:
        """See :class:`stvit.engine.tasks.Task`."""
        return evaluate_clips(cfg, model, self, stop, trained)


def clip_augmentation(cfg: CfgNode) -> ClipAugmentation:
    """The random views that the settings ask for."""
    data, aug = cfg.DATA, cfg.AUG
    area, aspect = tuple(data.TRAIN_JITTER_SCALES_RELATIVE), tuple(data.TRAIN_JITTER_ASPECT_RELATIVE)
    return ClipAugmentation(
        size=(data.TRAIN_CROP_SIZE, data.TRAIN_CROP_SIZE),
        area=area or None,
        aspect=aspect or ClipAugmentation.aspect,
        short_side=tuple(data.TRAIN_JITTER_SCALES),
        inverse_uniform=data.INV_UNIFORM_SAMPLE,
        flip=0.5 if data.RANDOM_FLIP else 0.0,
        auto_augment=aug.AA_TYPE,
        color_jitter=aug.COLOR_JITTER,
        interpolation=aug.INTERPOLATION,
    )


def refuse_labels_beyond(videos: VideoList, classes: int) -> None:
    """Raise :class:`UserError` for the first video whose label is no number of one of so many classes."""
    beyond = np.flatnonzero((videos.labels < 0) | (videos.labels >= classes))
    if len(beyond):
        first, most = int(beyond[0]), int(videos.labels.max())
        more = f" (and so have {len(beyond) - 1} more)" if len(beyond) > 1 else ""
        raise UserError(
            f"{videos.where(first)}: {videos.name(first)} has the label {videos.labels[first]}{more}, but "
            f"MODEL.NUM_CLASSES is {classes} and labels count from 0: set MODEL.NUM_CLASSES {most + 1}, or mend the "
            "list"
        )


def unseen_classes(videos: VideoList, names: Sequence[str] | None, classes: int) -> list[str]:
    """A line about classes of the network that no training video has, if there are any."""
    counts = np.bincount(videos.labels, minlength=classes)
    unseen = np.flatnonzero(counts[: len(names or ())] == 0) if names else np.flatnonzero(counts == 0)
    beyond = int(videos.labels.max()) + 1 if names is None else len(names)
    notes = []
    if beyond < classes:
        notes.append(
            f"{videos.source} has {beyond} classes and the network {classes}; the other logits learn to be never right "
            f"(MODEL.NUM_CLASSES {beyond} leaves them out)."
        )
    within = [k for k in unseen.tolist() if k < beyond]
    if within:
        named = ", ".join(names[k] if names else f"number {k}" for k in within[:_NAMED])
        more = f" and {len(within) - _NAMED} more" if len(within) > _NAMED else ""
        notes.append(f"{videos.source} has no video of {len(within)} of its {beyond} classes: {named}{more}.")
    return notes


_NAMED = 4  # classes that a note names
