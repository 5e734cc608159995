"""Classify a video: as its network is tested, and over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stvit.datasets.video.clip_sampling import ClipSampling, view_clip
from stvit.datasets.video.clip_transforms import normalised_clips, view_crops
from stvit.datasets.video.reading import VideoReader
from stvit.engine.class_prediction import (
    ClassPrediction,
    checked_probabilities,
    checked_top_k,
    class_names,
    most_probable,
)
from stvit.engine.clip_sources import ClipSource, open_clip
from stvit.engine.inference import Source, described_classifier, evaluating, like_weights, name_of
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

MOST_WINDOWS = 32  # of a video, so that an hour costs no more than a minute
_AT_ONCE = 8  # decoded frames that are in memory together; of 8k x 4k they take 800 MB
_GRACE = 0.05  # of a window, which the last one may miss of the video


@dataclass(frozen=True)
class ClipWindow:
    """A part of a video, and the most probable classes in it, the most probable first."""

    start: float  # seconds
    end: float
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    indices: tuple[int, ...]
    of_video: tuple[float, ...]  # what the classes of the whole video have here, in its order


@dataclass(frozen=True)
class ClipPrediction(ClassPrediction):
    """The most probable classes of a video, and of parts of it."""

    duration: float  # seconds
    clips: int  # over which the probabilities of the video are averaged: views x crops
    windows: tuple[ClipWindow, ...]  # in the order of time


def classify_clip(
    source: Source, model: nn.Module, *, top_k: int = 5, sequence: int | None = None, over_time: bool = True
) -> ClipPrediction:
    """The most probable classes of a video, and of its parts.

    The video's probabilities are the mean over the test protocol's clips (``test_views`` x ``test_crops`` of the
    model's preprocessing), each after softmax, as in evaluation.

    The parts are windows as long as a clip of the network (``frames x sampling_rate / target_fps`` seconds), spread
    evenly from the beginning to the end: so many that they leave no gap, but at most 32, between which a long video has
    gaps. Each is classified by one view with all its crops. There is one window, the whole video, where it is not
    longer than a clip, and for networks that take their frames from all over a video (``clip_sampling="segments"``).

    Args:
        source: see :func:`stvit.engine.clip_sources.open_clip`.
        model: a classifier of clips with its ``preprocessing``. What the classes are called says
            :func:`stvit.engine.class_prediction.class_names`.
        top_k: how many classes at most.
        sequence: which sequence of an array that holds several.
        over_time: whether to look at the windows; without, there are none in the result.

    Raises:
        UserError: a source that is no video, a model that does not classify clips or whose logits are not finite.
    """
    top_k = checked_top_k(top_k)
    described = described_classifier(model, clips=True)
    with open_clip(source, described, sequence) as clip, evaluating(model), torch.inference_mode():

        @cache  # the views of a short video are all the same
        def scores(numbers: tuple[int, ...]) -> Tensor:
            logits = model(_prepared(_crops(clip.video, numbers, described), described, model))
            return checked_probabilities(logits, clip.where).mean(dim=0)

        views = [scores(numbers) for numbers in _views(clip, described, described.test_views)]
        video = torch.stack(views).mean(dim=0)
        names = class_names(described, len(video))
        best = most_probable(video, names, top_k, name_of(model))
        spans = _windows(_duration(clip.video), described) if over_time else []
        windows = []
        for start, end in spans:
            here = scores(_window_numbers(clip, described, start, end, alone=len(spans) == 1))
            top = most_probable(here, names, top_k, name_of(model))
            of_video = tuple(here[list(best.indices)].tolist())
            windows.append(ClipWindow(start, end, top.labels, top.probabilities, top.indices, of_video))
    return ClipPrediction(
        best.labels,
        best.probabilities,
        best.indices,
        best.model_name,
        _duration(clip.video),
        described.test_views * described.test_crops,
        tuple(windows),
    )


def middle_clip(source: Source, described: Preprocessing) -> Tensor:
    """The clip in the middle of a video, ``(C, T, H, W)`` float32, cropped at the centre and normalised.

    Args:
        source: see :func:`stvit.engine.clip_sources.open_clip`.
        described: what the network takes.
    """
    with open_clip(source, described) as clip:
        one_view = replace(described, test_crops=1, offset_sampling=True)
        (numbers,) = _views(clip, one_view, 1)
        pixels = _crops(clip.video, numbers, one_view)
    return normalised_clips(pixels, described)[0]


def _sampling(described: Preprocessing) -> ClipSampling:
    d = described
    assert d.frames is not None
    return ClipSampling(d.frames, d.clip_sampling, d.sampling_rate, d.target_fps, offset=d.offset_sampling)


def _views(clip: ClipSource, described: Preprocessing, views: int) -> list[tuple[int, ...]]:
    """The frame numbers of each test view."""
    count = len(clip.video.times)
    if not count:
        raise UserError(f"{clip.where} has no frames")
    if clip.is_clip:
        return [tuple(range(count))] * views
    times, fps = clip.video.times, clip.video.fps
    return [tuple(view_clip(_sampling(described), times, fps, view, views).tolist()) for view in range(views)]


def _crops(video: VideoReader, numbers: tuple[int, ...], described: Preprocessing) -> Tensor:
    """uint8 ``(test_crops, C, T, h, w)``; a frame that a short video shows several times is decoded once."""
    distinct, places = np.unique(numbers, return_inverse=True)
    parts = [
        view_crops(video.read(distinct[first : first + _AT_ONCE]), described)
        for first in range(0, len(distinct), _AT_ONCE)
    ]
    pixels = torch.cat(parts, dim=2)[:, :, torch.from_numpy(places)]
    if described.channels == 3:
        return pixels
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    return rgb_to_grayscale(pixels.transpose(1, 2)).transpose(1, 2)


def _prepared(pixels: Tensor, described: Preprocessing, model: nn.Module) -> Tensor:
    device = next((p.device for p in model.parameters()), pixels.device)
    return like_weights(normalised_clips(pixels.to(device), described), model)


def _duration(video: VideoReader) -> float:
    """Seconds, the last frame as long as frames are on average."""
    return float(video.times[-1] + 1 / video.fps)


def _windows(duration: float, described: Preprocessing) -> list[tuple[float, float]]:
    """Starts and ends in seconds."""
    sampling = _sampling(described)
    length = sampling.frames * sampling.rate / sampling.target_fps
    count = min(MOST_WINDOWS, math.ceil(duration / length - _GRACE))
    if sampling.method == "segments" or count <= 1:
        return [(0.0, duration)]
    return [(start, start + length) for start in np.linspace(0, duration - length, count).tolist()]


def _window_numbers(
    clip: ClipSource, described: Preprocessing, start: float, end: float, *, alone: bool
) -> tuple[int, ...]:
    """The frame numbers of a window's clip."""
    if alone:
        return _views(clip, described, 1)[0]
    times: NDArray[np.float64] = clip.video.times
    # A thousandth of a second of grace, because sums of timestamps are not exact.
    first, stop = np.searchsorted(times, [start - 1e-3, end - 1e-3])
    if first == stop:  # one frame is shown all the time
        return (int(first) - 1,) * _sampling(described).frames
    inside = times[first:stop] - times[first]
    fps = (len(inside) - 1) / inside[-1] if len(inside) > 1 else 1.0
    return tuple((first + view_clip(_sampling(described), inside, fps, 0, 1)).tolist())
