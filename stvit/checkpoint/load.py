"""Loading weights into a model: find them, bring them into stvit's layout, check that all fit, then copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor, nn

from stvit.backbones.base import Backbone, FeatureMaps
from stvit.backbones.mvit import MViTSpec
from stvit.builtin import NAME, is_builtin, read_builtin
from stvit.checkpoint import fetch
from stvit.checkpoint.fit import fit, head_names, model_title
from stvit.checkpoint.layouts import Layout, detect, mixformer, mvit
from stvit.checkpoint.reader import read_checkpoint
from stvit.checkpoint.recognise import registered_name, told_spec
from stvit.checkpoint.recognise.mvit import key_strides
from stvit.checkpoint.remedy import kind_of_network, video_remedy
from stvit.checkpoint.report import LoadReport
from stvit.checkpoint.same_network import refuse_other_settings
from stvit.checkpoint.unwrap import find_weights, running_mean, without_prefixes
from stvit.errors import UserError
from stvit.predictors.mixvit3d import MixViT3DPredictor
from stvit.preprocessing import Preprocessing

NATIVE = "stvit"


def load_checkpoint(
    model: nn.Module,
    source: str | PathLike[str] | Mapping[str, object],
    *,
    ema: bool | None = None,
    allow_new_head: bool = False,
    allow_unexpected: bool = False,
) -> LoadReport:
    """Load weights in any known layout into a model; all of them, or none.

    Wrappers (``state_dict``, ``model``, ``model_state``, ``params``) and prefixes (``module.``, ``model.``,
    ``_orig_mod.``) are found by themselves, and so is the layout: stvit's, facebookresearch/mvit's, SlowFast's,
    torchvision's, timm's, mmpretrain's, mmaction2's, OpenSTL's, MixViT's, MPViT's and PaddleClas's. Values are cast to
    the model's floating type and device. Tables of positions made for another input size are resized. The weights of
    an image network are inflated into a video network (:func:`stvit.inflation.inflate_state_dict` with the rule
    ``centre``), and the report's notes say whether still videos then give the image network's features.

    Args:
        model: any module; also one wrapped by DistributedDataParallel or torch.compile.
        source: a file, an address (http, https, file), ``"builtin"`` (the predictor that stvit ships; a file of this
            name is ``"./builtin"``), or a state dict or checkpoint in memory.
        ema: True for the running mean (exponential moving average) of the weights, an error if the checkpoint has
            none; False for the weights as trained; None for the running mean where there is one.
        allow_new_head: leave the classifier as it is where the checkpoint's is absent or has other sizes.
        allow_unexpected: accept weights in the file that have no place in the model.

    Returns:
        Which weights were taken and what became of every name.

    Raises:
        UserError: not a checkpoint, weights that do not fit the model, or values that are not finite. The model is
            unchanged then.
        OSError: the file cannot be read or downloaded.
    """
    checkpoint, name = open_checkpoint(source)
    return load_into(model, checkpoint, name, ema=ema, allow_new_head=allow_new_head, allow_unexpected=allow_unexpected)


def load_into(
    model: nn.Module,
    checkpoint: Mapping[str, object],
    name: str,
    *,
    ema: bool | None = None,
    allow_new_head: bool = False,
    allow_unexpected: bool = False,
) -> LoadReport:
    """:func:`load_checkpoint` for what has been read already; ``name`` stands for it in messages."""
    network = unwrap_model(model)
    ema = running_mean(checkpoint) is not None if ema is None else ema
    weights, beside = find_weights(checkpoint, name, ema=ema)
    found = in_our_layout(weights, checkpoint, name, network)
    subject = f"{name} ({_described(checkpoint, found)})"
    inflated = _inflated(found.weights, network, subject)
    optional = _may_be_absent(model)
    fitted = fit(
        network,
        found.weights if inflated is None else inflated.weights,
        subject,
        allow_new_head=allow_new_head,
        allow_unexpected=allow_unexpected,
        absent=optional.union(() if inflated is None else inflated.absent),
    )
    if inflated is None:
        refuse_other_settings(checkpoint, network, subject)
        _refuse_other_key_stride(found.weights, network, subject)
    network.load_state_dict(fitted.weights, strict=False)  # strictness is fit's, which also names the new head
    _take_labels(checkpoint, network, fitted.weights)
    report = LoadReport(
        source=name,
        layout=found.layout,
        weights="running mean" if ema else "as trained",
        loaded=tuple(fitted.weights),
        converted=found.converted,
        dropped=beside + found.dropped + fitted.dropped,
        interpolated=fitted.interpolated,
        missing=tuple(key for key in fitted.missing if key not in optional),
        new=tuple(key for key in fitted.missing if key in optional),
        unexpected=fitted.unexpected,
    )
    return report if inflated is None else inflated.added_to(report)


def _may_be_absent(model: nn.Module) -> set[str]:
    """Names of the network's weights that no checkpoint must have: see Backbone.may_be_fresh, FeatureMaps.unneeded."""
    inner = unwrap_training(model)
    network = unwrap_model(model)
    fresh = network.may_be_fresh() if isinstance(network, Backbone) else set()
    return fresh | (inner.unneeded() if isinstance(inner, FeatureMaps) else set())


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel, torch.compile and a backbone's feature maps."""
    while True:
        model = unwrap_training(model)
        if not isinstance(model, FeatureMaps):
            return model
        model = model.network


def unwrap_training(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def open_checkpoint(source: str | PathLike[str] | Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    """The content of a source as :func:`load_checkpoint` takes it, for :func:`load_into`, and its name in messages."""
    if isinstance(source, Mapping):
        return source, "the given state dict"
    if isinstance(source, nn.Module):
        raise UserError(
            f"weights come from a file, an address or a state dict: give the state_dict() of the "
            f"{type(source).__name__}"
        )
    if not isinstance(source, str | PathLike):
        raise UserError(f"weights come from a file, an address or a state dict, not from {source!r}: give one of these")
    if is_builtin(source):
        return read_builtin(), NAME
    if isinstance(source, str) and fetch.is_url(source):
        path = fetch.fetch(source)
        try:
            return read_checkpoint(path), source
        except UserError as error:
            path.unlink()  # a login page or a broken download must not be what the next try finds
            raise UserError(f"{source} gave no checkpoint: {error}") from error
    return read_checkpoint(source), str(Path(source))


@dataclass(frozen=True)
class Found:
    """Weights in stvit's layout, and what was done to get there."""

    weights: dict[str, Tensor]
    layout: str
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def in_our_layout(
    weights: dict[str, Tensor], checkpoint: Mapping[str, object], name: str, network: nn.Module | None = None
) -> Found:
    """Take off prefixes until the names are the network's or those of a known layout; else what comes closest.

    Args:
        weights: as :func:`stvit.checkpoint.unwrap.find_weights` gives them.
        checkpoint: where they were found.
        name: the checkpoint's, for messages.
        network: where they are to go, if anywhere.

    Raises:
        UserError: names of a layout that are not whole, or weights that this layout has not for this network.
    """
    best, expected = weights, network.state_dict().keys() if network is not None else {}.keys()
    of_paddle = mixformer.in_a_file_of_paddles(weights, checkpoint.keys())
    for candidate in without_prefixes(weights, lightning="pytorch-lightning_version" in checkpoint):
        layout = detect(candidate, checkpoint.keys())
        if of_paddle and (layout is None or layout.NAME != mixformer.NAME):
            continue  # under whatever names: Paddle's linear layers are stored the other way round
        # A module of the other library's own takes its weights as they are.
        if layout and (candidate.keys() != expected or layout.NAME == mvit.NAME):
            found = _converted(candidate, layout, network, name)
            return dataclasses.replace(found, dropped=_left_out(weights, candidate) + found.dropped)
        if len(expected & candidate.keys()) > len(expected & best.keys()) or not expected:
            best = candidate
    if of_paddle:
        raise UserError(f"{name} is of another of Paddle's networks than MixFormer, the one that stvit has")
    return Found(best, NATIVE, (), _left_out(weights, best))


def _left_out(weights: dict[str, Tensor], candidate: dict[str, Tensor]) -> tuple[str, ...]:
    kept = {id(tensor) for tensor in candidate.values()}
    return tuple(key for key, tensor in weights.items() if id(tensor) not in kept)


def _converted(weights: dict[str, Tensor], layout: Layout, network: nn.Module | None, name: str) -> Found:
    spec = getattr(network, "spec", None)
    try:
        ours = layout.to_stvit(weights, spec)
        unused = layout.unused(weights, spec)
    except UserError as error:
        raise UserError(f"{name} (layout {layout.NAME}): {error}") from error
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} has names of layout {layout.NAME} but is not whole: {reason}") from error
    changed = (key for key, tensor in weights.items() if key not in unused and ours.get(key) is not tensor)
    return Found(ours, layout.NAME, tuple(changed), unused)


def _take_labels(checkpoint: Mapping[str, object], network: nn.Module, loaded: Mapping[str, Tensor]) -> None:
    """The class names of one of stvit's own checkpoints go with its head, unless the network has names already."""
    match checkpoint:
        case {"format": str(stated), "preprocessing": {"labels": list() | tuple() as labels}}:
            pass
        case _:
            return
    ours = getattr(network, "preprocessing", None)
    if not stated.startswith("stvit-checkpoint-") or not isinstance(ours, Preprocessing) or ours.labels is not None:
        return
    if (
        not labels
        or len(labels) != getattr(network, "num_classes", None)
        or not all(isinstance(label, str) for label in labels)
    ):
        return
    if head_names(network) <= loaded.keys():
        vars(network)["preprocessing"] = dataclasses.replace(ours, labels=tuple(labels))


def _described(checkpoint: Mapping[str, object], found: Found) -> str:
    """What a checkpoint says, or its weights tell, that it is of."""
    header = checkpoint.get("model")
    if "format" in checkpoint and isinstance(header, Mapping) and "name" in header:
        return f"of model {header['name']}"
    recognised = registered_name(found.weights)
    return f"layout {found.layout}{f', of {recognised}' if recognised else ''}"


def _refuse_other_key_stride(weights: Mapping[str, Tensor], network: nn.Module, subject: str) -> None:
    """Refuse weights of a network whose keys stride otherwise: only the lengths of position tables show it."""
    spec = getattr(network, "spec", None)
    if not isinstance(spec, MViTSpec):
        return
    possible = key_strides(weights, others=spec.kv_stride[-1:])
    if possible and spec.kv_stride[-1] not in possible:
        raise UserError(
            f"{subject} does not fit {model_title(network)}: its keys stride by {possible[0]} in the first stage "
            f"and the model's by {spec.kv_stride[-1]}; create the model with its kv_stride"
        )


def _of_images(weights: Mapping[str, Tensor]) -> bool:
    """Whether kernels of convolutions are over two axes."""
    kernels = [weight.ndim for key, weight in weights.items() if key.endswith(".weight") and weight.ndim in (4, 5)]
    return bool(kernels) and max(kernels) == 4


@dataclass(frozen=True)
class _Inflated:
    """An image network's weights, as far as they go, under a video network's names."""

    weights: dict[str, Tensor]
    grown: tuple[str, ...]  # from 2D to 3D
    zero: tuple[str, ...]  # positions in time, which the image network lacks
    interpolated: tuple[str, ...]
    absent: tuple[str, ...]  # without counterpart, left as they are
    notes: tuple[str, ...]
    dropped: tuple[str, ...] = ()  # of the image network, where the network has a part of it alone

    def added_to(self, report: LoadReport) -> LoadReport:
        """The report with what inflation did."""
        body = tuple(key for key in report.missing if not key.startswith("head."))
        return dataclasses.replace(
            report,
            loaded=tuple(key for key in report.loaded if key not in self.zero),
            dropped=report.dropped + self.dropped,
            inflated=self.grown,
            interpolated=tuple(dict.fromkeys(self.interpolated + report.interpolated)),
            missing=tuple(key for key in report.missing if key not in body),
            new=tuple(dict.fromkeys(self.zero + report.new + body)),
            notes=self.notes,
        )


def _inflated(weights: Mapping[str, Tensor], network: nn.Module, subject: str) -> _Inflated | None:
    """The weights inflated, where they are an image network's and the network is for video."""
    if isinstance(network, MixViT3DPredictor) and "stages.0.blocks.0.conv.expand.weight" in weights:
        return _inflated_translator(weights, network, subject)
    if not isinstance(network, Backbone) or len(network.spec.input_size) != 3 or not _of_images(weights):
        return None
    from stvit.inflation import image_spec, inflate_state_dict  # it builds models, whose registry imports this package

    spec, told = network.spec, told_spec(weights)
    if told is not None and type(told) is not type(spec):
        raise UserError(
            f"{subject} does not fit {model_title(network)}: it is of a {kind_of_network(told)} and the model is a "
            f"{kind_of_network(spec)}{video_remedy(network, weights)}"
        )
    present = network.state_dict()
    try:
        done = inflate_state_dict(weights, image_spec(weights, spec), spec, base=present)
    except UserError as error:
        way_out = video_remedy(network, weights)
        raise UserError(f"{subject} does not fit {model_title(network)}: {error}{way_out}") from error
    zero = tuple(key for key in done.new if not key.startswith("head.") and not bool(done.state_dict[key].any()))
    kept = tuple(key for key in done.new if key not in zero)
    head = head_names(network)
    return _Inflated(
        # A head of other classes goes on as it is in the file: whether it may be left out is fit's to say.
        weights={key: value for key, value in done.state_dict.items() if key not in kept}
        | {key: weights[key] for key in done.left_out},
        grown=done.inflated,
        zero=zero,
        interpolated=done.interpolated,
        absent=tuple(key for key in kept if key not in head or key not in weights),
        notes=done.guarantees,
    )


def _inflated_translator(weights: Mapping[str, Tensor], network: MixViT3DPredictor, subject: str) -> _Inflated:
    from stvit.inflation_predictor import inflate_predictor_weights  # it builds models, whose registry imports this

    try:
        done = inflate_predictor_weights(weights, network)
    except UserError as error:
        raise UserError(f"{subject} does not fit {model_title(network)}: {error}") from error
    return _Inflated(
        weights={key: value for key, value in done.state_dict.items() if key not in done.new},
        grown=done.inflated,
        zero=(),
        interpolated=done.interpolated,
        absent=done.new,
        notes=done.guarantees,
        dropped=done.left_out,
    )
