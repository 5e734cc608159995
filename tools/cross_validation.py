r"""How good is a recipe on a small set of videos? Cross-validation by groups, such as patients, that no fold splits.

A list with a header names for each video its file, its class and its group. For every fold, the engine of
tools/main.py trains on the other folds' videos and is tested on the fold's, so that each video is tested once, by a
network that never saw its group; the predictions of all folds are pooled. One tenth of each fold's training videos,
by groups too, validates. With --image-cfg, an image network is first trained on frames of the fold's training videos;
the network of clips begins with its weights, and what it says of the test videos' frames is reported beside it.

Example:
    python tools/cross_validation.py --list clips/clips.csv --file-column file --label-column label \
        --group-column patient --leave-out viral_pneumonia --image-cfg configs/finetune/lung_ultrasound_image.yaml \
        --cfg configs/finetune/lung_ultrasound.yaml --output output/lung_ultrasound --seed 0

Paths are relative to the list's folder. Writes to --output: a folder for each fold, predictions.csv (a line for each
video), results.json and confusion.png. KEY VALUE changes settings of --cfg. What is there already is not done again.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stvit import cli
from stvit.checkpoint import model_from_checkpoint
from stvit.config import load_config
from stvit.datasets.image_transforms import evaluation_transform
from stvit.datasets.video.reading import open_video
from stvit.engine.run import run
from stvit.engine.signals import Stopped
from stvit.errors import UserError, nearest
from stvit.metrics.accuracy import ClassMetrics
from stvit.model import Model
from stvit.visual.confusion import confusion_png
from stvit.visual.files import replace_files
from stvit.visual.report import results_table

FRAMES = 8  # of each video, spread evenly over it, for the image network
VALIDATION = 10  # of so many parts of the training videos one validates
CLIPS, MIDDLE, MEAN, MAJORITY = "clips", "middle frame", f"mean of {FRAMES} frames", "most frequent class"


class Video(NamedTuple):
    """A line of the list."""

    file: Path
    label: int
    group: str


class Fold(NamedTuple):
    """Numbers of videos; no two parts share a group."""

    train: list[int]
    val: list[int]
    test: list[int]


def main(argv: Sequence[str] | None = None) -> None:
    """Train and test every fold, and pool."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--list", required=True, type=Path, help="CSV file with a header, a line for each video")
    parser.add_argument("--file-column", default="file", help="heading of the paths (default: file)")
    parser.add_argument("--label-column", default="label", help="heading of the classes (default: label)")
    parser.add_argument("--group-column", required=True, help="heading of the groups")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="CLASS", help="classes that do not take part")
    parser.add_argument("--cfg", required=True, help="settings of the network of clips")
    parser.add_argument("--image-cfg", help="settings of the image network that it begins with")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of folds and networks (default: 0)")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results; made if missing")
    parser.add_argument("settings", metavar="KEY VALUE", nargs="*", help="settings that differ from --cfg's")
    options = parser.parse_args(argv)
    columns = (options.file_column, options.label_column, options.group_column)
    videos, names = read_list(options.list, columns, options.leave_out)
    begun = time.monotonic()
    scores: dict[str, dict[int, int]] = {}  # method -> number of the video -> label
    rows: list[tuple[int, int]] = []  # fold, number of the video
    for number, fold in enumerate(grouped_folds(videos, options.folds, options.seed), 1):
        folder = options.output / f"fold{number}"
        print(f"== fold {number} of {options.folds}: {len(fold.train)} videos train, {len(fold.test)} test", flush=True)
        write_lists(folder / "lists", videos, fold, names)
        common = ["RNG_SEED", str(options.seed), "MODEL.NUM_CLASSES", str(len(names))]
        found = {MAJORITY: [Counter(videos[k].label for k in fold.train).most_common(1)[0][0]] * len(fold.test)}
        words = [*common, *options.settings]
        if options.image_cfg is not None:
            weights = image_network(folder, videos, fold, names, options.image_cfg, common)
            found |= frame_predictions(weights, [videos[k].file for k in fold.test])
            words = ["MODEL.INIT", str(weights), *words]
        found[CLIPS] = clip_predictions(folder, names, options.cfg, words)
        for method, of_videos in found.items():
            scores.setdefault(method, {}).update(zip(fold.test, of_videos, strict=True))
        rows += [(number, index) for index in fold.test]
    write_results(options.output, videos, names, scores, rows, time.monotonic() - begun)


def read_list(
    path: Path, columns: tuple[str, str, str], left_out: Sequence[str] = ()
) -> tuple[list[Video], tuple[str, ...]]:
    """The videos of a list, and the names of their classes in the order of the labels, sorted.

    Raises:
        UserError: no such list, column or class, or fewer than two classes.
    """
    if not path.is_file():
        raise UserError(f"--list {path}: there is no such file")
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        for column in columns:
            if column not in (table.fieldnames or ()):
                raise UserError(f"{path} has no column {column!r}{nearest(column, table.fieldnames or ())}")
        lines = [tuple(line[column] or "" for column in columns) for line in table]
    known = {label for _, label, _ in lines}
    for name in left_out:
        if name not in known:
            raise UserError(f"--leave-out {name}: {path} has no such class{nearest(name, known)}")
    names = tuple(sorted(known - set(left_out)))
    if len(names) < 2:
        raise UserError(f"{path} leaves {len(names)} classes: there must be two or more to tell apart")
    return [Video(path.parent / f, names.index(c), g) for f, c, g in lines if c in names], names


def grouped_folds(videos: Sequence[Video], count: int, seed: int) -> list[Fold]:
    """Folds with about the same classes in each, of whole groups (scikit-learn's StratifiedGroupKFold).

    Raises:
        UserError: fewer than two folds, or fewer groups of some class than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # heavy, and needed here only

    labels, groups = np.array([v.label for v in videos]), np.array([v.group for v in videos])
    fewest = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
    if not 2 <= count <= fewest:
        raise UserError(f"--folds {count}: give 2 or more, and no more than the {fewest} groups of the rarest class")
    folds = []
    for rest, test in StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups):
        parts = min(VALIDATION, len(set(groups[rest])))
        inner = StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(rest, labels[rest], groups[rest])
        train, val = next(iter(inner))
        folds.append(Fold(rest[train].tolist(), rest[val].tolist(), test.tolist()))
    return folds


def write_lists(folder: Path, videos: Sequence[Video], fold: Fold, names: Sequence[str]) -> None:
    """``train.csv``, ``val.csv`` and ``test.csv`` with full paths, and ``labels.txt``."""
    files = {"labels.txt": "".join(f"{name}\n" for name in names)}
    for part in ("train", "val", "test"):
        table = io.StringIO()
        lines = csv.writer(table, lineterminator="\n")
        lines.writerows((videos[k].file.resolve(), videos[k].label) for k in getattr(fold, part))
        files[f"{part}.csv"] = table.getvalue()
    replace_files({folder / name: content.encode() for name, content in files.items()})


def run_engine(cfg: CfgNode) -> None:
    """Train and test; a signal ends the tool as it ends ``tools/main.py``, and the same command goes on."""
    try:
        run(cfg)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)


# ---- A fold -------------------------------------------------------------------------------------------------------


def clip_predictions(folder: Path, names: Sequence[str], file: str, words: Sequence[str]) -> list[int]:
    """Train and test a network of clips on the lists of a fold: labels in the order of its test videos."""
    lists = folder / "lists"
    places = ["DATA.PATH_TO_DATA_DIR", str(lists), "DATA.LABEL_FILE", str(lists / "labels.txt")]
    run_engine(load_config(file, [*places, "OUTPUT_DIR", str(folder / "clips"), *words]))
    with open(folder / "clips" / "predictions.csv", newline="", encoding="utf-8") as lines:
        return [names.index(line["predicted"]) for line in csv.DictReader(lines)]


def image_network(
    folder: Path, videos: Sequence[Video], fold: Fold, names: Sequence[str], file: str, words: Sequence[str]
) -> Path:
    """Train an image network on frames of a fold's training videos; its checkpoint."""
    write_frames(folder / "images", videos, fold, names)
    places = ["DATA.PATH_TO_DATA_DIR", str(folder / "images"), "OUTPUT_DIR", str(folder / "image")]
    run_engine(load_config(file, [*places, *words, "TEST.ENABLE", "False"]))
    return folder / "image" / "checkpoints" / "best.pt"


def spread_frames(file: Path) -> NDArray[np.uint8]:
    """The middle frame of a video, then :data:`FRAMES` of equal parts of it, ``(1 + FRAMES, H, W, 3)``."""
    with open_video(file) as video:
        count = len(video.times)
        return video.read([count // 2, *((2 * k + 1) * count // (2 * FRAMES) for k in range(FRAMES))])


def write_frames(folder: Path, videos: Sequence[Video], fold: Fold, names: Sequence[str]) -> None:
    """Frames of the training and validation videos, in a folder of their class each."""
    for part in ("train", "val"):
        for name in names:  # a rare class may be missing from validation
            (folder / part / name).mkdir(parents=True, exist_ok=True)
        # Of a stopped run with other folds, whose training videos may be tested now.
        own = {frame_file(folder, part, names, videos[k], k, t) for k in getattr(fold, part) for t in range(FRAMES)}
        for other in set((folder / part).glob("*/*.png")) - own:
            other.unlink()
        for index in getattr(fold, part):
            if not (last := frame_file(folder, part, names, videos[index], index, FRAMES - 1)).exists():
                for t, frame in enumerate(spread_frames(videos[index].file)[1:]):
                    Image.fromarray(frame).save(frame_file(folder, part, names, videos[index], index, t))
                assert last.exists()


def frame_file(folder: Path, part: str, names: Sequence[str], video: Video, index: int, t: int) -> Path:
    """Where a frame is."""
    return folder / part / names[video.label] / f"{index:05}_{t}.png"


@torch.no_grad()
def frame_predictions(checkpoint: Path, files: Sequence[Path]) -> dict[str, list[int]]:
    """What an image network says of videos by their middle frame, and by its mean softmax over several frames."""
    model = model_from_checkpoint(checkpoint).eval()
    assert isinstance(model, Model)
    prepare = evaluation_transform(model.preprocessing)
    found: dict[str, list[int]] = {MIDDLE: [], MEAN: []}
    for file in files:
        x = torch.stack([prepare(Image.fromarray(frame)) for frame in spread_frames(file)])
        scores = model(x).float().softmax(dim=1)
        found[MIDDLE].append(int(scores[0].argmax()))
        found[MEAN].append(int(scores[1:].mean(dim=0).argmax()))
    return found


# ---- All folds ----------------------------------------------------------------------------------------------------


def write_results(
    folder: Path,
    videos: Sequence[Video],
    names: tuple[str, ...],
    found: dict[str, dict[int, int]],
    rows: Sequence[tuple[int, int]],
    seconds: float,
) -> None:
    """Pool the folds: accuracies of each method, the confusion matrix of the clips, and a line for each video."""
    truth = torch.tensor([video.label for video in videos])
    metrics = {method: pooled(labels, truth, len(names)) for method, labels in found.items()}
    values = {method: counted.compute() for method, counted in metrics.items()}
    counts = {method: counted.confusion.tolist() for method, counted in metrics.items()}
    results = {"videos": len(videos), "classes": names, "methods": values, "rows_are_true": counts, "seconds": seconds}
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(("fold", "video", "group", "true", *found))
    for fold, k in rows:
        said = (names[labels[k]] for labels in found.values())
        lines.writerow((fold, videos[k].file.name, videos[k].group, names[videos[k].label], *said))
    title = f"{len(videos)} videos, each tested by the fold that never saw its group"
    replace_files(
        {
            folder / "results.json": json.dumps(results, indent=1).encode(),
            folder / "predictions.csv": table.getvalue().encode(),
            folder / "confusion.png": confusion_png(metrics[CLIPS].confusion.numpy(), names, names, title),
        }
    )
    print(results_table(values, ("top1_accuracy", "mean_class_accuracy")))
    print(f"{seconds:.0f} s; {folder / 'confusion.png'}")


def pooled(labels: dict[int, int], truth: Tensor, classes: int) -> ClassMetrics:
    """The metrics of predicted labels, by number of video."""
    metrics = ClassMetrics(classes)
    numbers = torch.tensor(list(labels))
    scores = torch.nn.functional.one_hot(torch.tensor(list(labels.values())), classes).float()
    metrics.update(scores, truth[numbers])
    return metrics


if __name__ == "__main__":
    sys.exit(cli.run(main))
