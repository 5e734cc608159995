"""Use a trained model on a file or an array: what it was trained for decides what is done."""

from __future__ import annotations

from os import PathLike

import torch
from torch import nn

from stvit.engine.class_prediction import ClassPrediction
from stvit.engine.classify_clips import classify_clip
from stvit.engine.classify_images import classify_image
from stvit.engine.inference import Source, described_input, name_of
from stvit.engine.predict_frames import FramePrediction, predict_frames
from stvit.errors import UserError

Prediction = FramePrediction | ClassPrediction


def predict(
    source: Source,
    model_or_checkpoint: nn.Module | str | PathLike[str],
    *,
    out_frames: int | None = None,
    start: int | None = None,
    sequence: int | None = None,
    top_k: int | None = None,
    device: str | torch.device | None = None,
) -> Prediction:
    """Classify an image or a clip, or predict the frames that follow: what the model was trained for.

    Args:
        source: of a predictor, and what ``out_frames``, ``start`` and ``sequence`` are for: see
            :func:`predict_frames`. Of a classifier: see :func:`classify`.
        model_or_checkpoint: a model, one of stvit's own checkpoints, or a folder that ``save_pretrained`` wrote. A
            model given is run in evaluation mode and left in the mode it was in.
        out_frames, start, sequence: for frame prediction only.
        top_k: for classification only.
        device: where to compute, moving the model there; None for where a model is, and for a checkpoint the GPU if
            there is one.

    Raises:
        UserError: a source that cannot be read or does not fit, a checkpoint or model for another task, a setting of
            the other task.
    """
    model = _model(model_or_checkpoint, device)
    frames_only = {"out_frames": out_frames, "start": start, "sequence": sequence}
    if described_input(model).task == "prediction":
        if top_k is not None:
            raise UserError(f"top_k={top_k} is for classification; this model predicts frames: leave it out")
        return predict_frames(source, model, **frames_only)
    for name, value in frames_only.items():
        if value is not None:
            raise UserError(f"{name}={value} is for frame prediction; this model classifies: leave it out")
    return classify(source, model, top_k=5 if top_k is None else top_k)


def classify(source: Source, model: nn.Module, *, top_k: int = 5) -> ClassPrediction:
    """The most probable classes of one image or, by a network of clips, of one clip.

    See :func:`stvit.engine.classify_images.classify_image` and :func:`stvit.engine.classify_clips.classify_clip`.

    Raises:
        UserError: a source that is no image or no clip, a model that does not classify.
    """
    described = described_input(model)
    if described.task != "classification":
        raise UserError(f"classify knows models of the task 'classification'; {name_of(model)}'s is {described.task!r}")
    return (classify_clip if described.frames else classify_image)(source, model, top_k=top_k)


def _model(model_or_checkpoint: nn.Module | str | PathLike[str], device: str | torch.device | None) -> nn.Module:
    if device is not None:
        _check_device(device)
    if isinstance(model_or_checkpoint, nn.Module):
        return model_or_checkpoint if device is None else model_or_checkpoint.to(device)
    from stvit.checkpoint import model_from_checkpoint  # reading files is not needed for a model in memory
    from stvit.hub import from_pretrained, is_pretrained

    build = from_pretrained if is_pretrained(model_or_checkpoint) else model_from_checkpoint
    model = build(model_or_checkpoint)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # an unknown word; a backend torch was built without; "meta"
        raise UserError(
            f"the device {str(device)!r} cannot be used here: choose 'cpu', or 'cuda' where there is a GPU"
        ) from error
