"""Frame prediction on Moving MNIST as a task of the engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from stvit.datasets import (
    DeviceMovingMNIST,
    EpochBatchSampler,
    FrameSequences,
    MovingMNIST,
    SequenceBatch,
    batch_loader,
    moving_mnist_splits,
)
from stvit.engine.distributed import World, rank_slice, sum_over_ranks
from stvit.engine.evaluate_frames import evaluate_frames
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest, leave_signals_to_parent
from stvit.engine.steps import Inputs
from stvit.engine.tasks.task import EvaluatedSet, Scoring
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing
from stvit.registry import model_spec


def predictor_settings(cfg: CfgNode) -> dict[str, object]:
    """All settings of the model's row: what Moving MNIST says about it, and MODEL.ARGS. Reads no data.

    Raises:
        UserError: MODEL.ARGS contradict the settings of the data, or name or value is not one of the model's; the
            model takes no images of this size.
    """
    data, arguments = cfg.MOVING_MNIST, dict(cfg.MODEL.ARGS)
    given: dict[str, tuple[object, str]] = {
        "in_frames": (data.FRAMES_IN, f"MOVING_MNIST.FRAMES_IN is {data.FRAMES_IN}"),
        "out_frames": (data.FRAMES_OUT, f"MOVING_MNIST.FRAMES_OUT is {data.FRAMES_OUT}"),
        "channels": (1, "Moving MNIST has 1 channel"),
        "image_size": ([data.IMAGE_SIZE, data.IMAGE_SIZE], f"MOVING_MNIST.IMAGE_SIZE is {data.IMAGE_SIZE}"),
    }
    for name, (value, said) in given.items():
        if name in arguments and arguments[name] != value:
            raise UserError(f"MODEL.ARGS.{name} is {arguments[name]!r}, but {said}: leave it out of MODEL.ARGS")
    settings = {**{name: value for name, (value, _) in given.items()}, **arguments}
    multiples = getattr(model_spec(cfg.MODEL.NAME, **settings), "size_multiple", (1, 1))
    if any(data.IMAGE_SIZE % multiple for multiple in multiples):
        raise UserError(
            f"MOVING_MNIST.IMAGE_SIZE is {data.IMAGE_SIZE}, but {cfg.MODEL.NAME} with these MODEL.ARGS takes images "
            f"whose height and width are multiples of {' and '.join(map(str, multiples))}"
        )
    return settings


class MovingMNISTPrediction:
    """Frame prediction on Moving MNIST: mean squared error in training, the published MSE for selection."""

    selected_by = "mse"
    shares_test_set = False
    model_settings = staticmethod(predictor_settings)

    def __init__(self, cfg: CfgNode, world: World) -> None:
        """Prepare the three sets.

        Raises:
            UserError: files that are missing or unfit, settings that no sequence can have.
            OSError: a failed download or write.
        """
        self._cfg, data = cfg, cfg.MOVING_MNIST
        self.splits = moving_mnist_splits(
            digits=data.DIGITS,
            root=cfg.DATA.PATH_TO_DATA_DIR,
            cache=cfg.DATA.CACHE_DIR or None,
            n_digits=tuple(data.NUM_DIGITS),
            test_n_digits=tuple(data.TEST_NUM_DIGITS) or None,
            image_size=data.IMAGE_SIZE,
            digit_size=data.DIGIT_SIZE,
            step=data.STEP,
            frames_in=data.FRAMES_IN,
            frames_out=data.FRAMES_OUT,
            train_length=data.TRAIN_SEQUENCES,
            val_length=data.VAL_SEQUENCES,
            test_length=data.TEST_SEQUENCES,
            seed=cfg.RNG_SEED,
            download=cfg.DATA.DOWNLOAD,
            validate_on_test=data.VALIDATE_ON_TEST,
        )
        self.identity = self.splits.identity
        self.world, self.device = world, world.device
        self.frames_in, self.frames_out = data.FRAMES_IN, data.FRAMES_OUT
        self.frames_per_sample = data.FRAMES_IN + data.FRAMES_OUT
        self.speed_in = ("frames", self.frames_per_sample)
        self._image_size = data.IMAGE_SIZE
        self._eval_batch = cfg.TEST.BATCH_SIZE
        self._workers = cfg.DATA_LOADER.NUM_WORKERS
        self._pin_memory = cfg.DATA_LOADER.PIN_MEMORY and self.device.type == "cuda"
        self.batches_per_epoch = data.TRAIN_SEQUENCES // cfg.TRAIN.BATCH_SIZE
        if cfg.TRAIN.ENABLE:
            self._make_training_batches(cfg)

    def _make_training_batches(self, cfg: CfgNode) -> None:
        train, world = self.splits.train, self.world
        each = cfg.TRAIN.BATCH_SIZE // world.size
        self._sampler = EpochBatchSampler(len(train), each, rank=world.rank, world_size=world.size)
        self._maker = self._loader = None
        if cfg.MOVING_MNIST.ON_DEVICE:
            self._maker = DeviceMovingMNIST(train.digits, train.spec, train.seed, self.device)
        else:
            self._loader = self._load(train, self._sampler)

    def _load(self, sequences: Dataset[SequenceBatch], batches: EpochBatchSampler | int) -> DataLoader[SequenceBatch]:
        return batch_loader(sequences, batches, self._workers, self._pin_memory, worker_init_fn=leave_signals_to_parent)

    def describe_test_set(self) -> str:
        """In one line: how many sequences of what."""
        test = self._test_identity()
        if test["kind"] == "published file":
            source, numbers = "mnist", [2]  # whatever the digits of training are
        else:
            source, numbers = test["digits"], test["n_digits"]
        digits = " or ".join(map(str, numbers))
        return (
            f"{len(self.splits.test)} sequences of {digits} {source} digit{'s' * (digits != '1')} on "
            f"{self._image_size}x{self._image_size} pixels, {self.frames_in} -> {self.frames_out} frames"
        )

    def _test_identity(self) -> Mapping[str, Any]:
        return cast("Mapping[str, Any]", self.splits.identity["test"])

    def attach(self, model: nn.Module) -> None:
        """See :class:`stvit.engine.tasks.Task`; a predictor's settings say it all."""

    def adopt(self, described: Preprocessing | None) -> list[str]:
        """See :class:`stvit.engine.tasks.Task`; a predictor's checkpoint says nothing that the settings do not."""
        return []

    def notes(self) -> list[str]:
        """What a reader of the results must know about the data, a line each."""
        reason = self._test_identity().get("published_file_unused_because")
        return [f"The published test file is there but was not used: {reason}."] if reason else []

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[SequenceBatch]:
        """See :class:`stvit.engine.tasks.Task`."""
        self._sampler.set_epoch(epoch, start_batch)
        if self._loader is not None:
            yield from self._loader
        elif self._maker is not None:
            yield from self._maker.batches(epoch, ([index for _, index in keys] for keys in self._sampler))

    def describe(self, batch: SequenceBatch) -> str:
        """See :class:`stvit.engine.tasks.Task`."""
        return f"sequences {', '.join(map(str, batch.indices.tolist()))} of epoch {batch.epoch + 1}"

    def inputs(self, batch: SequenceBatch) -> Inputs:
        """The frames on the device, uint8 ``(B, frames_in + frames_out, C, H, W)``."""
        return (batch.frames.to(self.device, non_blocking=True),)

    def past_and_future(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """The frames on the device, float32 in [0, 1]: ``(B, frames_in, C, H, W)``, ``(B, frames_out, C, H, W)``."""
        return self._halves(*self.inputs(batch))

    def _halves(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames.float() / 255
        return frames[:, : self.frames_in], frames[:, self.frames_in :]

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The squared error, mean over all elements, float32."""
        past, future = self._halves(*inputs)
        return F.mse_loss(model(past, self.frames_out).float(), future)

    @torch.no_grad()
    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """MSE and MAE: totals over a frame's pixels, mean over frames and sequences; in float32."""
        model.eval()
        own: Dataset[SequenceBatch] = self.splits.val
        if self.world.size > 1:
            own = Subset(own, rank_slice(len(self.splits.val), self.world))
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # squared, absolute, frames
        for batch in stop.between(self._load(own, math.ceil(self._eval_batch / self.world.size))):
            past, future = self.past_and_future(batch)
            error = (model(past, self.frames_out) - future).double()
            frames = error.new_tensor(future.shape[0] * future.shape[1])
            sums += torch.stack((error.square().sum(), error.abs().sum(), frames))
        squared, absolute, frames = sum_over_ranks(sums, self.world).tolist()
        return {"mse": squared / frames, "mae": absolute / frames}

    def eval_batches(self, split: MovingMNIST | FrameSequences) -> Iterable[SequenceBatch]:
        """All sequences of a fixed set, in order."""
        return self._load(split, self._eval_batch)

    def evaluated_sets(self) -> dict[str, EvaluatedSet]:
        """See :class:`stvit.engine.tasks.Task`."""
        cfg = self._cfg
        sets = {"validation": self.splits.val if cfg.TRAIN.ENABLE else None}
        sets["test"] = self.splits.test if cfg.TEST.ENABLE else None

        def batches(split: MovingMNIST | FrameSequences) -> Iterator[Scoring]:
            for batch in self.eval_batches(split):
                yield functools.partial(self._predict, batch)

        return {
            name: EvaluatedSet(len(split), functools.partial(batches, split))
            for name, split in sets.items()
            if split is not None
        }

    def _predict(self, batch: SequenceBatch, model: nn.Module) -> int:
        past, _ = self.past_and_future(batch)
        return len(model(past, self.frames_out))

    def unusable(self) -> dict[str, str]:
        """See :class:`stvit.engine.tasks.Task`; sequences are made, and all of them can be used."""
        return {}

    def evaluate(self, cfg: CfgNode, model: nn.Module, stop: StopRequest, trained: TrainingRecord) -> Outcome:
        """See :class:`stvit.engine.tasks.Task`."""
        return evaluate_frames(cfg, model, self, stop, trained)
