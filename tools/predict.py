r"""Classify an image or a clip, or predict the frames that follow those of an array, image folder, GIF or video.

The checkpoint decides which. A classifier's most probable classes are printed.

Example:
    python tools/predict.py --checkpoint output/pets/checkpoints/best.pt --input cat.jpg --top-k 3
    python tools/predict.py --checkpoint my_model --input cat.jpg     (a folder of save_pretrained)
    python tools/predict.py --checkpoint MViTv2_T_in1k.pyth --model mvitv2_tiny --input cat.jpg

A predictor's input is the last frames of the source, as many as it takes. With --start it begins at that frame (from
0), and the frames after it are shown beside the prediction as the truth.

Example:
    python tools/predict.py --checkpoint output/demo/checkpoints/best.pt \
        --input docs/bouncing_digit.gif --start 0 --output output/predicted

Writes to --output, of an image prediction.json; of frames prediction.npy (frames x channels x height x width, float32
in [0, 1]), prediction.gif and strip.png. Nothing is written, and earlier files stay, unless all of it is done.
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

from stvit.cli import ArgumentParser, run
from stvit.engine.class_prediction import ClassPrediction
from stvit.engine.predict import predict
from stvit.engine.predict_frames import FramePrediction
from stvit.errors import UserError
from stvit.registry import create_model
from stvit.visual.files import replace_files
from stvit.visual.strips import Example, animation, draw_strip, encode_png


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, predict, write."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="weights in any known layout, or a save_pretrained folder")
    parser.add_argument("--model", help="the network's name, for a checkpoint that does not carry it (published ones)")
    parser.add_argument(
        "--input", required=True, help="an image; for clips and frames an array, folder of images, GIF or video"
    )
    parser.add_argument("--output", type=Path, help="folder for the results; made if missing. Needed for frames")
    parser.add_argument("--top-k", type=int, help="images: how many classes to name (default: 5)")
    parser.add_argument("--out-frames", type=int, help="frames: how many (default: what the model was made for)")
    parser.add_argument("--start", type=int, help="frames: first of the input, from 0 (default: use the last frames)")
    parser.add_argument("--sequence", type=int, help="frames: which sequence of an array that holds several, from 0")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    options = parser.parse_args(argv)
    if options.output:
        check_output(options.output)
    result = predict(
        options.input,
        create_model(options.model, checkpoint=options.checkpoint) if options.model else options.checkpoint,
        out_frames=options.out_frames,
        start=options.start,
        sequence=options.sequence,
        top_k=options.top_k,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    if isinstance(result, ClassPrediction):
        print(table(result))
        files = {"prediction.json": as_json(result, options.input)} if options.output else {}
    elif options.output:
        files = rendered(result, title(result, Path(options.input).name, options.start))
    else:
        raise UserError("--output is missing: predicted frames are files, give a folder for them")
    write(options.output, files)


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the results, and print where they are."""
    try:
        replace_files({folder / name: content for name, content in files.items()})
    except OSError as error:
        raise unwritable(folder, error) from error
    for name in files:
        print(folder / name)


def table(result: ClassPrediction) -> str:
    """The classes, a line each, the most probable first."""
    return "\n".join(f"{p:7.2%}  {label}" for label, p in zip(result.labels, result.probabilities, strict=True))


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
