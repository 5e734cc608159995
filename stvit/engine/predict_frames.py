"""Predict the frames that follow those of a file or an array."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stvit.datasets.frame_sources import to_model_frames
from stvit.engine.inference import Source, described_input, evaluating, like_weights, name_of, read_sequence
from stvit.errors import UserError


@dataclass(frozen=True)
class FramePrediction:
    """Future frames, with the past ones they follow from; all ``(T, C, H, W)`` float32 in [0, 1]."""

    past: NDArray[np.float32]
    predicted: NDArray[np.float32]
    truth: NDArray[np.float32] | None  # what the source has after the past frames, at most as many as predicted
    model_name: str


def predict_frames(
    source: Source,
    model: nn.Module,
    *,
    out_frames: int | None = None,
    start: int | None = None,
    sequence: int | None = None,
) -> FramePrediction:
    """Predict the frames that follow.

    Args:
        source: a file or folder (:func:`stvit.datasets.frame_sources.read_frames`), or an array or tensor of one of
            the layouts of :func:`stvit.datasets.frame_sources.frames_from_array`.
        model: a predictor with its ``preprocessing``.
        out_frames: how many; None for as many as the model was made for.
        start: the source's frame, from 0, at which the model's input begins. The frames after the input are then
            returned as the truth. None: the input is the last frames of the source, and there is no truth.
        sequence: which sequence of an array that holds several.

    Raises:
        UserError: a source that cannot be read or is too short, a model that does not predict frames.
    """
    described = described_input(model)
    if described.task != "prediction" or not described.frames:
        raise UserError(f"predict_frames knows models of the task 'prediction'; this one's is {described.task!r}")
    in_frames = described.frames
    wanted = described.out_frames if out_frames is None else out_frames
    if not isinstance(wanted, Integral) or wanted < 1:
        raise UserError(f"out_frames must be a whole number of at least 1, not {out_frames!r}")
    if start is not None and start < 0:
        raise UserError(f"the first input frame (start) counts from 0; {start} is before it")

    frames, where = read_sequence(source, sequence, start, in_frames + (wanted if start is not None else 0))
    if len(frames) < in_frames:
        after = f" from frame {start} on" if start else ""
        raise UserError(f"{where} has {len(frames)} frames{after}; the model needs {in_frames}")
    pixels = to_model_frames(frames, described)
    past, later = pixels[:in_frames], pixels[in_frames:]
    with evaluating(model), torch.inference_mode():
        predicted = model(like_weights(past[None], model), out_frames=int(wanted))[0].float().cpu()
    if not predicted.isfinite().all():
        raise UserError(f"the model predicts values that are not finite for {where}; its weights may be broken")
    truth = later.numpy() if len(later) else None
    return FramePrediction(past.numpy(), predicted.clamp(0, 1).numpy(), truth, name_of(model))
