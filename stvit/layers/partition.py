"""Windows and grids: a map cut into groups of tokens, for attention inside each group.

A *window* group is a block of neighbours. A *grid* group takes one token from every block: its tokens lie
``size / window`` apart, so it sees the whole map sparsely (MaxViT, arXiv 2204.01697, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stvit.errors import UserError
from stvit.layers.nd import axes


def _pattern(ndim: int, grid: bool) -> tuple[str, str]:
    names = axes(ndim)
    cut = " ".join(f"({a} n{a})" if grid else f"(n{a} {a})" for a in names)
    groups, tokens = " ".join(f"n{a}" for a in names), " ".join(names)
    return f"b c {cut}", f"b ({groups}) ({tokens}) c"


def partition(x: Tensor, window: Sequence[int], *, grid: bool = False) -> Tensor:
    """``(B, C, *size) -> (B, groups, tokens, C)`` with ``prod(window)`` tokens in a group.

    Raises:
        UserError: a side that the window does not divide.
    """
    size = tuple(x.shape[2:])
    if len(size) != len(window) or any(s % w for s, w in zip(size, window, strict=True)):
        raise UserError(f"a map of {size} cannot be cut into windows of {tuple(window)}: each side must be a multiple")
    whole, groups = _pattern(len(window), grid)
    return rearrange(x, f"{whole} -> {groups}", **dict(zip(axes(len(window)), window, strict=True)))


def merge(tokens: Tensor, window: Sequence[int], size: Sequence[int], *, grid: bool = False) -> Tensor:
    """The inverse of :func:`partition` for a map of ``size``."""
    whole, groups = _pattern(len(window), grid)
    names = axes(len(window))
    counts = {f"n{a}": s // w for a, s, w in zip(names, size, window, strict=True)}
    return rearrange(tokens, f"{groups} -> {whole}", **dict(zip(names, window, strict=True)), **counts)


def pad_to_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """``(B, C, *size)`` with zeros after the end of every axis, up to multiples of the window's sides."""
    need = [-size % side for size, side in zip(x.shape[2:], window, strict=True)]
    return F.pad(x, [pad for n in reversed(need) for pad in (0, n)]) if any(need) else x


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The inverse of :func:`pad_to_windows` for a map of ``size``."""
    for axis, length in enumerate(size, start=2):
        if x.shape[axis] != length:
            x = x.narrow(axis, 0, length)
    return x


def key_mask(
    size: Sequence[int], window: Sequence[int], *, grid: bool = False, device: torch.device | str | None = None
) -> Tensor | None:
    """Which tokens of each group lie on a map of ``size``, and which were added by :func:`pad_to_windows`.

    ``(groups, 1, tokens)`` booleans, True on the map; None where the window divides the size and all are. Every group
    has tokens on the map.
    """
    if not any(n % side for n, side in zip(size, window, strict=True)):
        return None
    on_map = pad_to_windows(torch.ones(1, 1, *size, device=device), window)
    return rearrange(partition(on_map, window, grid=grid), "1 groups tokens 1 -> groups 1 tokens") > 0
