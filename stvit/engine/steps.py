"""One optimiser step, and a watch over the numbers of many that asks the device for them only now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from stvit.engine.distributed import ALONE, World, gather_objects, gradients_stay_here, sum_over_ranks
from stvit.engine.optim import Precision, clip_gradients

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)

#: What a loss needs of a batch, where the network computes.
Inputs = tuple[Tensor, ...]
#: Leaves the mean gradient of batches in the parameters; returns loss and gradient norm, both ``()`` on the device.
Gradients = Callable[[Sequence[Batch]], tuple[Tensor, Tensor]]

# Below this scale float16 gradients overflow whatever the scaler does (it starts at 65536).
SMALLEST_LOSS_SCALE = 2.0**-10


class Diverged(ArithmeticError):  # noqa: N818 (what happened, in the field's word)
    """A loss or gradient is NaN or infinite: training cannot go on."""


class Objective(Protocol[BatchIn]):
    """What is learnt: a task, as a training step sees it."""

    def inputs(self, batch: BatchIn) -> Inputs:
        """What the loss needs of a batch, on the device; all that the host draws, reads or decides is done here."""

    def loss(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The mean loss of a batch, ``()`` float32, by the device alone: never a number is asked back from it."""


@dataclass(frozen=True)
class MeanGradients(Generic[Batch]):
    """The mean gradient of one or several batches, scaled down to a joint norm; see :data:`Gradients`.

    With several processes the loss is that of this one's batches; gradient and norm are those of all.

    Args:
        network: as training calls it (compiled, sharing its gradients).
        objective: what is learnt.
        optimizer: whose parameters' gradients are meant.
        precision: number format of the forward pass.
        clip: largest joint L2 norm of the gradients; 0 leaves them.
    """

    network: nn.Module
    objective: Objective[Batch]
    optimizer: torch.optim.Optimizer
    precision: Precision
    clip: float

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """See :data:`Gradients`."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.precision.device)
        for number, batch in enumerate(batches, start=1):
            inputs = self.objective.inputs(batch)
            with nullcontext() if number == len(batches) else gradients_stay_here(self.network):
                total += self.backward(inputs, len(batches))
        return total, self.finish()

    def backward(self, inputs: Inputs, batches: int = 1) -> Tensor:
        """Add the gradient of one of so many batches to the others'; its part of the loss, ``()``."""
        with self.precision.autocast():
            loss = self.objective.loss(self.network, inputs) / batches
        self.precision.scaler.scale(loss).backward()
        return loss.detach()

    def finish(self) -> Tensor:
        """Undo the scaling of fp16 and clip; the norm before clipping, ``()``."""
        self.precision.scaler.unscale_(self.optimizer)
        return clip_gradients(self.network, self.clip)


def training_step(
    gradients: Gradients[Batch], batches: Sequence[Batch], optimizer: torch.optim.Optimizer, precision: Precision
) -> tuple[Tensor, Tensor]:
    """One step of the optimiser; returns what ``gradients`` of the batches does."""
    loss, norm = gradients(batches)
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return loss, norm


@dataclass
class Interval:
    """Losses and gradient norms since the last log line.

    They stay on the device until :meth:`settle`, because reading one waits for all work before it.
    """

    loss_sum: float = 0.0
    steps: int = 0
    norm_max: float = 0.0
    waited: float = 0.0  # seconds, for data
    _pending: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    _begun: float = field(default_factory=lambda: time.monotonic())
    _timed: int = 0  # samples

    def add(self, where: str, loss: Tensor, norm: Tensor, samples: int) -> None:
        """Note a step; ``where`` names it and its data for the message of :class:`Diverged`."""
        self._pending.append((where, loss, norm))
        self._timed += samples

    def wait(self, seconds: float) -> None:
        """Note time spent waiting for data."""
        self.waited += seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Around work that is not training: its time does not count."""
        begun = time.monotonic()
        yield
        self._begun += time.monotonic() - begun

    def settle(self, precision: Precision, world: World = ALONE) -> None:
        """Read what is pending into the sums, as means over the processes, which all call this together.

        Raises:
            Diverged: a step's loss or gradient norm is not finite. With fp16 an overflowing gradient is what the
                scaler waits for (it skips the step and lowers the scale), until the scale itself has collapsed.
        """
        if not self._pending:
            return
        own = torch.stack([torch.stack((loss, norm)).double() for _, loss, norm in self._pending]).cpu()
        values = (sum_over_ranks(own, world) / world.size).tolist()
        scaling = precision.scaler.is_enabled()
        for (where, own_loss, _), (loss, norm) in zip(self._pending, values, strict=True):
            if not math.isfinite(loss) or not (math.isfinite(norm) or scaling):
                blamed = gather_objects(None if own_loss.isfinite() else where, world)
                where = next(filter(None, blamed), where)
                raise Diverged(f"training diverged at {where}: loss {loss:g}, gradient norm {norm:g}")
            self.loss_sum += loss
            self.steps += 1
            if math.isfinite(norm):
                self.norm_max = max(self.norm_max, norm)
        if scaling and precision.scaler.get_scale() < SMALLEST_LOSS_SCALE:
            raise Diverged(
                f"training diverged at {self._pending[-1][0]}: fp16 gradients overflow even at a loss scale of "
                f"{precision.scaler.get_scale():g}"
            )
        self._pending.clear()

    def speed(self) -> tuple[float, float]:
        """Samples per second and the share of time spent waiting for data."""
        seconds = max(1e-9, time.monotonic() - self._begun)
        return self._timed / seconds, self.waited / seconds

    def state(self) -> dict[str, float]:
        """The settled sums, for a checkpoint: an interval goes on where a resumed run picks it up."""
        return {"loss_sum": self.loss_sum, "steps": self.steps, "norm_max": self.norm_max}
