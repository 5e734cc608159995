"""The processes of a run: which one this is, on what device, and what they tell each other.

Several processes come from ``torchrun`` or from :mod:`stvit.engine.launch`, which name each one's place in the
environment. They compute one run together: whatever is written, printed or decided once is done by rank 0.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from stvit.errors import UserError

Item = TypeVar("Item")

# What a launcher tells each process; all of it, or the process is alone.
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The process that started this one, when it was stvit itself.
LAUNCHER = "STVIT_LAUNCHER"
# How long a process waits for the others: rank 0 makes data sets and evaluates alone. One that has ended is noticed
# by its closed connection, long before.
PATIENCE = timedelta(hours=12)
# How long a process looks for the others at the start.
TIME_TO_MEET = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """Where this process computes, and which of how many processes it is."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes, prints and decides."""
        return self.rank == 0


ALONE = World(torch.device("cpu"))


def is_launched() -> bool:
    """Whether torchrun, or stvit as it does, started this process as one of a run's."""
    return all(name in os.environ for name in PLACE)


def join_world(cfg: CfgNode) -> World:
    """The world of ``cfg.NUM_GPUS`` and of the launcher's environment; returns when all its processes are there.

    Gradients travel by NCCL between GPUs and by gloo between CPUs, everything on the CPU by gloo.

    Raises:
        UserError: more GPUs are asked for than torch sees or than processes were started, or TRAIN.BATCH_SIZE cannot
            be divided.
        ConnectionError: the other processes are not there.
    """
    refuse_missing_gpus(cfg.NUM_GPUS)
    if not is_launched():
        if cfg.NUM_GPUS > 1:
            raise UserError(
                f"NUM_GPUS is {cfg.NUM_GPUS}, and this is a single process: start it by tools/main.py or by torchrun"
            )
        return World(torch.device("cuda", 0) if cfg.NUM_GPUS else torch.device("cpu"))
    rank, local_rank, size, local_size = (int(os.environ[name]) for name in PLACE[:4])
    if cfg.NUM_GPUS not in (0, local_size):
        raise UserError(
            f"NUM_GPUS is {cfg.NUM_GPUS}, but torchrun started {local_size} process{'es' * (local_size > 1)} on this "
            f"machine: NUM_GPUS {local_size} gives each one a GPU, NUM_GPUS 0 runs them on the CPU"
        )
    if cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE % size:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, over all processes together, and cannot be divided among "
            f"{size} of them: choose a multiple of {size}"
        )
    if cfg.TRAIN.ENABLE and cfg.TRAIN.CUDA_GRAPHS and size > 1:
        raise UserError(f"TRAIN.CUDA_GRAPHS is True, but steps of {size} processes cannot be recorded: set it to False")
    world = World(torch.device("cuda", local_rank) if cfg.NUM_GPUS else torch.device("cpu"), rank, size)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if size > 1:
        end_with_launcher()
        _meet(world)
    return world


def _meet(world: World) -> None:
    """Connect the processes; the address and the port of their meeting place are in the environment."""
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=TIME_TO_MEET))
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(f"the {world.size} processes of the run did not meet at {place}: {error}") from error
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE)


def refuse_missing_gpus(wanted: int) -> None:
    """Raise :class:`UserError` if torch sees fewer CUDA devices than ``wanted``."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < wanted:
        raise UserError(
            f"NUM_GPUS is {wanted}, but torch sees {seen or 'no'} CUDA device{'s' * (seen > 1)}; "
            "NUM_GPUS 0 runs on the CPU"
        )


def end_with_launcher() -> None:
    """Ask this process to stop, as SIGTERM does, when the stvit that started it is gone without a word (SIGKILL)."""
    if LAUNCHER not in os.environ:
        return  # torchrun's habits are its own
    launcher = int(os.environ[LAUNCHER])

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def leave_world(world: World) -> None:
    """Wait for the others and close the connections; at the end of a run that went well."""
    if world.size > 1:
        barrier(world)
        dist.destroy_process_group()


def sum_over_ranks(tensor: Tensor, world: World) -> Tensor:
    """The sum of all processes' tensors of this shape and dtype, on every one; the tensor itself for one process."""
    if world.size == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def gather_objects(item: Item, world: World) -> list[Item]:
    """All processes' items in the order of ranks, on every one; they must be picklable."""
    if world.size == 1:
        return [item]
    items: list[Item] = [item] * world.size
    dist.all_gather_object(items, item)
    return items


def highest_over_ranks(value: int, world: World) -> int:
    """The highest of all processes' numbers; small enough to ask for at every step, and no wait for a GPU."""
    if world.size == 1:
        return value
    highest = torch.tensor(value)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return int(highest)


def rank_slice(n: int, world: World) -> range:
    """The indices below ``n`` that are this process's: every one belongs to exactly one rank, however many there are.

    The ranks' shares differ by at most one; unlike ``DistributedSampler``, nothing is repeated to make them even.
    """
    return range(world.rank, n, world.size)


def barrier(world: World) -> None:
    """Wait until all processes are here."""
    highest_over_ranks(0, world)


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Around work that leaves files behind (downloads, data sets): rank 0 does it, then the others find it done."""
    if not world.main:
        barrier(world)
    yield
    if world.main:
        barrier(world)


def share_gradients(model: nn.Module, world: World) -> nn.Module:
    """The same network, whose backward pass leaves the mean over all processes in ``grad``; as it is for one."""
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def gradients_stay_here(network: nn.Module) -> AbstractContextManager[object]:
    """Around all batches of a step but its last: gradients add up here and travel once."""
    return getattr(network, "no_sync", nullcontext)()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The model's batch norms, which are what makes a sample's gradient depend on the others beside it."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def share_batch_statistics(model: nn.Module, world: World) -> nn.Module:
    """The same model with batch norms that normalise by the batch of all processes (SyncBatchNorm).

    Raises:
        UserError: on the CPU, where torch has none.
    """
    if world.size == 1 or not batch_norms(model):
        return model
    if world.device.type != "cuda":
        raise UserError(
            "BN.NORM_TYPE is 'sync_batchnorm', but torch's works on GPUs only: on the CPU use MODEL.FROZEN_BN True, "
            "or BN.NORM_TYPE batchnorm, by which each process normalises by its own samples"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def share_buffers(model: nn.Module, world: World) -> None:
    """Give every process rank 0's buffers: running statistics, which each one has gathered from its own samples."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


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


def seed_rank(seed: int, world: World, step: int = 0) -> None:
    """Give every process but rank 0 random numbers of its own, or all would drop the same neurons.

    Called when the weights are made, which must be the same everywhere. Rank 0 goes on with what
    :func:`seed_everything` gave it, as a single process does. ``step``: where a run goes on that had no such process.
    """
    if not world.main:
        own = np.random.SeedSequence([seed, world.rank, step]).generate_state(3, np.uint64).tolist()
        random.seed(own[0])
        np.random.seed(own[1] % 2**32)
        torch.manual_seed(own[2])
