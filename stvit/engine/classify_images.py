"""Classify an image from a file, an array or a tensor."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stvit.datasets.image_folder import UndecodableImageError, read_image, rgb
from stvit.datasets.image_transforms import cropped, normalised
from stvit.datasets.video.list_lines import VIDEO_SUFFIXES
from stvit.engine.class_prediction import (
    ClassPrediction,
    checked_probabilities,
    checked_top_k,
    class_names,
    most_probable,
)
from stvit.engine.inference import Source, described_classifier, evaluating, like_weights, name_of
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


def classify_image(source: Source, model: nn.Module, *, top_k: int = 5) -> ClassPrediction:
    """The most probable classes of one image.

    Args:
        source: an image file (read by the rules of :func:`stvit.datasets.read_image`), a Pillow image, or an array or
            tensor ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` with C of 1 or 3: uint8 of 0 to 255, or floats in [0, 1].
        model: a classifier of images with its ``preprocessing``, by which the image is resized, cropped at the centre
            and normalised. :func:`stvit.engine.class_prediction.class_names` says what the classes are called.
        top_k: how many classes at most.

    Raises:
        UserError: a source that is no image, a model that does not classify images or whose logits are not finite.
    """
    top_k = checked_top_k(top_k)
    described = described_classifier(model, clips=False)
    pixels, where = _read_image(source, described)
    with evaluating(model), torch.inference_mode():
        logits = model(like_weights(pixels[None], model))[0]
    probabilities = checked_probabilities(logits, where)
    return most_probable(probabilities, class_names(described, len(probabilities)), top_k, name_of(model))


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
        where, image = str(source), _image_from_file(Path(source))
    else:
        raise UserError(
            "an image is classified from a path, a Pillow image, a numpy array or a tensor, not from a "
            f"{type(source).__name__}"
        )
    if isinstance(image, Image.Image) and described.channels == 1:
        image = image.convert("L")
    return normalised(cropped(image, described), described), where


def _image_from_file(path: Path) -> Image.Image:
    try:
        return read_image(path)
    except UndecodableImageError as error:
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise
        raise UserError(
            f"{path} is a video by its name, and the network classifies images: give an image, or the checkpoint of a "
            "network of clips"
        ) from error


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
