"""Which network weights are of, as far as their names and shapes tell, all in stvit's layout.

A kind of backbone joins by a module here and a row in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from stvit.backbones.base import BackboneSpec
from stvit.backbones.mixformer import MixFormerSpec
from stvit.backbones.mixvit import MixViTSpec
from stvit.backbones.mpvit import MPViTSpec
from stvit.backbones.mvit import MViTSpec
from stvit.checkpoint.recognise import mixformer, mixvit, mpvit, mvit
from stvit.registry import list_models, model_spec


@dataclass(frozen=True)
class Kind:
    """What the weights of one kind of backbone tell."""

    tell: Callable[[Mapping[str, Tensor]], BackboneSpec | None]  # the row, as far as told; None for other weights
    certain: tuple[str, ...]  # fields of the row that shapes tell for certain
    likely: tuple[str, ...]  # those that tell rows apart which agree in all of them
    adapted: tuple[str, ...]  # those in which weights may differ from the registered row that they are of


KINDS: dict[type, Kind] = {
    MViTSpec: Kind(mvit.mvit_spec, mvit.CERTAIN, mvit.LIKELY, ("input_size", "in_channels", "kv_stride")),
    MixViTSpec: Kind(mixvit.mixvit_spec, mixvit.CERTAIN, mixvit.LIKELY, ("window", "in_channels", "map_norm")),
    MixFormerSpec: Kind(mixformer.mixformer_spec, mixformer.CERTAIN, mixformer.LIKELY, ("window", "in_channels")),
    MPViTSpec: Kind(mpvit.mpvit_spec, mpvit.CERTAIN, mpvit.LIKELY, ("in_channels",)),
}


def told_spec(weights: Mapping[str, Tensor]) -> BackboneSpec | None:
    """The row of a backbone as far as its weights tell; None for weights of anything else, or not whole."""
    told = (kind.tell(weights) for kind in KINDS.values())
    return next((spec for spec in told if spec is not None), None)


def registered_name(weights: Mapping[str, Tensor]) -> str | None:
    """The registered model that weights are of, whatever its number of classes; None if there is none."""
    told = told_spec(weights)
    if told is None:
        return None
    rows = {name: row for name in list_models() if type(row := model_spec(name)) is type(told)}
    same = {name: row for name, row in rows.items() if not differing(row, told)}
    likely = KINDS[type(told)].likely
    return min(same, key=lambda name: len(differing(same[name], told, likely)), default=None)


def differing(row: object, told: BackboneSpec, fields: tuple[str, ...] | None = None) -> list[str]:
    """In which settings a row differs from what weights tell of theirs (:func:`told_spec`)."""
    fields = KINDS[type(told)].certain if fields is None else fields
    return [field for field in fields if getattr(row, field) != getattr(told, field)]


def adapted_settings(weights: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Settings in which weights differ from the registered row ``name`` that they are of, their classes too."""
    told, row = told_spec(weights), model_spec(name)
    if told is None or type(told) is not type(row):
        return {}
    fields = (*KINDS[type(told)].adapted, "num_classes")
    return {field: getattr(told, field) for field in fields if getattr(told, field) != getattr(row, field)}
