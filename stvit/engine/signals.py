"""Leaving in good order when asked to: the first SIGTERM or SIGINT lets the step finish, the second does not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from stvit.engine.distributed import ALONE, World, gather_objects, highest_over_ranks

Item = TypeVar("Item")

# One of several processes can get the same request twice: from its launcher, and from who signals all there are.
COPIES_WITHIN = 1.0  # seconds


class Stopped(Exception):  # noqa: N818 (not an error: what was asked for)
    """The run was asked to stop and did; ``status`` is the exit status, 128 + the signal's number."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
        self.status = 128 + signum


class StopRequest:
    """Whether a signal has come, to this process or to another one of its world."""

    def __init__(self, world: World = ALONE) -> None:
        self.signum: int | None = None
        self._world = self._asked = world
        self._came = 0.0

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has come; with several processes, on all or none.

        All of them must call it equally often: it is where they agree on the step that is the last.
        """
        signum = highest_over_ranks(self.signum or 0, self._asked)
        if signum:
            raise Stopped(signum)

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as long as no signal has come here; then, or after the last, :meth:`check`.

        With several processes each may have another number of items, none included.
        """
        for item in items:
            if self.signum is not None:
                break
            yield item
        self.check()

    def on_main(self, work: Callable[[], None]) -> None:
        """Do ``work`` on rank 0, where meanwhile this request asks no other process; the others wait for its end.

        Raises:
            Stopped: it was raised in the work; on all processes.
        """
        stopped = 0, ""
        if self._world.main:
            self._asked = ALONE
            try:
                work()
            except Stopped as raised:
                stopped = raised.signum, str(raised)
            finally:
                self._asked = self._world
        signum, message = gather_objects(stopped, self._world)[0]
        if signum:
            raise Stopped(signum, message)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum is not None and (self._world.size == 1 or now - self._came > COPIES_WITHIN):
            signal.signal(signum, signal.SIG_DFL)  # asked twice: leave at once
            os.kill(os.getpid(), signum)
        if self.signum is None:
            self.signum, self._came = signum, now


def leave_signals_to_parent(worker: int) -> None:
    """For a loader's ``worker_init_fn``: a signal to the whole process group must not end workers that are needed.

    Ctrl-C and schedulers send such signals. A worker whose parent is gone ends by itself all the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def stop_on_signals(world: World = ALONE) -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGINT set the request instead of ending the process (main thread only)."""
    request = StopRequest(world)
    before = {s: signal.signal(s, request._handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    except RuntimeError:
        if world.size > 1 and request.signum is not None:
            # Ended because of another process, whose broken connection is no news: leave as asked, without a word.
            signal.signal(request.signum, signal.SIG_DFL)
            os.kill(os.getpid(), request.signum)
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
