"""What became of every name when a checkpoint was loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

_SHOWN = 3  # names of each kind in the printed table
_TITLES = {"missing": "new head"}


@dataclass(frozen=True)
class LoadReport:
    """The outcome of :func:`stvit.load_checkpoint`; ``print(report)`` gives one short table.

    ``loaded``, ``inflated``, ``interpolated`` and ``missing`` hold the model's names, the others the file's.
    """

    source: str  # the file, the address, "builtin" or "the given state dict"
    layout: str  # the layout found: "stvit" or that of another library
    weights: Literal["as trained", "running mean"] = "as trained"  # which of those that the checkpoint carries
    loaded: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()  # renamed or reshaped from another layout or from behind a prefix
    dropped: tuple[str, ...] = ()  # stvit computes them itself, the model has no head for them, or they are no weights
    inflated: tuple[str, ...] = ()  # from a 2D network into a 3D one
    interpolated: tuple[str, ...] = ()  # tables of positions resized to the model's
    missing: tuple[str, ...] = ()  # left as they were: a new head
    new: tuple[str, ...] = ()  # what the checkpoint need not have: positions in time are zero, the rest as it was
    unexpected: tuple[str, ...] = ()  # in the file without a place in the model
    notes: tuple[str, ...] = ()  # sentences: what is sure after inflation and what is not

    def __str__(self) -> str:
        rows = [("checkpoint", self.source), ("layout", self.layout), ("weights", self.weights)]
        for field in dataclasses.fields(self)[3:-1]:
            names = getattr(self, field.name)
            if names or field.name == "loaded":
                examples = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
                rows.append((_TITLES.get(field.name, field.name), f"{len(names):5d}  {examples}".rstrip()))
        rows += [("" if i else "notes", note) for i, note in enumerate(self.notes)]
        return "\n".join(f"{title:<12}  {text}" for title, text in rows)
