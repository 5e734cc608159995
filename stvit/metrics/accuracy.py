"""Classification: top-k accuracy, mean class accuracy and the confusion matrix, over any number of batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stvit.errors import UserError


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes are placed before the true one, int64 ``(N,)``: 0 where the prediction is right.

    Of equal logits the class with the lower number comes first, as ``argmax`` has it, so that a network that gives
    every class the same is not right everywhere. A true class whose logit is NaN comes last.

    Args:
        logits: ``(N, classes)``, or anything that grows with them.
        labels: int64 ``(N,)``.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UserError(
            f"logits must be (N, classes) and labels (N,), not {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    N, classes = logits.shape
    if N and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes")
    true = logits.gather(1, labels[:, None])
    before = ~(logits <= true)
    before |= (logits == true) & (torch.arange(classes, device=logits.device) < labels[:, None])
    return before.sum(dim=1)


def topk_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of samples whose true class is among the ``k`` highest logits, in [0, 1]."""
    return float((ranks(logits, labels) < k).double().mean())


class ClassMetrics:
    """A streaming confusion matrix with the counts of top-k hits; parts from several processes add up by ``+``."""

    def __init__(self, classes: int, topk: Sequence[int] = (1, 5)) -> None:
        """``classes`` of the network; ``topk``: which accuracies are counted."""
        self.classes, self.topk = classes, tuple(topk)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)  # row: the truth, column: the prediction
        self.hits = torch.zeros(len(self.topk), dtype=torch.int64)

    def update(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count a batch, ``(N, classes)`` and ``(N,)``; returns its :func:`ranks`, ``(N,)`` on the CPU.

        Raises:
            UserError: a logit is not finite.
        """
        if not bool(logits.isfinite().all()):
            raise UserError("the network gives logits that are not finite (NaN or infinite): its weights may be broken")
        logits, labels = logits.detach().float().cpu(), labels.cpu()
        placed = ranks(logits, labels)
        pairs = labels * self.classes + logits.argmax(dim=1)
        self.confusion += torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)
        self.hits += torch.stack([(placed < k).sum() for k in self.topk])
        return placed

    def __add__(self, other: ClassMetrics) -> ClassMetrics:
        """The metrics of both parts together."""
        if (self.classes, self.topk) != (other.classes, other.topk):
            raise ValueError("only metrics of the same classes and the same k can be added")
        both = ClassMetrics(self.classes, self.topk)
        both.confusion, both.hits = self.confusion + other.confusion, self.hits + other.hits
        return both

    @property
    def samples(self) -> int:
        """How many were counted."""
        return int(self.confusion.sum())

    def compute(self) -> dict[str, float]:
        """``top1_accuracy``, ``top1_error``, ... and ``mean_class_accuracy``, all in percent.

        The last is the mean, over the classes that have samples, of the share of their samples that is predicted right.
        """
        if not self.samples:
            raise UserError("no metrics: no images were measured (is the evaluation set empty?)")
        values = {}
        for k, hits in zip(self.topk, self.hits.tolist(), strict=True):
            values[f"top{k}_accuracy"] = 100 * hits / self.samples
            values[f"top{k}_error"] = 100 * (self.samples - hits) / self.samples
        counts = self.confusion.sum(dim=1)
        there = counts > 0
        recall = self.confusion.diagonal()[there].double() / counts[there]
        values["mean_class_accuracy"] = 100 * float(recall.mean())
        return values

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes, as (truth, prediction, how often), the most frequent first."""
        mistakes = self.confusion.clone()
        mistakes.fill_diagonal_(0)
        values, places = mistakes.flatten().sort(descending=True, stable=True)
        return [
            (int(place) // self.classes, int(place) % self.classes, int(value))
            for value, place in zip(values[:count], places[:count], strict=True)
            if value
        ]
