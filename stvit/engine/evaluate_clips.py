"""Classification of the videos of a test set by several views of each: accuracies, confusions, a line a video."""

from __future__ import annotations

import csv
import functools
import io
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from torch import Tensor, nn

from stvit.datasets.video.bad_videos import BadVideo, BadVideos
from stvit.datasets.video.clip_transforms import shown_clip
from stvit.datasets.video.clips import ViewBatch
from stvit.datasets.video.lists import VideoList
from stvit.engine.distributed import gather_objects
from stvit.engine.evaluate_classes import confusions, per_class, worth_showing
from stvit.engine.outcome import Outcome
from stvit.engine.provenance import TrainingRecord
from stvit.engine.signals import StopRequest
from stvit.metrics.accuracy import ClassMetrics
from stvit.preprocessing import Preprocessing
from stvit.visual.confusion import MOST_CLASSES, confusion_png
from stvit.visual.gallery import Classified, draw_gallery
from stvit.visual.report import results_table
from stvit.visual.strips import encode_png

if TYPE_CHECKING:
    from stvit.engine.tasks.clips import VideoClassification

PROTOCOL = {
    "mean": "of videos: each one's scores are the mean of the softmax of all its views; every view of every video "
    "counts once",
    "single_clips": "of single views, each counted as if it were a video",
    "top1_accuracy": "percent whose highest score is the true class's; of equal scores the first counts",
    "top5_accuracy": "percent whose true class is among the five highest scores",
    "top1_error": "100 - top1_accuracy",
    "top5_error": "100 - top5_accuracy",
    "mean_class_accuracy": "mean over the classes that have videos of each one's top-1 accuracy, percent",
    "undecodable": "a video that cannot be decoded is a mistake of its class (DATA.ON_BAD_VIDEO skip or replace)",
}
# Of all clips, in results.
PREPARED = (
    *("input_size", "crop_fraction", "crop_mode", "interpolation", "mean", "std", "frames", "clip_sampling"),
    *("sampling_rate", "target_fps", "test_views", "offset_sampling", "test_crops"),
)
CHOSEN_ON_TEST = "The best checkpoint was chosen on these same videos: that flatters the model."


@dataclass(frozen=True)
class Measured:
    """What one pass over the test set gives; videos in the order of their list, without those that are bad."""

    videos: ClassMetrics
    clips: ClassMetrics
    numbers: Tensor  # (N,) int64, of the videos in their list
    truth: Tensor  # (N,) int64, logits
    scores: Tensor  # (N, classes) float32, mean over views of the softmax
    bad: tuple[BadVideo, ...]


def evaluate_clips(
    cfg: CfgNode, model: nn.Module, task: VideoClassification, stop: StopRequest, trained: TrainingRecord
) -> Outcome:
    """Measure the model, in evaluation mode, on all views of the test videos; each process its share of the videos.

    Raises:
        UserError: the classes are not the checkpoint's, logits are not finite, a video cannot be decoded (with
            DATA.ON_BAD_VIDEO raise), or too many cannot.
        Stopped: a signal came.
    """
    videos = task.splits.test
    assert videos is not None
    contradictions = task.adopt(trained.preprocessing)
    protocol = in_words(task.preprocessing)
    if task.world.main:
        for note in contradictions:
            print(f"note: {note}", flush=True)
        print(f"evaluating on {len(videos)} videos of {videos.source}: {protocol}", flush=True)
    measured = measure(model, task, videos, stop)
    BadVideos(None, len(videos), cfg.DATA.MAX_BAD_PERCENT).note(measured.bad)
    if not task.world.main:
        return Outcome({}, {}, "")
    names = [task.names[k] if k < len(task.names) else f"class {k}" for k in range(task.num_classes)]
    used = sorted(set(task.logits.tolist())) if task.splits.classes else sorted(set(videos.labels.tolist()))
    flattered = task.splits.validation_is_test and (trained.chosen_on_test or task.training)
    notes = [*task.notes(), *contradictions, *([CHOSEN_ON_TEST] if flattered else []), *bad_notes(measured, videos)]
    values, of_clips = measured.videos.compute(), measured.clips.compute()
    return Outcome(
        results={
            "methods": {cfg.MODEL.NAME: {"mean": values, "single_clips": of_clips}},
            "videos": measured.videos.samples,
            "views": measured.clips.samples,
            "views_of_a_video": views_of_a_video(task.preprocessing),
            "undecodable": {video.name: video.cause for video in measured.bad},
            "per_class": per_class(measured.videos, used, names, "videos"),
            **confusions(measured.videos, names, "videos"),
            "protocol": {"views": protocol, **PROTOCOL},
            "preprocessing": {k: v for k, v in task.preprocessing.to_dict().items() if k in PREPARED},
            "notes": notes,
        },
        files={
            "predictions.csv": predictions_csv(measured, videos, task.logits, names),
            **draw_pictures(cfg.MODEL.NAME, task, videos, measured, used, names),
        },
        text=report(cfg.MODEL.NAME, measured, videos, protocol, values, of_clips),
    )


def views_of_a_video(preprocessing: Preprocessing) -> int:
    """How many clips of each video the network sees in a test."""
    return preprocessing.test_views * preprocessing.test_crops


@torch.no_grad()
def measure(model: nn.Module, task: VideoClassification, videos: VideoList, stop: StopRequest) -> Measured:
    """One pass over the videos in float32; all views of a video are scored by one process."""
    views = views_of_a_video(task.preprocessing)
    of_videos, of_clips = ClassMetrics(task.num_classes), ClassMetrics(task.num_classes)
    counted = np.zeros(len(videos), np.int64)  # views of each video
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    bad: list[BadVideo] = []
    for batch in stop.between(task.test_batches(videos)):
        bad += batch.bad
        missed = task.logits[torch.from_numpy(videos.labels[[video.index for video in batch.bad]])]
        of_videos.miss(missed)
        of_clips.miss(missed.repeat_interleave(views))
        if not len(batch.clips):
            continue
        truth, logits = task.logits[batch.labels], score_views(model, task, batch, counted)
        of_clips.update(logits.flatten(0, 1), truth.repeat_interleave(views))
        scores = logits.softmax(dim=-1).mean(dim=1)
        of_videos.update(scores, truth)
        parts.append((batch.indices, truth, scores))
    shares = gather_objects((of_videos, of_clips, parts, bad, counted), task.world)
    all_bad = sorted((video for share in shares for video in share[3]), key=lambda video: video.index)
    refuse_miscount(np.sum([share[4] for share in shares], axis=0), views, [video.index for video in all_bad])
    empty = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0, task.num_classes)
    everything = zip(empty, *(part for share in shares for part in share[2]), strict=True)
    numbers, truth, scores = (torch.cat(column) for column in everything)
    order = numbers.argsort()
    return Measured(
        functools.reduce(operator.add, (share[0] for share in shares)),
        functools.reduce(operator.add, (share[1] for share in shares)),
        numbers[order],
        truth[order],
        scores[order],
        tuple(all_bad),
    )


def score_views(model: nn.Module, task: VideoClassification, batch: ViewBatch, counted: NDArray[np.int64]) -> Tensor:
    """Logits of all views, float32 ``(n, views, classes)`` on the CPU, in passes of TEST.BATCH_SIZE clips at most.

    Each view that went through the network is added to its video's place in ``counted``.
    """
    n, views = batch.clips.shape[:2]
    owners = batch.indices.repeat_interleave(views)
    logits = []
    for clips, owner in zip(
        batch.clips.flatten(0, 1).split(task.clips_at_once), owners.split(task.clips_at_once), strict=True
    ):
        logits.append(model(task.normalised(clips)).float().cpu())
        np.add.at(counted, owner.numpy(), 1)
    return torch.cat(logits).unflatten(0, (n, views))


def refuse_miscount(counted: NDArray[np.int64], views: int, bad: Sequence[int]) -> None:
    """Raise :class:`AssertionError` unless every view of every video was scored once, and of a bad one none."""
    expected = np.full_like(counted, views)
    expected[list(bad)] = 0
    wrong = np.flatnonzero(counted != expected)
    if len(wrong) or len(set(bad)) != len(bad):
        first = int(wrong[0]) if len(wrong) else bad[0]
        raise AssertionError(f"video {first} was scored by {counted[first]} of its {views} views")


def in_words(preprocessing: Preprocessing) -> str:
    """The test protocol in a line."""
    p = preprocessing
    views, crops = f"{p.test_views} view{'s' * (p.test_views > 1)}", f"{p.test_crops} crop{'s' * (p.test_crops > 1)}"
    if p.clip_sampling == "segments":
        frames = f"{p.frames} frames, one from each of as many equal parts of the video"
    else:
        frames = f"{p.frames} frames spaced by {p.sampling_rate} at {p.target_fps:g} frames/s"
    (H, W), fraction = p.input_size, p.crop_fraction
    resized = (
        f"resized to {int(W / fraction)}x{int(H / fraction)}"
        if p.crop_mode == "squash"
        else f"short side {min(int(H / fraction), int(W / fraction))}"
    )
    where = "its centre" if p.test_crops == 1 else "the longer side's beginning, middle and end"
    return f"{views} x {crops}, {frames}, {resized}, {where} of {W}x{H}, {p.interpolation}; float32"


def bad_notes(measured: Measured, videos: VideoList) -> list[str]:
    """A line about videos that could not be decoded, if there are any."""
    if not measured.bad:
        return []
    return [
        f"{len(measured.bad)} of {len(videos)} videos cannot be decoded and count as mistakes, such as "
        f"{measured.bad[0]}"
    ]


def predictions_csv(measured: Measured, videos: VideoList, logits: Tensor, names: Sequence[str]) -> bytes:
    """A line for each video, in the order of the list; of one that could not be decoded the cause."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("video", "true", "predicted", "probability", "top5", "undecodable"))
    probability, order = measured.scores.topk(min(5, measured.scores.shape[1]))
    places = {number: place for place, number in enumerate(measured.numbers.tolist())}
    causes = {video.index: video.cause for video in measured.bad}
    for index in range(len(videos)):
        true = names[int(logits[int(videos.labels[index])])]
        if index in causes:
            writer.writerow((videos.name(index), true, "", "", "", causes[index]))
            continue
        first = list(zip(order[places[index]].tolist(), probability[places[index]].tolist(), strict=True))
        top5 = "; ".join(f"{names[k]} {score:.4f}" for k, score in first)
        writer.writerow((videos.name(index), true, names[first[0][0]], f"{first[0][1]:.4f}", top5, ""))
    return table.getvalue().encode("utf-8", errors="surrogateescape")


def draw_pictures(
    model: str,
    task: VideoClassification,
    videos: VideoList,
    measured: Measured,
    used: Sequence[int],
    names: Sequence[str],
) -> dict[str, bytes]:
    """``examples.png`` and, of few classes, ``confusion.png``; none of a set of which nothing could be decoded."""
    if not len(measured.numbers):
        return {}
    pictures = {"examples.png": encode_png(draw_gallery(pick_examples(task, videos, measured, names)))}
    if task.num_classes <= MOST_CLASSES:
        title = f"{model}: {len(measured.numbers)} videos of {videos.source.name}"
        counts = measured.videos.confusion[list(used)].numpy()
        pictures["confusion.png"] = confusion_png(counts, [names[k] for k in used], names, title)
    return pictures


def pick_examples(
    task: VideoClassification, videos: VideoList, measured: Measured, names: Sequence[str]
) -> dict[str, list[Classified]]:
    """The mistakes the network is surest of, and videos spread evenly over the whole list; each by four frames."""
    middle = task.views_of(videos, replace(task.preprocessing, test_views=1, test_crops=1, offset_sampling=True))
    probability, predicted = measured.scores.max(dim=1)

    def tile(place: int) -> list[Classified]:
        batch = middle[int(measured.numbers[place])]
        if not isinstance(batch, ViewBatch) or not len(batch.clips):
            return []  # it could be decoded a while ago
        return [
            Classified(
                pixels=four_frames(shown_clip(batch.clips[0, 0])),
                truth=names[int(measured.truth[place])],
                predicted=names[int(predicted[place])],
                probability=float(probability[place]),
                name=videos.path(int(measured.numbers[place])).name,
            )
        ]

    chosen = worth_showing(measured.truth, predicted, probability, "videos")
    return {title: [image for place in places for image in tile(place)] for title, places in chosen.items()}


def four_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames ``(T, H, W, 3)`` spread over a clip from its first to its last, as one picture of two rows."""
    shown = frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]
    gap = max(1, frames.shape[1] // 100)
    padded = np.pad(shown, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    return rearrange(padded, "(row column) h w c -> (row h) (column w) c", row=2)[:-gap, :-gap]


def report(
    model: str,
    measured: Measured,
    videos: VideoList,
    protocol: str,
    values: dict[str, float],
    of_clips: dict[str, float],
) -> str:
    """What the screen shows at the end."""
    top5 = ("top5_accuracy",) if measured.videos.classes > 5 else ()  # of five classes all are among the first five
    rows = {f"{model}, videos": values, f"{model}, single clips": of_clips}
    lines = [
        f"test set: {measured.videos.samples} videos of {videos.source}, {protocol}",
        results_table(rows, ("top1_accuracy", *top5, "mean_class_accuracy")),
        *bad_notes(measured, videos),
    ]
    return "\n".join(lines)
