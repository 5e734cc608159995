"""What a run asks of its task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit.engine.distributed import World
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.engine.steps import Inputs
from stvit.preprocessing import Preprocessing

Batch = TypeVar("Batch")


# A loaded batch of an evaluation: scores it by a network, and says how many samples it has.
Scoring = Callable[[nn.Module], int]


class EvaluatedSet(NamedTuple):
    """A set that a run evaluates on, as one who estimates its cost sees it."""

    samples: int  # all processes' together
    batches: Callable[[], Iterator[Scoring]]  # this process's, each loaded when it is asked for


class Task(Protocol[Batch]):
    """All that training and evaluation know about what is being learnt."""

    world: World
    device: torch.device
    selected_by: str  # the entry of validate() that the best checkpoint has lowest
    batches_per_epoch: int
    shares_test_set: bool  # among all processes; otherwise the first measures all of it
    frames_per_sample: int  # for the speed in frames/s
    speed_in: tuple[str, int]  # what the speed on the screen counts, and how many of them a sample is
    identity: dict[str, object]  # plain values that say what the data are, for checkpoints and results

    def attach(self, model: nn.Module) -> None:
        """Complete what the model says about its input (``model.preprocessing``) by what only the data know."""

    def adopt(self, described: Preprocessing | None) -> list[str]:
        """Follow what a checkpoint that is tested alone says of its samples, None for one that says nothing.

        Returns:
            A line for each setting that contradicts it.
        """

    def notes(self) -> list[str]:
        """What a reader of run and results must know about the data, a line each."""

    def train_batches(self, epoch: int, start_batch: int) -> Iterable[Batch]:
        """The batches of an epoch from the given one on; a function of seed and epoch alone."""

    def describe(self, batch: Batch) -> str:
        """Which samples these are, for a message."""

    def inputs(self, batch: Batch) -> Inputs:
        """See :class:`stvit.engine.steps.Objective`."""

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """See :class:`stvit.engine.steps.Objective`."""

    def validate(self, model: nn.Module, stop: StopRequest) -> dict[str, float]:
        """Metrics of the validation set; takes no number from the global generators."""

    def evaluated_sets(self) -> Mapping[str, EvaluatedSet]:
        """``validation`` and ``test``, those of them that the run uses."""

    def unusable(self) -> Mapping[str, str]:
        """The samples that could not be used so far, each with the cause."""

    def evaluate(self, cfg: CfgNode, model: nn.Module, stop: StopRequest, trained: TrainingRecord) -> Outcome:
        """Measure the model, in evaluation mode, on the test set.

        Raises:
            UserError: the test set cannot be read, or the checkpoint does not fit it.
            Stopped: a signal came.
        """
