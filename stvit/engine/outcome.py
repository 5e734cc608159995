"""What measuring a model on a task's test set gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Numbers, pictures and a table; the same on every process, or pictures and text on the first alone."""

    results: dict[str, object]  # entries of results.json; "protocol" and "notes" among them
    pictures: dict[str, bytes]  # file name -> content
    text: str  # for the screen
