"""What a check of videos has found, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from stvit.datasets.video.data_check import FILE_KINDS, KINDS, DataCheck, Finding
from stvit.datasets.video.list_lines import list_content, printable

_COLUMNS = ("part", "place", "path", "label", "class", "outcome", "cause", "problems", "container", "codec", "pixels",
            "width", "height", "fps", "frames", "duration", "rotation", "bytes")  # fmt: skip
_SHOWN = 3  # videos of a cause that a summary names
_CAUSES = 6  # causes of a kind that it names
_CLASSES = 12  # classes that a summary counts


def report_files(check: DataCheck, how: Mapping[str, object], by_number: bool) -> dict[str, bytes]:
    """Names and contents of the files: clean lists (of parts that are left with a video), report.csv, report.json.

    Args:
        check: what was found.
        how: settings of the check, for report.json.
        by_number: whether clean lists give classes by number, for readers that have the label file; else by name where
            names are known.
    """
    rows = _rows(check)
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = json.dumps({"settings": dict(how), **_totals(check), "files": rows}, indent=1) + "\n"
    return {
        **_clean_lists(check, by_number),
        "report.csv": table.getvalue().encode(),
        "report.json": content.encode(),
    }


def _clean_lists(check: DataCheck, by_number: bool) -> dict[str, bytes]:
    lists = {}
    for (name, videos, labelled), clean in zip(check.parts, check.clean, strict=True):
        kept = np.flatnonzero(clean).tolist()
        if labelled and kept:
            label = (lambda k, v=videos: str(v.labels[k])) if by_number else videos.class_name
            rows = [(os.fsencode(os.path.abspath(videos.path(k))), label(k)) for k in kept]
            lists[f"{name or 'clean'}.csv"] = list_content(rows)
    return lists


def _rows(check: DataCheck) -> list[dict[str, object]]:
    """A row of plain values for each video, in the order of the lists."""
    problems: dict[tuple[int, int], list[Finding]] = defaultdict(list)
    for finding in check.findings:
        problems[finding.part, finding.video].append(finding)
    rows: list[dict[str, object]] = []
    for part, (name, videos, labelled) in enumerate(check.parts):
        for index, found in enumerate(check.inspections[part]):
            others = [f for f in problems[part, index] if f.kind not in FILE_KINDS]
            height, width = found.size or (None, None)
            label = int(videos.labels[index]) if labelled else None
            values = (
                name, videos.where(index), videos.name(index), label, videos.class_name(index) if labelled else None,
                found.outcome, found.cause, "; ".join(f"{f.kind}: {f.cause}" for f in others), found.container,
                found.codec, found.pixels, width, height, found.fps, found.frames, found.duration, found.rotation,
                found.bytes,
            )  # fmt: skip
            rows.append(dict(zip(_COLUMNS, values, strict=True)))
    return rows


def _totals(check: DataCheck) -> dict[str, object]:
    parts = []
    for part, (name, videos, labelled) in enumerate(check.parts):
        counts = check.class_counts(part).tolist() if labelled else []
        names = videos.classes or tuple(map(str, range(check.classes)))
        parts.append(
            {
                "name": name,
                "source": str(videos.source),
                "videos": len(videos),
                "clean": int(check.clean[part].sum()),
                "class_counts": dict(zip(names, counts, strict=False)),
            }
        )
    return {
        "parts": parts,
        "classes": check.classes,
        "problems": dict(Counter(finding.kind for finding in check.findings)),
        "empty_classes": {check.parts[part].name or "clean": empty for part, empty in check.empty_classes()},
        "test_is_validation": check.same_tests,
    }


def summary(check: DataCheck) -> str:
    """Some lines for people."""
    lines = []
    for kind, title in KINDS.items():
        found = [finding for finding in check.findings if finding.kind == kind]
        if found:
            lines += [f"{len(found)} {title}:", *_causes(check, found)]
    for part, (name, videos, labelled) in enumerate(check.parts):
        total, kept = len(videos), int(check.clean[part].sum())
        stay = "all sound" if kept == total else f"{kept} of them sound and in no line above"
        lines.append(f"{name + ': ' if name else ''}{counted(total, 'video')}, {stay}")
        if labelled:
            lines.append(f"    {_class_line(check, part)}")
    for part, empty in check.empty_classes():
        names = check.parts[part].videos.classes
        shown = ", ".join(names[label] if names and label < len(names) else str(label) for label in empty[:_CLASSES])
        more = f" and {len(empty) - _CLASSES} more" if len(empty) > _CLASSES else ""
        where = check.parts[part].name or "the list"
        lines.append(f"{where} has no sound video of {counted(len(empty), 'class')}: {shown}{more}")
    if check.same_tests:
        lines.append("test has the same videos as val: what is chosen on one is not tested by the other")
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _causes(check: DataCheck, findings: list[Finding]) -> list[str]:
    """A line for each cause, causes that differ in numbers alone being one; the commonest first."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[re.sub(r"\d+", "#", finding.cause)].append(finding)
    largest = sorted(groups.values(), key=len, reverse=True)
    lines = []
    for group in largest[:_CAUSES]:
        names = [_named(check, finding) for finding in group[:_SHOWN]]
        more = ", ..." if len(group) > _SHOWN else ""
        several = f"{len(group)} files: {group[0].cause}: {', '.join(names)}{more}"
        lines.append(f"    {several}" if len(group) > 1 else f"    {names[0]} {group[0].cause}")
    rest = sum(map(len, largest[_CAUSES:]))
    return [*lines, f"    and {rest} more of {len(largest) - _CAUSES} other causes, see report.csv"] if rest else lines


def _named(check: DataCheck, finding: Finding) -> str:
    videos = check.parts[finding.part].videos
    name = printable(videos.name(finding.video))
    return name if videos.lines is None else f"{name} ({videos.where(finding.video)})"


def _class_line(check: DataCheck, part: int) -> str:
    videos, counts = check.parts[part].videos, check.class_counts(part)
    used = np.flatnonzero(counts)
    if not len(used):
        return "of no class"
    if len(counts) <= _CLASSES:
        names = videos.classes or tuple(map(str, range(len(counts))))
        return ", ".join(f"{counts[label]} {names[label]}" for label in range(len(counts)) if label < len(names))
    low, high = int(counts[used].min()), int(counts.max())
    return f"{counted(len(used), 'class')} of {low} to {high} videos"
