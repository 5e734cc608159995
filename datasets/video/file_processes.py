"""Work on many files in parallel, which a file survives that crashes its process or never ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_UP = 1.0  # seconds after which a waiting process looks whether its parent still lives


class Lost(NamedTuple):
    """What became of an item instead of a result."""

    kind: str  # crashed or timeout
    cause: str


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, timeout: float
) -> Iterator[tuple[int, Result | Lost]]:
    """``function`` of each item in one of several processes; pairs of an item's number and its result, as they come.

    A process that dies, or works on an item for longer than ``timeout`` seconds, is replaced by another; what it died
    of is tried once more, since all processes together may have run out of memory. An interrupt reaches the caller
    alone, and all processes end with the iteration.

    Args:
        function: of this module's caller; on Linux it need not be picklable, its items and results must be.
        items: handed out in order.
        workers: how many processes.
        timeout: seconds for one item.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, died = deque(range(len(items))), set[int]()
    active: list[_Worker[Item, Result]] = []
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                active.append(_Worker(context, function))
                active[-1].give(waiting[0], items[waiting.popleft()], timeout)
            first = min(worker.deadline for worker in active)
            ready = wait([worker.connection for worker in active], max(0.0, first - time.monotonic()))
            for worker in list(active):
                if worker.connection in ready:
                    result = worker.take()
                elif time.monotonic() >= worker.deadline:
                    result = Lost("timeout", f"took longer than {timeout:g} seconds")
                else:
                    continue
                number = worker.number
                if isinstance(result, Lost) or not waiting:
                    active.remove(worker)
                    worker.end()
                else:
                    worker.give(waiting[0], items[waiting.popleft()], timeout)
                if isinstance(result, Lost) and result.kind == "crashed" and number not in died:
                    died.add(number)
                    waiting.append(number)
                else:
                    yield number, result
    finally:
        for worker in active:
            worker.end()


class _Worker(Generic[Item, Result]):
    """A process that works on one item at a time."""

    def __init__(self, context: multiprocessing.context.BaseContext, function: Callable[[Item], Result]) -> None:
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(function, theirs, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self.number, self.deadline = -1, 0.0

    def give(self, number: int, item: Item, timeout: float) -> None:
        self.number, self.deadline = number, time.monotonic() + timeout
        with contextlib.suppress(OSError):  # it has died already: take() finds that out
            self.connection.send(item)

    def take(self) -> Result | Lost:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            return Lost("crashed", f"the process that decoded it {how}")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(function: Callable[[Item], Result], connection: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends this process
    while True:
        while not connection.poll(_LOOK_UP):
            if os.getppid() != parent:
                return
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result: Result | Lost = function(item)
        except Exception as error:  # whatever a library raises for a strange file is that file's outcome
            result = Lost("crashed", f"{type(error).__name__}: {' '.join(str(error).split())}")
        connection.send(result)
