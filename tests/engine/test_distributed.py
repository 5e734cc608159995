"""Several processes are one run: the same losses, one set of files, one voice, one end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES, Blow, assert_same_run, equal_bits, figures, server

from stvit.checkpoint import read_checkpoint
from stvit.engine.launch import launch

TOOL = Path(__file__).parents[2] / "tools" / "main.py"
STEPS, EPOCHS = 4, 2  # optimiser steps an epoch
SETTINGS = {
    "MODEL": {
        "NAME": "mixvit_predictor",
        "FROZEN_BN": True,  # one process's statistics are those of another batch
        "ARGS": {
            **TINY_PREDICTOR,
            "drop_path": 0.0,
            "first_drop_path": 0.0,
        },
    },
    "MOVING_MNIST": {
        **TINY_SEQUENCES,
        "TRAIN_SEQUENCES": 6 * 2 * STEPS + 5,  # the rest fills no step
        "VAL_SEQUENCES": 7,  # two or three processes have unequal parts of them
        "TEST_SEQUENCES": 5,
    },
    "TRAIN": {"BATCH_SIZE": 6, "ACCUMULATE_STEPS": 2, "CHECKPOINT_STEPS": 2},
    "SOLVER": {"MAX_EPOCH": EPOCHS, "EMA_DECAY": 0.9, "BASE_LR": 1e-3, "CLIP_GRAD_L2NORM": 0.5},
    "TEST": {"BATCH_SIZE": 4, "BASELINES": False},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 1,
}
NO_TEST = ("TEST.ENABLE", "False")
# Random numbers at every step, and batch statistics of each process's own.
NOISE = ("MODEL.FROZEN_BN", "False", "MODEL.ARGS.drop_path", "0.3", "MODEL.ARGS.first_drop_path", "0.3", *NO_TEST)
STEP = "stvit.engine.train:training_step"


@pytest.fixture(scope="module")
def runs():
    with server() as started:
        yield started


@pytest.fixture(scope="module")
def start(runs, tmp_path_factory):
    """Runs the minute configuration in one process or in several."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "run.yaml").write_text(yaml.safe_dump({**SETTINGS, "DATA": {"CACHE_DIR": str(folder / "cache")}}))

    def arguments(output, *settings):
        return ["--cfg", str(folder / "run.yaml"), "OUTPUT_DIR", str(output), *settings]

    def run(output, *settings, processes=1, blow=None):
        return runs.run(arguments(output, *settings), output.with_suffix(".log"), blow, processes)

    run.arguments = arguments
    return run


def finished(outcome, output):
    assert outcome.status == 0, outcome.output
    return output


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone") / "run"
    return finished(start(output), output)


def assert_same_figures(output, reference):
    ours, theirs = figures(output), figures(reference)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_have_the_losses_of_one_with_the_same_batch(start, alone, tmp_path, processes):
    output = tmp_path / "run"
    finished(start(output, processes=processes), output)
    assert_same_figures(output, alone)  # losses, gradient norms, learning rates, validation
    for name in ("last.pt", "best.pt"):
        ours, theirs = (read_checkpoint(folder / "checkpoints" / name) for folder in (output, alone))
        for part in ("state_dict", "ema"):
            for key, value in theirs[part].items():
                torch.testing.assert_close(ours[part][key], value, rtol=1e-3, atol=1e-5, msg=key)
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (output, alone))
    mean, expected = (found["methods"]["mixvit_predictor"]["mean"] for found in (ours, theirs))
    assert mean == pytest.approx(expected, rel=1e-4)
    assert ours["sequences"] == theirs["sequences"] == 5


def test_a_run_goes_on_with_another_number_of_processes(start, alone, tmp_path):
    output = tmp_path / "run"
    for processes, at in ((2, 3), (1, 2)):
        stopped = start(output, *NO_TEST, processes=processes, blow=Blow(STEP, at, signal.SIGTERM))
        assert stopped.status == 143, stopped.output
    outcome = start(output, *NO_TEST, processes=3)
    finished(outcome, output)
    assert "was written by 1 process and 3 go on" in outcome.output
    assert_same_figures(output, alone)


@pytest.fixture(scope="module")
def noisy(start, tmp_path_factory):
    output = tmp_path_factory.mktemp("noisy") / "run"
    return finished(start(output, *NOISE, processes=2), output)


@pytest.mark.parametrize(
    ("blow", "status"),
    [
        (Blow(STEP, 3, signal.SIGTERM), 143),
        (Blow(STEP, STEPS, signal.SIGINT, rank=1), 130),  # the other process hears of it
        (Blow(STEP, 4, signal.SIGKILL, rank=1), -9),
        (Blow("torch:save", 2, signal.SIGKILL), -9),
    ],
    ids=lambda v: f"rank {v.rank}-{v.call}-{v.signum.name}" if isinstance(v, Blow) else "",
)
def test_a_run_of_two_that_is_killed_and_resumed_ends_with_the_same_bits(start, noisy, tmp_path, blow, status):
    output = tmp_path / "run"
    killed = start(output, *NOISE, processes=2, blow=blow)
    assert killed.status == status, killed.output
    assert "Traceback" not in killed.output
    if status > 0:
        said = [line for line in killed.output.splitlines() if line.startswith("stopped after step")]
        assert len(said) == 1
        assert f"stopped after step {blow.call} of {STEPS * EPOCHS}" in said[0]
    finished(start(output, *NOISE, processes=2), output)
    assert_same_run(output, noisy)


def test_every_process_has_random_numbers_of_its_own(noisy, alone):
    saved = read_checkpoint(noisy / "checkpoints" / "last.pt")
    (other,) = saved["rng_of_other_ranks"]
    for generator in ("python", "numpy", "torch"):
        assert not equal_bits(saved["rng"][generator], other[generator]), generator
    assert "rng_of_other_ranks" not in read_checkpoint(alone / "checkpoints" / "last.pt")


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        (("TRAIN.BATCH_SIZE", "7"), 2, "TRAIN.BATCH_SIZE is 7"),
        (("TRAIN.BATCHSIZE", "7"), 2, "'TRAIN.BATCH_SIZE'"),
        (("BN.NORM_TYPE", "sync_batchnorm", "MODEL.FROZEN_BN", "False"), 2, "on the CPU use MODEL.FROZEN_BN True"),
        (("SOLVER.BASE_LR", "1e30"), 1, "training diverged at epoch 1, step"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_ends_all_processes_is_said_once(start, tmp_path, settings, status, said):
    outcome = start(tmp_path / "run", *settings, processes=2)
    assert outcome.status == status, outcome.output
    (line,) = [line for line in outcome.output.splitlines() if not line.startswith(("note: ", "epoch "))]
    assert line.startswith("error: ")
    assert said in line


def test_a_run_says_how_its_batches_are_shared_and_normalised(start, tmp_path):
    (shared,) = notes(start(tmp_path / "frozen", *NO_TEST, processes=2, blow=Blow(STEP, 1, signal.SIGKILL)))
    assert "2 processes take 3 of each TRAIN.BATCH_SIZE 6 samples" in shared
    _, own = notes(start(tmp_path / "noisy", *NOISE, processes=2, blow=Blow(STEP, 1, signal.SIGKILL)))
    assert "BatchNorm" in own


def notes(outcome):
    return [line for line in outcome.output.splitlines() if line.startswith("note: ")]


KILLED = """
import os, runpy, signal
import stvit.engine.train as train
step, calls = train.training_step, iter(range(1, 100))
def armed(*arguments):
    if os.environ["RANK"] == "1" and next(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
train.training_step = armed
runpy.run_path("{tool}", run_name="__main__")
"""


def test_a_process_that_is_killed_ends_a_run_that_stvit_started_in_one_line(start, tmp_path, capfd):
    script, output = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED.format(tool=TOOL))
    begun = time.monotonic()
    status = launch([sys.executable, str(script), *start.arguments(output)], processes=2)
    error = capfd.readouterr().err
    assert status == 1
    assert error.startswith("error: process 1 of 2 was ended by SIGKILL")
    assert error.count("\n") == 1
    assert time.monotonic() - begun < 120
    assert read_checkpoint(output / "checkpoints" / "last.pt")["step"] == 2


def test_torchrun_starts_the_same_run(start, alone, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(TOOL)]
    done = subprocess.run(
        [*command, *start.arguments(output, *NO_TEST)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert_same_figures(output, alone)
    assert done.stdout.count("epoch 1/2 step 1/4") == 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_have_the_losses_of_one_also_with_batch_statistics(start, tmp_path):
    settings = ("MODEL.FROZEN_BN", "False", "BN.NORM_TYPE", "sync_batchnorm", "TRAIN.PRECISION", "fp32")
    for gpus in ("1", "2"):
        command = [sys.executable, str(TOOL), *start.arguments(tmp_path / gpus, *settings, "NUM_GPUS", gpus)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    ours, theirs = figures(tmp_path / "2"), figures(tmp_path / "1")
    for one, other in zip(ours, theirs, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-3)
