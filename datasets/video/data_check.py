"""Whether the videos of lists can be learnt from: files, labels, videos that come twice, classes without any."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.file_processes import Lost, in_processes
from stvit.datasets.video.inspection import Inspection, inspect_video
from stvit.datasets.video.parts import VideoPart

# What can be wrong with a video, and how a summary calls it, the gravest first. Its file:
FILE_KINDS = {
    "missing": "missing",
    "unreadable": "unreadable",
    "undecodable": "undecodable",
    "crashed": "that crash the process which decodes them",
    "timeout": "that take too long",
}
# or its place in the lists:
KINDS = FILE_KINDS | {
    "label": "with a label out of range",
    "contradiction": "that are there twice, with different labels",
    "leak": "of training or validation that are also tested on",
    "repeated": "that are there twice",
}
_HELD_OUT = {"train": 0, "": 0, "val": 1, "test": 2}  # where a video of several parts stays


class Finding(NamedTuple):
    """Something wrong with a video."""

    kind: str
    part: int
    video: int  # its number in the part
    cause: str


@dataclass(frozen=True)
class DataCheck:
    """All that was found in some parts."""

    parts: Sequence[VideoPart]
    inspections: list[list[Inspection]]  # of each part's videos
    findings: list[Finding]
    clean: list[NDArray[np.bool_]]  # of each part: which videos stay in a clean list
    classes: int  # how many labels count
    same_tests: bool  # test has the videos of val, all of them and no others

    def class_counts(self, part: int) -> NDArray[np.int64]:
        """How many clean videos each class of a part has, ``(classes,)``."""
        labels = self.parts[part].videos.labels[self.clean[part]]
        return np.bincount(labels, minlength=self.classes)

    def empty_classes(self) -> list[tuple[int, list[int]]]:
        """Parts to learn from, or the only one, and the classes of which they have no clean video."""
        return [
            (part, np.flatnonzero(self.class_counts(part) == 0).tolist())
            for part, (name, _, labelled) in enumerate(self.parts)
            if labelled and name in ("", "train") and (self.class_counts(part) == 0).any()
        ]


class FileChecks:
    """The inspection of every file of some parts, once each; iterate to do it."""

    def __init__(
        self, parts: Sequence[VideoPart], *, frames: int | None, decoder: str, workers: int, timeout: float
    ) -> None:
        """``frames`` of each are decoded, None: all; see :func:`in_processes` for the rest."""
        self._frames, self._decoder, self._workers, self._timeout = frames, decoder, workers, timeout
        numbers: dict[str, int] = {}
        self._numbers = [
            [numbers.setdefault(os.path.abspath(videos.path(k)), len(numbers)) for k in range(len(videos))]
            for _, videos, _ in parts
        ]
        self.files = list(numbers)
        self._found: list[Inspection] = [Inspection("missing")] * len(self.files)

    def __iter__(self) -> Iterator[Inspection]:
        """Inspections as they come."""
        inspect = functools.partial(_inspect, frames=self._frames, decoder=self._decoder)
        sizes = [_size(file) for file in self.files]
        shared = Counter(sizes)  # only files of equal size can have equal content
        items = [(file, bool(size) and shared[size] > 1) for file, size in zip(self.files, sizes, strict=True)]
        for number, result in in_processes(inspect, items, self._workers, self._timeout):
            found = Inspection(*result, bytes=sizes[number]) if isinstance(result, Lost) else result
            self._found[number] = found
            yield found

    def of_parts(self) -> list[list[Inspection]]:
        """What was found of each part's videos."""
        return [[self._found[number] for number in part] for part in self._numbers]


def _inspect(item: tuple[str, bool], frames: int | None, decoder: str) -> Inspection:
    return inspect_video(Path(item[0]), frames, decoder, digest=item[1])


def _size(file: str) -> int | None:
    try:
        return os.path.getsize(file) if os.path.isfile(file) else None
    except OSError:
        return None


def judge(parts: Sequence[VideoPart], inspections: list[list[Inspection]], num_classes: int | None = None) -> DataCheck:
    """What is wrong, and which videos are left without it.

    Of videos that come twice in a part the first stays; of those in several parts the one in the part that is tested
    later (test, then val, then train); of those with different labels none.

    Args:
        parts: the lists.
        inspections: of their videos.
        num_classes: of the network; None: as many as there are names, or numbers up to the highest label.
    """
    highest = max((int(videos.labels.max()) for _, videos, _ in parts), default=-1)
    names = max((len(videos.classes or ()) for _, videos, _ in parts), default=0)
    classes = num_classes or names or highest + 1
    findings = []
    for part, (_, videos, labelled) in enumerate(parts):
        for index, found in enumerate(inspections[part]):
            if found.outcome != "sound":
                findings.append(Finding(found.outcome, part, index, found.cause))
            elif labelled and videos.labels[index] >= classes:
                cause = f"has label {videos.labels[index]}, and {classes} classes have 0 to {classes - 1}"
                findings.append(Finding("label", part, index, cause))
    groups, same_tests = _groups(parts, inspections)
    for group in groups:
        findings += _repeats(parts, group)
    clean = [np.ones(len(videos), bool) for _, videos, _ in parts]
    for _, part, index, _ in findings:
        clean[part][index] = False
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.part, finding.video))
    return DataCheck(parts, inspections, findings, clean, classes, same_tests)


Place = tuple[int, int]  # part and index


def _groups(parts: Sequence[VideoPart], inspections: list[list[Inspection]]) -> tuple[list[list[Place]], bool]:
    """Places of the same sound video, where it has several; and whether test is val again, which is then no mistake."""
    places: dict[object, list[Place]] = defaultdict(list)
    for part, (_, videos, _) in enumerate(parts):
        for index, found in enumerate(inspections[part]):
            if found.outcome == "sound":
                places[found.digest or os.path.abspath(videos.path(index))].append((part, index))
    named = {name: part for part, (name, _, _) in enumerate(parts)}
    held = [{key for key, group in places.items() if any(p == named.get(n) for p, _ in group)} for n in ("val", "test")]
    same_tests = bool(held[0]) and held[0] == held[1]
    if not same_tests:
        return [group for group in places.values() if len(group) > 1], False
    test = named["test"]
    apart = [[p for p in group if (p[0] == test) == own] for group in places.values() for own in (True, False)]
    return [group for group in apart if len(group) > 1], True


def _repeats(parts: Sequence[VideoPart], group: list[Place]) -> list[Finding]:
    """What is wrong with the places of one video."""

    def where(place: Place) -> str:
        name, videos, _ = parts[place[0]]
        if videos.lines is not None:
            return videos.where(place[1])
        return f"{name}/{videos.name(place[1])}" if name else videos.name(place[1])

    labels = {place: int(parts[place[0]].videos.labels[place[1]]) for place in group}
    if len(set(labels.values())) > 1:
        others = {place: next(p for p in group if labels[p] != labels[place]) for place in group}
        return [
            Finding(
                "contradiction", *place, f"is the video of {where(other)}, where its class is {_class(parts, other)}"
            )
            for place, other in others.items()
        ]
    stays = max(group, key=lambda place: (_HELD_OUT[parts[place[0]].name], -place[1]))
    found = []
    for place in group:
        if place[0] != stays[0]:
            found.append(Finding("leak", *place, f"is the video of {where(stays)}"))
        elif place != stays:
            found.append(Finding("repeated", *place, f"is the video of {where(stays)}"))
    return found


def _class(parts: Sequence[VideoPart], place: Place) -> str:
    return parts[place[0]].videos.class_name(place[1])
