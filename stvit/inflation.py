"""3D networks from the weights of 2D ones: what is carried over, how, and what the result is then sure to do.

The law: *a 3D network inflated with the centre rule, fed a still video, gives the features of its 2D network on the
frame, at every output time step.* It holds because the middle tap of a temporal kernel never falls on padding, because
positions in time start at zero, because T equal keys share the weight of one, and because a class token's key is
raised by log(T), so that T copies of the image do not outvote it. ``docs/inflation.md`` has the argument and figures.

The rule ``mean`` (Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017: repeat in time and divide by the
kernel's length) breaks the law: at the ends of a clip part of the kernel falls on zero padding.

What each kind of backbone needs stands in :mod:`stvit.inflation_rules`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from stvit.backbones.base import Backbone, BackboneSpec
from stvit.errors import UserError, nearest
from stvit.inflation_rules import FAMILIES, RULES, Family, Rule
from stvit.layers.position import BIAS_TABLE
from stvit.model import Model
from stvit.registry import create_model, list_models, model_spec

_SHOWN = 3  # names of each kind in the printed table
S = TypeVar("S", bound=BackboneSpec)


@dataclass(frozen=True)
class Inflated:
    """Weights of a 3D network, and what became of every name; ``print(inflated)`` gives one short table.

    ``copied``, ``inflated``, ``interpolated`` and ``new`` hold the 3D network's names, ``left_out`` the 2D network's.
    """

    state_dict: dict[str, Tensor]
    rule: Rule
    copied: tuple[str, ...]  # the same tensors
    inflated: tuple[str, ...]  # kernels that grew in time
    interpolated: tuple[str, ...]  # tables of positions resized to the 3D network's
    new: tuple[str, ...]  # without counterpart: zero for positions in time, otherwise as in ``base``
    left_out: tuple[str, ...]  # of the 2D network, without a place in the 3D one
    law_holds: bool  # a still video gives the 2D network's features
    guarantees: tuple[str, ...]  # sentences: what holds and what does not, and why

    def __str__(self) -> str:
        rows = [("rule", str(self.rule))]
        for title in ("copied", "inflated", "interpolated", "new", "left_out"):
            names = getattr(self, title)
            if names:
                rows.append((title.replace("_", " "), f"{len(names):5d}  {_some(names)}"))
        rows += [("" if i else "guarantees", sentence) for i, sentence in enumerate(self.guarantees)]
        return "\n".join(f"{title:<12}  {text}" for title, text in rows)


def inflate_spec(spec: S, frames: int) -> S:
    """The row of the 3D network that obeys the law for the 2D network of ``spec``, for clips of ``frames`` frames.

    Everything spatial stays, the stride of the keys included; in time, kernels are three frames wide and the patch
    embedding halves the number of frames once.

    Raises:
        UserError: the row is of a 3D network or of a kind that cannot be inflated, or ``frames`` is below 2.
    """
    family = _family(spec)
    if len(spec.input_size) != 2:
        raise UserError(f"a network with input size {spec.input_size} sees video already: inflate an image network")
    if frames < 2:
        raise UserError(f"frames={frames}: the patches of a video network span 2 frames, give at least 2")
    return cast(S, family.spec(spec, frames))


def inflate_state_dict(
    state_dict: Mapping[str, Tensor],
    spec2d: BackboneSpec,
    spec3d: BackboneSpec,
    *,
    rule: Rule = "centre",
    base: Mapping[str, Tensor] | None = None,
) -> Inflated:
    """The weights of a 2D network as weights of a 3D one; all that has a counterpart is carried over.

    Kernels grow by ``rule``. Tables of relative positions in space are copied, or resized by linear interpolation
    without aligned corners, as the published code does. Positions in time are zero.

    Args:
        state_dict: the 2D network's weights in stvit's layout; unchanged, and not copied where nothing changes.
        spec2d: its row.
        spec3d: the 3D network's: :func:`inflate_spec`'s, or a published one such as that of ``mvitv2_small_16x4``.
        rule: ``centre`` puts a kernel's weight on its middle frame, ``mean`` spreads it evenly.
        base: the 3D network's present weights, for what the 2D network lacks: a class token, a head of other classes.

    Raises:
        UserError: rows of unlike networks, weights that are not those of ``spec2d``, an unknown rule, or something
            lacking while there is no ``base``.
    """
    family = _family(spec2d)
    _check_rule(rule)
    _check_rows(family, spec2d, spec3d)
    _check_weights(state_dict, _shapes(family, spec2d))
    kinds: dict[str, list[str]] = {"copied": [], "inflated": [], "interpolated": [], "new": []}
    weights: dict[str, Tensor] = {}
    for key, shape in _shapes(family, spec3d).items():
        source = state_dict.get(key)
        weight = None if source is None else family.weight(key, source, spec2d, spec3d, shape, rule)
        if source is None or weight is None or weight.shape != shape:
            kinds["new"].append(key)
            weights[key] = _new(key, shape, family, state_dict, base)
        else:
            kinds[_outcome(key, source, weight)].append(key)
            weights[key] = weight
    breaks = family.breaks(spec2d, spec3d, rule)
    if kinds["interpolated"]:
        breaks.append("tables of positions are resized, which keeps distances only roughly")
    return Inflated(
        state_dict=weights,
        rule=rule,
        copied=tuple(kinds["copied"]),
        inflated=tuple(kinds["inflated"]),
        interpolated=tuple(kinds["interpolated"]),
        new=tuple(kinds["new"]),
        left_out=tuple(key for key in state_dict if key not in weights or key in kinds["new"]),
        law_holds=not breaks,
        guarantees=_guarantees(breaks, family.head_breaks(spec2d, spec3d), family.exactness),
    )


def inflate(model2d: Model, frames: int, *, rule: Rule = "centre", **overrides: object) -> Model:
    """A video network with the weights of an image network.

    With the rule ``centre``, a still video gives the image network's features at every output time step, and its
    logits (float32: within a relative error of 1e-4). With ``mean`` it does not.

    Args:
        model2d: an image network ``(B, C, H, W) -> (B, classes)``; it is not changed.
        frames: the nominal number of frames; others work, too.
        rule: how convolutions grow in time, see :func:`inflate_state_dict`.
        overrides: settings of the video network's row that are to differ, for example ``drop_path=0.3``.

    Returns:
        The network ``(B, C, frames, H, W) -> (B, classes)``, with the image network's device, dtype, training mode and
        preprocessing, mean and std included. Where a row ``<name>_16f`` is registered for the image network's name,
        checkpoints can build it again.

    Raises:
        UserError: a network that sees video already or cannot be inflated, impossible frames, rule or settings.
    """
    if not isinstance(model2d, Backbone):
        raise UserError(f"a {type(model2d).__name__} cannot be inflated: give an image network ({_known()})")
    _check_rule(rule)
    sample = next(model2d.parameters())
    model3d = video_network(model2d, frames, **overrides).to(sample.device, sample.dtype)
    inflate_into(model3d, model2d, rule=rule)
    return model3d.train(model2d.training)


def video_network(model2d: Backbone[Any], frames: int, **overrides: object) -> Backbone[Any]:
    """The network that :func:`inflate` returns, still with fresh weights.

    It is registered as the image network is, with ``_16f`` after the name, where that row exists.
    """
    spec, name = inflate_spec(_row(model2d), frames), f"{getattr(model2d, 'model_name', '')}_16f"
    if name not in list_models():
        return _family(spec).network(dataclasses.replace(spec, **overrides))
    row = model_spec(name)
    settings = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    own = {key: value for key, value in settings.items() if value != getattr(row, key)}
    model = create_model(name, **{**own, **overrides})
    assert isinstance(model, Backbone)
    return model


def inflate_into(model3d: Backbone[Any], model2d: Backbone[Any], *, rule: Rule = "centre") -> Inflated:
    """Give a video network, also a published one, the weights of an image network and its way with pixels.

    Args:
        model3d: changed in place: all weights that have a counterpart, and of its preprocessing what concerns pixels
            (mean, standard deviation, interpolation, crop) and, where the classes stay, their labels.
        model2d: an image network of the same depths and width.
        rule: how convolutions grow in time, see :func:`inflate_state_dict`.

    Returns:
        What became of every weight, and which guarantees hold.

    Raises:
        UserError: as :func:`inflate_state_dict`.
    """
    spec2d, spec3d = _row(model2d), _row(model3d)
    inflated = inflate_state_dict(model2d.state_dict(), spec2d, spec3d, rule=rule, base=model3d.state_dict())
    model3d.load_state_dict(inflated.state_dict)
    if image := getattr(model2d, "preprocessing", None):
        frames, height, width = spec3d.input_size
        model3d.preprocessing = dataclasses.replace(
            getattr(model3d, "preprocessing", image),
            **{name: getattr(image, name) for name in ("mean", "std", "interpolation", "crop_fraction", "crop_mode")},
            labels=image.labels if spec2d.num_classes == spec3d.num_classes else None,
            input_size=(height, width),
            frames=frames,
        )
    return inflated


def image_spec(weights: Mapping[str, Tensor], spec3d: BackboneSpec) -> BackboneSpec:
    """The row of the 2D network that weights in stvit's layout are of, given the 3D network that they are meant for.

    What the weights tell is read from them: for example the number of classes, windows, a class token. The rest is the
    3D row's without its axis of time; :func:`inflate_state_dict` finds out whether that fits.
    """
    family = _family(spec3d)
    candidates = list(family.rows(weights, spec3d))
    for candidate in candidates:
        shapes = _shapes(family, candidate)
        if all(weights[key].shape == shape for key, shape in shapes.items() if _is_table(key) and key in weights):
            return candidate
    return candidates[-1]


def _family(spec: BackboneSpec) -> Family:
    if type(spec) not in FAMILIES:
        raise UserError(f"a {type(spec).__name__} cannot be inflated: give the row of an image network ({_known()})")
    return FAMILIES[type(spec)]


def _known() -> str:
    return ", ".join(kind.__name__.removesuffix("Spec") for kind in FAMILIES)


def _kind(spec: BackboneSpec) -> str:
    return type(spec).__name__.removesuffix("Spec")


def _shapes(family: Family, spec: BackboneSpec) -> dict[str, torch.Size]:
    """Names and shapes of a network's weights, from its skeleton."""
    with torch.device("meta"):
        return {key: weight.shape for key, weight in family.network(spec).state_dict().items()}


def _row(model: Backbone[Any]) -> BackboneSpec:
    """The row of a network as it is: its head may have been replaced since it was built."""
    return dataclasses.replace(model.spec, num_classes=model.num_classes)


# ---- Checks and sentences -----------------------------------------------------------------------------------------


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise UserError(f"there is no inflation rule {rule!r}: choose {' or '.join(RULES)}{nearest(rule, RULES)}")


def _check_rows(family: Family, spec2d: BackboneSpec, spec3d: BackboneSpec) -> None:
    sizes = [len(spec.input_size) for spec in (spec2d, spec3d)]
    if sizes != [2, 3]:
        raise UserError(f"weights are inflated from a 2D row into a 3D row, not from {sizes[0]}D into {sizes[1]}D")
    kinds = [_kind(spec) for spec in (spec2d, spec3d)]
    if kinds[0] != kinds[1]:
        raise UserError(f"the 2D network is a {kinds[0]} and the 3D one a {kinds[1]}: inflate into a {kinds[0]}")
    differing = [
        f"{name} {getattr(spec2d, name)} instead of {getattr(spec3d, name)}"
        for name in family.structure
        if getattr(spec2d, name) != getattr(spec3d, name)
    ]
    if differing:
        raise UserError(
            f"the 2D network is another variant than the 3D one, with {', '.join(differing)}: inflate into the same"
        )


def _is_table(key: str) -> bool:
    return ".rel_pos_" in key or key.endswith(BIAS_TABLE)


def _check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """All of the 2D network must be there, whatever its classes; tables of positions may be of any length."""
    body = {key: shape for key, shape in shapes.items() if not key.startswith("head.")}
    wrong = [key for key in body if key not in weights]
    if wrong:
        raise UserError(f"the 2D weights lack {len(wrong)} of {len(body)} ({_some(wrong)}): give a whole state dict")
    for key, shape in body.items():
        got = weights[key].shape
        if got != shape and not (".rel_pos_" in key and got[1:] == shape[1:]):
            raise UserError(
                f"the 2D weight {key} is {tuple(got)}, its row says {tuple(shape)}: give the row of the file"
            )


def _outcome(key: str, source: Tensor, weight: Tensor) -> str:
    """What became of a weight; a table that is resized in space is no longer the image network's, grown or not."""
    if weight is source:
        return "copied"
    if weight.ndim == source.ndim or (key.endswith(BIAS_TABLE) and weight.shape[2:] != source.shape[1:]):
        return "interpolated"
    return "inflated"


def _new(
    key: str, shape: torch.Size, family: Family, weights: Mapping[str, Tensor], base: Mapping[str, Tensor] | None
) -> Tensor:
    """A weight that the 2D network has not."""
    if base is not None and key in base and not key.endswith(family.zero):
        return base[key]
    if key.endswith(family.zero):
        return next(iter(weights.values())).new_zeros(shape)
    raise UserError(f"the 2D network has no counterpart of {key}: give base=, the 3D network's present weights")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _guarantees(breaks: list[str], head_breaks: list[str], exactness: str) -> tuple[str, ...]:
    law = [f"still-video law does not hold: {reason}" for reason in breaks] or [
        f"still-video law holds: a still video gives the 2D features at every time step ({exactness})"
    ]
    logits = [f"logits are not the 2D network's: {reason}" for reason in head_breaks]
    if not breaks and not head_breaks:
        logits = ["logits of a still video are the 2D network's"]
    return (*law, *logits, "pixels must be normalised with the 2D network's mean and std")
