"""Folders of videos, one a class: ``FOLDER/CLASS/...``, where a video is a file or a folder of its frames."""

from __future__ import annotations

import os
from pathlib import Path

from stvit.datasets.frame_sources import IMAGE_SUFFIXES
from stvit.datasets.video.list_lines import VIDEO_SUFFIXES
from stvit.errors import UserError


def videos_below(folder: Path, prefix: str = "") -> list[bytes]:
    """All videos in a folder and below it, sorted; paths relative to it, after ``prefix``.

    A video is a file with one of the usual endings, or a folder that holds images itself. Names that begin with a dot
    are passed over.

    Raises:
        UserError: a folder may not be read.
    """
    return sorted(_search(folder, prefix))


def _search(folder: Path, prefix: str) -> list[bytes]:
    found: list[bytes] = []
    for entry in _entries(folder):
        name = f"{prefix}{entry.name}"
        if not entry.is_dir():
            if entry.name.lower().endswith(VIDEO_SUFFIXES):
                found.append(os.fsencode(name))
        elif holds_images(folder / entry.name):
            found.append(os.fsencode(name))
        else:
            found += _search(folder / entry.name, f"{name}/")
    return found


def holds_images(folder: Path) -> bool:
    """Whether a folder is a video: images lie in it, not only below it."""
    return any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in _entries(folder))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except PermissionError as error:
        raise UserError(f"the folder {folder} may not be read: {error.strerror}") from error


def class_folder_names(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, sorted; their order is that of the labels.

    Raises:
        UserError: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: videos belong in {folder}/CLASS/ (DATA.PATH_TO_DATA_DIR)")
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise UserError(f"{folder} holds no folders: videos belong in {folder}/CLASS/, one folder a class")
    return tuple(names)


def videos_of_classes(folder: Path, classes: tuple[str, ...] | None) -> tuple[list[bytes], list[int], tuple[str, ...]]:
    """The videos in ``folder/CLASS/`` in the order of their paths, their labels, and the names of the classes.

    Args:
        folder: holds a folder for each class.
        classes: the names that labels count, when a label file or ``train`` decides them; each folder must be one.
            None: the folders' names, sorted; each must then hold a video.

    Raises:
        UserError: no folder, no class, no videos, a class that is none of ``classes`` or is empty, images that are in
            no folder of their own.
    """
    present = class_folder_names(folder)
    known = present if classes is None else classes
    number = {name: label for label, name in enumerate(known)}
    files: list[bytes] = []
    labels: list[int] = []
    for name in present:
        if name not in number:
            raise UserError(
                f"{folder / name} is none of the {len(known)} classes that the label file or train/ names: move it "
                "away, or name it there"
            )
        if holds_images(folder / name):
            raise UserError(
                f"{folder / name} holds images: the frames of each video belong in a folder of their own, "
                f"{folder / name}/VIDEO/ (pictures to be classified are DATA.DATASET imagenet)"
            )
        found = videos_below(folder / name, f"{name}/")
        if not found and classes is None:
            raise UserError(f"{folder / name} holds no videos ({', '.join(VIDEO_SUFFIXES)}): fill or remove it")
        files += found
        labels += [number[name]] * len(found)
    if not files:
        raise UserError(f"the classes in {folder} hold no videos; known are {', '.join(VIDEO_SUFFIXES)}")
    return files, labels, known
