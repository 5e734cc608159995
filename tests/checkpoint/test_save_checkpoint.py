"""A checkpoint is written whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from stvit.checkpoint import read_checkpoint, save, save_checkpoint
from stvit.errors import UserError

PAYLOAD = {
    "format": "stvit-checkpoint-1",
    "state_dict": OrderedDict(w=torch.arange(6.0).reshape(2, 3)),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
    "ema": None,
    "best": float("inf"),
    "done": False,
}


def test_what_is_saved_is_read_again_also_by_torch_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", PAYLOAD)
    for read in (read_checkpoint(tmp_path / "last.pt"), torch.load(tmp_path / "last.pt", weights_only=True)):
        assert torch.equal(read["state_dict"]["w"], PAYLOAD["state_dict"]["w"])
        assert read["optimizer"] == PAYLOAD["optimizer"]
        assert (read["ema"], read["best"], read["done"]) == (None, float("inf"), False)


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_checkpoint(tmp_path / "last.pt", PAYLOAD)
    assert (tmp_path / "last.pt").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"best": np.float64(1.0)}, r"checkpoint\['best'\] is a numpy\.float64"),
        ({"a": [1, {"b": {3}}]}, r"checkpoint\['a'\]\[1\]\['b'\] is a builtins\.set"),
        ({"a": defaultdict(dict)}, r"checkpoint\['a'\] is a collections\.defaultdict"),
        ({"shape": torch.Size([1])}, r"checkpoint\['shape'\] is a torch\.Size"),
        ({"versions": {"torch": torch.__version__}}, r"\['torch'\] is a torch\.torch_version\.TorchVersion"),
        ({"a": {(1, 2): 3}}, r"checkpoint\['a'\] has the key \(1, 2\)"),
        ({"model": torch.nn.Linear(1, 1)}, r"checkpoint\['model'\] is a torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_only_tensors_and_plain_values_are_saved(tmp_path: Path, payload: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        save_checkpoint(tmp_path / "last.pt", payload)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_and_a_folder_as_target_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*missing for the checkpoint last\.pt"):
        save_checkpoint(tmp_path / "missing" / "last.pt", PAYLOAD)
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        save_checkpoint(tmp_path, PAYLOAD)


class Full:
    """A disk that is full after some bytes, or when it is told to make sure."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("room", [0, 100, 3_000, 400_000, 800_500])
def test_a_full_disk_leaves_the_previous_file(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, PAYLOAD)
    before, watched = path.read_bytes(), save._Watched
    monkeypatch.setattr(save, "_Watched", lambda file: watched(Full(file, room)))
    said = r"cannot write checkpoint .*last\.pt: No space left on device \(it needs 0\.8 MB, the disk has .* MB free\)"
    with pytest.raises(OSError, match=said + "; the previous one is untouched") as error:
        save_checkpoint(path, {"w": torch.ones(100_000), "v": torch.ones(100_000)})
    assert error.value.errno == errno.ENOSPC
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_the_previous_file(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, PAYLOAD)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"last\.pt: Input/output error"):
        save_checkpoint(path, {"w": torch.ones(1)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


def in_child(target: Callable[[Path], None], path: Path) -> multiprocessing.Process:
    def run() -> None:
        torch.set_num_threads(1)  # a fork has none of its parent's OpenMP threads, and would wait for them
        target(path)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def save_with_a_limit(path: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_checkpoint(path, {"w": torch.zeros(1_000_000)})
    except OSError as error:
        os._exit(error.errno or 1)


def test_the_operating_systems_own_limit_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, PAYLOAD)
    process = in_child(save_with_a_limit, path)
    process.join()
    assert process.exitcode == errno.EFBIG
    assert read_checkpoint(path)["done"] is False
    assert os.listdir(tmp_path) == ["last.pt"]


def save_for_ever(path: Path) -> None:
    number = 0
    while True:
        number += 1
        save_checkpoint(path, {"number": number, "w": torch.full((300_000,), float(number))})


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path, unfinished, highest = tmp_path / "last.pt", 0, 0
    for attempt in range(12):
        process = in_child(save_for_ever, path)
        started = time.monotonic()
        while not path.exists() or time.monotonic() - started < 0.05 + 0.0077 * attempt:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        read = read_checkpoint(path)
        assert (read["w"] == read["number"]).all()
        highest = max(highest, read["number"])
        unfinished += len(os.listdir(tmp_path)) > 1
    assert highest > 1
    assert unfinished > 0, "no attempt hit the writing: the test shows nothing"
    save_checkpoint(path, PAYLOAD)
    assert os.listdir(tmp_path) == ["last.pt"]


def test_only_files_of_finished_writers_are_cleaned_up(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        here, away = socket.gethostname(), "another-machine"
        kept = [f".last.pt.{here}.{alive.pid}.tmp", f".last.pt.{away}.1.tmp", ".best.pt.x.1.tmp", "notes.txt"]
        removed = [f".last.pt.{here}.{os.getpid()}.tmp", f".last.pt.{away}.2.tmp"]
        for name in kept + removed:
            (tmp_path / name).touch()
        os.utime(tmp_path / f".last.pt.{away}.2.tmp", (0, 0))
        save_checkpoint(tmp_path / "last.pt", PAYLOAD)
        alive.communicate(b"\n")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "last.pt"])


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last.pt", PAYLOAD)
    assert os.listdir(tmp_path) == []
