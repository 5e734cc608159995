"""A dry run tries settings, data and memory on a few batches, says what the run will take, and writes nothing."""

from __future__ import annotations

import re

import pytest
import yaml
from clip_runs import SETTINGS, make_lists
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES
from PIL import Image
from tool_calls import ToolCall

from stvit.config import load_config
from stvit.engine import dry_run
from stvit.engine.dry_run import Cost, duration


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return make_lists(tmp_path_factory.mktemp("videos"), {"train": 4, "val": 1, "test": 1})


@pytest.fixture
def main(capsys, tmp_path, lists):
    """tools/main.py --dry-run with settings, on the videos unless they say otherwise: (status, stdout, stderr)."""

    def call(settings, *pairs):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings))
        data = ("DATA.PATH_TO_DATA_DIR", lists, "OUTPUT_DIR", tmp_path / "out")
        return ToolCall("main", capsys)("--cfg", path, "--dry-run", *data, *pairs)

    return call


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_on_videos_estimates_memory_and_time_and_writes_nothing(main, lists, tmp_path):
    before = files(lists)
    status, said, _ = main(SETTINGS)
    assert status == 0
    for part in ("training: a batch of 4 takes", "validation: a batch of 3 takes", "test: a batch of 1 takes"):
        assert part in said
    assert re.search(r"memory: \d\.\d\d GB at the peak in this process", said)
    total = re.search(
        r"the run takes about (\S+) \(h:mm:ss\): 2 epochs of 3 steps \S+, 2 x validation of 3 samples", said
    )
    assert total, said
    assert "bad videos: none of those that were tried" in said
    assert "next: tools/check_data.py LIST" in said
    assert not (tmp_path / "out").exists()
    assert files(lists) == before


def test_a_dry_run_lists_the_bad_videos_that_it_meets(main, tmp_path):
    root = make_lists(tmp_path / "videos", {"train": 1, "val": 1, "test": 1})
    (root / "train_1_0.mp4").write_bytes(b"no video")
    pairs = ("DATA.PATH_TO_DATA_DIR", root, "DATA.MAX_BAD_PERCENT", 50, "TRAIN.BATCH_SIZE", 3, "MIXUP.ENABLE", False)
    status, said, _ = main(SETTINGS, *pairs, "DATA.ON_BAD_VIDEO", "skip")
    assert status == 0
    assert re.search(r"^bad: train_1_0\.mp4: .+$", said, re.M)
    status, _, error = main(SETTINGS, *pairs, "DATA.ON_BAD_VIDEO", "raise")
    assert status == 2
    assert "train.csv:2" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not list(root.glob("bad_videos*"))


def test_a_dry_run_refuses_what_a_run_refuses(main, tmp_path):
    status, _, error = main(SETTINGS, "MODEL.INIT", tmp_path / "gone.pt")
    assert (status, "there is no such file" in error) == (2, True)
    (tmp_path / "out").write_text("")
    status, _, error = main(SETTINGS)
    assert (status, "OUTPUT_DIR" in error) == (2, True)


def test_a_dry_run_of_images(main, tmp_path):
    for part, colour in (("train", "red"), ("train", "blue"), ("val", "red"), ("val", "blue")):
        folder = tmp_path / "images" / part / colour
        folder.mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (40, 40), colour).save(folder / f"{k}.png")
    model = {"NAME": "mvitv2_tiny", "NUM_CLASSES": 2, "ARGS": {"depths": [1, 1, 1, 1], "width": 8}}
    data = {"DATASET": "imagenet", "TRAIN_CROP_SIZE": 32, "TEST_CROP_SIZE": 32}
    settings = {**SETTINGS, "MODEL": model, "DATA": data, "TEST": {"BATCH_SIZE": 4}}
    status, said, _ = main(settings, "DATA.PATH_TO_DATA_DIR", tmp_path / "images")
    assert status == 0
    assert "2 epochs of 1 steps" in said
    assert "1 x test of 4 samples" in said


def test_a_dry_run_of_moving_mnist_where_the_first_process_tests_alone(main, tmp_path):
    numbers = {"TRAIN_SEQUENCES": 8, "VAL_SEQUENCES": 4, "TEST_SEQUENCES": 4}
    settings = {
        "MODEL": {"NAME": "mixvit_predictor_mini", "ARGS": TINY_PREDICTOR},
        "MOVING_MNIST": {**TINY_SEQUENCES, **numbers},
        "TRAIN": {"BATCH_SIZE": 4},
        "SOLVER": {"MAX_EPOCH": 3},
        "NUM_GPUS": 0,
    }
    status, said, error = main(settings, "DATA.PATH_TO_DATA_DIR", tmp_path / "data", "DATA_LOADER.NUM_WORKERS", 0)
    assert status == 0, error
    assert "3 epochs of 2 steps" in said
    assert "check_data" not in said


def test_the_time_of_a_batch_is_that_of_whatever_is_slower(monkeypatch):
    monkeypatch.setattr(dry_run, "usable_cores", lambda: 4)
    monkeypatch.setattr(dry_run.torch, "get_num_threads", lambda: 2)
    cost = Cost(samples=8, data=6.0, network=2.0)

    def settings(workers, gpus):
        return load_config(None, ["DATA_LOADER.NUM_WORKERS", str(workers), "NUM_GPUS", str(gpus)])

    assert cost.seconds(settings(0, 1)) == 8  # one after the other
    assert cost.seconds(settings(2, 1)) == 3  # two workers, while the GPU computes
    assert cost.waiting(settings(2, 1)) == pytest.approx(1 / 3)
    assert cost.seconds(settings(16, 1)) == 2  # no more workers than cores
    assert cost.seconds(settings(16, 0)) == 2.5  # two threads compute for 2 s and workers 6 s, on four cores
    assert cost.seconds(settings(4, 2)) == 3  # two cores for each process
    assert duration(3725.2) == "1:02:06"
