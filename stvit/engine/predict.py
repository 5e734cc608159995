"""Use a trained model on a file or an array: what it was trained for decides what is done."""

from __future__ import annotations

from os import PathLike

import torch
from torch import nn

from stvit.engine.class_prediction import ClassPrediction
from stvit.engine.classify_clips import ClipPrediction, classify_clip
from stvit.engine.classify_images import classify_image
from stvit.engine.inference import Source, described_input
from stvit.engine.predict_frames import FramePrediction, predict_frames
from stvit.errors import UserError

Prediction = FramePrediction | ClassPrediction | ClipPrediction


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
    """Classify an image or a video, or predict the frames that follow: what the model was trained for.

    Args:
        source: an image, a video, a folder of its frames, an array or a tensor. Of a classifier of images see
            :func:`stvit.engine.classify_images.classify_image`, of a classifier of clips
            :func:`stvit.engine.classify_clips.classify_clip`, of a predictor
            :func:`stvit.engine.predict_frames.predict_frames`, also for ``out_frames`` and ``start``.
        model_or_checkpoint: a model, one of stvit's own checkpoints, a folder that ``save_pretrained`` wrote, or
            ``"builtin"``, the predictor that stvit ships. A model given is run in evaluation mode and left in the mode
            it was in.
        out_frames, start: for frame prediction only.
        sequence: which sequence of an array that holds several; not for images.
        top_k: how many classes at most (5); for classification only.
        device: where to compute, moving the model there; None for where a model is, and for a checkpoint the GPU if
            there is one.

    Returns:
        A :class:`FramePrediction`, a :class:`ClassPrediction`, or of videos a :class:`ClipPrediction`, which has their
        parts too.

    Raises:
        UserError: a source that cannot be read or does not fit, a checkpoint or model for another task, a setting of
            the other task.
    """
    model = load_model(model_or_checkpoint, device)
    described = described_input(model)
    if described.task == "prediction":
        if top_k is not None:
            raise UserError(f"top_k={top_k} is for classification; this model predicts frames: leave it out")
        return predict_frames(source, model, out_frames=out_frames, start=start, sequence=sequence)
    of_frames = {"out_frames": out_frames, "start": start} | ({} if described.frames else {"sequence": sequence})
    for name, value in of_frames.items():
        if value is not None:
            raise UserError(f"{name}={value} is for frame prediction; this model classifies: leave it out")
    top_k = 5 if top_k is None else top_k
    if described.frames:
        return classify_clip(source, model, top_k=top_k, sequence=sequence)
    return classify_image(source, model, top_k=top_k)


def load_model(
    model_or_checkpoint: nn.Module | str | PathLike[str], device: str | torch.device | None = None
) -> nn.Module:
    """The model itself, or that of a checkpoint or folder, on its device; see :func:`predict`."""
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
