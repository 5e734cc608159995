"""Clips and two processes: every view counted once, and a batch that bad videos emptied holds up nobody."""

from __future__ import annotations

import csv

import pytest
import yaml
from clip_runs import SETTINGS, make_lists
from main_runs import results, server

from stvit.config import load_config
from stvit.engine.run import run


@pytest.fixture
def settings(tmp_path):
    """A file of settings: to train on twelve videos, two of them bad, two a step; to test on nine, one of them bad."""
    folder = make_lists(tmp_path / "videos")
    for name in ("train_0_1.mp4", "train_2_3.mp4", "test_1_1.mp4"):
        (folder / name).write_bytes(b"no video")
    data = {"PATH_TO_DATA_DIR": str(folder), "ON_BAD_VIDEO": "skip", "MAX_BAD_PERCENT": 20.0}
    settings = {
        **SETTINGS,
        "DATA": {**SETTINGS["DATA"], **data},
        "TRAIN": {"BATCH_SIZE": 2},
        "MIXUP": {"ENABLE": False},
        "SOLVER": {**SETTINGS["SOLVER"], "MAX_EPOCH": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "run.yaml"


@pytest.mark.slow
def test_two_processes_train_over_empty_batches_and_count_every_view_as_one_does(settings, tmp_path):
    both, alone = tmp_path / "both", tmp_path / "alone"
    with server() as runs:
        outcome = runs.run(["--cfg", str(settings), "OUTPUT_DIR", str(both)], tmp_path / "log", processes=2)
    assert outcome.status == 0, outcome.output
    with (both / "bad_videos.csv").open(newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"train_0_1.mp4", "train_2_3.mp4"}
    ours = results(both)
    assert (ours["videos"], ours["views"], list(ours["undecodable"])) == (9, 54, ["test_1_1.mp4"])
    only = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(both / "checkpoints" / "best.pt")]
    run(load_config(str(settings), [*only, "OUTPUT_DIR", str(alone)]))
    theirs = results(alone)
    for entry in ("methods", "per_class", "confusion", "undecodable", "views"):
        assert ours[entry] == theirs[entry], entry
    assert (both / "predictions.csv").read_text() == (alone / "predictions.csv").read_text()
