"""Two or more ways to do one thing, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_seconds(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median process CPU time of each contestant; they take turns, and the order is reversed every other round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():  # first use pays for caches and imports
        contestant()
    for turn in range(rounds):
        for name in list(contestants) if turn % 2 == 0 else reversed(list(contestants)):
            start = time.process_time()
            contestants[name]()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}
