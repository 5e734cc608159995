"""What to do about weights that do not fit a network, as far as their names and shapes tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from stvit.backbones.base import Backbone, BackboneSpec
from stvit.checkpoint.recognise import adapted_settings, differing, registered_name, told_spec
from stvit.registry import list_models

_TOLD = ("in_channels", "num_classes")  # settings of a suggested network; the others are adapted at loading


def remedy(
    network: nn.Module, weights: Mapping[str, Tensor], classifier: Collection[str], problems: Collection[str]
) -> str:
    """The way out, ready to follow what is wrong; empty where the weights tell none.

    Args:
        network: where the weights were to go.
        weights: in stvit's layout.
        classifier: names of the network's last layer.
        problems: names that the weights lack, that have other sizes, or that have no place.
    """
    told = told_spec(weights)
    if told is None:
        return ""
    if isinstance(network, Backbone) and type(told) is type(network.spec):
        if told.num_classes == 0 and not weights.keys() & set(problems) and _of_head(network).issuperset(problems):
            return _without_head(classifier, problems)
        if not differing(network.spec, told):
            return _other_channels(told, network.spec)
    name = registered_name(weights)
    return "" if name is None else f"; {_call(name, adapted_settings(weights, name))} builds its network"


def video_remedy(network: Backbone[object], weights: Mapping[str, Tensor]) -> str:
    """:func:`remedy` for an image network's weights that cannot be inflated into a video network."""
    told, name = told_spec(weights), registered_name(weights)
    video = f"{name}_16f"
    if told is None or name is None or video not in list_models():
        return ""
    if getattr(network, "model_name", "") == video and type(told) is type(network.spec):
        return _other_channels(told, network.spec)
    return f"; {_call(video, adapted_settings(weights, name))} builds its video network"


def kind_of_network(spec: object) -> str:
    """What to call the kind of network of a row, such as MixViT."""
    return type(spec).__name__.removesuffix("Spec")


def _other_channels(told: BackboneSpec, ours: BackboneSpec) -> str:
    theirs = told.in_channels
    if theirs == ours.in_channels:
        return ""
    return (
        f"; it takes inputs of {theirs} channels and the model of {ours.in_channels}: create the model with "
        f"in_channels={theirs} (MODEL.ARGS.in_channels {theirs})"
    )


def _of_head(network: Backbone[object]) -> set[str]:
    """Names of what comes after the last map."""
    after = {id(parameter) for parameter in network.parameters_after(len(network.feature_info))}
    return {name for name, parameter in network.named_parameters() if id(parameter) in after}


def _without_head(classifier: Collection[str], missing: Collection[str]) -> str:
    maps = "create_model(..., features_only=True) builds the network of its maps"
    if not set(missing) <= set(classifier):
        return f"; it is of a dense model and has no head: {maps}"
    return f"; it has no classifier: load_checkpoint(model, ..., allow_new_head=True) keeps a fresh one, {maps}"


def _call(name: str, settings: Mapping[str, object]) -> str:
    kept = {key: settings[key] for key in _TOLD if settings.get(key)}
    return f"create_model({', '.join([repr(name), *(f'{key}={value}' for key, value in kept.items())])})"
