"""The lists that a tool works through: a list file, a data set's parts, class folders, or any folder of videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stvit.datasets.video.class_folders import class_folder_names, holds_images, videos_below, videos_of_classes
from stvit.datasets.video.class_names import read_class_names
from stvit.datasets.video.list_lines import VIDEO_SUFFIXES
from stvit.datasets.video.lists import VideoList, part_place, read_video_list
from stvit.errors import UserError

PARTS = ("train", "val", "test")


class VideoPart(NamedTuple):
    """Some videos and what they are for."""

    name: str  # train, val or test; empty where it is the only one
    videos: VideoList  # labels are -1 where there are none
    labelled: bool


def video_parts(
    source: Path, *, prefix: str = "", separator: str = "", label_file: str = "", unlabelled: bool = False
) -> list[VideoPart]:
    """The parts of ``source``, whether their videos exist or not.

    * a list file: one part.
    * a folder with lists or folders ``train``, ``val``, ``test``: each of them (see
      :func:`stvit.datasets.video.lists.video_splits`).
    * a folder that holds videos or folders of frames itself, or any with ``unlabelled``: all videos in and below it,
      without labels.
    * any other folder: its folders are classes, which may be empty.

    Raises:
        UserError: there are no videos, or a list that cannot be read.
    """
    classes = read_class_names(Path(label_file).expanduser()) if label_file else None
    root = Path(prefix).expanduser() if prefix else None
    if not source.exists():
        raise UserError(f"there is no {source}: give a list of videos or a folder of them")
    if not source.is_dir():
        videos = read_video_list(source, root=root, separator=separator, classes=classes)
        return [VideoPart("", videos, True)]
    if not unlabelled:
        places = [(part, place) for part in PARTS if (place := part_place(source, part)) is not None]
        parts = []
        for part, place in places:
            if place.is_dir():
                videos = _class_folders(place, classes)
            else:
                videos = read_video_list(place, root=root, separator=separator, classes=classes)
            classes = classes or videos.classes
            parts.append(VideoPart(part, videos, True))
        if parts:
            return parts
        if not _holds_videos(source) and any(entry.is_dir() for entry in os.scandir(source)):
            return [VideoPart("", _class_folders(source, classes), True)]
    files = videos_below(source)
    if not files:
        raise UserError(f"{source} holds no videos; known are {', '.join(VIDEO_SUFFIXES)}, and folders of images")
    return [VideoPart("", VideoList(source, np.array(files), np.full(len(files), -1), None, source), False)]


def _class_folders(folder: Path, classes: tuple[str, ...] | None) -> VideoList:
    files, labels, names = videos_of_classes(folder, classes or class_folder_names(folder))
    return VideoList(folder, np.array(files), np.array(labels, np.int64), names, folder)


def _holds_videos(folder: Path) -> bool:
    """Whether a folder holds videos that are in no folder of a class."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    if any(entry.is_file() and entry.name.lower().endswith(VIDEO_SUFFIXES) for entry in entries):
        return True
    return any(entry.is_dir() and holds_images(folder / entry.name) for entry in entries)


def other_files(folder: Path) -> list[str]:
    """Files in and below a folder that no name says to be a video or a frame; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if holds_images(Path(place)):
            continue
        found += [
            os.path.relpath(os.path.join(place, name), folder)
            for name in sorted(files)
            if not name.startswith(".") and not name.lower().endswith(VIDEO_SUFFIXES)
        ]
    return found
