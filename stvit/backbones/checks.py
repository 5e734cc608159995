"""What the rows of all backbones must fulfil to be networks; each check raises :class:`UserError` with the value."""

from __future__ import annotations

from stvit.backbones.base import BackboneSpec
from stvit.errors import UserError


def check_axes(spec: BackboneSpec, *names: str) -> None:
    """``input_size`` has two or three axes, and the named fields have a number of at least 1 for each."""
    ndim = len(spec.input_size)
    if ndim not in (2, 3) or min(spec.input_size) < 1:
        raise UserError(f"input_size={spec.input_size}: (H, W) for images or (frames, H, W) for clips is needed")
    for name in names:
        value = getattr(spec, name)
        if len(value) != ndim:
            raise UserError(
                f"input_size={spec.input_size} has {ndim} axes and {name}={value} has {len(value)}: images have "
                "(H, W), without their channels, and clips (frames, H, W)"
            )
        if min(value) < 1:
            raise UserError(f"{name}={value}: {ndim} numbers of at least 1 are needed")


def check_odd(spec: BackboneSpec, *names: str) -> None:
    """The named kernels have odd sides, whose middle is a position."""
    for name in names:
        if any(k % 2 == 0 for k in getattr(spec, name)):
            raise UserError(f"{name}={getattr(spec, name)}: kernels have odd sides")


def check_counts(spec: BackboneSpec) -> None:
    """Stages have blocks, images channels, and there are not fewer than no classes."""
    depths, channels, classes, ratio = (
        getattr(spec, name) for name in ("depths", "in_channels", "num_classes", "mlp_ratio")
    )
    if not depths or min(depths) < 1:
        raise UserError(f"depths={depths}: every stage needs at least one block")
    if channels < 1:
        raise UserError(f"in_channels={channels}: at least 1 is needed")
    if classes < 0:
        raise UserError(f"num_classes={classes}: at least 0 is needed, which leaves the classifier out")
    if ratio <= 0:
        raise UserError(f"mlp_ratio={ratio}: a number above 0 is needed")


def check_stages(spec: BackboneSpec, *names: str) -> None:
    """The named fields have a number of at least 1 for every stage, as ``depths`` has."""
    stages = len(getattr(spec, "depths"))  # noqa: B009
    for name in names:
        value = getattr(spec, name)
        if len(value) != stages or min(value) < 1:
            raise UserError(f"{name}={value}: {stages} numbers of at least 1 are needed, one a stage")


def check_rates(spec: BackboneSpec, *names: str) -> None:
    """The named fields are probabilities below 1."""
    for name in names:
        if not 0 <= getattr(spec, name) < 1:
            raise UserError(f"{name}={getattr(spec, name)}: a rate of at least 0 and below 1 is needed")
