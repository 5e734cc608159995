"""What a run says while it goes: a progress bar or plain lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

Number = int | float


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, in the order of the run, also across resumes.

    A checkpoint notes how many bytes the file had (:attr:`size`). A resumed run drops what a killed one wrote
    after its last checkpoint, so that no step is there twice.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        """Open for appending after the first ``keep`` bytes (all there is, if the file is shorter)."""
        path.touch()
        os.truncate(path, min(keep, path.stat().st_size))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, str | Number]) -> None:
        """Append a line; it is on the way to the disk when this returns."""
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {self._file.name}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """Bytes of the file, now also safe from a power failure."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class Progress:
    """How far training is: a bar on a terminal, one line a report elsewhere."""

    def __init__(self, total: int, done: int, quiet: bool = False) -> None:
        """``total`` optimiser steps, ``done`` of them before this process began; ``quiet`` for ranks above 0."""
        self._total, self._done, self._first = total, done, done
        self._start = time.monotonic()
        self._quiet = quiet
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm  # only a terminal needs it

            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def step(self) -> None:
        """One optimiser step more."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)

    def report(self, where: str, loss: float, lr: float, speed: float, data_wait: float, unit: str = "frames") -> None:
        """The figures of the last interval.

        ``speed`` is in ``unit`` a second; ``data_wait`` is the share of time spent waiting for data.
        """
        per_s = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        figures = f"loss {loss:.5f}, lr {lr:.2e}, {per_s} {unit}/s, {data_wait:.0%} waiting for data"
        if self._bar is not None:
            self._bar.set_description_str(where, refresh=False)
            self._bar.set_postfix_str(figures)
        else:
            self.say(f"{where}: {figures}, {self._remaining()} to go")

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        if self._bar is not None:
            self._bar.write(line)
        elif not self._quiet:
            print(line, flush=True)

    def _remaining(self) -> str:
        seconds = (time.monotonic() - self._start) / max(1, self._done - self._first) * (self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Board:
    """TensorBoard scalars of the same records as metrics.jsonl; does nothing without a folder."""

    def __init__(self, folder: Path | None, first_step: int) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(folder), purge_step=first_step)  # what a killed run wrote beyond it

    def write(self, record: Mapping[str, str | Number]) -> None:
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
