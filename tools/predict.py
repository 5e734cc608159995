r"""Classify an image, a video or a folder of videos, or predict the frames that follow those of a video.

The checkpoint decides which. A classifier's most probable classes are printed; those of a video for the whole and over
time.

Example:
    python tools/predict.py cat.jpg --checkpoint output/pets/checkpoints/best.pt --top-k 3
    python tools/predict.py cat.jpg --checkpoint my_model     (a folder of save_pretrained)
    python tools/predict.py cat.jpg --checkpoint MViTv2_T_in1k.pyth --model mvitv2_tiny
    python tools/predict.py clip.mp4 --checkpoint output/sports/checkpoints/best.pt --output output/predicted
    python tools/predict.py clip.mp4 --checkpoint MViTv2_S_16x4_k400.pyth --model mvitv2_small_16x4
    python tools/predict.py my_videos --checkpoint output/sports/checkpoints/best.pt --output output/predicted

A folder with images in it, and no videos, is one video. Of any other folder all videos in it and below are classified;
those that cannot be read are named, and the exit status is then 1.

A predictor's input is the last frames of the source, as many as it takes. With --start it begins at that frame (from
0), and the frames after it are shown beside the prediction as the truth. Frames of another size are resized until they
cover the network's, and what stands out is cut off. --checkpoint builtin is a small predictor that stvit ships: white
digits on black, 10 frames of 64x64 pixels, then the next 10. (A file of your own called so is ./builtin.)

Example:
    python tools/predict.py docs/bouncing_digit.gif --checkpoint builtin --output output/predicted
    python tools/predict.py docs/bouncing_digit.gif --checkpoint output/demo/checkpoints/best.pt \
        --start 0 --output output/predicted

Writes to --output: of an image prediction.json; of a video prediction.json and scores.png; of a folder of videos
predictions.csv; of frames prediction.npy (frames x channels x height x width, float32 in [0, 1]), prediction.gif and
strip.png. Nothing is written, and earlier files stay, unless all of it is done.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stvit.cli import ArgumentParser, run
from stvit.engine.class_prediction import ClassPrediction
from stvit.engine.classify_clips import ClipPrediction, ClipWindow
from stvit.engine.classify_folder import as_csv, classify_folder
from stvit.engine.clip_sources import is_frame_folder, open_clip
from stvit.engine.inference import described_input
from stvit.engine.predict import load_model, predict
from stvit.engine.predict_frames import FramePrediction
from stvit.errors import UserError
from stvit.registry import create_model
from stvit.visual.files import replace_files
from stvit.visual.scores import scores_png
from stvit.visual.strips import Example, animation, draw_strip, encode_png

SHOWN_FRAMES, SHOWN_CLASSES = 8, 5  # in scores.png


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, predict, write."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "source", nargs="?", help="an image; a video, GIF, array or folder of images; or a folder of videos"
    )
    parser.add_argument("--input", help="the same, by name")
    parser.add_argument("--checkpoint", help="weights in any known layout, a save_pretrained folder, or builtin")
    parser.add_argument("--model", help="the network's name, for a checkpoint that does not carry it (published ones)")
    parser.add_argument(
        "--output", type=Path, help="folder for the results; made if missing. Needed for frames and folders of videos"
    )
    parser.add_argument("--top-k", type=int, help="classifiers: how many classes to name (default: 5)")
    parser.add_argument("--out-frames", type=int, help="frames: how many (default: what the model was made for)")
    parser.add_argument("--start", type=int, help="frames: first of the input, from 0 (default: use the last frames)")
    parser.add_argument("--sequence", type=int, help="which sequence of an array that holds several, from 0")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    options = parser.parse_args(argv)
    if (options.source is None) == (options.input is None):
        raise UserError("give what to predict from once, as in: python tools/predict.py clip.mp4 --checkpoint best.pt")
    source = options.source or options.input
    if not options.checkpoint:
        raise UserError(
            "--checkpoint is missing: name weights; to try it on frames, --checkpoint builtin needs no file"
        )
    if options.output:
        check_output(options.output)
    model = load_model(
        create_model(options.model, checkpoint=options.checkpoint) if options.model else options.checkpoint,
        options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    frames_only = {"out_frames": options.out_frames, "start": options.start, "sequence": options.sequence}
    if classifies_clips(model) and Path(source).is_dir() and not is_frame_folder(Path(source)):
        for name, value in frames_only.items():
            if value is not None:
                raise UserError(f"--{name.replace('_', '-')} {value} is not for a folder of videos: leave it out")
        predict_folder(Path(source), model, 5 if options.top_k is None else options.top_k, options.output)
        return
    result = predict(source, model, top_k=options.top_k, **frames_only)
    if isinstance(result, FramePrediction):
        if not options.output:
            raise UserError("--output is missing: predicted frames are files, give a folder for them")
        write(options.output, rendered(result, title(result, Path(source).name, options.start)))
        return
    print(table(result))
    if options.output:
        files = {"prediction.json": as_json(result, source)}
        if isinstance(result, ClipPrediction):
            files["scores.png"] = drawn(result, source, model, options.sequence)
        write(options.output, files)


def classifies_clips(model: nn.Module) -> bool:
    """Whether a network takes videos and names classes."""
    described = described_input(model)
    return described.task == "classification" and described.frames is not None


def predict_folder(folder: Path, model: nn.Module, top_k: int, output: Path | None) -> None:
    """Classify all videos of a folder, a printed line each, and write predictions.csv.

    Raises:
        OSError: some could not be read; the table is written all the same.
    """
    if output is None:
        raise UserError(f"--output is missing: what the videos in {folder} show is a table, give a folder for it")
    rows = []
    for row in classify_folder(folder, model, top_k=top_k):
        found = row.prediction
        print(f"{row.name}: {f'{found.probabilities[0]:.2%} {found.labels[0]}' if found else row.error}", flush=True)
        rows.append(row)
    write(output, {"predictions.csv": as_csv(rows, top_k)})
    bad = sum(row.prediction is None for row in rows)
    if bad:
        raise OSError(f"{bad} of {len(rows)} videos could not be classified; {output}/predictions.csv says why")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the results, and print where they are."""
    try:
        replace_files({folder / name: content for name, content in files.items()})
    except OSError as error:
        raise unwritable(folder, error) from error
    for name in files:
        print(folder / name)


def table(result: ClassPrediction) -> str:
    """The classes, a line each, the most probable first; of a video then its windows, a line each."""
    lines = [f"{p:7.2%}  {label}" for label, p in zip(result.labels, result.probabilities, strict=True)]
    if isinstance(result, ClipPrediction):
        digits = 1 if result.duration >= 1 else 2
        head = f"the whole video, {result.duration:.{digits}f} s (mean of {counted(result.clips, 'clip')}):"
        width = len(f"{result.duration:.{digits}f}")
        windows = (window_line(window, f"{width}.{digits}f") for window in result.windows)
        lines = [head, *lines, "over time:", *windows]
    return "\n".join(lines)


def window_line(window: ClipWindow, seconds: str) -> str:
    """When, its seconds written in a format, and the three most probable classes."""
    best = list(zip(window.labels, window.probabilities, strict=True))[:3]
    classes = ", ".join(f"{p:.2%} {label}" for label, p in best)
    return f"  {window.start:{seconds}} - {window.end:{seconds}} s  {classes}"


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def drawn(result: ClipPrediction, source: str, model: nn.Module, sequence: int | None) -> bytes:
    """The content of scores.png: the probabilities of the video's classes over time, under some frames."""
    with open_clip(source, described_input(model), sequence) as clip:
        times = clip.video.times
        moments = (np.arange(SHOWN_FRAMES) + 0.5) / SHOWN_FRAMES * result.duration
        places = (np.searchsorted(times, moments, side="right") - 1).clip(0)
        frames = np.concatenate([reduced(clip.video.read([place])) for place in places.tolist()])
    spans = [(window.start, window.end) for window in result.windows]
    scores = np.array([window.of_video for window in result.windows]).T[:SHOWN_CLASSES]
    names = [f"{label} (whole video: {p:.1%})" for label, p in zip(result.labels, result.probabilities, strict=True)]
    heading = f"{result.model_name} on {Path(source).name}"
    return scores_png(frames, result.duration, spans, scores, names[:SHOWN_CLASSES], heading)


def reduced(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every n-th pixel of frames that are much larger than they are shown."""
    step = max(1, min(frames.shape[1:3]) // 240)
    return frames[:, ::step, ::step]


def as_json(result: ClassPrediction, source: str) -> bytes:
    """The content of prediction.json."""
    return (json.dumps({"input": source, **dataclasses.asdict(result)}, indent=2) + "\n").encode()


def check_output(folder: Path) -> None:
    """Find out before the work whether its results can be written; makes no folder yet.

    Raises:
        UserError: a file stands where a folder is needed.
        OSError: the system allows no file there.
    """
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir():
            place = "" if existing == folder else f" lies below {existing}, which"
            raise UserError(f"--output {folder}{place} is a file; give a folder")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> OSError:
    """What to say when the results cannot be written."""
    return OSError(f"--output {folder} cannot be written ({error.strerror}): free space or give another folder")


def title(result: FramePrediction, source: str, start: int | None) -> str:
    """What was predicted from what, and how far it is from the truth where that is known.

    The error is that of the pictures, clipped to [0, 1]; ``stvit.metrics`` measures MSE without clipping.
    """
    text = f"{result.model_name} from {source}, {'its last frames' if start is None else f'frame {start} on'}"
    if result.truth is None:
        return text
    error = (result.predicted[: len(result.truth)].astype(np.float64) - result.truth) ** 2
    return f"{text}, MSE (clipped) {error.sum() / len(error):.1f}"


def rendered(result: FramePrediction, text: str) -> dict[str, bytes]:
    """The contents of the files, by name."""
    buffer = io.BytesIO()
    np.save(buffer, result.predicted)
    example = Example(text, result.past, result.predicted, result.truth)
    return {
        "prediction.npy": buffer.getvalue(),
        "prediction.gif": animation(example),
        "strip.png": encode_png(draw_strip([example])),
    }


if __name__ == "__main__":
    sys.exit(run(main))
