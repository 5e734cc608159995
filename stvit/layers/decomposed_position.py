"""Relative positions along each axis of a grid, as in MViTv2 (arXiv 2112.01526, section 4.1).

The bias of a query and a key is a sum over the axes, ``q.Rt[qt, kt] + q.Rh[qh, kh] + q.Rw[qw, kw]``, with one learned
vector per distance on each axis.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stvit.layers.constants import constant


def relative_offsets(query: int, key: int) -> np.ndarray:
    """``(query, key)`` int64: the row of a table of ``2 max(query, key) - 1`` rows for two places on one axis.

    ``i max(k/q, 1) - j max(q/k, 1) + (k - 1) max(q/k, 1)`` in float32 and in this order, truncated, as the published
    code computes it (the last term is rounded to float32 as a whole): where the ratio is not exact, the result can be
    one below the exact floor (query 78, key 10).
    """
    stretch_query, stretch_key = max(key / query, 1.0), max(query / key, 1.0)
    places_query = np.arange(query, dtype=np.float32)[:, None] * np.float32(stretch_query)
    places_key = np.arange(key, dtype=np.float32)[None, :] * np.float32(stretch_key)
    return (places_query - places_key + np.float32((key - 1) * stretch_key)).astype(np.int64)


@torch.compiler.assume_constant_result
def relative_index(query: int, key: int, device: torch.device) -> Tensor:
    """:func:`relative_offsets` on a device, computed once per pair of sizes.

    Computed by NumPy and never inside a compiled graph, where a fused multiply-add could change the last bit.
    """
    return constant(("relative offsets", query, key), device, lambda: relative_offsets(query, key))


def resize_table(table: Tensor, rows: int) -> Tensor:
    """A position table ``(any, C)`` with ``rows`` rows: linear interpolation along them, as in the published code."""
    if table.shape[0] == rows:
        return table
    return F.interpolate(table.transpose(-1, -2).unsqueeze(0), size=rows, mode="linear").squeeze(0).transpose(-1, -2)


def position_vectors(table: Tensor, query: int, key: int) -> Tensor:
    """``(query, key, C)``: the vector of every pair of places on one axis; the table is resized to the sizes."""
    query, key = len(range(query)), len(range(key))  # numbers for torch.compile too, which makes a graph per size
    return resize_table(table, 2 * max(query, key) - 1)[relative_index(query, key, table.device)]
