"""Whether weights in stvit's layout fit a network: all of them, or one line that says which do not."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stvit.backbones.base import Backbone
from stvit.checkpoint.remedy import remedy
from stvit.errors import UserError
from stvit.layers.decomposed_position import resize_table
from stvit.layers.position import BIAS_TABLE, resize_bias_table

_SHOWN = 3  # names of each kind in an error
_TABLE = re.compile(r"(^|\.)(rel_pos_[thw]|pos_embed_spatial|pos_embed_temporal)$")


@dataclass(frozen=True)
class Fitted:
    """What to copy into a network, under its names, and what became of the rest."""

    weights: dict[str, Tensor]
    interpolated: tuple[str, ...]  # tables of positions resized to the network's
    missing: tuple[str, ...]  # the network's names that nothing is copied to
    dropped: tuple[str, ...]  # a head that the network does not have
    unexpected: tuple[str, ...]  # the file's names without a place


def fit(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    subject: str,
    *,
    allow_new_head: bool = False,
    allow_unexpected: bool = False,
    absent: Collection[str] = (),
) -> Fitted:
    """Match weights with a network's, and cast them to its types.

    Tables of positions made for another input size are resized: relative ones linearly along their length, as
    SlowFast and timm do at loading, those of windows as timm does, absolute ones linearly in time and bilinearly in
    space.

    Args:
        network: where the weights are to go; not changed.
        weights: in stvit's layout.
        subject: stands for the checkpoint in messages.
        allow_new_head: leave the classifier as it is where the weights' is absent or has other sizes.
        allow_unexpected: accept weights that have no place in the network.
        absent: names of the network that the weights need not have.

    Raises:
        UserError: weights that lack something, have other sizes, no place, or values that are not finite.
    """
    targets = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    head = head_names(network) if allow_new_head else frozenset()
    fitted: dict[str, Tensor] = {}
    interpolated, missing, wrong = [], [], []
    for key, target in targets.items():
        tensor = weights.get(key)
        if tensor is None:
            missing.append(key)
            continue
        if tensor.shape != target.shape and (resized := _resized(key, tensor, target, network)) is not None:
            tensor = resized
            interpolated.append(key)
        if tensor.shape != target.shape or not _same_kind(tensor, target):
            wrong.append(key)
        else:
            fitted[key] = _cast(tensor, target.dtype, key, subject)
    beyond = [key for key in weights if key not in targets]
    dropped = tuple(key for key in beyond if _of_a_head_left_out(key, network))
    unexpected = tuple(key for key in beyond if key not in dropped)
    unfit = [key for key in missing if key not in head and key not in absent]
    mismatched = [key for key in wrong if key not in head]
    if unfit or mismatched or (unexpected and not allow_unexpected):
        sizes = [f"{k} {_kind(weights[k])} instead of {_kind(targets[k])}" for k in mismatched]
        beyond = [] if allow_unexpected else list(unexpected)
        problems = [
            (unfit, f"it lacks {len(unfit)} of {len(targets)} weights"),
            (sizes, f"{len(sizes)} have other sizes"),
            (beyond, f"{len(beyond)} have no place in the model"),
        ]
        reason = _other_classes(network, weights, targets, mismatched) if not (unfit or beyond) else ""
        if not reason:
            classifier = head_names(network) if callable(getattr(network, "get_classifier", None)) else frozenset()
            reason = _listed(problems) + remedy(network, weights, classifier, (*unfit, *mismatched, *beyond))
        raise UserError(f"{subject} does not fit {model_title(network)}: {reason}")
    return Fitted(fitted, tuple(interpolated), tuple(missing + wrong), dropped, unexpected)


def model_title(model: nn.Module) -> str:
    """What to call a model in a message: its registered name, or its class."""
    return str(getattr(model, "model_name", type(model).__name__))


def head_names(network: nn.Module) -> frozenset[str]:
    """Names of the classifier's weights.

    Raises:
        UserError: the network has no classifier.
    """
    if not callable(get_classifier := getattr(network, "get_classifier", None)):
        raise UserError(f"{model_title(network)} has no classifier, so it cannot have a new head: leave that out")
    classifier = get_classifier()
    prefix = next(name for name, module in network.named_modules() if module is classifier)
    return frozenset(f"{prefix}.{key}" for key in classifier.state_dict())


def _other_classes(
    network: nn.Module, weights: Mapping[str, Tensor], targets: Mapping[str, Tensor], mismatched: Sequence[str]
) -> str:
    """How many classes there are on both sides, and what to do about it, where that is all that does not fit."""
    if not callable(getattr(network, "get_classifier", None)) or not head_names(network).issuperset(mismatched):
        return ""
    theirs, ours = (next(iter(side[mismatched[0]].shape), 0) for side in (weights, targets))
    if theirs == ours or not all(weights[key].ndim for key in mismatched):
        return ""
    return (
        f"it has {theirs} classes and the model {ours}: load_checkpoint(model, ..., allow_new_head=True) "
        f"(TRAIN.NEW_HEAD True) keeps a fresh head, num_classes={theirs} (MODEL.NUM_CLASSES {theirs}) builds the file's"
    )


def _of_a_head_left_out(key: str, network: nn.Module) -> bool:
    return getattr(network, "num_classes", None) == 0 and key.startswith("head.")


def _resized(key: str, tensor: Tensor, target: Tensor, network: nn.Module) -> Tensor | None:
    """A table of positions with the target's length, or None for anything else."""
    if tensor.ndim != target.ndim or not tensor.is_floating_point():
        return None
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    if key.endswith(BIAS_TABLE) and isinstance(network, Backbone):
        return resize_bias_table(wide, target.shape) if tensor.shape[0] == target.shape[0] else None
    if not _TABLE.search(key) or tensor.shape[-1] != target.shape[-1]:
        return None
    if key.endswith("pos_embed_spatial"):
        return _resized_plane(wide, target, network)
    if key.endswith("pos_embed_temporal"):
        return resize_table(wide[0], target.shape[1])[None]
    return resize_table(wide, len(target))


def _resized_plane(table: Tensor, target: Tensor, network: nn.Module) -> Tensor | None:
    """``(1, H W, C)`` bilinearly to the network's grid; the file's is taken to have the same shape of rectangle."""
    spec = getattr(network, "spec", None)
    size, stride = getattr(spec, "input_size", None), getattr(spec, "patch_stride", None)
    if size is None or stride is None:
        return None
    height, width = (n // s for n, s in zip(size[-2:], stride[-2:], strict=True))
    rows = round((table.shape[1] * height / width) ** 0.5)
    if not rows or table.shape[1] % rows or height * width != target.shape[1]:
        return None
    plane = rearrange(table, "1 (h w) c -> 1 c h w", h=rows)
    return rearrange(F.interpolate(plane, size=(height, width), mode="bilinear"), "1 c h w -> 1 (h w) c")


def _same_kind(tensor: Tensor, target: Tensor) -> bool:
    """Whether a cast keeps the meaning: between floating types, or between whole numbers."""
    return (tensor.is_floating_point(), tensor.is_complex()) == (target.is_floating_point(), target.is_complex())


def _cast(tensor: Tensor, dtype: torch.dtype, key: str, subject: str) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{subject} holds values in {key} that are not finite: take an earlier checkpoint")
    cast = tensor.to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise UserError(f"{subject} holds values in {key} too large for {dtype}: load it into a float32 model")
    return cast


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'.replace(' torch.', ' ')}"


def _listed(problems: Sequence[tuple[Sequence[str], str]]) -> str:
    """Each kind of problem with a few names; where many differ, one name in all: it is another network's file."""
    kinds = [(names, title) for names, title in problems if names]
    many = sum(len(names) for names, _ in kinds) > len(problems) * _SHOWN
    shown = [1 if many else _SHOWN] + [0 if many else _SHOWN] * (len(kinds) - 1)
    return "; ".join(_some(names, title, count) for (names, title), count in zip(kinds, shown, strict=True))


def _some(names: Sequence[str], title: str, shown: int) -> str:
    """A title and the first names."""
    more = ", ..." if len(names) > shown else ""
    return f"{title} ({', '.join(names[:shown])}{more})" if shown else title
