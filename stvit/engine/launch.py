"""A command as several processes of this machine: what torchrun does, with one line for what goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from torch.distributed import TCPStore

from stvit.engine.distributed import LAUNCHER, PLACE, is_launched
from stvit.engine.signals import Stopped
from stvit.engine.steps import Diverged
from stvit.errors import UserError

# Seconds that processes have to leave after another one of them has failed, and between two words about it.
TIME_TO_LEAVE, BETWEEN_WORDS = 10.0, 2.0
# Seconds that a process which may fail because another one did waits to be ended for it; see `speak_once`.
TIME_TO_BE_ENDED = 5.0


def launch(command: Sequence[str], processes: int) -> int:
    """Run ``command`` as ``processes`` that find their places in their environments; returns the exit status.

    0 if all of them did the work; otherwise that of the first that failed, whereupon the others are ended. SIGINT and
    SIGTERM are handed on, as SIGTERM, and give 130 and 143.
    """
    # Where they find each other; here and not in rank 0, so that it outlives any of them.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with note_signals() as came:
        children = [
            # In sessions of their own, so that Ctrl-C reaches them through here alone, and once.
            subprocess.Popen(command, env=environment(rank, processes, store.port), start_new_session=True)
            for rank in range(processes)
        ]
        try:
            return attend(children, came)
        finally:
            for child in children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """The environment of one process of several on this machine."""
    place = dict(zip(PLACE, (rank, rank, processes, processes, "127.0.0.1", port), strict=True))
    own: Mapping[str, object] = {
        **place,
        LAUNCHER: os.getpid(),
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the store is there already
        "TORCHELASTIC_RESTART_COUNT": 0,
    }
    threads = max(1, (os.cpu_count() or 1) // processes)  # together no more than there are cores
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **{name: str(value) for name, value in own.items()}}


def attend(children: Sequence[subprocess.Popen[bytes]], came: Sequence[int]) -> int:
    """Wait for all processes to end, ``came`` being the signals so far; returns the exit status."""
    first: int | None = None  # rank of the first that failed
    told, said, since = 0, 0, 0.0
    while None in [child.poll() for child in children]:  # all of them, or those behind one that runs go unnoticed
        if first is None:
            first, since = failure(children), time.monotonic()
        elif time.monotonic() - since > TIME_TO_LEAVE:
            tell(children, signal.SIGKILL)
        elif time.monotonic() - since >= said * BETWEEN_WORDS:
            said += 1
            tell(children, signal.SIGTERM)
        if told < len(came):
            told += 1
            tell(children, signal.SIGTERM)
        time.sleep(0.05)
    first = failure(children) if first is None else first
    if first is None:
        return 0
    status = children[first].returncode
    if came and status in (128 + signal.SIGTERM, -signal.SIGTERM):
        return 128 + came[0]
    if status < 0:
        print(
            f"error: process {first} of {len(children)} was ended by {signal.Signals(-status).name}, and the others "
            "with it; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 1
    return status


def failure(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank of a process that has failed, if one has."""
    return next((rank for rank, child in enumerate(children) if child.returncode), None)


def tell(children: Sequence[subprocess.Popen[bytes]], signum: int) -> None:
    """Send a signal to all that still run; SIGKILL also to their loader workers."""
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signum) if signum == signal.SIGKILL else child.send_signal(signum)


@contextmanager
def note_signals() -> Iterator[list[int]]:
    """Inside, SIGTERM and SIGINT are added to the list instead of ending the process."""
    came: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def speak_once() -> Iterator[None]:
    """Around the work of a process that may be one of several: what ends them all is said by one of them.

    Rank 0 tells at once of a mistake, which all may see; the others wait, until their launcher has ended them for it.
    One that is still there then was the only one to fail, and tells. Something unforeseen waits longer, for that is
    how the connection to a process that has failed breaks.
    """
    try:
        yield
    except Exception as error:
        if is_launched() and int(os.environ["WORLD_SIZE"]) > 1:
            foreseen = isinstance(error, UserError | OSError | Stopped | Diverged)
            time.sleep(TIME_TO_BE_ENDED * ((not foreseen) + (os.environ["RANK"] != "0")))
        raise
