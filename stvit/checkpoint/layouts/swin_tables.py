"""What the layouts share whose position tables follow Swin."""

from __future__ import annotations

import math

from torch import Tensor

from stvit.errors import UserError


def square_window(table: Tensor) -> tuple[int, int]:
    """Sides (H, W) of the windows of a table ``(prod(2 w - 1), heads)``, which must be square: nothing tells others.

    Raises:
        UserError: a number of rows that no square window has.
    """
    side = math.isqrt(table.shape[0])
    if side * side != table.shape[0] or side % 2 == 0:
        raise UserError(f"a position table of {table.shape[0]} rows is not that of a square window")
    return (side + 1) // 2, (side + 1) // 2
