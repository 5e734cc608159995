"""The layouts of other libraries: one module each, recognised by the names in a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor

from stvit.checkpoint.layouts import openstl_mixvit


class Layout(Protocol):
    """What each module of this folder provides.

    A module may also have ``DROPPED``, the names that :meth:`to_stvit` leaves out because stvit computes the values.
    """

    NAME: str

    def matches(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether a state dict has this layout."""

    def to_stvit(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its tensors under stvit's names and in stvit's shapes."""

    def check_spec(self, spec: object) -> None:
        """Refuse a network whose settings this layout's weights are not for, where their sizes do not tell."""

    def from_stvit(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`to_stvit`."""


LAYOUTS: tuple[Layout, ...] = (cast(Layout, openstl_mixvit),)


def detect(state_dict: Mapping[str, Tensor]) -> Layout | None:
    """The layout of a state dict, or None where no outside layout fits."""
    return next((layout for layout in LAYOUTS if layout.matches(state_dict)), None)
