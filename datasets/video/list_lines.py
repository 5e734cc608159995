"""The lines of a list of labelled videos: what stands between path and label, quotes, headers, Windows' ways."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from operator import and_
from pathlib import Path
from typing import NamedTuple, TypeAlias

from stvit.errors import UserError

# Endings that are taken for videos when folders are searched, and that tell where a path ends; a list may name others.
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".f4v", ".3gp", ".3g2", ".asf",
    ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".divx", ".gif",
)  # fmt: skip
SEPARATORS = {"\t": "a tab", ",": "a comma", " ": "a space"}

_PATH_WORDS = {"path", "paths", "file", "files", "filename", "file_name", "filepath", "file_path", "video", "videos",
               "video_path", "video_name", "name", "clip"}  # fmt: skip
_LABEL_WORDS = {"label", "labels", "class", "classes", "class_id", "class_name", "class_index", "label_id",
                "label_name", "target", "category", "action"}  # fmt: skip
Cut: TypeAlias = tuple[str, str] | None

_SHOWN = 120  # characters of a line in a message
_SUFFIX_THEN_SPACE = re.compile(rf"(?i:{'|'.join(map(re.escape, VIDEO_SUFFIXES))})(?= )")


class ListLines(NamedTuple):
    """The videos of a list file, in its order."""

    paths: list[str]  # as written, without quotes
    labels: list[str]
    numbers: list[int]  # of the lines, from 1
    texts: list[str]  # the whole lines, for messages


def read_lines(path: Path, separator: str = "", names: Collection[str] = ()) -> ListLines:
    """Cut each line of a list file into path and label.

    The separator is the one of tab, comma and space that fits most lines: whose paths end as videos do, whose labels
    are whole numbers or ``names``. A path may then hold the other two, and the separator as well if the label does not.
    Path and label may be quoted. Where a space separates names of classes, a path ends with the ending of a video, or
    at the only space. Empty lines, a byte-order mark, any line ends and a header (``path,label`` and the like) are
    passed over.

    Args:
        path: the file; its text is UTF-8, or UTF-16 with a byte-order mark. Other bytes are kept for file names.
        separator: instead of telling it from the file.
        names: of the classes, where they are known.

    Raises:
        UserError: no such file, no text, no videos, or a line that is not ``path label``, which is quoted.
    """
    lines = [line.strip() for line in _text(path).split("\n")]
    numbers = [number for number, line in enumerate(lines, 1) if line]
    lines = [line for line in lines if line]
    if lines and _is_header(path, numbers[0], lines[0]):
        del lines[0], numbers[0]
    if not lines:
        raise UserError(f"{path} holds no videos: each line is a path and a label, as in clip.mp4 0")
    chosen, cuts = (separator, _cuts(lines, separator, names)) if separator else _separated(lines, set(names))
    if None in cuts:
        odd = cuts.index(None)
        raise UserError(f"{at(path, numbers[odd], lines[odd])}: {_fault(lines[odd], chosen, bool(separator))}")
    whole = [cut for cut in cuts if cut is not None]
    return ListLines([path for path, _ in whole], [label for _, label in whole], numbers, lines)


def at(path: Path, number: int, line: str) -> str:
    """File, line number and line, for the beginning of a message."""
    return f"{path}:{number}: '{printable(line)}'"


def printable(text: str) -> str:
    """A text cut to a bearable length, with what cannot be printed escaped."""
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def _text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a list of videos")
    if path.exists() and not path.is_file():  # a pipe would be waited for, and is empty when a list is read again
        raise UserError(f"{path} is neither a file nor a folder: write the list into a file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no list {path}") from None
    except PermissionError as error:
        raise UserError(f"{path} may not be read: {error.strerror}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    else:
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if "\0" in text:
        raise UserError(f"{path} is not a text file: a list of videos has a path and a label a line, as in clip.mp4 0")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_header(path: Path, number: int, line: str) -> bool:
    """Whether a first line names the columns; refuses those that are not path and label."""
    columns = [word.strip("\"' ").lower() for word in re.split(r"[,;\t]" if re.search(r"[,;\t]", line) else " ", line)]
    if "youtube_id" in columns:
        raise UserError(
            f"{at(path, number, line)}: this is Kinetics' annotation file, which names no files; a list needs the path "
            "of each downloaded video and its label a line, as in abseiling/_4YTwq0-73Y_000044_000054.mp4 0"
        )
    if not (_PATH_WORDS.intersection(columns) and _LABEL_WORDS.intersection(columns)):
        return False
    if len(columns) != 2 or columns[0] not in _PATH_WORDS:
        raise UserError(
            f"{at(path, number, line)}: the columns of a list of videos are path and label, two and in this order"
        )
    return True


def _separated(lines: Sequence[str], names: set[str]) -> tuple[str, list[Cut]]:
    """The separator that fits most lines, and what it makes of them."""
    most = len(lines) // 2 + 1
    usual = [separator for separator in SEPARATORS if sum(separator in line for line in lines) >= most]
    found = {separator: _cuts(lines, separator, names) for separator in usual}

    ends = {
        separator: [cut is not None and cut[0][cut[0].rfind(".") :].lower() in VIDEO_SUFFIXES for cut in cuts]
        for separator, cuts in found.items()
    }
    counts = {
        separator: [cut is not None and (cut[1].isdecimal() or cut[1] in names) for cut in cuts]
        for separator, cuts in found.items()
    }
    both = {separator: list(map(and_, ends[separator], counts[separator])) for separator in found}
    cut_at_all = {separator: [cut is not None for cut in cuts] for separator, cuts in found.items()}
    for fits in (both, ends, counts, cut_at_all):
        best = max(fits, key=lambda separator: sum(fits[separator]), default=" ")
        if sum(fits.get(best, ())) >= most:
            return best, found[best]
    return " ", _cuts(lines, " ", names)


def _cuts(lines: Sequence[str], separator: str, names: Collection[str]) -> list[Cut]:
    """Path and label of each line; None for one that cannot be cut, or in several ways."""
    cuts: list[Cut] = []
    for line in lines:
        path, found, label = line.rpartition(separator)
        if '"' in line or "'" in line:
            cuts.append(_cut_quoted(line, separator) or _cut(line, separator, names))
        elif found and (label.isdecimal() or separator != " ") and path and label:
            cuts.append((path.rstrip(), label.lstrip()))
        else:
            cuts.append(_cut(line, separator, names))
    return cuts


def _cut(line: str, separator: str, names: Collection[str]) -> Cut:
    path, found, label = line.rpartition(separator)
    path, label = path.rstrip(), label.lstrip()
    if not found or not path or not label:
        return None
    if separator == " " and " " in path and not label.isdecimal() and label not in names:
        endings = list(_SUFFIX_THEN_SPACE.finditer(line))
        return (line[: endings[-1].end()], line[endings[-1].end() :].strip()) if endings else None
    return path, label


@lru_cache
def _quoted(separator: str) -> re.Pattern[str]:
    gap = rf"\s*{re.escape(separator)}\s*" if separator.strip() else rf"{re.escape(separator)}+\s*"
    path = r"""(?:"(?P<p2>(?:[^"]|"")+)"|'(?P<p1>[^']+)'|(?P<p>[^"'].*?))"""
    label = rf"""(?:"(?P<l2>(?:[^"]|"")+)"|'(?P<l1>[^']+)'|(?P<l>[^"'{re.escape(separator)}][^"]*))"""
    return re.compile(path + gap + label)


def _cut_quoted(line: str, separator: str) -> Cut:
    """The same of a line where path, label or both are quoted; None for one where nothing is."""
    found = _quoted(separator).fullmatch(line)
    if found is None or (found["p"] and found["l"]):
        return None
    return (
        found["p"] or found["p1"] or found["p2"].replace('""', '"'),
        found["l"] or found["l1"] or found["l2"].replace('""', '"'),
    )


def _fault(line: str, separator: str, given: bool) -> str:
    if separator not in line:
        named = SEPARATORS.get(separator, repr(separator))
        reason = " (DATA.PATH_LABEL_SEPARATOR)" if given else ""
        return f"no label; a line is a path and a label with {named} between them{reason}"
    return "path and label cannot be told apart: put quotes around them, or a comma or tab between them"


def list_content(rows: Sequence[tuple[bytes, str]]) -> bytes:
    """A list file of paths and labels, which :func:`read_lines` reads.

    ``path label``, as SlowFast reads it, unless one of them holds a blank, a comma or a quotation mark: then
    ``path,label`` with quotation marks around those.
    """
    pairs = [(path, label.encode()) for path, label in rows]
    if not any(re.search(rb"[\s,\"']", field) for pair in pairs for field in pair):
        return b"".join(path + b" " + label + b"\n" for path, label in pairs)
    return b"".join(b",".join(map(_quoted_field, pair)) + b"\n" for pair in pairs)


def _quoted_field(field: bytes) -> bytes:
    return b'"' + field.replace(b'"', b'""') + b'"' if re.search(rb"[\s,\"']", field) else field
