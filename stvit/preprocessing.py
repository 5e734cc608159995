"""What has to happen to pixels before a model sees them; it travels with every checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from stvit.errors import UserError, nearest

Task = Literal["classification", "prediction"]
CROP_MODES = ("center", "squash")
CLIP_SAMPLINGS = ("dense", "segments")


@dataclass(frozen=True)
class Preprocessing:
    """All that prediction and evaluation need to know about a model's input.

    Pixels are scaled to [0, 1], resized and cropped to ``input_size`` and normalised as ``(x - mean) / std``.
    """

    task: Task
    input_size: tuple[int, int]  # (H, W) in pixels
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_fraction: float = 0.875  # input_size over the size that the image is resized to before the centre is cut out
    # center: resized until it covers that size; squash: to exactly that size, its shape changing (timm's names)
    crop_mode: str = field(default="center", kw_only=True)
    frames: int | None = None  # frames the model takes; None for still images
    out_frames: int | None = None  # frames it predicts; None for classification
    labels: tuple[str, ...] | None = None  # class names, in the order of the logits
    # Of networks of clips. dense: frames a constant time apart; segments: one of each of as many equal parts of the
    # video (Wang et al., arXiv:1608.00859).
    clip_sampling: str = field(default="dense", kw_only=True)
    sampling_rate: int = field(default=4, kw_only=True)  # dense: spacing of the frames, in frames at target_fps
    target_fps: float = field(default=30.0, kw_only=True)
    test_views: int = field(default=1, kw_only=True)  # clips of a video, spread over it, whose scores are averaged
    # Whether the last of several views ends with the video; False: they begin at equal parts of it.
    offset_sampling: bool = field(default=True, kw_only=True)
    test_crops: int = field(default=1, kw_only=True)  # 1: the centre; 3: both ends of the longer side too

    def to_dict(self) -> dict[str, object]:
        """Plain values only, for checkpoints and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Preprocessing:
        """The inverse of :meth:`to_dict`; lists become tuples, unknown keys raise :class:`UserError`."""
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise UserError(f"preprocessing has no field {key!r}{nearest(key, known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})  # type: ignore[arg-type]


class _ClassifierRow(Protocol):
    @property
    def input_size(self) -> tuple[int, ...]: ...

    @property
    def in_channels(self) -> int: ...


def for_classifier(spec: _ClassifierRow, **settings: object) -> Preprocessing:
    """What a classifier's row says of its input, ``(H, W)`` or ``(frames, H, W)``; ``settings`` are further fields."""
    *frames, height, width = spec.input_size
    return Preprocessing(
        task="classification",
        input_size=(height, width),
        channels=spec.in_channels,
        frames=frames[0] if frames else None,
        **settings,  # type: ignore[arg-type]
    )


S = TypeVar("S", bound=_ClassifierRow)


def tested_on_clips(describe: Callable[[S], Preprocessing]) -> Callable[[S], Preprocessing]:
    """For rows of inflated networks: pixels as ``describe``, the image network's, says; clips as MViTv2-S tests them.

    That is 5 views of frames 4 apart at 30 frames a second, 1 crop (:class:`Preprocessing` has the rest).
    """
    return lambda spec: dataclasses.replace(describe(spec), sampling_rate=4, target_fps=30.0, test_views=5)
