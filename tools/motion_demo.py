r"""From nothing to a tested video model: which way does the digit move? The whole path on files made on the spot.

Writes 2,160 real .mp4 files of moving digits whose class is the motion, trains an image network on single frames of
them for some seconds, inflates it and trains the network of clips, all by the engine of tools/main.py, and tests it
with five views of each of 400 videos of digits that it never saw. Two more networks begin with the same weights and are
trained and tested likewise, but the one sees a single frame of each clip, repeated, and the other its frames in random
order. The classes are four pairs of motions that are each other's reverse in time, so that the first should be right in
one of eight videos, and the second find the pair, but within it be right in every other video.

Example:
    python tools/motion_demo.py --output output/demo_video

Writes a folder for the data and for each network (results.json, confusion.png, predictions.csv, examples.png), and
results.json and page.png for all of them. What is there already is not done again; what was stopped goes on.
KEY VALUE changes settings of configs/kinetics/demo.yaml.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # so small a network is a quarter faster in one thread than in two

import numpy as np
import torch
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stvit.backbones.base import Backbone
from stvit.checkpoint import model_from_checkpoint
from stvit.cli import ArgumentParser, run
from stvit.config import load_config
from stvit.config.derived import clip_sampling
from stvit.datasets.video.clip_transforms import normalised_clips, shown_clip
from stvit.datasets.video.clips import EvaluationViews
from stvit.datasets.video.lists import read_video_list
from stvit.datasets.video.moving_digits import MOTIONS, Counts, write_data_set
from stvit.engine.distributed import ALONE, seed_everything
from stvit.engine.evaluate import evaluate
from stvit.engine.run import build_model
from stvit.engine.signals import Stopped, stop_on_signals
from stvit.engine.tasks import build_task
from stvit.engine.train import train
from stvit.errors import UserError
from stvit.visual.cam import grad_cam
from stvit.visual.clip_rows import ClassifiedClip, beside, draw_clip_rows, stacked
from stvit.visual.confusion import confusion_png
from stvit.visual.files import replace_files
from stvit.visual.strips import encode_png

CONFIGS = Path(__file__).parents[1] / "configs" / "kinetics"
See = Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]


def main(argv: Sequence[str] | None = None) -> None:
    """Do what is not there yet, and print and draw what came of it."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder for data and results; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="of data and networks (default: 0)")
    parser.add_argument("--videos", type=int, nargs=3, metavar="N", help="to train, validate and test with")
    parser.add_argument("settings", metavar="KEY VALUE", nargs="*", help="settings that differ from the configuration")
    options = parser.parse_args(argv)
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file; give a folder")
    begun = time.monotonic()
    seconds = {}
    for name, step in steps(options.output, options.seed, Counts(*(options.videos or ())), options.settings).items():
        print(f"== {name}", flush=True)
        start = time.monotonic()
        step()
        seconds[name] = time.monotonic() - start
    summary = {arm: measured(options.output / arm) for arm in ARMS}
    page = draw_page(options.output, settings(options.output, "clips", options.seed, options.settings), summary)
    seconds["altogether"] = time.monotonic() - begun
    report = {"networks": summary, "seconds": seconds, "seed": options.seed}
    replace_files(
        {
            options.output / "results.json": json.dumps(report, indent=1).encode(),
            options.output / "page.png": encode_png(page),
        }
    )
    print(table(summary))
    print(f"{seconds['altogether']:.0f} s; {options.output / 'page.png'}")


def steps(folder: Path, seed: int, counts: Counts, words: Sequence[str]) -> dict[str, Callable[[], None]]:
    """What there is to do, in order; each part does nothing where it has been done."""
    image = load_config(
        str(CONFIGS / "demo_image.yaml"),
        [
            *("DATA.PATH_TO_DATA_DIR", str(folder / "data" / "images")),
            *("OUTPUT_DIR", str(folder / "image"), "RNG_SEED", str(seed)),
        ],
    )
    arms = {title: (settings(folder, arm, seed, words), see) for arm, (title, see) in ARMS.items()}
    return {
        "videos of moving digits": lambda: write_data_set(folder / "data", counts, seed),
        "an image network learns the digits": lambda: learn(image, None),
        **{title: lambda cfg=cfg, see=see: learn(cfg, see) for title, (cfg, see) in arms.items()},  # type: ignore[misc]
    }


def settings(folder: Path, arm: str, seed: int, words: Sequence[str]) -> CfgNode:
    """The configuration of a network of clips."""
    places = {
        "DATA.PATH_TO_DATA_DIR": folder / "data",
        "DATA.LABEL_FILE": folder / "data" / "labels.txt",
        "MODEL.INIT": folder / "image" / "checkpoints" / "best.pt",
        "OUTPUT_DIR": folder / arm,
    }
    words = [*(str(word) for item in places.items() for word in item), "RNG_SEED", str(seed), *words]
    # The weights to begin with may not be there yet: they are looked for when the model is built.
    return load_config(str(CONFIGS / "demo.yaml"), words)


# ---- Training -----------------------------------------------------------------------------------------------------


def one_frame(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Clips ``(B, C, T, H, W)`` of which each shows one of its frames throughout."""
    (clips,) = inputs
    B, _, T, _, _ = clips.shape
    return (in_order(clips, random(module, B)[:, None].mul(T).long().expand(B, T)),)


def shuffled(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """The same clips with their frames in random order, each in its own."""
    (clips,) = inputs
    B, _, T, _, _ = clips.shape
    return (in_order(clips, random(module, B * T).view(B, T).argsort(dim=1)),)


def random(module: nn.Module, count: int) -> Tensor:
    """Numbers in [0, 1): in evaluation the same ones each time, so that validation takes none from training."""
    return torch.rand(count, generator=None if module.training else torch.Generator().manual_seed(count))


def in_order(clips: Tensor, frames: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` with the frames that ``(B, T)`` numbers."""
    return clips.take_along_dim(frames[:, None, :, None, None].to(clips.device), dim=2)


ARMS: dict[str, tuple[str, See | None]] = {
    "clips": ("a network of clips learns the motions", None),
    "one_frame": ("the same one, shown one frame of each clip", one_frame),
    "shuffled": ("the same one, shown the frames of each clip in random order", shuffled),
}


def learn(cfg: CfgNode, see: See | None) -> None:
    """Train and test as :func:`stvit.engine.run.run` does; ``see`` changes what the network is shown."""
    seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
    model = build_model(cfg, ALONE)
    if see is not None:
        model.register_forward_pre_hook(see)
    task = build_task(cfg, ALONE)
    task.attach(model)
    try:
        with stop_on_signals() as stop:
            trained = train(cfg, model, task, ALONE, stop)
            if cfg.TEST.ENABLE:
                evaluate(cfg, model, task, stop, trained.seconds)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)


# ---- Results ------------------------------------------------------------------------------------------------------


def measured(folder: Path) -> dict[str, float]:
    """Percent of a network's test videos whose class is found, whose pair is, and of those whose direction is."""
    counts = confusion(folder)
    pairs = counts.reshape(len(MOTIONS) // 2, 2, len(MOTIONS) // 2, 2).trace(axis1=0, axis2=2)  # (2, 2): of right pairs
    return {
        "class": 100 * np.trace(counts) / counts.sum(),
        "pair": 100 * pairs.sum() / counts.sum(),
        "direction": 100 * np.trace(pairs) / max(pairs.sum(), 1),
        "videos": int(counts.sum()),
    }


def confusion(folder: Path) -> NDArray[np.int64]:
    """How many videos of each class were taken for which, ``(8, 8)``."""
    return np.array(json.loads((folder / "results.json").read_text())["confusion"]["rows_are_true"])


def table(summary: dict[str, dict[str, float]]) -> str:
    """The three networks, a line each."""
    lines = [f"{'percent of test videos':<24}  class  pair  direction within the right pair"]
    lines += [
        f"{arm:<24}  {row['class']:5.1f} {row['pair']:5.1f}  {row['direction']:5.1f}" for arm, row in summary.items()
    ]
    return "\n".join([*lines, f"{'chance':<24}  {100 / len(MOTIONS):5.1f}  25.0   50.0"])


def draw_page(folder: Path, cfg: CfgNode, summary: dict[str, dict[str, float]]) -> Image.Image:
    """A clip of each class with its class activation map, the surest mistakes, and three confusion matrices."""
    lines = list(csv.DictReader((folder / "clips" / "predictions.csv").read_text().splitlines()))
    wrong = [k for k, line in enumerate(lines) if line["true"] != line["predicted"]]
    wrong.sort(key=lambda k: -float(lines[k]["probability"]))
    firsts = [next(k for k, line in enumerate(lines) if line["true"] == motion) for motion in MOTIONS]
    show = ClipViewer(folder, cfg)
    right = summary["clips"]["class"]
    title = f"{len(lines)} test videos, {right:.1f} % right: one of each class, and below it its Grad-CAM"
    sheets = [draw_clip_rows(title, [show(k, lines[k]) for k in firsts])]
    if wrong:
        sheets.append(draw_clip_rows(f"surest of {len(wrong)} mistakes", [show(k, lines[k]) for k in wrong[:4]]))
    matrices = [
        Image.open(io.BytesIO(confusion_png(confusion(folder / arm), MOTIONS, MOTIONS, f"{arm}: {row['class']:.1f} %")))
        for arm, row in summary.items()
    ]
    return stacked([*sheets, beside(matrices, sheets[0].width)])


class ClipViewer:
    """Shows the middle clip of a test video as the network sees it, and where it looks."""

    def __init__(self, folder: Path, cfg: CfgNode) -> None:
        model = model_from_checkpoint(folder / "clips" / "checkpoints" / "best.pt")
        assert isinstance(model, Backbone)
        self.model = model
        self.prepared = dataclasses.replace(model.preprocessing, test_views=1, test_crops=1, offset_sampling=True)
        videos = read_video_list(folder / "data" / "test.csv", classes=MOTIONS)
        self.views = EvaluationViews(videos, clip_sampling(cfg, self.prepared), self.prepared)

    def __call__(self, index: int, line: dict[str, str]) -> ClassifiedClip:
        batch = self.views[index]
        if isinstance(batch, UserError):
            raise batch
        clips = batch.clips[0]  # (1, 3, T, h, w)
        cam = grad_cam(self.model, normalised_clips(clips, self.prepared), MOTIONS.index(line["predicted"]), stage=1)
        return ClassifiedClip(
            shown_clip(clips[0]), cam.heat, line["true"], line["predicted"], float(line["probability"])
        )


if __name__ == "__main__":
    sys.exit(run(main))
