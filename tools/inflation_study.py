r"""Is it worth starting a video network from an image network? An experiment of minutes with real digits.

Clips of 8 frames of 24x24 show one of scikit-learn's handwritten digits, under noise, moving left, right, up or down by
one pixel a frame. The class is the digit and its direction: 40 in all, of which a single frame tells the digit only, so
that an image network cannot be right more often than in a quarter of the clips. A small MViTv2 is trained on them
from four starts, for equally many steps:

    scratch   a video network with random weights
    mean      the video network inflated with the rule mean from an image network trained on single frames
    centre    the same image network inflated with the rule centre
    frames    that image network itself, applied to every other frame, its logits averaged

Example:
    python tools/inflation_study.py --output output/inflation_study

Writes results.json (accuracy on clips of digits never trained on, by arm, seed and step) and curves.png, and prints the
table. Finished runs are kept in results.json: after an interruption the same command goes on with those that lack.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from stvit.backbones.mvit import MViT
from stvit.checkpoint import load_checkpoint, pack_model, save_checkpoint
from stvit.cli import ArgumentParser, run
from stvit.errors import UserError
from stvit.inflation import inflate, video_network
from stvit.model import Model
from stvit.registry import create_model
from stvit.visual.files import replace_files

ARMS = ("scratch", "mean", "centre", "frames")
FRAMES, SIZE, DIGIT = 8, 24, 12  # frames of a clip, pixels of a frame's side and of a digit's
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (down, right) pixels a frame
NOISE = 0.1  # standard deviation; pixels lie in [0, 1]
TRAIN_DIGITS = 1437  # of 1,797; the others make the validation clips
VALIDATION_CLIPS = 600
BATCH, IMAGE_BATCH = 32, 64
IMAGE_STEPS = 1200  # of the image network, on single frames
STEPS, EVERY = 240, 30  # of each arm, and how often it is evaluated
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 1e-3, 30, 0.05

Results = dict[str, dict[str, list[float]]]  # arm -> seed -> accuracy after 0, EVERY, ... STEPS steps


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, do the runs that lack, draw and print."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder for the results; made if missing")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default: 3)")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: give at least 1")
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file; give a folder")
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = study(options.output, options.seeds)
    replace_files({options.output / "curves.png": curves_png(results)})
    print(table(results))


def study(folder: Path, seeds: int) -> Results:
    """All runs, each written to ``results.json`` as soon as it is done."""
    file = folder / "results.json"
    results: Results = json.loads(file.read_text()) if file.exists() else {arm: {} for arm in ARMS}
    train, validation = digits()
    clips, labels = make_clips(*validation, VALIDATION_CLIPS, np.random.default_rng(10**6))
    for seed in range(seeds):
        for arm in ARMS:
            if str(seed) in results[arm]:
                continue
            start = time.process_time()
            model = network(arm, seed, train, folder)
            results[arm][str(seed)] = curve = training(model, arm, seed, train, (clips, labels))
            replace_files({file: json.dumps(results, indent=1).encode()})
            print(f"{arm:<8} seed {seed}: {curve[-1]:.3f} in {time.process_time() - start:.0f} s", file=sys.stderr)
    return results


# ---- Data ---------------------------------------------------------------------------------------------------------

Labelled = tuple[Tensor, Tensor]  # images or clips, and their classes


def digits() -> tuple[Labelled, Labelled]:
    """Training and validation digits, disjoint: images ``(N, 12, 12)`` in [0, 1] and digits ``(N,)``."""
    from sklearn.datasets import load_digits  # heavy, and needed here only

    data = load_digits()
    images = F.interpolate(torch.tensor(data.images / 16.0)[:, None].float(), size=DIGIT, mode="bilinear")[:, 0]
    targets = torch.tensor(data.target)
    order = torch.from_numpy(np.random.default_rng(1998).permutation(len(images)))
    first, rest = order[:TRAIN_DIGITS], order[TRAIN_DIGITS:]
    return (images[first], targets[first]), (images[rest], targets[rest])


def make_clips(images: Tensor, targets: Tensor, count: int, rng: np.random.Generator) -> Labelled:
    """Clips ``(count, 1, 8, 24, 24)`` of digits that move evenly and stay inside, and their classes ``(count,)``.

    Across its way a digit is placed as it is along the way at a random moment, so that no single frame betrays the
    direction.
    """
    chosen = torch.from_numpy(rng.integers(len(images), size=count))
    direction = rng.integers(len(DIRECTIONS), size=count)
    low = rng.integers(SIZE - DIGIT - FRAMES + 2, size=(count, 2))
    across = rng.integers(FRAMES, size=count)
    clips = torch.zeros(count, 1, FRAMES, SIZE, SIZE)
    for i in range(count):
        for t in range(FRAMES):
            steps = [{1: t, -1: FRAMES - 1 - t, 0: across[i]}[sign] for sign in DIRECTIONS[direction[i]]]
            top, left = low[i] + steps
            clips[i, 0, t, top : top + DIGIT, left : left + DIGIT] = images[chosen[i]]
    clips += NOISE * torch.from_numpy(rng.standard_normal(clips.shape, dtype=np.float32))
    return clips, targets[chosen] * len(DIRECTIONS) + torch.from_numpy(direction)


# ---- Networks -----------------------------------------------------------------------------------------------------


def network(arm: str, seed: int, train: Labelled, folder: Path) -> Model:
    """The network of an arm before training."""
    torch.manual_seed(seed)
    image = create_model(
        "mvitv2_tiny",
        depths=(1, 1, 1),
        width=24,
        in_channels=1,
        input_size=(SIZE, SIZE),
        num_classes=10 * len(DIRECTIONS),
        drop_path=0.0,
    )
    assert isinstance(image, MViT)
    if arm == "scratch":
        return video_network(image, FRAMES)
    file = folder / f"image_{seed}.pt"
    if file.exists():
        load_checkpoint(image, file)
    else:
        image_training(image, seed, train)
        save_checkpoint(file, pack_model(image))
    return image if arm == "frames" else inflate(image, FRAMES, rule="mean" if arm == "mean" else "centre")


def logits_of(model: nn.Module, arm: str, clips: Tensor) -> Tensor:
    """``(B, 40)`` of clips ``(B, 1, T, H, W)``; the image network's are the mean over frames."""
    if arm != "frames":
        return model(clips)
    frames = rearrange(clips[:, :, ::2], "b c t h w -> (b t) c h w")  # as many as the video networks have time steps
    return reduce(model(frames), "(b t) k -> b k", "mean", b=len(clips))


# ---- Training -----------------------------------------------------------------------------------------------------


class Optimiser:
    """AdamW with a linear warm-up and a cosine to zero."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.model = model
        self.adamw = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

        def factor(step: int) -> float:
            return min((step + 1) / WARMUP, 0.5 + 0.5 * float(np.cos(np.pi * step / steps)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, factor)

    def step(self, loss: Tensor) -> None:
        """One update."""
        self.adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adamw.step()
        self.schedule.step()


def image_training(model: nn.Module, seed: int, train: Labelled) -> None:
    """Train an image network on one random frame of each clip, with the clip's class."""
    rng = np.random.default_rng([seed, 0])
    optimiser = Optimiser(model.train(), IMAGE_STEPS)
    for _ in range(IMAGE_STEPS):
        clips, labels = make_clips(*train, IMAGE_BATCH, rng)
        frames = clips[torch.arange(IMAGE_BATCH), :, torch.from_numpy(rng.integers(FRAMES, size=IMAGE_BATCH))]
        optimiser.step(F.cross_entropy(model(frames), labels))


def training(model: nn.Module, arm: str, seed: int, train: Labelled, validation: Labelled) -> list[float]:
    """Train on clips, the same for all arms of a seed; validation accuracy at the start and every ``EVERY`` steps."""
    rng = np.random.default_rng([seed, 1])
    optimiser = Optimiser(model, STEPS)
    curve = [accuracy(model, arm, validation)]
    for step in range(1, STEPS + 1):
        clips, labels = make_clips(*train, BATCH, rng)
        optimiser.step(F.cross_entropy(logits_of(model.train(), arm, clips), labels))
        if step % EVERY == 0:
            curve.append(accuracy(model, arm, validation))
    return curve


@torch.no_grad()
def accuracy(model: nn.Module, arm: str, validation: Labelled) -> float:
    """Share of validation clips whose class is found."""
    model.eval()
    clips, labels = validation
    found = torch.cat([logits_of(model, arm, part).argmax(1) for part in clips.split(200)])
    return float((found == labels).double().mean())


# ---- Results ------------------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Mean and range over the seeds, of some steps, in Markdown."""
    shown = [0, STEPS // 4, STEPS // 2, STEPS]
    lines = ["| start | " + " | ".join(f"step {step}" for step in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for arm in ARMS:
        runs = 100 * np.array(list(results[arm].values()))[:, [step // EVERY for step in shown]]
        cells = [f"{run.mean():.1f} ({run.min():.1f}-{run.max():.1f})" for run in runs.T]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def curves_png(results: Results) -> bytes:
    """Accuracy over steps, mean and range of each arm, as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and needed here only
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    steps = np.arange(0, STEPS + 1, EVERY)
    for arm, style in zip(ARMS, (":", "--", "-", "-."), strict=True):
        runs = 100 * np.array(list(results[arm].values()))
        (line,) = axis.plot(steps, runs.mean(0), style, linewidth=2, label=arm)
        axis.fill_between(steps, runs.min(0), runs.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
    axis.axhline(100 / len(DIRECTIONS), color="grey", linewidth=0.8, label="all that single frames tell")
    axis.set_xlabel("training steps on clips")
    axis.set_ylabel("validation accuracy, %")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    axis.set_title(f"Digit and direction, 40 classes: mean and range of {len(results['centre'])} seeds", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(run(main))
