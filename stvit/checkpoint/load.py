"""Loading weights into a model: find them, bring them into stvit's layout, check that all fit, then copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from stvit.checkpoint import fetch
from stvit.checkpoint.layouts import Layout, detect
from stvit.checkpoint.reader import read_checkpoint
from stvit.checkpoint.report import LoadReport
from stvit.checkpoint.same_network import refuse_other_settings
from stvit.checkpoint.unwrap import find_weights, running_mean, without_prefixes
from stvit.errors import UserError

NATIVE = "stvit"
_SHOWN = 3  # names of each kind in an error


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
    ``_orig_mod.``) are found by themselves. Values are cast to the model's floating type and device.

    Args:
        model: any module; also one wrapped by DistributedDataParallel or torch.compile.
        source: a file, an address (http, https, file), or a state dict or checkpoint in memory.
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
    weights, dropped = find_weights(checkpoint, name, ema=ema)
    found = _in_our_layout(weights, network, name, "pytorch-lightning_version" in checkpoint)
    subject = f"{name} ({_described(checkpoint, found.layout)})"
    fitted, missing, unexpected = _fit(network, found.weights, subject, allow_new_head, allow_unexpected)
    refuse_other_settings(checkpoint, network, subject)
    network.load_state_dict(fitted, strict=False)  # strictness is _fit's, which also names the new head
    return LoadReport(
        source=name,
        layout=found.layout,
        weights="running mean" if ema else "as trained",
        loaded=tuple(fitted),
        converted=found.converted,
        dropped=dropped + found.dropped,
        missing=missing,
        unexpected=unexpected,
    )


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def model_title(model: nn.Module) -> str:
    """What to call a model in a message: its registered name, or its class."""
    return str(getattr(model, "model_name", type(model).__name__))


def open_checkpoint(source: str | PathLike[str] | Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    """The content of a source as :func:`load_checkpoint` takes it, for :func:`load_into`, and its name in messages."""
    if isinstance(source, Mapping):
        return source, "the given state dict"
    if isinstance(source, str) and fetch.is_url(source):
        path = fetch.fetch(source)
        try:
            return read_checkpoint(path), source
        except UserError as error:
            path.unlink()  # a login page or a broken download must not be what the next try finds
            raise UserError(f"{source} gave no checkpoint: {error}") from error
    return read_checkpoint(source), str(Path(source))


@dataclass(frozen=True)
class _Found:
    """Weights in stvit's layout, and what was done to get there."""

    weights: dict[str, Tensor]
    layout: str
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def _in_our_layout(weights: dict[str, Tensor], network: nn.Module, name: str, lightning: bool) -> _Found:
    """Take off prefixes until the names are the model's or those of a known layout; else what comes closest."""
    best, expected = weights, network.state_dict().keys()
    for candidate in without_prefixes(weights, lightning=lightning):
        if candidate.keys() != expected and (layout := detect(candidate)):
            computed = tuple(key for key in getattr(layout, "DROPPED", ()) if key in candidate)
            renamed = tuple(key for key in candidate if key not in computed)
            left_out = _left_out(weights, candidate)
            return _Found(_convert(candidate, layout, network, name), layout.NAME, renamed, left_out + computed)
        if len(expected & candidate.keys()) > len(expected & best.keys()):
            best = candidate
    return _Found(best, NATIVE, (), _left_out(weights, best))


def _left_out(weights: dict[str, Tensor], candidate: dict[str, Tensor]) -> tuple[str, ...]:
    kept = {id(tensor) for tensor in candidate.values()}
    return tuple(key for key, tensor in weights.items() if id(tensor) not in kept)


def _convert(weights: dict[str, Tensor], layout: Layout, network: nn.Module, name: str) -> dict[str, Tensor]:
    try:
        layout.check_spec(getattr(network, "spec", None))
        return layout.to_stvit(weights)
    except UserError as error:
        raise UserError(f"{name} (layout {layout.NAME}): {error}") from error
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} has names of layout {layout.NAME} but is not whole: {reason}") from error


def _described(checkpoint: Mapping[str, object], layout: str) -> str:
    """What a checkpoint says that it is of."""
    header = checkpoint.get("model")
    if "format" in checkpoint and isinstance(header, Mapping) and "name" in header:
        return f"of model {header['name']}"
    return f"layout {layout}"


def _fit(
    network: nn.Module, weights: dict[str, Tensor], subject: str, allow_new_head: bool, allow_unexpected: bool
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """What to copy into the network, what of a new head stays, and what has no place; raises on anything else."""
    targets = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    head = _head_names(network) if allow_new_head else frozenset()
    fitted, missing, wrong = {}, [], []
    for key, target in targets.items():
        tensor = weights.get(key)
        if tensor is None:
            missing.append(key)
        elif tensor.shape != target.shape or not _same_kind(tensor, target):
            wrong.append(key)
        else:
            fitted[key] = _cast(tensor, target.dtype, key, subject)
    unexpected = tuple(key for key in weights if key not in targets)
    unfit = [key for key in missing if key not in head]
    mismatched = [key for key in wrong if key not in head]
    if unfit or mismatched or (unexpected and not allow_unexpected):
        sizes = [f"{k} {_kind(weights[k])} instead of {_kind(targets[k])}" for k in mismatched]
        problems = [
            _some(unfit, f"it lacks {len(unfit)} of {len(targets)} weights"),
            _some(sizes, f"{len(sizes)} have other sizes"),
            _some(() if allow_unexpected else unexpected, f"{len(unexpected)} have no place in the model"),
        ]
        raise UserError(f"{subject} does not fit {model_title(network)}: {'; '.join(p for p in problems if p)}")
    return fitted, tuple(missing + wrong), unexpected


def _head_names(network: nn.Module) -> frozenset[str]:
    """Names of the classifier's weights."""
    if not callable(get_classifier := getattr(network, "get_classifier", None)):
        raise UserError(f"{model_title(network)} has no classifier, so it cannot have a new head: leave that out")
    classifier = get_classifier()
    prefix = next(name for name, module in network.named_modules() if module is classifier)
    return frozenset(f"{prefix}.{key}" for key in classifier.state_dict())


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


def _some(names: Sequence[str], title: str) -> str:
    """A title and its first few names, or nothing when there are none."""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{title} ({', '.join(names[:_SHOWN])}{more})" if names else ""
