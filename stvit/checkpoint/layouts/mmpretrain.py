"""mmpretrain's MViT: image networks without a class token. See :mod:`.openmmlab` for where it disagrees."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from stvit.checkpoint.layouts import openmmlab

NAME = "mmpretrain"
HEAD = (("head.fc.", "head.projection."),)


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of an ImageClassifier with MViT."""
    return openmmlab.axes(state_dict) == 2


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """Nothing is left out."""
    return ()


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict in our names."""
    return openmmlab.renamed(state_dict, HEAD)


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names: the inverse of :func:`to_stvit`."""
    return openmmlab.restored(state_dict, HEAD)
