"""A command as several processes: places, exit statuses, and how all of them end when one does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest

from stvit.engine import launch as launch_module
from stvit.engine.distributed import LAUNCHER, PLACE, end_with_launcher
from stvit.engine.launch import launch, speak_once
from stvit.engine.signals import stop_on_signals
from stvit.errors import UserError


@pytest.fixture
def start(monkeypatch):
    """Launches a few lines of Python, which have ``os``, ``signal``, ``sys``, ``time`` and their own ``rank``."""
    for name in (*PLACE, LAUNCHER):
        monkeypatch.delenv(name, raising=False)
    head = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"

    def run(lines):
        begun = time.monotonic()
        status = launch([sys.executable, "-S", "-c", head + lines], processes=2)
        assert time.monotonic() - begun < 20, "a process was waited for that should have been ended"
        return status

    return run


def test_each_process_finds_its_place(start, tmp_path):
    names = (*PLACE, LAUNCHER)
    assert start(f"import json; json.dump([os.environ[n] for n in {names}], open(f'{tmp_path}/{{rank}}', 'w'))") == 0
    for rank in (0, 1):
        *place, address, port, launcher = json.loads((tmp_path / str(rank)).read_text())
        assert place == [str(rank), str(rank), "2", "2"]
        assert (address, int(port) > 0, launcher) == ("127.0.0.1", True, str(os.getpid()))


def test_the_cores_are_divided_unless_the_user_has_done_so(start, tmp_path, monkeypatch):
    lines = f"open(f'{tmp_path}/{{rank}}', 'w').write(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    for given, expected in ((None, "3"), ("5", "5")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert start(lines) == 0
        assert (tmp_path / "1").read_text() == expected


@pytest.mark.parametrize("failing", [0, 1])
def test_the_first_failure_ends_the_others_and_is_the_status(start, failing):
    assert start(f"sys.exit(2) if rank == {failing} else time.sleep(40)") == 2


def test_a_process_that_is_killed_is_named_in_one_line(start, capsys):
    assert start("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(40)") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: process 1 of 2 was ended by SIGKILL")
    assert error.count("\n") == 1


def test_a_process_that_does_not_leave_is_made_to(start, monkeypatch):
    monkeypatch.setattr(launch_module, "TIME_TO_LEAVE", 0.5)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    assert start(deaf + "if rank: time.sleep(0.5); sys.exit(2)\ntime.sleep(40)") == 2


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_all_once_and_gives_its_status(start, tmp_path, signum, status):
    lines = f"""
def note(*_):
    open(f'{tmp_path}/{{rank}}', 'a').write('x')
signal.signal(signal.SIGTERM, note)
open(f'{tmp_path}/ready{{rank}}', 'w').close()
while not all(os.path.exists(f'{tmp_path}/ready{{r}}') for r in (0, 1)): time.sleep(0.01)
if rank == 0: os.kill(os.getppid(), {signum.value})
while not all(os.path.exists(f'{tmp_path}/{{r}}') for r in (0, 1)): time.sleep(0.01)
time.sleep(0.3)
if rank == 0: sys.exit(143)
time.sleep(0.3)
sys.exit(143)
"""
    assert start(lines) == status
    assert (tmp_path / "0").read_text() == "x"


def test_a_signal_before_anything_has_begun_ends_them_too(start):
    assert start(f"os.kill(os.getppid(), {signal.SIGINT.value}) if rank == 0 else None\ntime.sleep(40)") == 130


def test_a_process_whose_launcher_is_gone_is_asked_to_stop(monkeypatch):
    monkeypatch.setenv(LAUNCHER, str(os.getpid()))  # not the parent
    with stop_on_signals() as stop:
        end_with_launcher()
        deadline = time.monotonic() + 20
        while stop.signum is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stop.signum == signal.SIGTERM


@pytest.mark.parametrize(
    ("rank", "size", "error", "waits"),
    [
        (0, 1, RuntimeError("a fault"), 0),
        (0, 2, UserError("a mistake"), 0),
        (0, 2, OSError("a full disk"), 0),
        (1, 2, UserError("a mistake"), 1),
        (0, 2, RuntimeError("Connection closed by peer"), 1),
        (1, 2, RuntimeError("Connection closed by peer"), 2),
    ],
)
def test_who_may_not_be_the_first_to_fail_waits_before_it_speaks(monkeypatch, rank, size, error, waits):
    slept = []
    monkeypatch.setattr(launch_module.time, "sleep", slept.append)
    for name, value in zip(PLACE, (rank, rank, size, size, "127.0.0.1", 1), strict=True):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(type(error)), speak_once():
        raise error
    assert sum(slept) == waits * launch_module.TIME_TO_BE_ENDED
