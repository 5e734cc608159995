"""The most probable classes, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from stvit.datasets.image_splits import imagenet_names, readable
from stvit.datasets.video.kinetics import kinetics400_names
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


@dataclass(frozen=True)
class ClassPrediction:
    """The most probable classes of an image or a video, the most probable first; all three of one length."""

    labels: tuple[str, ...]  # names; "class 17" where the model does not know them
    probabilities: tuple[float, ...]  # of all classes together they sum to 1
    indices: tuple[int, ...]  # which logits
    model_name: str


def checked_top_k(top_k: int) -> int:
    """How many classes to tell of.

    Raises:
        UserError: it is no whole number of at least 1.
    """
    if not isinstance(top_k, Integral) or top_k < 1:
        raise UserError(f"top_k must be a whole number of at least 1, not {top_k!r}")
    return int(top_k)


def checked_probabilities(logits: Tensor, where: str) -> Tensor:
    """Logits ``(..., classes)`` to float32 probabilities on the CPU; ``where`` says of what, for messages.

    Raises:
        UserError: some are not finite.
    """
    logits = logits.float().cpu()
    if not logits.isfinite().all():
        raise UserError(f"the model gives logits that are not finite for {where}; its weights may be broken")
    return logits.softmax(dim=-1)


def class_names(described: Preprocessing, classes: int) -> tuple[str, ...]:
    """What the logits of a network are called; "class 17" where nobody knows.

    Where ``described`` names no labels, 1,000 classes are taken for ImageNet-1k's, and 400 of clips for Kinetics-400's;
    ids of ImageNet's classes (``n01440764``) are told in English.
    """
    names = readable(described.labels or ())
    if described.labels is None and classes == 1000:
        names = imagenet_names()
    elif described.labels is None and classes == 400 and described.frames:
        names = kinetics400_names()
    return (*names[:classes], *(f"class {k}" for k in range(len(names), classes)))


def most_probable(probabilities: Tensor, names: tuple[str, ...], top_k: int, model_name: str) -> ClassPrediction:
    """The first ``top_k`` of probabilities ``(classes,)``, or all where there are fewer."""
    values, indices = probabilities.topk(min(top_k, len(probabilities)))
    chosen = tuple(indices.tolist())
    return ClassPrediction(tuple(names[k] for k in chosen), tuple(values.tolist()), chosen, model_name)
