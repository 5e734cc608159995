r"""Check videos before learning from them: files, labels, videos that come twice, classes without any.

LIST is a list file (a path and a label a line), a data set with lists or folders train, val and test, a folder of class
folders, or any folder of videos (without labels). Every file is opened and some of its frames are decoded, in parallel
processes; one that crashes or hangs is named like any other.

Example:
    python tools/check_data.py data/kinetics --output output/check
    python tools/check_data.py train.csv --num-classes 400 --full --output output/check

Writes into --output: the lists without what is wrong (clean.csv, or of a data set train.csv, val.csv and test.csv, with
full paths, so that DATA.PATH_TO_DATA_DIR can be that folder), report.csv and report.json with each file's outcome.

Exit status: 0 if nothing is wrong, 1 if something is, 2 if the list itself cannot be read.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stvit.cli import ArgumentParser, run
from stvit.datasets.video.data_check import FileChecks, judge
from stvit.datasets.video.data_report import counted, report_files, summary
from stvit.datasets.video.parts import other_files, video_parts
from stvit.datasets.video.reading import DECODERS
from stvit.errors import UserError, nearest
from stvit.visual.files import replace_files

_SHOWN = 3  # files that a note names


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, check, write, print; the exit status."""
    options = _parser().parse_args(argv)
    for name in ("frames", "workers", "timeout", "num_classes"):
        if getattr(options, name) is not None and getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: it must be above 0")
    if options.decoder not in DECODERS:
        raise UserError(f"there is no decoder {options.decoder!r}{nearest(options.decoder, DECODERS)}")
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file: name a folder")
    parts = video_parts(
        options.list, prefix=options.prefix, separator=options.separator, label_file=options.label_file,
        unlabelled=options.unlabelled,
    )  # fmt: skip
    for name, videos, labelled in parts:
        print(
            f"{videos.source}: {counted(len(videos), 'video')}{_kind(videos.source, labelled)}"
            + (f" ({name})" if name else "")
        )
        if videos.lines is None:
            _name_others(videos.source)
    frames = None if options.full else options.frames
    checks = FileChecks(parts, frames=frames, decoder=options.decoder, workers=options.workers, timeout=options.timeout)
    _work(checks)
    result = judge(parts, checks.of_parts(), options.num_classes)
    how = {"decoder": options.decoder, "frames": "all" if frames is None else frames, "timeout_s": options.timeout}
    written = report_files(result, how, by_number=bool(options.label_file))
    replace_files({options.output / name: content for name, content in written.items()})
    print(summary(result))
    print(f"{options.output}: {', '.join(written)}")
    return int(bool(result.findings or result.empty_classes()))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("list", metavar="LIST", type=Path, help="list file or folder")
    parser.add_argument("--output", type=Path, default=Path("output/check_data"), help="folder (default: %(default)s)")
    parser.add_argument("--num-classes", type=int, help="labels must be below it (default: as many as are named)")
    parser.add_argument("--label-file", default="", help="names of the classes, as DATA.LABEL_FILE")
    parser.add_argument("--prefix", default="", help="what relative paths begin at, as DATA.PATH_PREFIX")
    parser.add_argument("--separator", default="", help="between path and label, as DATA.PATH_LABEL_SEPARATOR")
    parser.add_argument("--unlabelled", action="store_true", help="folders in a folder are no classes")
    parser.add_argument("--frames", type=int, default=8, help="decoded of each video (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="decode all frames")
    parser.add_argument("--decoder", default="auto", help=", ".join(DECODERS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for a file (default: %(default)g)")
    return parser


def _kind(source: Path, labelled: bool) -> str:
    return "" if labelled and source.is_file() else " in class folders" if labelled else " without labels"


def _name_others(folder: Path) -> None:
    """Say which files are no part of the check, as their names do not say that they are videos."""
    others = other_files(folder)
    if others:
        endings = Counter(Path(name).suffix for name in others)
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        kinds = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings.most_common(_SHOWN))
        are = "is" if len(others) == 1 else "are"
        print(f"{counted(len(others), 'other file')} {are} passed over ({kinds}): {shown}")


def _work(checks: FileChecks) -> None:
    from tqdm import tqdm

    bad = 0
    with tqdm(total=len(checks.files), unit="video", disable=None, smoothing=0.05) as bar:
        for found in checks:
            bad += found.outcome != "sound"
            bar.set_postfix_str(f"{bad} bad", refresh=False)
            bar.update()


if __name__ == "__main__":
    sys.exit(run(main))
