"""Image classification by several processes: the losses of one, and every image evaluated once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from main_runs import figures, server
from PIL import Image

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

    with server() as runs:

        def run(output, *pairs, processes):
            arguments = ["--cfg", str(folder / "run.yaml"), "OUTPUT_DIR", str(output), *pairs]
            outcome = runs.run(arguments, output.with_suffix(".log"), processes=processes)
            assert outcome.status == 0, outcome.output
            return output

        yield run


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("alone") / "run", processes=1)


def results(output):
    return json.loads((output / "results.json").read_text())


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
