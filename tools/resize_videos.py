r"""Make a data set of videos smaller, so that its clips are decoded several times as fast.

SOURCE is a list file, a data set with lists or folders train, val and test, a folder of class folders, or any folder of
videos. Each video is encoded anew as H.264 with a short side of 256 pixels and a key frame every 12 frames, turned as
its file asks for; frames keep their times, smaller videos their size, and sound is left out. Folders stay as they are;
lists are written anew with the new paths.

A stopped run goes on where it was: videos that are in --output already are passed over. A video that cannot be decoded
is left out, and named with its cause in bad_videos.csv.

Example:
    python tools/resize_videos.py data/kinetics --output data/kinetics_256
    python tools/resize_videos.py train.csv --output data/small --short-side 160

Exit status: 0 if all videos are there, 1 if some were left out, 2 for a mistake.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from stvit.cli import ArgumentParser, run
from stvit.datasets.video.data_report import counted
from stvit.datasets.video.file_processes import Lost, in_processes
from stvit.datasets.video.list_lines import list_content, printable
from stvit.datasets.video.lists import refuse_nowhere
from stvit.datasets.video.parts import VideoPart, video_parts
from stvit.datasets.video.reencode import reencode
from stvit.errors import UserError
from stvit.visual.files import replace_files

_SHOWN = 5  # bad videos that the last lines name
Job = tuple[str, str, str]  # where a video is, where its small copy comes, and what that is called until it is whole


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, encode, write lists; the exit status."""
    options = _parser().parse_args(argv)
    for name in ("short_side", "gop", "workers", "timeout"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: it must be above 0")
    parts = video_parts(
        options.source, prefix=options.prefix, separator=options.separator, unlabelled=options.unlabelled
    )
    for part in parts:
        refuse_nowhere(part.videos)
    targets = new_places(options.source, parts)
    _begin(options.source, options.output, {"short_side": options.short_side, "gop": options.gop})
    run = f".{socket.gethostname()}-{os.getpid()}.tmp"  # another run may work on the same folder
    jobs = [
        (file, str(options.output / place), str(options.output / f"{place}{run}")) for file, place in targets.items()
    ]
    waiting = [job for job in jobs if not os.path.exists(job[1])]
    print(f"{counted(len(jobs), 'video')}, of which {len(jobs) - len(waiting)} are in {options.output} already")
    causes = _work(waiting, options)
    bad = {file: causes[target] for file, target, _ in jobs if target in causes}
    replace_files(_lists(parts, targets, bad, options.output))
    print(f"{options.output}: {counted(len(jobs) - len(bad), 'video')}, {len(bad)} left out")
    for file, cause in list(bad.items())[:_SHOWN]:
        print(f"    {printable(file)} {cause}")
    if len(bad) > _SHOWN:
        print(f"    ... and {len(bad) - _SHOWN} more ({options.output / 'bad_videos.csv'})")
    return int(bool(bad))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path, help="list file or folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the small videos")
    parser.add_argument("--short-side", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--gop", type=int, default=12, help="frames from key frame to key frame (default: %(default)s)")
    parser.add_argument("--prefix", default="", help="what relative paths begin at, as DATA.PATH_PREFIX")
    parser.add_argument("--separator", default="", help="between path and label, as DATA.PATH_LABEL_SEPARATOR")
    parser.add_argument("--unlabelled", action="store_true", help="folders in a folder are no classes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a video (default: %(default)g)")
    return parser


def new_places(source: Path, parts: Sequence[VideoPart]) -> dict[str, str]:
    """Of each video, by its full path: where its small copy comes, relative to the output.

    Paths are kept from the data set's folder on, or from the folder that all videos share; endings become .mp4.
    """
    files = dict.fromkeys(os.path.abspath(videos.path(k)) for _, videos, _ in parts for k in range(len(videos)))
    base = os.path.abspath(source if source.is_dir() else parts[0].videos.root)
    if any(os.path.relpath(file, base).startswith("..") for file in files):
        base = os.path.commonpath([os.path.dirname(file) for file in files])
    places = {file: os.path.splitext(os.path.relpath(file, base))[0] + ".mp4" for file in files}
    taken: dict[str, str] = {}
    for file, place in places.items():
        if taken.setdefault(place, file) != file:  # a.avi beside a.mp4
            places[file] = os.path.relpath(file, base) + ".mp4"
    return places


def _begin(source: Path, output: Path, settings: dict[str, int]) -> None:
    """Refuse an output that would spoil something, and note the settings in it."""
    if output.is_file():
        raise UserError(f"--output {output} is a file: name a folder")
    folder = source if source.is_dir() else source.parent
    if output.resolve() == folder.resolve():
        raise UserError(f"--output {output} is where the videos are: name another folder")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output {output} is in {source}, whose videos it would become: name a folder beside it")
    note = output / "resize_videos.json"
    if note.exists():
        before = json.loads(note.read_text())
        if before != settings:
            raise UserError(
                f"{output} holds videos of short side {before['short_side']} and GOP {before['gop']}: give "
                "--short-side and --gop as before, or name another folder"
            )
    elif output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} holds other files: name an empty or a new folder, or one that this tool has begun")
    replace_files({note: (json.dumps(settings) + "\n").encode()})


def _work(jobs: Sequence[Job], options: argparse.Namespace) -> dict[str, str]:
    """Encode; the causes of the videos that failed, by where they would have come."""
    from tqdm import tqdm

    encode = functools.partial(_encode, short_side=options.short_side, gop=options.gop)
    causes: dict[str, str] = {}
    with tqdm(total=len(jobs), unit="video", disable=None, smoothing=0.05) as bar:
        try:
            for number, result in in_processes(encode, jobs, options.workers, options.timeout):
                if isinstance(result, OSError):  # the next videos would fail like this one
                    raise result
                cause = result.cause if isinstance(result, Lost) else result
                if cause:
                    causes[jobs[number][1]] = cause
                    bar.set_postfix_str(f"{len(causes)} bad", refresh=False)
                bar.update()
        finally:  # of processes that were ended in the middle of a video
            for _, _, temporary in jobs:
                Path(temporary).unlink(missing_ok=True)
    return causes


def _encode(job: Job, short_side: int, gop: int) -> str | OSError:
    """Encode one video; its cause if it is bad, or an error of the output folder."""
    source, target, temporary = map(Path, job)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        reencode(source, target, temporary, short_side=short_side, gop=gop)
    except UserError as error:
        return str(error).removeprefix(str(source)).lstrip(" :")
    except OSError as error:
        return OSError(f"{target} cannot be written: {error.strerror or error}")
    return ""


def _lists(parts: Sequence[VideoPart], places: dict[str, str], bad: dict[str, str], output: Path) -> dict[Path, bytes]:
    """New lists beside the small videos, without the bad ones, and the file that names those."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("name", "cause"))
    writer.writerows(bad.items())
    lists = {output / "bad_videos.csv": table.getvalue().encode("utf-8", "surrogateescape")}
    for _, videos, _ in parts:
        if videos.lines is None:  # the folders are the list
            continue
        files = [os.path.abspath(videos.path(k)) for k in range(len(videos))]
        rows = [(os.fsencode(places[file]), videos.class_name(k)) for k, file in enumerate(files) if file not in bad]
        lists[output / videos.source.name] = list_content(rows)
    return lists


if __name__ == "__main__":
    sys.exit(run(main))
