"""Model names: rows of numbers (a frozen dataclass each) and the network class that reads them."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from stvit.errors import UserError, nearest
from stvit.model import Model
from stvit.preprocessing import Preprocessing


class Spec(Protocol):
    """A variant: any frozen dataclass of numbers, names and tuples."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Entry:
    """One registered name."""

    build: Callable[[Spec], Model]
    spec: Spec
    preprocessing: Callable[[Spec], Preprocessing]


_MODELS: dict[str, Entry] = {}


def register_model(
    name: str, build: Callable[[S], Model], spec: S, preprocessing: Callable[[S], Preprocessing]
) -> None:
    """Make ``create_model(name)`` build ``build(spec)``.

    ``preprocessing`` derives the input description from the spec, so that it follows the overrides.
    """
    if name in _MODELS:
        raise ValueError(f"a model named {name!r} is registered already")
    _MODELS[name] = Entry(build, spec, preprocessing)  # type: ignore[arg-type]


def list_models(pattern: str = "*") -> list[str]:
    """Registered model names that match an fnmatch pattern, sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


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
    return dataclasses.replace(spec, **{key: _checked(key, value, kinds[key]) for key, value in overrides.items()})


_KINDS = {int: "a whole number", float: "a number", str: "a name", bool: "True or False"}


def _checked(key: str, value: object, kind: object) -> object:
    """The value as the row has it: a list stands for a tuple, a whole number for a float; UserError for other types."""
    if get_origin(kind) is tuple:
        items = get_args(kind)
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
    checkpoint: str | PathLike[str] | Mapping[str, object] | None = None,
    **overrides: object,
) -> Model:
    """Build a model by name, in train mode, with fresh or loaded weights.

    Args:
        name: one of :func:`list_models`.
        checkpoint: a file or state dict in any layout that :func:`stvit.load_checkpoint` reads.
        overrides: fields of the variant's row to replace, for example ``in_frames=4``.

    Returns:
        The module. ``model_name``, ``model_args`` (the overrides), ``preprocessing`` and ``spec`` describe it.

    Raises:
        UserError: an unknown name, setting or impossible value, or a checkpoint that does not fit.
    """
    spec = model_spec(name, **overrides)
    entry = _MODELS[name]
    model = entry.build(spec)
    model.model_name = name
    model.model_args = {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()}
    model.preprocessing = entry.preprocessing(spec)
    if checkpoint is not None:
        from stvit.checkpoint import load_checkpoint  # reading files is not needed to build a model

        load_checkpoint(model, checkpoint)
    return model
