"""A run that is killed at any moment and started again ends with the same bits as one that was left alone.

Every run here is a process of its own that executes tools/main.py; a server process that has imported stvit once
forks them, which saves the seconds of importing torch for each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from stvit.checkpoint import read_checkpoint

STEPS, EPOCHS = 10, 3
SETTINGS = {
    "MODEL": {
        "NAME": "mixvit_predictor",
        "ARGS": {
            "hidden_spatial": 4,
            "hidden_translator": 16,
            "encoder_depth": 2,
            "translator_depth": 1,
            "window": [2, 2],
            "dim_head": 4,
            "channel_heads": 4,
            "drop_path": 0.3,  # takes numbers from the global generator at every step
            "first_drop_path": 0.3,
        },
    },
    "MOVING_MNIST": {
        "DIGITS": "sklearn",
        "NUM_DIGITS": [1],
        "IMAGE_SIZE": 12,
        "DIGIT_SIZE": 8,
        "FRAMES_IN": 2,
        "FRAMES_OUT": 2,
        "TRAIN_SEQUENCES": 2 * 2 * STEPS + 3,  # the rest fills no step
        "VAL_SEQUENCES": 5,
        "TEST_SEQUENCES": 5,
    },
    "TRAIN": {"BATCH_SIZE": 2, "ACCUMULATE_STEPS": 2, "CHECKPOINT_STEPS": 4},
    "SOLVER": {"MAX_EPOCH": EPOCHS, "EMA_DECAY": 0.9, "BASE_LR": 1e-3},
    "TEST": {"ENABLE": False},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 3,
}


class Blow(NamedTuple):
    """A signal that the process gets at the n-th call of a function."""

    function: str  # "module:name"
    call: int
    signum: int


class Outcome(NamedTuple):
    status: int
    output: str


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs the minute configuration in a process of its own."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "run.yaml").write_text(yaml.safe_dump({**SETTINGS, "DATA": {"CACHE_DIR": str(folder / "cache")}}))
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("process_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def run(output: Path, *settings: str, blow: Blow | None = None) -> Outcome:
        log = output.with_suffix(".log")
        arguments = ["--cfg", str(folder / "run.yaml"), "OUTPUT_DIR", str(output), *settings]
        server.stdin.write(json.dumps({"arguments": arguments, "log": str(log), "blow": blow}) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return Outcome(status, log.read_text())

    yield run
    server.stdin.close()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome = start(output)
    assert outcome.status == 0, outcome.output
    return output


def equal_bits(a: object, b: object) -> bool:
    """Whether two trees of tensors and plain values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal_bits(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal_bits, a, b))
    return a == b


def figures(output: Path) -> list[dict[str, object]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("frames_per_s", "data_wait")} for line in lines]


def assert_same_run(output: Path, reference: Path) -> None:
    for name in ("last.pt", "best.pt"):
        ours, theirs = read_checkpoint(output / "checkpoints" / name), read_checkpoint(reference / "checkpoints" / name)
        for entry in theirs.keys() - {"config", "metrics_bytes"}:  # the folder's name; digits of frames/s
            assert equal_bits(ours[entry], theirs[entry]), f"{name} differs in {entry}"
    assert figures(output) == figures(reference)
    assert {p.name for p in (output / "checkpoints").iterdir()} == {"last.pt", "best.pt"}


STEP = "stvit.engine.train:training_step"
VALIDATION_BATCH = "stvit.engine.tasks:sequence_loader"  # called once for training, then at each validation
FSYNC, RENAME = "os:fsync", "os:replace"


@pytest.mark.parametrize(
    ("blow", "status"),
    [
        (Blow(STEP, 1, signal.SIGTERM), 143),
        (Blow(STEP, 17, signal.SIGINT), 130),
        (Blow(STEP, STEPS, signal.SIGTERM), 143),  # the last step of an epoch: its validation is still to come
        (Blow(VALIDATION_BATCH, 3, signal.SIGTERM), 143),
        (Blow(STEP, 2, signal.SIGKILL), -9),  # before the first checkpoint
        (Blow(STEP, 20, signal.SIGKILL), -9),
        (Blow(FSYNC, 8, signal.SIGKILL), -9),
        (Blow(FSYNC, 9, signal.SIGKILL), -9),
        (Blow(FSYNC, 10, signal.SIGKILL), -9),
        (Blow(RENAME, 5, signal.SIGKILL), -9),  # the new checkpoint is whole, but not yet in its place
    ],
    ids=lambda v: f"{v.function.rpartition(':')[2]}-{v.call}-{v.signum.name}" if isinstance(v, Blow) else "",
)
def test_a_killed_and_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(
    start, uninterrupted, tmp_path, blow, status
):
    output = tmp_path / "run"
    killed = start(output, blow=blow)
    assert killed.status == status, killed.output
    resumed = start(output)
    assert resumed.status == 0, resumed.output
    assert_same_run(output, uninterrupted)


def test_a_run_that_is_killed_again_and_again_still_ends_with_the_same_bits(start, uninterrupted, tmp_path):
    output, kills = tmp_path / "run", 0
    while (outcome := start(output, blow=Blow(STEP, 7, signal.SIGKILL if kills % 2 else signal.SIGTERM))).status:
        assert outcome.status in (143, -9), outcome.output
        kills += 1
    assert kills >= 3
    assert_same_run(output, uninterrupted)


def test_a_stopped_run_says_in_one_line_how_far_it_is_and_how_to_go_on(start, tmp_path):
    outcome = start(tmp_path / "run", blow=Blow(STEP, 7, signal.SIGTERM))
    assert f"stopped after step 7 of {STEPS * EPOCHS}" in outcome.output.splitlines()[-1]
    assert "TRAIN.AUTO_RESUME True" in outcome.output.splitlines()[-1]
    assert "resumed after step 7" in start(tmp_path / "run", blow=Blow(STEP, 1, signal.SIGKILL)).output


def test_a_finished_run_is_left_as_it_is(start, uninterrupted):
    before = {p.name: p.read_bytes() for p in (uninterrupted / "checkpoints").iterdir()}
    outcome = start(uninterrupted)
    assert outcome.status == 0
    assert {p.name: p.read_bytes() for p in (uninterrupted / "checkpoints").iterdir()} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.01"),
        ("SOLVER.MAX_EPOCH", "4"),
        ("MODEL.ARGS.drop_path", "0.1"),
        ("MOVING_MNIST.NUM_DIGITS", "[2]"),
        ("TRAIN.BATCH_SIZE", "1"),
        ("RNG_SEED", "1"),
    ],
)
def test_a_setting_that_would_change_the_run_is_refused_by_name(start, uninterrupted, key, value):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    outcome = start(uninterrupted, key, value)
    assert outcome.status == 2
    assert outcome.output.count("\n") == 1
    assert ("MODEL.ARGS" if key.startswith("MODEL") else key) in outcome.output
    assert "another OUTPUT_DIR" in outcome.output
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_settings_that_change_no_weight_may_differ(start, uninterrupted):
    outcome = start(uninterrupted, "LOG_PERIOD", "5", "TRAIN.CHECKPOINT_STEPS", "0", "TEST.BATCH_SIZE", "3")
    assert outcome.status == 0, outcome.output


def test_a_folder_that_holds_a_run_is_not_overwritten(start, uninterrupted):
    outcome = start(uninterrupted, "TRAIN.AUTO_RESUME", "False")
    assert outcome.status == 2
    assert "holds a run already" in outcome.output


def test_a_damaged_checkpoint_is_named(start, uninterrupted, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.pt").write_bytes((uninterrupted / "checkpoints" / "last.pt").read_bytes()[:-1000])
    outcome = start(tmp_path / "run")
    assert outcome.status == 2
    assert str(checkpoints / "last.pt") in outcome.output
