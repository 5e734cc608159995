"""A run that is killed at any moment and started again ends with the same bits as one that was left alone.

Every run here is a process of its own that executes tools/main.py; a server process that has imported stvit once
forks them, which saves the seconds of importing torch for each.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES, Blow, Outcome, assert_same_run, server

STEPS, EPOCHS = 8, 2  # optimiser steps an epoch; last.pt is written after steps 4, 8, 12 and 16
SETTINGS = {
    "MODEL": {
        "NAME": "mixvit_predictor",
        "ARGS": {
            **TINY_PREDICTOR,
            "drop_path": 0.3,  # takes numbers from the global generator at every step
            "first_drop_path": 0.3,
        },
    },
    "MOVING_MNIST": {
        **TINY_SEQUENCES,
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


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs the minute configuration in a process of its own."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "run.yaml").write_text(yaml.safe_dump({**SETTINGS, "DATA": {"CACHE_DIR": str(folder / "cache")}}))

    with server() as runs:

        def run(output: Path, *settings: str, blow: Blow | None = None) -> Outcome:
            arguments = ["--cfg", str(folder / "run.yaml"), "OUTPUT_DIR", str(output), *settings]
            return runs.run(arguments, output.with_suffix(".log"), blow)

        yield run


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome = start(output)
    assert outcome.status == 0, outcome.output
    return output


STEP = "stvit.engine.train:training_step"
LOADER = "stvit.engine.tasks.moving_mnist:batch_loader"  # called once for training, then at each validation


@pytest.mark.parametrize(
    ("blow", "status"),
    [
        (Blow(STEP, 1, signal.SIGTERM), 143),
        (Blow(STEP, 11, signal.SIGINT), 130),
        (Blow(STEP, STEPS, signal.SIGTERM), 143),  # the last step of an epoch: its validation is still to come
        (Blow(LOADER, 2, signal.SIGTERM), 143),  # in the validation
        (Blow(STEP, 2, signal.SIGKILL), -9),  # before the first checkpoint
        (Blow(STEP, 16, signal.SIGKILL), -9),  # metrics.jsonl has step 15, last.pt stands at 12
        (Blow("torch:save", 2, signal.SIGKILL), -9),  # best.pt: its temporary file is there, and empty
        (Blow("torch:save", 3, signal.SIGKILL), -9),  # last.pt, when best.pt is newer
        (Blow("os:fsync", 11, signal.SIGKILL), -9),  # last.pt is written, but perhaps not on the disk
        (Blow("os:replace", 5, signal.SIGKILL), -9),  # ... and there, but not in its place
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


WRITE = "stvit.checkpoint.save:_Watched.write"  # about 2,070 times for last.pt and 910 for best.pt


@pytest.mark.parametrize(
    ("name", "call"),
    [("last.pt", 1500), ("best.pt", 2500), ("last.pt", 4000)],  # the first two before any such checkpoint is there
)
def test_a_run_killed_with_half_a_checkpoint_written_ends_with_the_same_bits(
    start, uninterrupted, tmp_path, name, call
):
    output = tmp_path / "run"
    assert start(output, blow=Blow(WRITE, call, signal.SIGKILL)).status == -9
    (half,) = (output / "checkpoints").glob(f".{name}.*.tmp")
    assert 0 < half.stat().st_size < 0.9 * (uninterrupted / "checkpoints" / name).stat().st_size
    resumed = start(output)
    assert resumed.status == 0, resumed.output
    assert_same_run(output, uninterrupted)


def test_a_run_that_is_killed_again_and_again_still_ends_with_the_same_bits(start, uninterrupted, tmp_path):
    output, workers, statuses = tmp_path / "run", ("DATA_LOADER.NUM_WORKERS", "1"), []
    for signum in (signal.SIGTERM, signal.SIGKILL, 0):  # 0 does nothing: the last one comes to its end
        statuses.append(start(output, *workers, blow=Blow(STEP, 7, signum)).status)
    assert statuses == [143, -9, 0]
    assert_same_run(output, uninterrupted)


def test_a_stopped_run_says_in_one_line_how_far_it_is_and_how_to_go_on(start, tmp_path):
    outcome = start(tmp_path / "run", blow=Blow(STEP, 7, signal.SIGTERM))
    assert f"stopped after step 7 of {STEPS * EPOCHS}" in outcome.output.splitlines()[-1]
    assert outcome.output.splitlines()[-1].endswith("last.pt; the same command goes on")
    assert "resumed after step 7" in start(tmp_path / "run", blow=Blow(STEP, 1, signal.SIGKILL)).output
