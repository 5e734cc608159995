"""Parity fixtures: a published checkpoint rebuilt from the names of its tensors, and what that model computes.

A fixture (see ``tests/fixtures/README.md``) is an .npz with ``meta`` (JSON), ``buffer:K`` (checkpoint entries stored as
they are) and ``out:K`` (outputs of the published code in eval mode).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass
class Fixture:
    meta: dict
    state_dict: dict[str, torch.Tensor]  # in the upstream's names and layout
    x: torch.Tensor
    expected: dict[str, torch.Tensor]


def synthetic(key: str, shape: list[int]) -> np.ndarray:
    """The array of the checkpoint entry ``key``, seeded by its name."""
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape)).astype(np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(z)
    if leaf == "running_mean":
        return 0.1 * z
    if any(part in key for part in ("rel_pos", "pos_embed", "cls_token", "relative_position_bias_table")):
        return 0.2 * z
    if z.ndim <= 1:
        return 0.05 * z if leaf.endswith("bias") else 1 + 0.1 * z
    return z.astype(np.float64) / np.sqrt(np.prod(shape[1:]))  # as numpy 2 does by itself


def load(name: str) -> Fixture:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as stored:
        meta = json.loads(str(stored["meta"]))
        state_dict = {}
        for key, shape, dtype in meta["keys"]:
            array = stored[f"buffer:{key}"] if f"buffer:{key}" in stored.files else synthetic(key, shape)
            state_dict[key] = torch.as_tensor(np.asarray(array)).to(getattr(torch, dtype))
        expected = {k[4:]: torch.from_numpy(stored[k]) for k in stored.files if k.startswith("out:")}
    x = np.random.RandomState(zlib.crc32(b"input")).standard_normal(tuple(meta["input_shape"])).astype(np.float32)
    return Fixture(meta, state_dict, torch.from_numpy(x), expected)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """max|got - want| / max|want|; anything not finite counts as infinite."""
    got, want = got.detach().double(), want.detach().double()
    if got.shape != want.shape or not got.isfinite().all():
        return float("inf")
    return float((got - want).abs().max() / want.abs().max())
