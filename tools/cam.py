r"""Show which places of an image or a clip speak for a class: Grad-CAM (arXiv 1610.02391) of any backbone.

The checkpoint may have any layout that stvit.load_checkpoint reads, or be a save_pretrained folder. The input is
prepared as stvit.predict does it; of a video, GIF, array or folder of images it is the clip in the middle, whose frames
are as far apart as the network's are.

Example:
    python tools/cam.py --checkpoint output/pets/checkpoints/best.pt --input cat.jpg --output output/cam
    python tools/cam.py --model mvitv2_tiny --checkpoint MViTv2_T_in1k.pyth --input cat.jpg --class "Persian cat" \
        --stage 2 --output output/cam
    python tools/cam.py --model mvitv2_small_16x4 --checkpoint MViTv2_S_16x4_k400.pyth --input clip.mp4 \
        --output output/cam

Writes to --output: cam.npy (height x width, of clips frames x height x width, float32 in [0, 1], 1 the strongest),
overlay.png (input, heat and overlay; of a clip its strongest frame), and of clips strip.png and overlay.gif.
Without --checkpoint the weights are random, and every picture says so. docs/cam.md tells what such maps show.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stvit.backbones.base import Backbone
from stvit.checkpoint import model_from_checkpoint
from stvit.checkpoint.fit import model_title
from stvit.cli import ArgumentParser, run
from stvit.datasets.image_folder import read_image
from stvit.datasets.image_splits import imagenet_names, readable
from stvit.datasets.image_transforms import evaluation_transform, shown
from stvit.engine.classify_clips import middle_clip
from stvit.errors import UserError, nearest
from stvit.hub import from_pretrained, is_pretrained
from stvit.preprocessing import Preprocessing
from stvit.registry import create_model
from stvit.visual.cam import Cam, animate_clip, draw_clip, draw_overlay, grad_cam
from stvit.visual.files import replace_files
from stvit.visual.strips import encode_png

FRESH = "random weights: this is what an untrained network gives, and says nothing about the class"


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, compute the map, write."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--model", help="the network's name, for a checkpoint that does not carry it, or for none")
    parser.add_argument("--checkpoint", help="weights in any known layout, or a save_pretrained folder")
    parser.add_argument("--input", required=True, help="an image; for networks of clips a video, GIF, array or folder")
    parser.add_argument("--class", dest="target", help="number or name (default: the most probable)")
    parser.add_argument("--stage", type=int, default=-1, help="whose map, from 0, or from the end (default: -1)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results; made if missing")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    options = parser.parse_args(argv)
    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output {options.output} is a file; give a folder")
    device = chosen_device(options.device)
    model = built(options.model, options.checkpoint)
    names = class_names(model)
    x = prepared(options.input, model.preprocessing)
    cam = grad_cam(model.to(device), x[None].to(device), class_number(options.target, names), options.stage)
    warning = "" if options.checkpoint else FRESH
    lines = description(cam, names, f"{model.model_name} on {Path(options.input).name}")
    for line in (*lines, warning) if warning else lines:
        print(line)
    write(options.output, {"cam.npy": as_npy(cam), **pictures(cam, x, model.preprocessing, lines, warning)})


def built(name: str | None, checkpoint: str | None) -> Backbone[object]:
    """The network, with the weights of the checkpoint or, without one, random ones that are the same each time."""
    torch.manual_seed(0)
    model: nn.Module
    if name is not None:
        model = create_model(name, checkpoint=checkpoint)
    elif checkpoint is not None:
        model = (from_pretrained if is_pretrained(checkpoint) else model_from_checkpoint)(checkpoint)
    else:
        raise UserError("neither --checkpoint nor --model is given: name a checkpoint, or a model for random weights")
    if not isinstance(model, Backbone):
        raise UserError(
            f"{model_title(model)} classifies nothing: class activation maps are of image and clip networks"
        )
    return model


def chosen_device(word: str | None) -> torch.device:
    """Where to compute."""
    try:
        device = torch.device(word or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {word} cannot be used here: choose cpu, or cuda where there is a GPU") from error
    return device


def class_names(model: Backbone[object]) -> tuple[str, ...]:
    """What the classes are called; "class 17" where the model does not know."""
    names = readable(model.preprocessing.labels or ())
    if not names and model.num_classes == 1000:
        names = imagenet_names()
    return names + tuple(f"class {k}" for k in range(len(names), model.num_classes))


def class_number(word: str | None, names: Sequence[str]) -> int | None:
    """The class that the user names by number, by its whole name, or by a part of it that no other name has."""
    if word is None or word.lstrip("-").isdigit():
        return None if word is None else int(word)
    if word in names:
        return names.index(word)
    found = [k for k, name in enumerate(names) if word.lower() in name.lower()]
    if len(found) != 1:
        several = f" ({', '.join(names[k] for k in found[:3])}, ...)" if found else nearest(word, names)
        raise UserError(f"--class {word!r} is the name of {len(found) or 'no'} classes{several}: give a name or number")
    return found[0]


def prepared(source: str, preprocessing: Preprocessing) -> Tensor:
    """The input as the network takes it, ``(C, H, W)`` or ``(C, T, H, W)``, cropped at the centre and normalised."""
    if preprocessing.frames is None:
        image = read_image(source)
        return evaluation_transform(preprocessing)(image.convert("L") if preprocessing.channels == 1 else image)
    return middle_clip(source, preprocessing)


def description(cam: Cam, names: Sequence[str], what: str) -> list[str]:
    """The class and its probability; then the network, the map and what of the input it stands for."""
    grid = "x".join(map(str, cam.grid))
    lines = [f"{names[cam.target]}: {cam.probability:.1%}", f"{what}, {grid} map of {cam.module}"]
    return lines if cam.heat.any() else [*lines, "no place speaks for this class: the map is zero"]


def pictures(cam: Cam, x: Tensor, preprocessing: Preprocessing, lines: Sequence[str], warning: str) -> dict[str, bytes]:
    """The contents of the picture files, by name."""
    if x.ndim == 3:
        return {"overlay.png": encode_png(draw_overlay(rgb_pixels(x, preprocessing), cam.heat, lines, warning))}
    frames = np.stack([rgb_pixels(frame, preprocessing) for frame in x.unbind(1)])
    strongest = int(cam.heat.max(axis=(1, 2)).argmax())
    titles = [lines[0], f"{lines[1]}, t={strongest + 1} of {len(frames)}", *lines[2:]]
    return {
        "overlay.png": encode_png(draw_overlay(frames[strongest], cam.heat[strongest], titles, warning)),
        "strip.png": encode_png(draw_clip(frames, cam.heat, lines, warning)),
        "overlay.gif": animate_clip(frames, cam.heat, lines, warning),
    }


def rgb_pixels(x: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """What the network saw, as a picture ``(H, W, 3)``."""
    pixels = shown(x, preprocessing)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def as_npy(cam: Cam) -> bytes:
    """The content of cam.npy."""
    buffer = io.BytesIO()
    np.save(buffer, cam.heat)
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the results, and print where they are."""
    try:
        replace_files({folder / name: content for name, content in files.items()})
    except OSError as error:
        raise OSError(
            f"--output {folder} cannot be written ({error.strerror}): free space or give another folder"
        ) from error
    for name in files:
        print(folder / name)


if __name__ == "__main__":
    sys.exit(run(main))
