"""Clips and two processes: every view counted once, and a batch that bad videos emptied holds up nobody."""

from __future__ import annotations

import csv
import json

import pytest
import yaml
from clip_runs import SETTINGS, make_lists
from main_runs import server


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Trains on twelve videos, two of them bad, a clip a process and step; tests nine, one of them bad."""
    folder = make_lists(tmp_path_factory.mktemp("videos"))
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
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    with server() as runs:

        def run(output, *pairs, processes):
            arguments = ["--cfg", str(folder / "run.yaml"), "OUTPUT_DIR", str(output), *pairs]
            outcome = runs.run(arguments, output.with_suffix(".log"), processes=processes)
            assert outcome.status == 0, outcome.output
            return output

        yield run


def results(output):
    return json.loads((output / "results.json").read_text())


def test_two_processes_train_over_empty_batches_and_count_every_view_as_one_does(start, tmp_path):
    both = start(tmp_path / "both", processes=2)
    with (both / "bad_videos.csv").open(newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"train_0_1.mp4", "train_2_3.mp4"}
    ours = results(both)
    assert (ours["videos"], ours["views"], list(ours["undecodable"])) == (9, 54, ["test_1_1.mp4"])
    checkpoint = str(both / "checkpoints" / "best.pt")
    only = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint)
    theirs = results(start(tmp_path / "alone", *only, processes=1))
    for entry in ("methods", "per_class", "confusion", "undecodable", "views"):
        assert ours[entry] == theirs[entry], entry
    tables = [(output / "predictions.csv").read_text() for output in (both, tmp_path / "alone")]
    assert tables[0] == tables[1]
