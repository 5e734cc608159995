"""A network in training, as the engine trains it, whose steps are timed in windows."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit.engine.distributed import World
from stvit.engine.dry_run import timed
from stvit.engine.state import new_state
from stvit.engine.steps import Inputs, Interval, Objective
from stvit.engine.train import set_training, take_step

Batch = TypeVar("Batch")


class Subject(Objective[Batch], Protocol[Batch]):
    """What is learnt and from what: as much of a task as training takes."""

    batches_per_epoch: int

    def train_batches(self, epoch: int, start_batch: int) -> Iterable[Batch]:
        """The batches of an epoch from the given one on."""

    def describe(self, batch: Batch) -> str:
        """Which samples these are."""


class ConstantSamples:
    """Random images or clips with random labels, made on the device once: a data set that takes no time."""

    batches_per_epoch = 1

    def __init__(self, shape: tuple[int, ...], classes: int, device: torch.device) -> None:
        """``shape``: of a batch as the network takes it, ``(B, C, H, W)`` or ``(B, C, T, H, W)``."""
        self._shape, self._classes, self._device = shape, classes, device

    def train_batches(self, epoch: int, start_batch: int) -> Iterator[Inputs]:
        """The same batch, made at the first call, without an end."""
        samples = torch.randn(self._shape, device=self._device)
        return itertools.repeat((samples, torch.randint(self._classes, self._shape[:1], device=self._device)))

    def describe(self, batch: Inputs) -> str:
        """See :class:`Subject`."""
        return f"{len(batch[0])} random samples"

    def inputs(self, batch: Inputs) -> Inputs:
        """Samples and labels ``(B,)``, which are where they are needed."""
        return batch

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Cross-entropy, mean over the batch, float32."""
        samples, labels = inputs
        return F.cross_entropy(model(samples).float(), labels)


@dataclass(frozen=True)
class Pace:
    """How often a network is stepped, and timed."""

    warm_up: int  # steps that are not timed: the first ones compile, choose kernels and record
    steps: int  # in a window
    windows: int

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.warm_up + self.steps * self.windows


@dataclass(frozen=True)
class Window:
    """Wall time of some steps in a row, from an idle device to an idle device."""

    seconds: float
    waited: float  # seconds of it in which the host waited for data


@dataclass(frozen=True)
class Timing:
    """What the steps of one network took."""

    pace: Pace
    windows: tuple[Window, ...]
    warm_up_seconds: float
    peak_bytes: int | None  # of GPU memory, None on the CPU

    @property
    def step_seconds(self) -> float:
        """Of a step, median over the windows."""
        return statistics.median(window.seconds for window in self.windows) / self.pace.steps

    @property
    def mean_step_seconds(self) -> float:
        """Of a step, what happens once in many steps included (data made on the device come many batches at a time)."""
        return statistics.fmean(window.seconds for window in self.windows) / self.pace.steps

    @property
    def start_seconds(self) -> float:
        """By how much the first steps took longer: compiling, choosing kernels, recording, starting loader workers."""
        return max(0.0, self.warm_up_seconds - self.pace.warm_up * self.step_seconds)

    @property
    def data_wait(self) -> float:
        """The share of the time that went into waiting for data."""
        return sum(window.waited for window in self.windows) / sum(window.seconds for window in self.windows)


class Trainee(Generic[Batch]):
    """A network, its optimiser and schedule, and its data; takes the steps of :func:`stvit.engine.train.take_step`.

    Without what a run does besides: nothing is logged, written or validated. Losses stay on the device until the end
    of a window, as they do in a run until a line of the log.
    """

    def __init__(
        self, build: Callable[[], nn.Module], cfg: CfgNode, world: World, subject: Subject[Batch], pace: Pace
    ) -> None:
        """Build the network on its device, and take the steps that warm it up.

        The schedule of a run that is shorter than ``pace`` is drawn out to its steps.
        """
        self._cfg, self._device, self._subject = cfg, world.device, subject
        steps_per_epoch = max(pace.total, subject.batches_per_epoch // cfg.TRAIN.ACCUMULATE_STEPS)
        others = self._reserved()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        model = build()
        self._state = new_state(model, cfg, world, steps_per_epoch, subject)
        set_training(model, cfg)
        self._batches = itertools.chain.from_iterable(subject.train_batches(epoch, 0) for epoch in itertools.count())
        self._pace, self._windows = pace, list[Window]()
        self._warm_up = self._timed(pace.warm_up)
        self._peak = None
        if self._device.type == "cuda":
            # Reserved, not allocated: what a CUDA graph computes with is its own, and no tensor's afterwards.
            self._peak = torch.cuda.max_memory_reserved(self._device) - others

    def time_a_window(self) -> None:
        """Take and time the steps of a window."""
        self._windows.append(self._timed(self._pace.steps))

    @property
    def timing(self) -> Timing:
        """What was timed so far."""
        return Timing(self._pace, tuple(self._windows), self._warm_up.seconds, self._peak)

    def run(self, steps: int) -> None:
        """Take so many steps, and look at their losses at the end.

        Raises:
            Diverged: a loss or a gradient is not finite.
        """
        self._state.interval = Interval()
        for _ in range(steps):
            take_step(self._cfg, self._state, self._batches, self._subject.describe)
        self._state.interval.settle(self._state.precision)

    def _timed(self, steps: int) -> Window:
        seconds, _ = timed(partial(self.run, steps), self._device)
        return Window(seconds, self._state.interval.waited)

    def _reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0


def time_in_turns(trainees: Sequence[Trainee[Batch]], pace: Pace) -> list[Timing]:
    """Time one network, or several whose windows alternate; the order is reversed every other round."""
    for turn in range(pace.windows):
        for trainee in trainees if turn % 2 == 0 else reversed(trainees):
            trainee.time_a_window()
    return [trainee.timing for trainee in trainees]
