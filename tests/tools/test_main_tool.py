"""tools/main.py as a person meets it: help, mistakes in one line, exit statuses."""

from __future__ import annotations

import itertools
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stvit import cli

TOOL = Path(__file__).parents[2] / "tools" / "main.py"
MINUTE = """\
MODEL:
  NAME: mixvit_predictor
  ARGS: {hidden_spatial: 4, hidden_translator: 16, encoder_depth: 2, translator_depth: 1, window: [2, 2], dim_head: 4,
         channel_heads: 4}
MOVING_MNIST: {DIGITS: sklearn, NUM_DIGITS: [1], IMAGE_SIZE: 12, DIGIT_SIZE: 8, FRAMES_IN: 2, FRAMES_OUT: 2,
               TRAIN_SEQUENCES: 4000, VAL_SEQUENCES: 4, TEST_SEQUENCES: 4}
TRAIN: {BATCH_SIZE: 4}
SOLVER: {MAX_EPOCH: 1}
DATA_LOADER: {NUM_WORKERS: 1}
NUM_GPUS: 0
LOG_PERIOD: 5
"""


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(TOOL))["main"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"{MINUTE}DATA: {{CACHE_DIR: {tmp_path / 'cache'}}}\nOUTPUT_DIR: {tmp_path / 'run'}\n")
    return str(path)


def mistake(main, capsys, *arguments):
    """The exit status and the one line of a command that fails."""
    status = cli.run(main, arguments)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return status, error


def test_help_shows_an_example_and_the_exit_statuses(main, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "python tools/main.py --cfg configs/moving_mnist/demo.yaml" in out
    assert "exit status" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("TRAIN.BATCHSIZE", "4"), "'TRAIN.BATCH_SIZE'"),
        (("TRAIN.BATCH_SIZE",), "has no value"),
        (("TRAIN.BATCH_SIZE", "many"), "a whole number"),
        (("SOLVER.MAX_EPOCH", "-3"), "at least 1"),
        (("MODEL.NAME", "mixvit"), "no model is named"),
        (("MODEL.ARGS", "{depth: 2}"), "set MODEL.ARGS.NAME"),
        (("TRAIN.BATCH_SIZE", "4", "--dry-run", "TRAIN.BATCHSIZE", "4"), "'TRAIN.BATCH_SIZE'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(main, capsys, config, arguments, named):
    status, line = mistake(main, capsys, "--cfg", config, *arguments)
    assert status == 2
    assert named in line


def test_several_gpus_start_the_same_command_as_several_processes(main, config, monkeypatch):
    started = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("stvit.engine.launch.launch", lambda command, processes: started.append((command, processes)))
    words = ["--cfg", config, "NUM_GPUS", "2"]
    with pytest.raises(SystemExit):
        main(words)
    assert started == [([sys.executable, str(TOOL), *words], 2)]


def test_more_gpus_than_there_are_is_one_line_that_names_both_numbers(main, capsys, config, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    status, line = mistake(main, capsys, "--cfg", config, "NUM_GPUS", "2")
    assert status == 2
    assert "NUM_GPUS is 2, but torch sees 1 CUDA device" in line


def test_a_batch_that_cannot_be_divided_among_the_gpus_is_found_before_any_process_starts(main, capsys, config):
    status, line = mistake(main, capsys, "--cfg", config, "NUM_GPUS", "3")
    assert status == 2
    assert "TRAIN.BATCH_SIZE is 4" in line
    assert "NUM_GPUS 3" in line


def test_without_a_config_the_way_to_help_is_shown(main, capsys):
    status, line = mistake(main, capsys)
    assert status == 2
    assert "--cfg" in line
    assert "--help" in line


def test_a_mistake_in_settings_makes_no_folder(main, capsys, config, tmp_path):
    mistake(main, capsys, "--cfg", config, "SOLVER.BASE_LR", "-1")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_status_1_and_a_file_in_its_way_is_2(main, capsys, config, tmp_path):
    status, line = mistake(main, capsys, "--cfg", config, "OUTPUT_DIR", "/proc/no/run")
    assert status == 1
    assert "cannot be written" in line
    assert "Errno" not in line
    (tmp_path / "file").write_text("")
    status, line = mistake(main, capsys, "--cfg", config, "OUTPUT_DIR", str(tmp_path / "file" / "run"))
    assert status == 2
    assert "cannot be a folder" in line


def test_training_that_diverges_is_status_1(main, capsys, config):
    pairs = ("MOVING_MNIST.TRAIN_SEQUENCES", "40", "SOLVER.BASE_LR", "1e30", "DATA_LOADER.NUM_WORKERS", "0")
    with pytest.raises(SystemExit) as left:
        cli.run(main, ["--cfg", config, *pairs])
    assert left.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: training diverged at epoch 1, step ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_from_outside_stops_it_in_order(config, tmp_path, signum, status):
    process = subprocess.Popen(
        [sys.executable, str(TOOL), "--cfg", config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # the whole group gets it, as from a terminal: loader workers too
    )
    assert process.stdout.readline().startswith("epoch 1/1 step 5/1000")
    os.killpg(process.pid, signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert error.startswith("stopped after step ")
    assert error.count("\n") == 1
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()


@pytest.fixture
def images(tmp_path):
    """An image folder of two classes, and settings of a small classifier."""
    for split, (label, name) in itertools.product(("train", "val"), enumerate(("dark", "light"))):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (40, 40), (200 * label + 5 * k,) * 3).save(folder / f"{k}.png")
    path = tmp_path / "images.yaml"
    path.write_text(f"""\
MODEL: {{NAME: mvitv2_tiny, NUM_CLASSES: 2, ARGS: {{depths: [1, 1, 1, 1], width: 16}}}}
DATA: {{DATASET: imagenet, PATH_TO_DATA_DIR: {tmp_path / "images"}, TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32}}
TRAIN: {{BATCH_SIZE: 4}}
SOLVER: {{OPTIMIZING_METHOD: adamw, LR_POLICY: cosine, MAX_EPOCH: 1}}
DATA_LOADER: {{NUM_WORKERS: 1}}
NUM_GPUS: 0
OUTPUT_DIR: {tmp_path / "run"}
""")
    return str(path)


def test_image_folders_are_trained_on_and_evaluated_again(main, capsys, images, tmp_path):
    assert cli.run(main, ["--cfg", images]) == 0
    first = capsys.readouterr().out
    assert "test set: 8 images of 2 classes" in first
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    only = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", best, "OUTPUT_DIR", str(tmp_path / "again")]
    assert cli.run(main, ["--cfg", images, *only]) == 0
    row = next(line for line in first.splitlines() if line.startswith("mvitv2_tiny"))
    assert row in capsys.readouterr().out


def test_an_image_that_a_worker_cannot_read_ends_the_process_with_one_line(images, tmp_path):
    broken = tmp_path / "images" / "train" / "dark" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    done = subprocess.run([sys.executable, TOOL, "--cfg", images], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {broken} cannot be decoded as an image")
    assert "Traceback" not in done.stderr
