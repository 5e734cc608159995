"""The device of a run, its place among the processes, and the seeds of its random numbers."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import numpy as np
import torch
from fvcore.common.config import CfgNode

from stvit.errors import UserError


@dataclass(frozen=True)
class World:
    """Where this process computes, and which of how many processes it is."""

    device: torch.device
    rank: int = 0
    size: int = 1


def join_world(cfg: CfgNode) -> World:
    """The world of ``cfg.NUM_GPUS``; several processes are refused by the config's checks.

    Raises:
        UserError: a GPU is asked for and torch sees none.
    """
    if cfg.NUM_GPUS == 0:
        return World(torch.device("cpu"))
    if not torch.cuda.is_available():
        raise UserError(f"NUM_GPUS is {cfg.NUM_GPUS}, but torch sees no CUDA device; NUM_GPUS 0 runs on the CPU")
    return World(torch.device("cuda", 0))


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed Python, NumPy and torch; ``deterministic`` also refuses operations whose bits vary from run to run."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        # cuBLAS reads it when it starts; without it torch refuses matrix products in this mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
