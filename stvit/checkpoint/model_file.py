"""stvit's own checkpoints: weights with everything that is needed to build their model again."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib import metadata
from os import PathLike

import numpy
import torch
from torch import Tensor, nn

from stvit.checkpoint.layouts import detect
from stvit.checkpoint.load import load_into, open_checkpoint, unwrap_model, unwrap_training
from stvit.checkpoint.same_network import FORMAT, FORMAT_VERSION, WRAPPING
from stvit.checkpoint.unwrap import find_weights
from stvit.errors import UserError
from stvit.model import Model
from stvit.preprocessing import Preprocessing
from stvit.registry import create_model, model_spec


def pack_model(model: nn.Module, ema: Mapping[str, Tensor] | None = None) -> dict[str, object]:
    """What a checkpoint says about a model; a training program adds its own state and saves it.

    Args:
        model: built by :func:`stvit.create_model`; also wrapped by DistributedDataParallel or torch.compile.
        ema: the moving average of its weights, under the same names.

    Returns:
        ``format``, ``model`` (``name`` and ``args``), ``preprocessing``, ``state_dict``, ``ema`` and ``versions``, for
        :func:`save_checkpoint`. The tensors are the model's own, not copies.
    """
    return {
        "format": FORMAT,
        **describe_model(model),
        "state_dict": {key: tensor.detach() for key, tensor in unwrap_model(model).state_dict().items()},
        "ema": None if ema is None else {key: tensor.detach() for key, tensor in ema.items()},
        "versions": {
            "stvit": metadata.version("stvit"),
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
    }


def describe_model(model: nn.Module) -> dict[str, object]:
    """``model`` (``name`` and ``args``) and ``preprocessing``, as plain values: what builds a model again.

    Raises:
        UserError: a module that :func:`stvit.create_model` did not build.
    """
    outer, network = unwrap_training(model), unwrap_model(model)
    preprocessing = getattr(outer, "preprocessing", None)
    if not (isinstance(outer, Model) and isinstance(preprocessing, Preprocessing) and hasattr(outer, "model_name")):
        raise UserError(f"a {type(outer).__name__} cannot be rebuilt from a file: build models with create_model")
    args = dict(outer.model_args)
    classes = getattr(network, "num_classes", None)
    row = model_spec(outer.model_name, **{key: value for key, value in args.items() if key not in WRAPPING})
    if classes is not None and classes != getattr(row, "num_classes", classes):
        args["num_classes"] = classes  # its head was replaced after it was built
    return {"model": {"name": outer.model_name, "args": args}, "preprocessing": preprocessing.to_dict()}


def described_model(header: object, preprocessing: object, source: str) -> nn.Module:
    """The model of a :func:`describe_model`, with fresh weights.

    Raises:
        UserError: an incomplete description, or one of a model that this stvit does not know.
    """
    match header, preprocessing:
        case {"name": str(name), "args": dict(args)}, dict(described):
            pass
        case _:
            raise UserError(f"{source} does not say which model it is of: it was not written by stvit, or was changed")
    if asked := sorted({"checkpoint", "pretrained"} & args.keys()):  # a file must not make stvit open another
        raise UserError(f"the model of {source} cannot be built here: {asked[0]!r} is no setting of a model")
    try:
        model = create_model(name, **{str(key): value for key, value in args.items()})
        vars(model)["preprocessing"] = Preprocessing.from_dict({str(k): v for k, v in described.items()})
    except UserError as error:
        raise UserError(f"the model of {source} cannot be built here: {error}") from error
    return model


def model_from_checkpoint(path: str | PathLike[str], *, ema: bool | None = None) -> nn.Module:
    """Build the model that one of stvit's own checkpoints describes, in evaluation mode.

    Args:
        path: a file that :func:`save_checkpoint` wrote from :func:`pack_model`, its address, or ``"builtin"``.
        ema: which weights, as in :func:`load_checkpoint`; None for their running mean where there is one.

    Raises:
        UserError: another library's checkpoint, one of a newer stvit, or a model that this stvit does not know.
    """
    checkpoint, source = open_checkpoint(path)
    _check_format(checkpoint, source)
    model = described_model(checkpoint.get("model"), checkpoint.get("preprocessing"), source)
    load_into(model, checkpoint, source, ema=ema)
    return model.eval()


def _check_format(checkpoint: Mapping[str, object], source: str) -> None:
    stated = checkpoint.get("format")
    version = re.fullmatch(r"stvit-checkpoint-(\d+)", stated) if isinstance(stated, str) else None
    if version is None:
        weights, _ = find_weights(checkpoint, source)
        layout = detect(weights, checkpoint.keys())
        kind = f" but has layout {layout.NAME}" if layout else ""
        raise UserError(
            f"{source} is not one of stvit's own checkpoints{kind}: "
            "name its model, as in create_model(name, checkpoint=...) or --model NAME"
        )
    if int(version[1]) > FORMAT_VERSION:
        raise UserError(f"{source} has format {stated}, this stvit reads up to {FORMAT}: install a newer stvit")
