"""Classify a clip from a file, a folder, an array or a tensor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stvit.datasets.frame_sources import Frames
from stvit.datasets.image_transforms import evaluation_transform
from stvit.engine.class_prediction import (
    ClassPrediction,
    checked_probabilities,
    checked_top_k,
    class_names,
    most_probable,
)
from stvit.engine.inference import Source, described_input, evaluating, like_weights, name_of, read_sequence
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


def classify_clip(source: Source, model: nn.Module, *, top_k: int = 5) -> ClassPrediction:
    """The most probable classes of one clip.

    Args:
        source: a file, folder, array or tensor as :func:`stvit.engine.predict_frames.predict_frames` takes them; see
            :func:`clip_pixels`.
        model: a classifier of clips with its ``preprocessing``.
        top_k: how many classes at most.

    Raises:
        UserError: a source that is no clip, a model whose logits are not finite.
    """
    top_k = checked_top_k(top_k)
    described = described_input(model)
    frames, where = read_sequence(source, None, None, None)
    pixels = clip_pixels(frames, described)
    with evaluating(model), torch.inference_mode():
        logits = model(like_weights(pixels[None], model))[0]
    probabilities = checked_probabilities(logits, where)
    return most_probable(probabilities, class_names(described, len(probabilities)), top_k, name_of(model))


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
