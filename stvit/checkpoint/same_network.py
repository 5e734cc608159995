"""Whether a checkpoint of stvit's own is of the network it is loaded into, beyond what the sizes of weights tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from stvit.backbones.base import Backbone
from stvit.errors import UserError
from stvit.registry import Spec, list_models, model_spec

_SHOWN = 3  # settings in an error
FORMAT_VERSION = 1
FORMAT = f"stvit-checkpoint-{FORMAT_VERSION}"
# Settings that need not agree: sizes and lengths that networks adapt to, what only training uses, and the number of
# classes, which the sizes of the weights tell.
FREE = frozenset(
    {"image_size", "input_size", "out_frames", "drop_path", "first_drop_path", "head_dropout", "num_classes"}
)
# Of backbones also these: tables of windows are resized, and norms of maps may be fresh.
FREE_OF_BACKBONES = frozenset({"window", "map_norm"})
# Arguments of create_model, in a checkpoint's header, that are no settings of a network.
WRAPPING = frozenset({"features_only", "out_indices"})


def stated_spec(checkpoint: Mapping[str, object], subject: str) -> Spec | None:
    """The row that one of stvit's own checkpoints says it is of; None for others and for unknown models.

    Raises:
        UserError: settings that this stvit does not know.
    """
    match checkpoint:
        case {"format": str(stated), "model": {"name": str(name), "args": Mapping() as args}}:
            pass
        case _:
            return None
    if not stated.startswith("stvit-checkpoint-") or name not in list_models():
        return None
    try:
        return model_spec(name, **{str(key): value for key, value in args.items() if key not in WRAPPING})
    except UserError as error:
        raise UserError(f"{subject} cannot be compared with the model: {error}") from error


def refuse_other_settings(checkpoint: Mapping[str, object], network: nn.Module, subject: str) -> None:
    """Refuse a checkpoint whose settings differ from the network's: several, such as ``wavelet``, change no size.

    Checkpoints of other programs do not say their settings and pass, and so does a network without ``spec``.

    Args:
        checkpoint: what was read.
        network: where its weights are to go.
        subject: stands for the checkpoint in the message.

    Raises:
        UserError: settings that differ, or that this stvit does not know.
    """
    ours, theirs = getattr(network, "spec", None), stated_spec(checkpoint, subject)
    if theirs is None or not dataclasses.is_dataclass(ours):
        return
    if type(theirs) is not type(ours):
        return
    free = FREE | FREE_OF_BACKBONES if isinstance(network, Backbone) else FREE
    pairs = {
        field.name: (getattr(theirs, field.name), getattr(ours, field.name))
        for field in dataclasses.fields(ours)
        if field.name not in free
    }
    differing = [f"{key} {there!r} instead of {here!r}" for key, (there, here) in pairs.items() if there != here]
    if differing:
        title = getattr(network, "model_name", type(network).__name__)
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"{subject} does not fit {title}: it has {', '.join(differing[:_SHOWN])}{more}; create "
            "the model with the same settings"
        )
