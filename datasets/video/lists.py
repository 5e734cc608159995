"""Which videos there are, and of which class."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.class_folders import class_folder_names, videos_of_classes
from stvit.datasets.video.class_names import are_names, label_numbers, read_class_names
from stvit.datasets.video.list_lines import ListLines, at, printable, read_lines
from stvit.errors import UserError

LIST_SUFFIXES = (".csv", ".txt", ".tsv")
_TRIED = 20  # paths of a list that are looked for before a run


@dataclass(frozen=True)
class VideoList:
    """Labelled videos, in the order of their list."""

    source: Path  # the list file, or the folder of class folders
    files: NDArray[np.bytes_]  # (N,) full paths, or relative to ``root``; bytes, because a million str weigh 100 MB
    labels: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...] | None  # names in the order of the labels, where they are known
    root: Path  # what relative paths are relative to
    lines: NDArray[np.int64] | None = None  # (N,) line numbers in the list file, from 1; None for folders

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        """Where a video is."""
        return self.root / os.path.expanduser(os.fsdecode(bytes(self.files[index])))

    def name(self, index: int) -> str:
        """The path as its list writes it, for messages and reports; what cannot be printed is escaped."""
        return bytes(self.files[index]).decode("utf-8", "backslashreplace")

    def where(self, index: int) -> str:
        """The list's line of a video, ``train.csv:17``, or its path; for messages."""
        if self.lines is None:
            return str(self.source / self.name(index))
        return f"{self.source.name}:{self.lines[index]}"

    def class_name(self, index: int) -> str:
        """The name of a video's class, or its number where names are not known."""
        label = int(self.labels[index])
        return str(label) if self.classes is None else self.classes[label]

    def identity(self) -> dict[str, object]:
        """Plain values that are equal for lists of the same files with the same labels."""
        digest = hashlib.sha256(b"\n".join(self.files.tolist()))
        digest.update(b"\n" + self.labels.astype("<i8").tobytes())
        return {
            "kind": "videos",
            "source": self.source.name,
            "videos": len(self),
            "classes": None if self.classes is None else len(self.classes),
            "files_sha256": digest.hexdigest(),
        }


@dataclass(frozen=True)
class VideoSplits:
    """What a run reads; parts that it does not need are None."""

    train: VideoList | None
    validation: VideoList | None
    test: VideoList | None
    classes: tuple[str, ...] | None
    validation_is_test: bool  # there is no test list of its own, or one with the same videos

    @property
    def identity(self) -> dict[str, object]:
        """Plain values that say which videos these are, for checkpoints and results."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "dataset": "videos",
            **{name: None if part is None else part.identity() for name, part in parts.items()},
            "validation_is_test": self.validation_is_test,
        }


def read_video_list(
    path: Path, *, root: Path | None = None, separator: str = "", classes: tuple[str, ...] | None = None
) -> VideoList:
    """A list file with ``path label`` a line.

    :func:`stvit.datasets.video.list_lines.read_lines` says what may be in it. Paths that were written on Windows are
    read as paths of this machine if the videos are there.

    Args:
        path: the file.
        root: what relative paths are relative to (DATA.PATH_PREFIX); None: the list's folder.
        separator: between path and label (DATA.PATH_LABEL_SEPARATOR); empty: told from the file, space, comma or tab.
        classes: the names of the labels; a label is then a number or one of them. None: labels are all numbers, or all
            names, which are numbered in sorted order.

    Raises:
        UserError: the file cannot be read as such a list; the message quotes its line.
    """
    lines = read_lines(path, separator, classes or ())
    if classes is None and are_names(path, lines):
        classes = tuple(sorted(set(lines.labels)))
    labels = label_numbers(path, lines, classes)
    root = path.parent if root is None else root.expanduser()
    paths = _portable(path, lines, root)
    return VideoList(
        path, np.array([os.fsencode(p) for p in paths]), labels, classes, root, np.array(lines.numbers, np.int64)
    )


def _portable(source: Path, lines: ListLines, root: Path) -> list[str]:
    """Paths with Windows' backslashes turned into slashes, where the videos are then found."""
    paths = lines.paths
    odd = [k for k, name in enumerate(paths) if "\\" in name or name[1:3] == ":/"]
    if not odd or os.name == "nt":
        return paths
    tried = [paths[k] for k in odd[:: max(1, len(odd) // _TRIED)]]
    if any((root / name).exists() for name in tried):
        return paths
    if any((root / name.replace("\\", "/")).exists() for name in tried):
        return [name.replace("\\", "/") for name in paths]
    raise UserError(
        f"{at(source, lines.numbers[odd[0]], lines.texts[odd[0]])}: a path of Windows, and no such video is below "
        f"{root}, even with / for \\: write paths relative to the list's folder, or to DATA.PATH_PREFIX"
    )


def video_splits(
    root: Path, *, training: bool, testing: bool, prefix: str = "", separator: str = "", label_file: str = ""
) -> VideoSplits:
    """``train``, ``val`` and ``test`` of a folder: lists ``train.csv`` (or ``.txt``, ``.tsv``), or class folders
    ``train/CLASS/...``.

    Testing takes ``val`` where there is no ``test``. Names of classes are those of the label file, otherwise those that
    ``train`` has, sorted. To test alone, ``root`` may be a list file too.

    Args:
        root: DATA.PATH_TO_DATA_DIR.
        training: whether train and val are needed.
        testing: whether test is needed.
        prefix: what relative paths in lists are relative to (DATA.PATH_PREFIX); empty: the list's folder.
        separator: of lists (DATA.PATH_LABEL_SEPARATOR); empty: told from each list.
        label_file: names of the classes (DATA.LABEL_FILE); empty: see above.

    Raises:
        UserError: a part that is needed is not there or cannot be used.
    """
    reader = _PartReader(root, Path(prefix).expanduser() if prefix else None, separator)
    classes = read_class_names(Path(label_file).expanduser()) if label_file else None
    if root.is_file():
        if training:
            raise UserError(f"{root} is a file: training needs a folder with lists or folders train and val")
        tested = reader.read(root, classes)
        return VideoSplits(None, None, tested, tested.classes, False)
    train_place, val_place, test_place = (part_place(root, part) for part in ("train", "val", "test"))
    if train_place is val_place is test_place is None:
        _refuse_part(root)
    tested_place = test_place or val_place
    train = validation = test = None
    if training:
        train = reader.read(reader.need(train_place, "train"), classes)
        classes = train.classes
        validation = reader.read(reader.need(val_place, "val"), classes)
    elif classes is None and train_place is not None:
        classes = reader.names(train_place, reader.need(tested_place, "test or val"))
    if testing:
        place = reader.need(tested_place, "test or val")
        test = validation if validation is not None and place == val_place else reader.read(place, classes)
        classes = classes or test.classes
    same = test is not None and (
        tested_place == val_place or (validation is not None and _same_videos(validation, test))
    )
    return VideoSplits(train, validation, test, classes, same)


def _same_videos(one: VideoList, other: VideoList) -> bool:
    """Whether two lists have the same files; class folders may have files of the same names that are others."""
    return (
        len(one) == len(other)
        and one.root.resolve() == other.root.resolve()
        and np.array_equal(np.sort(one.files), np.sort(other.files))
    )


@dataclass(frozen=True)
class _PartReader:
    """Reads the parts of one data set, each from a list or from class folders."""

    root: Path
    prefix: Path | None
    separator: str

    def need(self, place: Path | None, part: str) -> Path:
        """The place, where there is one."""
        if place is None:
            name = part.split()[0]
            raise UserError(
                f"{self.root} holds neither a list {name}.csv (.txt, .tsv) nor class folders {name}/CLASS/, for {part} "
                "(DATA.PATH_TO_DATA_DIR)"
            )
        return place

    def read(self, place: Path, classes: tuple[str, ...] | None) -> VideoList:
        """One part, whose paths lead somewhere."""
        if place.is_dir():
            return list_class_folders(place, classes)
        videos = read_video_list(place, root=self.prefix, separator=self.separator, classes=classes)
        refuse_nowhere(videos)
        return videos

    def names(self, train: Path, tested: Path) -> tuple[str, ...] | None:
        """The names of the classes that training would give them, where the tested part has names."""
        if train.is_dir():
            return class_folder_names(train)
        if not tested.is_dir() and not are_names(tested, read_lines(tested, self.separator)):
            return None
        return read_video_list(train, root=self.prefix, separator=self.separator).classes


def part_place(root: Path, part: str) -> Path | None:
    """The list or folder of train, val or test; a list comes first, since the folder beside it may hold its videos."""
    lists = [file for suffix in LIST_SUFFIXES if (file := root / f"{part}{suffix}").is_file()]
    if len(lists) > 1:
        raise UserError(f"{root} holds {' and '.join(file.name for file in lists)}: remove all but one")
    folder = root / part
    return lists[0] if lists else folder if _has_folders(folder) else None


def list_class_folders(folder: Path, classes: tuple[str, ...] | None = None) -> VideoList:
    """All videos of ``folder/CLASS/...``; see :func:`stvit.datasets.video.class_folders.videos_of_classes`."""
    files, labels, names = videos_of_classes(folder, classes)
    return VideoList(folder, np.array(files), np.array(labels, np.int64), names, folder)


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in os.scandir(folder))


def _refuse_part(root: Path) -> None:
    """Raise :class:`UserError` for a folder without parts, saying what it looks like."""
    if not root.exists():
        raise UserError(
            f"there is no folder {root}: DATA.PATH_TO_DATA_DIR names the one that holds train.csv and val.csv"
        )
    whole = root.resolve().parent
    if root.resolve().name in ("train", "val", "test") and ((whole / "train").is_dir() or (whole / "val").is_dir()):
        raise UserError(f"{root} is one part of a data set: set DATA.PATH_TO_DATA_DIR to its parent {whole}")
    if _has_folders(root):
        raise UserError(
            f"{root} holds folders, but neither train nor val: DATA.PATH_TO_DATA_DIR names the folder that holds lists "
            "train.csv and val.csv, or train/CLASS/ and val/CLASS/"
        )


def refuse_nowhere(videos: VideoList) -> None:
    """Raise :class:`UserError` if none of some paths of a list leads to anything: then all of them are wrong alike."""
    tried = range(0, len(videos), max(1, len(videos) // _TRIED))
    if any(videos.path(index).exists() for index in tried):
        return
    hint = f"relative paths begin at {videos.root}, and DATA.PATH_PREFIX names another folder"
    if Path(videos.name(0)).exists():
        hint = "it is there from the current folder: set DATA.PATH_PREFIX ."
    elif re.fullmatch(r".+ \d+", videos.name(0)):
        hint = "a line is a path and a label alone, without a number of frames or a second label"
    others = f", nor are {len(tried) - 1} others that were tried" if len(tried) > 1 else ""
    raise UserError(f"{videos.where(0)}: {printable(str(videos.path(0)))} is not there{others}: {hint}")
