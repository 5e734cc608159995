"""Gradients computed by replaying a recording, so that the host launches one thing a step instead of a thousand.

A CUDA graph holds the kernels of a step with the addresses they read and write. What a step needs of a batch is copied
to where the recorded one was, loss and gradients appear where the recorded ones did. The optimiser stays outside: its
learning rate, and under OneCycle its beta1, are numbers that change at every step, and its few fused kernels are
launched while the graph still computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from stvit.engine.steps import Inputs, MeanGradients
from stvit.errors import UserError

Batch = TypeVar("Batch")

# Steps on batches of one shape before the recording, taken like any other: they compile, choose algorithms, make room.
WARM_UP = 3


class Recording(NamedTuple):
    """Kernels that can be launched again."""

    replay: Callable[[], None]
    result: Tensor  # where each replay leaves what the recorded work returned


def cuda_graph(work: Callable[[], Tensor], stream: torch.cuda.Stream | None = None) -> Recording:
    """Record work on a stream of the current CUDA device; it is not carried out until it is replayed."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with calls that a recording forbids: the one that pins memory for the loader does.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = work()
    return Recording(graph.replay, result)


class RecordedGradients(Generic[Batch]):
    """What :class:`MeanGradients` of one batch computes, recorded after a few steps; see :data:`Gradients`.

    Random numbers are drawn anew at each replay, from the device's generator as ever. A batch of another shape than
    the recorded one (left smaller by bad videos, say) is computed without the recording.

    Args:
        plain: what is recorded; its precision needs no loss scaling.
        record: makes a recording; another one than :func:`cuda_graph` in tests on machines without a GPU.
    """

    def __init__(
        self, plain: MeanGradients[Batch], record: Callable[[Callable[[], Tensor]], Recording] | None = None
    ) -> None:
        self._parameters = [p for p in plain.network.parameters() if p.requires_grad]
        on_gpu = plain.precision.device.type == "cuda"
        self._beside = torch.cuda.Stream(plain.precision.device) if on_gpu else None
        self._plain, self._record = plain, record or partial(cuda_graph, stream=self._beside)
        self._kind: list[tuple[torch.Size, torch.dtype]] = []
        self._steps = 0  # in a row, on inputs of this kind
        self._static: Inputs = ()
        self._recording: Recording | None = None
        self._gradients: list[Tensor | None] = []

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """See :data:`Gradients`; ``batches`` holds one."""
        (batch,) = batches
        inputs = self._plain.objective.inputs(batch)
        kind = [(tensor.shape, tensor.dtype) for tensor in inputs]
        if self._recording is None:
            self._steps = self._steps + 1 if kind == self._kind else 1
            self._kind = kind
            if self._steps <= WARM_UP:
                return self._warm_up(inputs)
            self._static = tuple(tensor.clone() for tensor in inputs)
            self._recording = self._recorded()
            self._gradients = [parameter.grad for parameter in self._parameters]
        if kind != self._kind:
            return self._compute(inputs)
        for kept, new in zip(self._static, inputs, strict=True):
            kept.copy_(new)
        self._recording.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # a batch of another shape has put others there
        loss, norm = self._recording.result.clone()  # the next replay overwrites it
        return loss, norm

    def _warm_up(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """A plain step beside the default stream, as a recording is: what it sets up is then of use to that."""
        if self._beside is None:
            return self._compute(inputs)
        self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            loss, norm = self._compute(inputs)
        torch.cuda.current_stream().wait_stream(self._beside)
        return loss, norm

    def _compute(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        self._plain.optimizer.zero_grad(set_to_none=True)
        return self._plain.backward(inputs), self._plain.finish()

    def _recorded(self) -> Recording:
        """The recording of a step on the static inputs.

        Raises:
            UserError: the step does something that cannot be recorded, such as asking the device for a number.
        """
        try:
            return self._record(lambda: torch.stack(self._compute(self._static)))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error.__context__ or error).partition("\n")[0]  # the end of a broken recording fails too
            raise UserError(
                f"the training step of {type(self._plain.network).__name__} cannot be recorded ({reason}): set "
                "TRAIN.CUDA_GRAPHS False"
            ) from error
