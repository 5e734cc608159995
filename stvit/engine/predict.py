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
from PIL import Image
from torch import Tensor, nn

from stvit.datasets.frame_sources import Frames, frames_from_array, read_frames, to_model_frames
from stvit.datasets.image_folder import read_image, rgb
from stvit.datasets.image_splits import imagenet_names, readable
from stvit.datasets.image_transforms import cropped, evaluation_transform, normalised
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

Source = str | PathLike[str] | np.ndarray | Tensor | Image.Image


@dataclass(frozen=True)
class FramePrediction:
    """Future frames, with the past ones they follow from; all ``(T, C, H, W)`` float32 in [0, 1]."""

    past: NDArray[np.float32]
    predicted: NDArray[np.float32]
    truth: NDArray[np.float32] | None  # what the source has after the past frames, at most as many as predicted
    model_name: str


@dataclass(frozen=True)
class ClassPrediction:
    """The most probable classes of an image, the most probable first; all three of one length."""

    labels: tuple[str, ...]  # names; "class 17" where the model does not know them
    probabilities: tuple[float, ...]  # of all classes together they sum to 1
    indices: tuple[int, ...]  # which logits
    model_name: str


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
    if _described(model).task == "prediction":
        if top_k is not None:
            raise UserError(f"top_k={top_k} is for classification; this model predicts frames: leave it out")
        return predict_frames(source, model, **frames_only)
    for name, value in frames_only.items():
        if value is not None:
            raise UserError(f"{name}={value} is for frame prediction; this model classifies: leave it out")
    return classify(source, model, top_k=5 if top_k is None else top_k)


def classify(source: Source, model: nn.Module, *, top_k: int = 5) -> ClassPrediction:
    """The most probable classes of one image or, by a network of clips, of one clip.

    Args:
        source: an image file (read by the rules of :func:`stvit.datasets.read_image`), a Pillow image, or an array or
            tensor ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` with C of 1 or 3: uint8 of 0 to 255, or floats in [0, 1].
            Of clips a file, folder, array or tensor as :func:`predict_frames` takes them, see :func:`clip_pixels`.
        model: a classifier with its ``preprocessing``, by which the image is resized, cropped at the centre and
            normalised. Where that names no labels, 1,000 classes are taken for ImageNet-1k's; ids of
            its classes (``n01440764``) are told in English.
        top_k: how many classes at most.

    Raises:
        UserError: a source that is no image or no clip, a model that does not classify.
    """
    described = _described(model)
    if described.task != "classification":
        raise UserError(f"classify knows models of the task 'classification'; {_name(model)}'s is {described.task!r}")
    if not isinstance(top_k, Integral) or top_k < 1:
        raise UserError(f"top_k must be a whole number of at least 1, not {top_k!r}")
    pixels, where = (_read_clip if described.frames else _read_image)(source, described)
    with _evaluating(model), torch.inference_mode():
        logits = model(_like_weights(pixels[None], model))[0].float().cpu()
    if not logits.isfinite().all():
        raise UserError(f"the model gives logits that are not finite for {where}; its weights may be broken")
    probabilities, indices = logits.softmax(dim=0).topk(min(int(top_k), len(logits)))
    names = readable(described.labels or ())
    if described.labels is None and len(logits) == 1000:
        names = imagenet_names()
    labels = tuple(names[k] if k < len(names) else f"class {k}" for k in indices.tolist())
    return ClassPrediction(labels, tuple(probabilities.tolist()), tuple(indices.tolist()), _name(model))


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
    described = _described(model)
    if described.task != "prediction" or not described.frames:
        raise UserError(f"predict_frames knows models of the task 'prediction'; this one's is {described.task!r}")
    in_frames = described.frames
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
    with _evaluating(model), torch.inference_mode():
        predicted = model(_like_weights(past[None], model), out_frames=int(wanted))[0].float().cpu()
    if not predicted.isfinite().all():
        raise UserError(f"the model predicts values that are not finite for {where}; its weights may be broken")
    truth = later.numpy() if len(later) else None
    return FramePrediction(past.numpy(), predicted.clamp(0, 1).numpy(), truth, _name(model))


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


def _described(model: nn.Module) -> Preprocessing:
    described = getattr(model, "preprocessing", None)
    if not isinstance(described, Preprocessing):
        raise UserError(f"{type(model).__name__} has no preprocessing, which says what it takes: use create_model")
    return described


def _read(source: Source, sequence: int | None, start: int | None, count: int | None) -> tuple[np.ndarray, str]:
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


def clip_pixels(frames: Frames, described: Preprocessing) -> Tensor:
    """Frames ``(T, C, H, W)`` as a network of clips takes them, ``(channels, described.frames, *input_size)``.

    So many are spread evenly from the first to the last (some twice where there are fewer), and each is prepared as an
    image is: as 8 bits, resized, cropped at the centre and normalised.
    """
    if not len(frames) or described.frames is None:
        raise UserError(f"a clip of {described.frames} frames cannot be made of {len(frames)}")
    prepare = evaluation_transform(described)
    places = np.linspace(0, len(frames) - 1, described.frames).round().astype(int)
    return torch.stack([prepare(_frame_image(frames[t], described.channels)) for t in places], dim=1)


def _frame_image(frame: NDArray[np.uint8] | NDArray[np.float32], channels: int) -> Image.Image:
    """A frame ``(C, H, W)`` of 1 or 3 channels as the picture that it would be in a file."""
    levels = frame if frame.dtype == np.uint8 else (255 * frame).round().astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    return image.convert("L" if channels == 1 else "RGB")


def _read_clip(source: Source, described: Preprocessing) -> tuple[Tensor, str]:
    """The clip as the model takes it, ``(C, T, H, W)``, and what to call it in messages."""
    frames, where = _read(source, None, None, None)
    return clip_pixels(frames, described), where


def _read_image(source: Source, described: Preprocessing) -> tuple[Tensor, str]:
    """The image as the model takes it, ``(C, H, W)``, and what to call it in messages."""
    if isinstance(source, Tensor):
        source = (source.float() if source.dtype == torch.bfloat16 else source).detach().cpu().numpy()
    image: Image.Image | Tensor
    if isinstance(source, np.ndarray):
        where, image = "the array", _image_from_array(source, "the array", described.channels)
    elif isinstance(source, Image.Image):
        where, image = "the image", rgb(source, "the image")
    elif isinstance(source, str | PathLike):
        where, image = str(source), read_image(source)
    else:
        raise UserError(
            "an image is classified from a path, a Pillow image, a numpy array or a tensor, not from a "
            f"{type(source).__name__}"
        )
    if isinstance(image, Image.Image) and described.channels == 1:
        image = image.convert("L")
    return normalised(cropped(image, described), described), where


def _image_from_array(array: np.ndarray, where: str, channels: int) -> Image.Image | Tensor:
    """8 bits become a Pillow image, as if read from a file; floats ``(channels, H, W)``, nothing rounded."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or (array.shape[0] in (1, 3)) == (array.shape[-1] in (1, 3)) or 0 in array.shape:
        raise UserError(
            f"{where} has shape {array.shape}: an image is (H, W), (H, W, C) or (C, H, W), with C of 1 or 3; "
            "of a batch, give one image after the other"
        )
    array = array if array.shape[-1] in (1, 3) else np.moveaxis(array, 0, -1)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array.squeeze(-1) if array.shape[-1] == 1 else array)).convert(
            "RGB"
        )
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise UserError(f"{where} holds {array.dtype}: an image is uint8 (0 to 255) or floats in [0, 1]")
    if not 0 <= array.min() <= array.max() <= 1:  # also refuses NaN
        raise UserError(
            f"{where} holds floats from {array.min():g} to {array.max():g}, not in [0, 1]: scale them, or give uint8"
        )
    pixels = torch.from_numpy(np.moveaxis(array, -1, 0).astype(np.float32))
    if len(pixels) == channels:
        return pixels
    if len(pixels) == 1:
        return pixels.repeat(channels, 1, 1)
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    return rgb_to_grayscale(pixels)


def _like_weights(inputs: Tensor, model: nn.Module) -> Tensor:
    weight = next((p for p in model.parameters() if p.is_floating_point()), inputs)
    return inputs.to(weight.device, weight.dtype)


def _name(model: nn.Module) -> str:
    return str(getattr(model, "model_name", type(model).__name__))


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
