"""The layouts of other libraries: one module each, recognised by the names in a state dict.

Layouts differ in names and shapes. What else differs between the libraries, so that equal weights give other outputs,
is said in the module of each and refused by :func:`stvit.checkpoint.convert`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, cast

from torch import Tensor

from stvit.checkpoint.layouts import (
    mixformer,
    mixvit,
    mmaction2,
    mmpretrain,
    mpvit,
    mvit,
    openstl_mixvit,
    timm_mvit,
    torchvision_mvit,
)


class Layout(Protocol):
    """What each module of this folder provides."""

    NAME: str

    def matches(self, state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
        """Whether a state dict has this layout; ``entries`` are the names at the top of its file."""

    def unused(self, state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
        """Names that :meth:`to_stvit` leaves out, because stvit computes the values or nothing uses them."""

    def to_stvit(self, state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
        """Its tensors under stvit's names and in stvit's shapes; ``spec`` is the network's that takes them, if known.

        Raises:
            UserError: settings of the network that this layout's weights are not for, where their sizes do not tell.
        """

    def from_stvit(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_stvit`."""


_MODULES = (openstl_mixvit, mixvit, mixformer, mpvit, torchvision_mvit, timm_mvit, mmaction2, mmpretrain, mvit)
LAYOUTS: tuple[Layout, ...] = tuple(cast(Layout, module) for module in _MODULES)


def detect(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> Layout | None:
    """The layout of a state dict, or None where no outside layout fits.

    Args:
        state_dict: weights, without a wrapper's prefixes.
        entries: names at the top of the file, which tell official MViT files, whose weights are named as ours.
    """
    return next((layout for layout in LAYOUTS if layout.matches(state_dict, entries)), None)
