"""What predicting frames and classifying have in common: reading sequences, and running a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stvit.datasets.frame_sources import Frames, frames_from_array, read_frames
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

Source = str | PathLike[str] | np.ndarray | Tensor | Image.Image


def described_input(model: nn.Module) -> Preprocessing:
    """What a model takes.

    Raises:
        UserError: it does not say.
    """
    described = getattr(model, "preprocessing", None)
    if not isinstance(described, Preprocessing):
        raise UserError(f"{type(model).__name__} has no preprocessing, which says what it takes: use create_model")
    return described


def described_classifier(model: nn.Module, *, clips: bool) -> Preprocessing:
    """What a classifier takes.

    Raises:
        UserError: the model is none, or one of images where clips are classified, or the reverse.
    """
    described = described_input(model)
    if described.task != "classification" or bool(described.frames) != clips:
        kind = {"classification": "classifies clips" if described.frames else "classifies images"}
        raise UserError(
            f"{name_of(model)} {kind.get(described.task, 'predicts frames')}: this is for networks that classify "
            f"{'clips' if clips else 'images'}; stvit.predict finds what a network is for"
        )
    return described


def read_sequence(source: Source, sequence: int | None, start: int | None, count: int | None) -> tuple[Frames, str]:
    """Frames ``(T, C, H, W)`` of a file, folder, array or tensor, and what to call it in messages.

    The settings are those of :func:`stvit.datasets.frame_sources.read_frames`, and so are its errors.
    """
    if isinstance(source, Tensor):
        if source.dtype == torch.bfloat16:
            source = source.float()
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        where = "the array"
        return frames_from_array(source, where, sequence=sequence, start=start, count=count), where
    if not isinstance(source, str | PathLike):
        raise UserError(
            f"frames are read from a path, a numpy array or a tensor, not from a {type(source).__name__}: "
            "np.stack turns a list of frames into an array"
        )
    return read_frames(source, sequence=sequence, start=start, count=count), str(source)


def like_weights(inputs: Tensor, model: nn.Module) -> Tensor:
    """On the device and in the precision of a model's weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), inputs)
    return inputs.to(weight.device, weight.dtype)


def name_of(model: nn.Module) -> str:
    """The registered name, or that of the class."""
    return str(getattr(model, "model_name", type(model).__name__))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and back to every module's own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
