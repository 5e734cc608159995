"""Videos that cannot be used: what is said of each, and the run's ledger of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stvit.errors import UserError

# What DATA.ON_BAD_VIDEO may say.
ON_BAD_VIDEO = ("raise", "skip", "replace")


class BadVideo(NamedTuple):
    """A video that cannot be used, in plain values that cross process borders."""

    index: int  # type: ignore[assignment]  # number in the list (and not tuple.index)
    name: str  # the path as the list writes it
    cause: str  # the first one, in one line

    def __str__(self) -> str:
        """Name and cause; mostly the cause names the file already."""
        return self.cause if self.name in self.cause else f"{self.name}: {self.cause}"


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
        """Write down those videos that are not in the ledger yet.

        Raises:
            UserError: there are bad ones, and more than ``max_percent`` of the list now; names the first of all.
        """
        bad = list(bad)
        new: dict[str, str] = {}
        for video in bad:
            if video.name not in self.causes:
                new.setdefault(video.name, video.cause)
        if new:
            self._append(new.items())
            self.causes.update(new)
        if bad and len(self) > self.total * self.max_percent / 100:
            name, cause = next(iter(self.causes.items()))
            where = f" (all in {self.file})" if self.file is not None else ""
            first = BadVideo(0, name, cause)
            raise UserError(
                f"{len(self)} of {self.total} videos cannot be used, more than DATA.MAX_BAD_PERCENT "
                f"{self.max_percent:g} allows{where}; the first is {first}; raise the cap, or take the list without "
                "them that tools/check_data.py writes"
            )

    def _append(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add rows in one write, so that hardly ever half a row is left behind."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        written = self.file.read_bytes() if self.file.exists() else b""
        text = io.StringIO()
        if not written:
            text.write("name,cause\n")
        elif not written.endswith(b"\n"):  # a killed run began a row
            text.write("\n")
        csv.writer(text, lineterminator="\n").writerows(rows)
        with self.file.open("ab") as file:
            file.write(text.getvalue().encode("utf-8", errors="surrogateescape"))
