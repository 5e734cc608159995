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
    """Top-k hits, and which class was taken for which; parts from several processes add up by ``+``.

    It keeps a number for each sample, not a table of all pairs of classes, which for ImageNet-21k takes 3 GB.
    """

    def __init__(self, classes: int, topk: Sequence[int] = (1, 5)) -> None:
        """``classes`` of the network; ``topk``: which accuracies are counted."""
        self.classes, self.topk = classes, tuple(topk)
        self.hits = torch.zeros(len(self.topk), dtype=torch.int64)
        self._pairs = [torch.empty(0, dtype=torch.int64)]  # truth * classes + prediction
        self._missed = [torch.empty(0, dtype=torch.int64)]  # truth of samples without a prediction

    def update(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count a batch, ``(N, classes)`` and ``(N,)``; returns its :func:`ranks`, ``(N,)`` on the CPU.

        Raises:
            UserError: a logit is not finite, or the shapes are others.
        """
        if not bool(logits.isfinite().all()):
            raise UserError("the network gives logits that are not finite (NaN or infinite): its weights may be broken")
        logits, labels = logits.detach().float().cpu(), labels.cpu()
        placed = ranks(logits, labels)
        self._pairs.append(labels * self.classes + logits.argmax(dim=1))
        self.hits += torch.stack([(placed < k).sum() for k in self.topk])
        return placed

    def miss(self, labels: Tensor) -> None:
        """Count samples ``(N,)`` of which there is no prediction: as mistakes, for which no other class is blamed."""
        self._missed.append(labels.cpu())

    def __add__(self, other: ClassMetrics) -> ClassMetrics:
        """The metrics of both parts together."""
        if (self.classes, self.topk) != (other.classes, other.topk):
            raise ValueError("only metrics of the same classes and the same k can be added")
        both = ClassMetrics(self.classes, self.topk)
        both.hits, both._pairs = self.hits + other.hits, [*self._pairs, *other._pairs]
        both._missed = [*self._missed, *other._missed]
        return both

    @property
    def samples(self) -> int:
        """How many were counted, with those that were missed."""
        return sum(map(len, self._pairs)) + sum(map(len, self._missed))

    @property
    def confusion(self) -> Tensor:
        """Int64 ``(classes, classes)``: a row for each true class, a column for each predicted one.

        Missed samples are in none.
        """
        counts = torch.bincount(torch.cat(self._pairs), minlength=self.classes**2)
        return counts.view(self.classes, self.classes)

    def per_class(self) -> tuple[Tensor, Tensor]:
        """Samples of each class and how many of them are predicted right, int64 ``(classes,)`` each."""
        pairs = torch.cat(self._pairs)
        truth, predicted = pairs // self.classes, pairs % self.classes
        counts = torch.bincount(torch.cat([truth, *self._missed]), minlength=self.classes)
        return counts, torch.bincount(truth[truth == predicted], minlength=self.classes)

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
        counts, right = self.per_class()
        there = counts > 0
        values["mean_class_accuracy"] = 100 * float((right[there].double() / counts[there]).mean())
        return values

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes, as (truth, prediction, how often), the most frequent first."""
        pairs = torch.cat(self._pairs)
        mistakes, often = pairs[pairs // self.classes != pairs % self.classes].unique(return_counts=True)
        often, order = often.sort(descending=True, stable=True)
        return [
            (pair // self.classes, pair % self.classes, times)
            for pair, times in zip(mistakes[order][:count].tolist(), often[:count].tolist(), strict=True)
        ]
