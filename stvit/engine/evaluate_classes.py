"""Classification on the test set: accuracies, which classes are confused, and a page of images."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from stvit.datasets import ImageList
from stvit.datasets.image_folder import read_image
from stvit.datasets.image_splits import readable
from stvit.datasets.image_transforms import evaluation_transform, shown
from stvit.engine.distributed import gather_objects
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.metrics.accuracy import ClassMetrics
from stvit.visual.confusion import MOST_CLASSES, confusion_png
from stvit.visual.gallery import Classified, draw_gallery
from stvit.visual.report import results_table
from stvit.visual.strips import encode_png

if TYPE_CHECKING:
    from stvit.engine.tasks.images import ImageClassification

PROTOCOL = {
    "top1_accuracy": "percent of images whose highest logit is the true class's; of equal logits the first counts",
    "top5_accuracy": "percent of images whose true class is among the five highest logits",
    "top1_error": "100 - top1_accuracy",
    "top5_error": "100 - top5_accuracy",
    "mean_class_accuracy": "mean over the classes that have images of each one's top-1 accuracy, percent",
    "view": "one: resized to input_size / crop_fraction, the short side or both (crop_mode); its centre; float32",
}
PREPARED = ("input_size", "crop_fraction", "crop_mode", "interpolation", "mean", "std")  # of all images, in results
CHOSEN_ON_TEST = "The best checkpoint was chosen on these same images, ImageNet's habit: that flatters the model."
_EXAMPLES = 8  # images in each part of the page
_CONFUSIONS = 20  # in results.json


@dataclass(frozen=True)
class Measured:
    """What one pass over the test set gives, in the order of the images."""

    metrics: ClassMetrics
    numbers: Tensor  # (N,) int64, of the images in their list
    truth: Tensor  # (N,) int64, logits
    predicted: Tensor  # (N,) int64, logits
    probability: Tensor  # (N,) float32, of the predicted class


def evaluate_classes(
    cfg: CfgNode, model: nn.Module, task: ImageClassification, stop: StopRequest, trained: TrainingRecord
) -> Outcome:
    """Measure the model, in evaluation mode, on the test set; each process its share of it.

    Raises:
        UserError: the classes are not the checkpoint's, an image cannot be read, logits are not finite.
        Stopped: a signal came.
    """
    images = task.splits.test
    assert images is not None
    contradictions = task.adopt(trained.preprocessing)
    if task.world.main:
        for note in contradictions:
            print(f"note: {note}", flush=True)
        print(f"evaluating on {len(images)} images of {images.folder}", flush=True)
    measured = measure(model, task, images, stop)
    if not task.world.main:
        return Outcome({}, {}, "")
    values = measured.metrics.compute()
    flattered = task.splits.validation_is_test and (trained.chosen_on_test or task.training)
    names = [task.names[k] if k < len(task.names) else f"class {k}" for k in range(task.num_classes)]
    pictures = {"examples.png": encode_png(draw_gallery(pick_examples(task, images, measured, readable(names))))}
    used = task.logits.tolist()
    if task.num_classes <= MOST_CLASSES:
        title = f"{cfg.MODEL.NAME}: {len(images)} images of {images.folder.name}/"
        rows = [names[k] for k in used]
        pictures["confusion.png"] = confusion_png(measured.metrics.confusion[used].numpy(), rows, names, title)
    top5 = ("top5_accuracy",) if task.num_classes > 5 else ()  # of five classes all are among the first five
    return Outcome(
        results={
            "methods": {cfg.MODEL.NAME: {"mean": values}},
            "images": measured.metrics.samples,
            "per_class": per_class(measured.metrics, used, names),
            **confusions(measured.metrics, names),
            "protocol": PROTOCOL,
            "preprocessing": {k: v for k, v in task.preprocessing.to_dict().items() if k in PREPARED},
            "notes": [*task.notes(), *contradictions, *([CHOSEN_ON_TEST] if flattered else [])],
        },
        files=pictures,
        text="\n".join(
            [
                f"test set: {measured.metrics.samples} images of {len(images.classes)} classes in {images.folder}",
                results_table({cfg.MODEL.NAME: values}, ("top1_accuracy", *top5, "mean_class_accuracy")),
            ]
        ),
    )


@torch.no_grad()
def measure(model: nn.Module, task: ImageClassification, images: ImageList, stop: StopRequest) -> Measured:
    """One pass over the images in float32; every image counts once, however many processes share them."""
    metrics, parts = ClassMetrics(task.num_classes), []
    for batch in stop.between(task.eval_batches(images)):
        pixels, truth = task.on_device(batch)
        logits = model(pixels).float()
        metrics.update(logits, truth)
        probability, predicted = logits.softmax(dim=1).max(dim=1)
        parts.append((batch.indices, truth.cpu(), predicted.cpu(), probability.cpu()))
    empty = (*[torch.empty(0, dtype=torch.int64)] * 3, torch.empty(0))
    own = [torch.cat(column) for column in zip(empty, *parts, strict=True)]
    shares = gather_objects((metrics, own), task.world)
    whole = [torch.cat(column) for column in zip(*(share for _, share in shares), strict=True)]
    order = whole[0].argsort()
    return Measured(functools.reduce(operator.add, (m for m, _ in shares)), *(column[order] for column in whole))


def pick_examples(
    task: ImageClassification, images: ImageList, measured: Measured, names: Sequence[str]
) -> dict[str, list[Classified]]:
    """The mistakes the network is surest of, and images spread evenly over the whole set."""
    transform = evaluation_transform(task.preprocessing)

    def tile(place: int) -> Classified:
        path = images.path(int(measured.numbers[place]))
        return Classified(
            pixels=shown(transform(read_image(path)), task.preprocessing),
            truth=names[int(measured.truth[place])],
            predicted=names[int(measured.predicted[place])],
            probability=float(measured.probability[place]),
            name=path.name,
        )

    chosen = worth_showing(measured.truth, measured.predicted, measured.probability, "images")
    return {title: [tile(place) for place in places] for title, places in chosen.items()}


def worth_showing(truth: Tensor, predicted: Tensor, probability: Tensor, samples: str) -> dict[str, list[int]]:
    """The mistakes the network is surest of, and samples spread evenly over all, by the titles of their sections.

    The tensors are ``(N,)``; ``samples`` is what they are called.
    """
    wrong, count = (truth != predicted).nonzero().flatten(), len(truth)
    surest = wrong[probability[wrong].argsort(descending=True, stable=True)][:_EXAMPLES]
    return {
        f"surest of the {len(wrong)} mistakes in {count} {samples}": surest.tolist(),
        f"a sample of all {samples}": [k * count // min(_EXAMPLES, count) for k in range(min(_EXAMPLES, count))],
    }


def per_class(
    metrics: ClassMetrics, used: Sequence[int], names: Sequence[str], samples: str = "images"
) -> dict[str, dict[str, float]]:
    """How many samples each class has, and how many percent of them are predicted right."""
    counts, hits = (values.tolist() for values in metrics.per_class())
    return {
        names[k]: {samples: counts[k], **({"top1_accuracy": 100 * hits[k] / counts[k]} if counts[k] else {})}
        for k in used
    }


def confusions(metrics: ClassMetrics, names: Sequence[str], samples: str = "images") -> dict[str, object]:
    """The most frequent mistakes, and of few classes the whole matrix."""
    most = [
        {"true": names[truth], "predicted": names[predicted], samples: count}
        for truth, predicted, count in metrics.most_confused(_CONFUSIONS)
    ]
    if metrics.classes > MOST_CLASSES:
        return {"most_confused": most}
    matrix = {"classes": list(names), "rows_are_true": metrics.confusion.tolist()}
    return {"most_confused": most, "confusion": matrix}
