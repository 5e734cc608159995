"""Runs of tools/main.py in processes of their own, what a run leaves, and when two of them are the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from stvit.checkpoint import read_checkpoint

# A predictor and sequences so small that a training run takes a second.
TINY_PREDICTOR = {
    "hidden_spatial": 4,
    "hidden_translator": 16,
    "encoder_depth": 2,
    "translator_depth": 1,
    "window": [2, 2],
    "dim_head": 4,
    "channel_heads": 4,
}
TINY_SEQUENCES = {
    "DIGITS": "sklearn",
    "NUM_DIGITS": [1],
    "IMAGE_SIZE": 12,
    "DIGIT_SIZE": 8,
    "FRAMES_IN": 2,
    "FRAMES_OUT": 2,
}

SERVER = Path(__file__).parents[1] / "engine" / "process_server.py"


def results(output: Path) -> dict[str, object]:
    """What a run's evaluation wrote."""
    return json.loads((output / "results.json").read_text())


def records(output: Path, kind: str) -> list[dict[str, object]]:
    """The lines of a run's metrics.jsonl of one kind: ``train`` or ``validation``."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


class Blow(NamedTuple):
    """A signal that the process gets at the n-th call of a function."""

    function: str  # "module:name"
    call: int
    signum: int
    rank: int = 0  # of the process, where there are several


class Outcome(NamedTuple):
    status: int
    output: str


class Server:
    """A process that has imported stvit once and is forked for each run, which saves the seconds of importing torch."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        arguments: Sequence[str],
        log: Path,
        blow: Blow | None = None,
        processes: int = 1,
        script: Path | None = None,
    ) -> Outcome:
        """tools/main.py, or another script, in one process or in several as torchrun starts them."""
        request = {
            "script": str(script) if script else None,
            "arguments": list(arguments),
            "log": str(log),
            "blow": blow,
            "processes": processes,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return Outcome(status, log.read_text())


@contextmanager
def server() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield Server(process)
    process.stdin.close()
    assert process.wait(60) == 0


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
        for entry in theirs.keys() - {"config", "metrics_bytes", "seconds"}:  # the folder's name; the clock
            assert equal_bits(ours[entry], theirs[entry]), f"{name} differs in {entry}"
    assert figures(output) == figures(reference)
    assert {p.name for p in (output / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
