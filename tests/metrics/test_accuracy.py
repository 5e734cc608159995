"""Classification metrics against NumPy, ties, parts of several processes, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stvit.errors import UserError
from stvit.metrics.accuracy import ClassMetrics, ranks, topk_accuracy


def random_batch(N: int = 200, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes - 1, (N,), generator=generator)  # the last class has no sample
    return torch.randn(N, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes), labels


def test_all_numbers_are_those_of_a_plain_restatement():
    logits, labels = random_batch()
    metrics = ClassMetrics(7, topk=(1, 3))
    for part in range(0, 200, 64):
        metrics.update(logits[part : part + 64], labels[part : part + 64])
    order = np.argsort(-logits.numpy(), axis=1)
    truth = labels.numpy()
    top1, top3 = (np.mean([t in row[:k] for t, row in zip(truth, order, strict=True)]) for k in (1, 3))
    recall = np.mean([np.mean(order[truth == c, 0] == c) for c in range(6)])
    expected = {
        "top1_accuracy": top1, "top1_error": 1 - top1, "top3_accuracy": top3, "top3_error": 1 - top3,
        "mean_class_accuracy": recall,
    }  # fmt: skip
    assert metrics.compute() == pytest.approx({name: 100 * value for name, value in expected.items()})
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (truth, order[:, 0]), 1)
    assert np.array_equal(metrics.confusion.numpy(), confusion)
    assert metrics.samples == 200


def test_parts_add_up_to_the_whole():
    logits, labels = random_batch()
    whole, parts = ClassMetrics(7), [ClassMetrics(7), ClassMetrics(7), ClassMetrics(7)]
    whole.update(logits, labels)
    for rank, part in enumerate(parts[:2]):  # the third process had no image
        part.update(logits[rank::2], labels[rank::2])
    together = parts[0] + parts[1] + parts[2]
    assert together.compute() == whole.compute()
    assert torch.equal(together.confusion, whole.confusion)


def test_equal_logits_are_no_success_for_every_class():
    labels = torch.arange(4)
    assert ranks(torch.zeros(4, 4), labels).tolist() == [0, 1, 2, 3]
    assert topk_accuracy(torch.zeros(4, 4), labels, 1) == 0.25
    assert topk_accuracy(torch.zeros(4, 4), labels, 2) == 0.5


def test_a_true_class_without_a_number_is_last():
    assert ranks(torch.tensor([[0.0, torch.nan, 1.0]]), torch.tensor([1])).item() == 3


def test_mistakes_are_listed_by_how_often_they_happen():
    metrics = ClassMetrics(3)
    metrics.update(torch.eye(3)[[1, 1, 2, 0, 0]], torch.tensor([0, 0, 0, 0, 2]))
    assert metrics.most_confused(5) == [(0, 1, 2), (0, 2, 1), (2, 0, 1)]
    assert metrics.most_confused(1) == [(0, 1, 2)]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2), torch.zeros(2).long(), r"logits must be \(N, classes\) and labels \(N,\), not \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(3).long(), r"not \(2, 3\) and \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels run from 0 to 3, but there are 3 classes"),
        (torch.full((2, 3), torch.inf), torch.tensor([0, 1]), "not finite"),
    ],
)
def test_what_cannot_be_counted_is_refused(logits, labels, message):
    with pytest.raises(UserError, match=message):
        ClassMetrics(3).update(logits, labels)


def test_samples_without_a_prediction_are_mistakes_that_no_class_is_blamed_for():
    metrics, other = ClassMetrics(3), ClassMetrics(3)
    metrics.update(torch.eye(3)[[0, 1]], torch.tensor([0, 1]))
    other.miss(torch.tensor([1, 2]))
    both = metrics + other
    assert both.samples == 4
    assert both.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert both.compute()["top1_accuracy"] == 50
    assert both.compute()["mean_class_accuracy"] == pytest.approx(100 * (1 + 1 / 2 + 0) / 3)
    assert both.most_confused(5) == []


def test_without_samples_there_is_no_number():
    with pytest.raises(UserError, match="no images were measured"):
        ClassMetrics(3).compute()


def test_as_many_classes_as_imagenet_21k_are_counted_in_little_memory():
    metrics = ClassMetrics(19168)
    metrics.update(torch.nn.functional.one_hot(torch.tensor([19167, 3]), 19168), torch.tensor([19167, 4]))
    assert metrics.compute() == pytest.approx(
        {"top1_accuracy": 50, "top1_error": 50, "top5_accuracy": 100, "top5_error": 0, "mean_class_accuracy": 50}
    )
    assert metrics.most_confused(5) == [(4, 3, 1)]
