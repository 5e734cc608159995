"""What measuring a model on a task's test set gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Numbers, files and a table; the same on every process, or files and text on the first alone."""

    results: dict[str, object]  # entries of results.json; "protocol" and "notes" among them
    files: dict[str, bytes]  # of pictures and the like: name -> content
    text: str  # for the screen
