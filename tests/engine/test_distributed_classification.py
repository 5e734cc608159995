"""Image classification by several processes: the losses of one, and every image evaluated once."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from main_runs import Blow, assert_same_run, figures, results, server
from PIL import Image

from stvit.checkpoint import model_from_checkpoint
from stvit.datasets import ImageFolder, list_images
from stvit.datasets.image_transforms import evaluation_transform

SIZE = 32
CLASSES = ("circles", "squares", "stripes")
SETTINGS = {
    "MODEL": {
        "NAME": "mvitv2_tiny",
        "NUM_CLASSES": len(CLASSES),
        "ARGS": {"depths": [1, 1, 1, 1], "width": 16, "drop_path": 0.0},
    },
    "DATA": {"DATASET": "imagenet", "TRAIN_CROP_SIZE": SIZE, "TEST_CROP_SIZE": SIZE},
    "MIXUP": {"ENABLE": False},
    "TRAIN": {"BATCH_SIZE": 4},
    "SOLVER": {"OPTIMIZING_METHOD": "adamw", "BASE_LR": 1e-3, "MAX_EPOCH": 2},
    "TEST": {"BATCH_SIZE": 3},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 1,
}


# A network with BatchNorm, each step of two batches, evaluated by its running mean.
BATCH_NORMED = {
    "MODEL": {
        "NAME": "mixformer_b0",
        "NUM_CLASSES": len(CLASSES),
        "ARGS": {
            "widths": [16, 16, 16, 16],
            "depths": [1, 1, 1, 1],
            "heads": [1, 1, 2, 2],
            "window": [2, 2],
            "head_width": 16,
        },
    },
    "TRAIN": {"BATCH_SIZE": 4, "ACCUMULATE_STEPS": 2},
    "SOLVER": {**SETTINGS["SOLVER"], "BASE_LR": 0.03, "EMA_DECAY": 0.9},  # fast, so that logits depend on the images
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Trains the minute network in one process or in several on six images a class; 7 are evaluated."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, counts in (("train", (6, 6, 6)), ("val", (3, 2, 2))):
        for name, count in zip(CLASSES, counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    settings = {**SETTINGS, "DATA": {**SETTINGS["DATA"], "PATH_TO_DATA_DIR": str(folder)}}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    (folder / "batch_norm.yaml").write_text(yaml.safe_dump({**settings, **BATCH_NORMED}))

    with server() as runs:

        def run(output, *pairs, processes, file="run.yaml", blow=None, status=0):
            arguments = ["--cfg", str(folder / file), "OUTPUT_DIR", str(output), *pairs]
            outcome = runs.run(arguments, output.with_suffix(".log"), blow=blow, processes=processes)
            assert outcome.status == status, outcome.output
            return output

        yield run


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("alone") / "run", processes=1)


def test_two_processes_have_the_losses_of_one_with_the_same_batch(start, alone, tmp_path):
    output = start(tmp_path / "run", processes=2)
    ours, theirs = figures(output), figures(alone)
    assert len(ours) == len(theirs) > 8
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-4)
    assert results(output)["images"] == 7


@pytest.mark.parametrize("processes", [2, 3])
def test_every_image_is_evaluated_once_however_many_processes_share_them(start, alone, tmp_path, processes):
    checkpoint = str(alone / "checkpoints" / "best.pt")
    output = start(
        tmp_path / "run", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint, processes=processes
    )
    ours, theirs = results(output), results(alone)
    assert ours["images"] == theirs["images"] == 7
    for entry in ("methods", "per_class", "confusion"):
        assert ours[entry] == theirs[entry], entry


@pytest.fixture(scope="module")
def normed(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("normed") / "run", processes=2, file="batch_norm.yaml")


def test_processes_validate_with_the_same_running_statistics(normed):
    """Each has gathered its own; what is validated and kept are those of the first."""
    last = [line for line in figures(normed) if line["kind"] == "validation"][-1]
    model = model_from_checkpoint(normed / "checkpoints" / "last.pt")
    images = list_images(Path(results(normed)["config"]["DATA"]["PATH_TO_DATA_DIR"]) / "val")
    batch = ImageFolder(images, evaluation_transform(model.preprocessing)).__getitems__(range(7))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(batch.images), batch.labels)
    assert last["loss"] == pytest.approx(loss.item(), rel=1e-4)
    counts = {int(value) for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts == {2 * 2 * 2}  # two steps of two batches in each of two epochs


def test_batch_norm_with_accumulation_and_a_running_mean_goes_on_to_the_same_bits(start, normed, tmp_path):
    output = tmp_path / "run"
    stop = Blow("stvit.engine.train:training_step", 3, signal.SIGTERM, rank=1)
    start(output, processes=2, file="batch_norm.yaml", blow=stop, status=128 + signal.SIGTERM)
    assert_same_run(start(output, processes=2, file="batch_norm.yaml"), normed)
