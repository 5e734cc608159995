"""What families share whose blocks are ``stages.{i}.blocks.{j}.``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def stage_depths(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How many blocks each stage has."""
    blocks = {(int(m[1]), int(m[2])) for key in weights if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key))}
    stages = 1 + max((stage for stage, _ in blocks), default=-1)
    return tuple(sum(stage == of for of, _ in blocks) for stage in range(stages))
