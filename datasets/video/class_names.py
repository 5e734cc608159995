"""Which name a class has: files of names, and what a label in a list means."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.list_lines import ListLines, at
from stvit.errors import UserError, nearest

_MOST_CLASSES = 10**6
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of a label file, in the order of their numbers.

    A name a line, with or without its number (from 0) before it; or JSON: a list of names, or an object of
    ``name: number`` as SlowFast's and Something-Something's files are.

    Raises:
        UserError: no such file, no names, one that comes twice, or numbers that are not those from 0 on.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is not a text file of class names (DATA.LABEL_FILE)")
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no label file {path} (DATA.LABEL_FILE)") from None
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file of class names (DATA.LABEL_FILE)") from error
    names = _from_json(path, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(path, text)
    if not names:
        raise UserError(f"{path} holds no class names: write one a line (DATA.LABEL_FILE)")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            raise UserError(f"{path} has the class {name!r} twice, as numbers {seen[name]} and {number}")
        if name.isdecimal() and int(name) != number:
            raise UserError(
                f"{path} gives the name {name!r} to class {number}, so that a list's label {name} could mean either: "
                "give classes names that are no numbers"
            )
        seen[name] = number
    return names


def _from_lines(path: Path, text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(f"{path}:{number}: an empty line among the class names; a name a line, without gaps")
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(\S.*)", line) for line in lines]
    pairs = [(int(found[1]), found[2]) for found in numbered if found]
    if (
        len(pairs) < len(lines)
        or not pairs
        or [n for n, _ in pairs] != list(range(pairs[0][0], pairs[0][0] + len(pairs)))
    ):
        return tuple(lines)
    if pairs[0][0] != 0:
        raise UserError(
            f"{at(path, 1, lines[0])}: classes are numbered from {pairs[0][0]}, and labels count from 0: number both "
            "from 0, or leave the numbers out here and name classes in the lists"
        )
    return tuple(name for _, name in pairs)


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(name.strip() for name in content)
    if not isinstance(content, dict) or not all(
        isinstance(n, int | str) and str(n).isdecimal() for n in content.values()
    ):
        raise UserError(f"{path}: JSON of class names is a list of them, or an object of name: number")
    names = {int(number): name.strip().strip('"') for name, number in content.items()}
    if sorted(names) != list(range(len(content))):
        raise UserError(f"{path} has {len(content)} classes, whose numbers are not 0 to {len(content) - 1}, each once")
    return tuple(names[number] for number in range(len(names)))


def are_names(path: Path, lines: ListLines) -> bool:
    """Whether the labels of a list are names; False for whole numbers.

    Raises:
        UserError: some are, and others not.
    """
    named = [not (label.isdecimal() or _NUMBER.fullmatch(label)) for label in lines.labels]
    if any(named) and not all(named):
        odd = named.index(2 * sum(named) < len(named))  # the first one of the fewer
        line = at(path, lines.numbers[odd], lines.texts[odd])
        kind, others = ("name", "numbers") if named[odd] else ("number", "names")
        raise UserError(
            f"{line}: the label is a {kind}, where other lines have {others}; a label file lets a list have both "
            "(DATA.LABEL_FILE)"
        )
    return named[0]


def label_numbers(path: Path, lines: ListLines, classes: Sequence[str] | None) -> NDArray[np.int64]:
    """The numbers of a list's labels, ``(N,)``; with ``classes`` a label may be one of these names.

    Raises:
        UserError: a label is no whole number from 0 on, none of the classes, or above their number.
    """
    number = {name: k for k, name in enumerate(classes or ())}
    limit = len(classes) if classes is not None else _MOST_CLASSES
    found: list[int] = []
    for index, label in enumerate(lines.labels):
        value = number.get(label)
        if value is None:
            value = int(label) if label.isdecimal() else -1
            if not 0 <= value < limit:
                line = at(path, lines.numbers[index], lines.texts[index])
                raise UserError(f"{line}: {_fault(label, classes)}")
        found.append(value)
    return np.array(found, np.int64)


def _fault(label: str, classes: Sequence[str] | None) -> str:
    if not _NUMBER.fullmatch(label):
        return f"the class {label!r} is none of the {len(classes or ())} known ones{nearest(label, classes or ())}"
    if not label.isdecimal():
        return f"label {label} is no whole number from 0 on"
    if classes is None:
        return f"label {label} is no number of a class: {_MOST_CLASSES:,} are the most"
    return f"label {label} is beyond the {len(classes)} classes, which count from 0 to {len(classes) - 1}"
