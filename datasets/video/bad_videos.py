"""Videos that cannot be used: what is said of each, and the run's ledger of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stvit.errors import UserError

# What DATA.ON_BAD_VIDEO may say.
ON_BAD_VIDEO = ("raise", "skip", "replace")


class BadVideo(NamedTuple):
    """A video that cannot be used, in plain values that cross process borders."""

    index: int  # number in the list
    name: str  # the path as the list writes it
    cause: str  # the first one, in one line


class BadVideos:
    """The videos that a run could not use, each with its first cause, in a file that a resumed run goes on with."""

    def __init__(self, file: Path | None, total: int, max_percent: float) -> None:
        """Read what an earlier run noted.

        Args:
            file: CSV with the columns ``name`` and ``cause``, made with the first bad video; None keeps them in memory.
            total: how many videos the list has.
            max_percent: of them may be bad (DATA.MAX_BAD_PERCENT).
        """
        self.file, self.total, self.max_percent = file, total, max_percent
        self.causes: dict[str, str] = {}
        if file is not None and file.exists():
            with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                rows = list(csv.reader(lines))
            # A row that a killed run began to write is shorter than two.
            self.causes = dict(row for row in rows[1:] if len(row) == 2)

    def __len__(self) -> int:
        return len(self.causes)

    def note(self, bad: Iterable[BadVideo]) -> None:
        """Write down videos that are not in the ledger yet.

        Raises:
            UserError: they are more than ``max_percent`` of the list; names the first of all.
        """
        new = {video.name: video.cause for video in reversed(list(bad)) if video.name not in self.causes}
        if not new:
            return
        self._append(reversed(new.items()))
        self.causes.update(reversed(new.items()))
        if len(self) > self.total * self.max_percent / 100:
            name, cause = next(iter(self.causes.items()))
            where = f", all in {self.file}" if self.file is not None else ""
            raise UserError(
                f"{len(self)} of {self.total} videos cannot be used, more than DATA.MAX_BAD_PERCENT "
                f"{self.max_percent:g} allows; the first is {name}: {cause}{where}"
            )

    def _append(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add rows in one write, so that a reader never sees half of them."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        with self.file.open("ab") as file:
            if file.tell() == 0:
                writer.writerow(("name", "cause"))
            writer.writerows(rows)
            file.write(text.getvalue().encode("utf-8", errors="surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
