"""Leaving in good order when asked to: the first SIGTERM or SIGINT lets the step finish, the second does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818 (not an error: what was asked for)
    """The run was asked to stop and did; ``status`` is the exit status, 128 + the signal's number."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum
        self.status = 128 + signum


class StopRequest:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as long as no signal has come."""
        for item in items:
            self.check()
            yield item
        self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:  # asked twice: leave at once
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = signum


def leave_signals_to_parent(worker: int) -> None:
    """For a loader's ``worker_init_fn``: a signal to the whole process group must not end workers that are needed.

    Ctrl-C and schedulers send such signals. A worker whose parent is gone ends by itself all the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGINT set the request instead of ending the process (main thread only)."""
    request = StopRequest()
    before = {s: signal.signal(s, request._handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
