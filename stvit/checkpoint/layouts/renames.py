"""Tables of renames that work both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable

Pairs = Iterable[tuple[str, str]]  # (theirs, ours), where {i} and {j} stand for numbers


def rename(key: str, pairs: Pairs) -> str:
    """Replace the first ``theirs`` prefix or part that occurs in ``key`` by its ``ours``."""
    for theirs, ours in pairs:
        pattern = re.escape(theirs)
        for name in ("i", "j"):
            pattern = pattern.replace(rf"\{{{name}\}}", rf"(?P<{name}>\d+)", 1)
        renamed, count = re.subn(rf"(?<![^.]){pattern}", lambda m: ours.format(**m.groupdict()), key, count=1)  # noqa: B023
        if count:
            return renamed
    return key


def inverse(pairs: Pairs) -> list[tuple[str, str]]:
    """The same table read from right to left."""
    return [(ours, theirs) for theirs, ours in pairs]
