"""Use a trained model on a file or an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stvit.datasets.frame_sources import frames_from_array, read_frames, to_model_frames
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

Source = str | PathLike[str] | np.ndarray | Tensor


@dataclass(frozen=True)
class Prediction:
    """Future frames, with the past ones they follow from; all ``(T, C, H, W)`` float32 in [0, 1]."""

    past: NDArray[np.float32]
    predicted: NDArray[np.float32]
    truth: NDArray[np.float32] | None  # what the source has after the past frames, at most as many as predicted
    model_name: str


def predict(
    source: Source,
    model_or_checkpoint: nn.Module | str | PathLike[str],
    *,
    out_frames: int | None = None,
    start: int | None = None,
    sequence: int | None = None,
    device: str | torch.device | None = None,
) -> Prediction:
    """Predict the frames that follow.

    Args:
        source: a file or folder (:func:`stvit.datasets.frame_sources.read_frames`), or an array or tensor of one of
            the layouts of :func:`stvit.datasets.frame_sources.frames_from_array`.
        model_or_checkpoint: a predictor, or one of stvit's own checkpoints. A model given is run in evaluation mode
            and left in the mode it was in.
        out_frames: how many; None for as many as the model was made for.
        start: the source's frame, from 0, at which the model's input begins. The frames after the input are then
            returned as the truth. None: the input is the last frames of the source, and there is no truth.
        sequence: which sequence of an array that holds several.
        device: where to compute, moving the model there; None for where a model is, and for a checkpoint the GPU if
            there is one.

    Raises:
        UserError: a source that cannot be read or is too short, a checkpoint or model that does not predict frames.
    """
    model = _model(model_or_checkpoint, device)
    described = _described(model)
    in_frames = described.frames or 0
    wanted = described.out_frames if out_frames is None else out_frames
    if not isinstance(wanted, Integral) or wanted < 1:
        raise UserError(f"out_frames must be a whole number of at least 1, not {out_frames!r}")
    if start is not None and start < 0:
        raise UserError(f"the first input frame (start) counts from 0; {start} is before it")

    frames, where = _read(source, sequence, start, in_frames + (wanted if start is not None else 0))
    if len(frames) < in_frames:
        after = f" from frame {start} on" if start else ""
        raise UserError(f"{where} has {len(frames)} frames{after}; the model needs {in_frames}")
    pixels = to_model_frames(frames, described)
    past, later = pixels[:in_frames], pixels[in_frames:]
    weight = next((p for p in model.parameters() if p.is_floating_point()), past)
    with _evaluating(model), torch.inference_mode():
        predicted = model(past[None].to(weight.device, weight.dtype), out_frames=int(wanted))[0].float().cpu()
    if not predicted.isfinite().all():
        raise UserError(f"the model predicts values that are not finite for {where}; its weights may be broken")
    truth = later.numpy() if len(later) else None
    name = getattr(model, "model_name", type(model).__name__)
    return Prediction(past.numpy(), predicted.clamp(0, 1).numpy(), truth, name)


def _model(model_or_checkpoint: nn.Module | str | PathLike[str], device: str | torch.device | None) -> nn.Module:
    if device is not None:
        _check_device(device)
    if isinstance(model_or_checkpoint, nn.Module):
        return model_or_checkpoint if device is None else model_or_checkpoint.to(device)
    from stvit.checkpoint import model_from_checkpoint  # reading files is not needed for a model in memory

    model = model_from_checkpoint(model_or_checkpoint)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # an unknown word; a backend torch was built without; "meta"
        raise UserError(
            f"the device {str(device)!r} cannot be used here: choose 'cpu', or 'cuda' where there is a GPU"
        ) from error


def _described(model: nn.Module) -> Preprocessing:
    described = getattr(model, "preprocessing", None)
    if not isinstance(described, Preprocessing):
        raise UserError(f"{type(model).__name__} has no preprocessing, which says what it takes: use create_model")
    if described.task != "prediction" or not described.frames:
        raise UserError(f"predict knows models of the task 'prediction'; this one's is {described.task!r}")
    return described


def _read(source: Source, sequence: int | None, start: int | None, count: int) -> tuple[np.ndarray, str]:
    if isinstance(source, Tensor):
        if source.dtype == torch.bfloat16:
            source = source.float()
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        where = "the array"
        return frames_from_array(source, where, sequence=sequence, start=start, count=count), where
    if not isinstance(source, str | PathLike):
        raise UserError(
            f"frames are predicted from a path, a numpy array or a tensor, not from a {type(source).__name__}: "
            "np.stack turns a list of frames into an array"
        )
    return read_frames(source, sequence=sequence, start=start, count=count), str(source)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and back to every module's own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
