"""Model names: rows of numbers (a frozen dataclass each) and the network class that reads them."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from stvit.backbones.base import Backbone, FeatureMaps
from stvit.errors import UserError, nearest
from stvit.model import Model
from stvit.preprocessing import Preprocessing


class Spec(Protocol):
    """A variant: any frozen dataclass of numbers, names and tuples."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Weights:
    """Published weights of a model."""

    url: str
    protocol: str  # what they were trained on and the figure published for them
    licence: str
    sha256: str | None = None  # of the file, where known
    browser_only: bool = False  # the link leads to a page, not to the file
    tag: str = ""  # tells several weights of one model apart


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    build: Callable[[Spec], Model]
    spec: Spec
    preprocessing: Callable[[Spec], Preprocessing]
    weights: tuple[Weights, ...] = ()


_MODELS: dict[str, Entry] = {}


def register_model(
    name: str,
    build: Callable[[S], Model],
    spec: S,
    preprocessing: Callable[[S], Preprocessing],
    weights: tuple[Weights, ...] = (),
) -> None:
    """Make ``create_model(name)`` build ``build(spec)``.

    ``preprocessing`` derives the input description from the spec, so that it follows the overrides. The first of
    ``weights`` is what ``pretrained=True`` takes.
    """
    if name in _MODELS:
        raise ValueError(f"a model named {name!r} is registered already")
    _MODELS[name] = Entry(build, spec, preprocessing, weights)  # type: ignore[arg-type]


def model_weights(name: str) -> tuple[Weights, ...]:
    """The published weights of a model, possibly none.

    Raises:
        UserError: an unknown model.
    """
    model_spec(name)
    return _MODELS[name].weights


def list_models(pattern: str | Sequence[str] = "*") -> list[str]:
    """Registered model names that match an fnmatch pattern, or one of several, sorted."""
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return sorted({name for one in patterns for name in fnmatch.filter(_MODELS, one)})


def model_spec(name: str, **overrides: object) -> Spec:
    """The row of ``name`` with the given fields replaced.

    Raises:
        UserError: an unknown model or field name (the message names the nearest known ones), a value of another type.
    """
    if name not in _MODELS:
        raise UserError(f"no model is named {name!r}{nearest(name, _MODELS)}; stvit.list_models() names them all")
    spec = _MODELS[name].spec
    known = {f.name for f in dataclasses.fields(spec)}
    for key in overrides:
        if key not in known:
            raise UserError(f"model {name!r} has no setting {key!r}{nearest(key, known)}")
    kinds = get_type_hints(type(spec))
    checked = {key: _checked(key, value, kinds[key], getattr(spec, key)) for key, value in overrides.items()}
    return dataclasses.replace(spec, **checked)


def model_preprocessing(name: str, **overrides: object) -> Preprocessing:
    """What :func:`create_model` would say of the model's input, without building it.

    Raises:
        UserError: see :func:`model_spec`.
    """
    spec = model_spec(name, **overrides)
    return _MODELS[name].preprocessing(spec)


_KINDS = {int: "a whole number", float: "a number", str: "a name", bool: "True or False"}


def _checked(key: str, value: object, kind: object, present: object = None) -> object:
    """The value as the row has it: a list stands for a tuple, a whole number for a float; UserError for other types."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
        if items[-1] is Ellipsis:  # of any length, the network checks which fit together
            if isinstance(value, list | tuple):
                return tuple(_checked(key, v, items[0]) for v in value)
            raise UserError(f"{key}={value!r}: a list is needed, such as {present}")
        if isinstance(value, list | tuple) and len(value) == len(items):
            return tuple(_checked(key, v, k) for v, k in zip(value, items, strict=True))
        raise UserError(
            f"{key}={value!r}: {len(items)} values are needed, each {_KINDS.get(items[0], 'as in the row')}"
        )
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in _KINDS and kind is not float and type(value) is kind:
        return value
    raise UserError(f"{key}={value!r}: {_KINDS.get(kind, kind)} is needed")  # type: ignore[call-overload]


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | PathLike[str] | Mapping[str, object] | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **overrides: object,
) -> Model:
    """Build a model by name, in train mode, with fresh or loaded weights.

    Args:
        name: one of :func:`list_models`.
        pretrained: download and load the model's published weights (see :func:`stvit.registry.model_weights`).
        checkpoint: a file or state dict in any layout that :func:`stvit.load_checkpoint` reads.
        features_only: give a :class:`stvit.backbones.base.FeatureMaps`: the maps of the stages, without a classifier.
        out_indices: which stages; a list counted from 0, or a number of last ones. Only with ``features_only``.
        overrides: fields of the variant's row to replace, for example ``num_classes=10``.

    Returns:
        The module. ``model_name``, ``model_args`` (the overrides), ``preprocessing`` and ``spec`` describe it.

    Raises:
        UserError: an unknown name, setting or impossible value, a checkpoint that does not fit, or weights that are
            not published.
        OSError: weights could not be read or downloaded.
    """
    if features_only:
        overrides = {**overrides, "num_classes": 0}
    elif out_indices is not None:
        raise UserError("out_indices chooses among the maps of features_only=True: add that, or leave it out")
    spec = model_spec(name, **overrides)
    entry = _MODELS[name]
    model = entry.build(spec)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()}
    _describe(model, name, plain, entry.preprocessing(spec))
    if pretrained and checkpoint is not None:
        raise UserError("pretrained=True and checkpoint= both name weights: leave one out")
    if features_only:
        model = _feature_maps(model, name, plain, out_indices)
    if pretrained:
        from stvit.checkpoint.pretrained import load_pretrained  # as below

        load_pretrained(model, model_weights(name))
    if checkpoint is not None:
        from stvit.checkpoint import load_checkpoint  # reading files is not needed to build a model

        load_checkpoint(model, checkpoint)
    return model


def _feature_maps(
    model: Model, name: str, args: dict[str, object], out_indices: int | Sequence[int] | None
) -> FeatureMaps:
    if not isinstance(model, Backbone):
        raise UserError(f"{name} has no stages: features_only is for backbones")
    maps = FeatureMaps(model, out_indices)
    _describe(maps, name, {**args, "features_only": True, "out_indices": maps.out_indices}, model.preprocessing)
    return maps


def _describe(model: Model, name: str, args: dict[str, object], preprocessing: Preprocessing) -> None:
    model.model_name, model.model_args, model.preprocessing = name, args, preprocessing
