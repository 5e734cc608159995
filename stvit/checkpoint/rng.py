"""The states of all random generators, as plain values and tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stvit.errors import UserError


def rng_state() -> dict[str, object]:
    """The states of Python's, numpy's and torch's global generators, the latter on the CPU and every CUDA device."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, object]) -> None:
    """Put back what :func:`rng_state` gave.

    States of CUDA devices that this machine lacks are left out: a run cannot continue bit for bit there anyway.

    Raises:
        UserError: not such a state.
    """
    match state:
        case {
            "python": {"version": int(version), "words": Tensor() as words, "gauss": gauss},
            "numpy": {
                "keys": Tensor() as keys,
                "position": int(position),
                "has_gauss": int(has),
                "cached": float(cached),
            },
            "torch": Tensor() as cpu,
            "cuda": list(devices),
        }:
            random.setstate((version, tuple(words.tolist()), gauss))
            np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has, cached))
            torch.set_rng_state(cpu)
        case _:
            raise UserError("the checkpoint's states of the random generators are unreadable: start without resuming")
    for device, generator in enumerate(devices[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
