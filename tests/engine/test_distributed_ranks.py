"""What processes tell each other, and which of them does what."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import torch
from main_runs import server
from torch import nn

from stvit.config import load_config
from stvit.engine import distributed
from stvit.engine.distributed import (
    ALONE,
    PLACE,
    World,
    gather_objects,
    join_world,
    rank_slice,
    share_batch_statistics,
    share_gradients,
    sum_over_ranks,
)
from stvit.errors import UserError

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from stvit.config import load_config
from stvit.engine.distributed import *
from stvit.engine.distributed import gather_objects, highest_over_ranks, share_buffers
from stvit.engine.optim import build_precision
from stvit.engine.signals import Stopped, StopRequest, stop_on_signals
from stvit.engine.steps import Diverged, Interval

folder = Path(sys.argv[1])
world = join_world(load_config(None, ["NUM_GPUS", "0", "TRAIN.BATCH_SIZE", "6"]))
found = {"world": [world.rank, world.size, world.main, str(world.device)]}
found["sum"] = sum_over_ranks(torch.tensor([world.rank + 1.0, 10.0]), world).tolist()
found["gathered"] = gather_objects({"rank": world.rank}, world)
found["highest"] = highest_over_ranks(7 - world.rank, world)

with main_first(world):
    found["made by another"] = (folder / "made").exists()
    (folder / "made").touch()

layer = torch.nn.BatchNorm1d(2)
layer.running_mean += world.rank + 5
share_buffers(layer, world)
found["running mean"] = layer.running_mean.tolist()

interval, precision = Interval(), build_precision("fp32", world.device)
interval.add("step 1", torch.tensor(1.0 + world.rank), torch.tensor(4.0), samples=2)
interval.settle(precision, world)
found["interval"] = interval.state()
interval.add(f"step 2 of rank {world.rank}", torch.tensor(float("nan") if world.rank else 1.0), torch.tensor(1.0), 2)
try:
    interval.settle(precision, world)
except Diverged as diverged:
    found["diverged"] = str(diverged)

with stop_on_signals(world) as stop:
    steps = 0
    try:
        while steps < 5:
            steps += 1
            if world.rank == 1 and steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)  # a copy: from the launcher, and from who signals all
            stop.check()
    except Stopped as stopped:
        found["stopped"] = [steps, stopped.status]

stop = StopRequest(world)
found["items"] = list(stop.between(rank_slice(3, world)))
stop.signum = signal.SIGINT if world.rank == 0 else None
try:
    found["seen"] = []
    for item in stop.between(rank_slice(3, world)):
        found["seen"].append(item)
except Stopped as stopped:
    found["between"] = stopped.status

stop, worked = StopRequest(world), []
stop.on_main(lambda: worked.append(world.rank))
found["worked"] = worked


def interrupted():
    stop.signum = signal.SIGTERM
    list(stop.between([1, 2]))


try:
    stop.on_main(interrupted)
except Stopped as stopped:
    found["on main"] = stopped.status
(folder / f"{world.rank}.json").write_text(json.dumps(found))
leave_world(world)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found in the script above."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(SCRIPT)
    with server() as runs:
        outcome = runs.run([str(folder)], folder / "log", processes=2, script=folder / "script.py")
    assert outcome.status == 0, outcome.output
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_each_process_knows_its_place(ranks):
    assert [found["world"] for found in ranks] == [[0, 2, True, "cpu"], [1, 2, False, "cpu"]]


@pytest.mark.parametrize(
    ("what", "expected"),
    [("sum", [3.0, 20.0]), ("gathered", [{"rank": 0}, {"rank": 1}]), ("highest", 7), ("running mean", [5.0, 5.0])],
)
def test_all_processes_hold_the_same_of_what_they_share(ranks, what, expected):
    assert [found[what] for found in ranks] == [expected, expected]


def test_rank_0_makes_files_before_the_others_look_for_them(ranks):
    assert [found["made by another"] for found in ranks] == [False, True]


def test_a_logged_loss_is_the_mean_over_processes(ranks):
    assert [found["interval"] for found in ranks] == [{"loss_sum": 1.5, "steps": 1, "norm_max": 4.0}] * 2


def test_divergence_is_seen_by_all_and_blamed_on_the_process_whose_loss_it_was(ranks):
    said = "training diverged at step 2 of rank 1: loss nan, gradient norm 1"
    assert [found["diverged"] for found in ranks] == [said, said]


def test_a_signal_to_one_process_stops_all_after_the_same_step(ranks):
    assert [found["stopped"] for found in ranks] == [[3, 143], [3, 143]]


def test_unequal_parts_end_together_also_when_one_process_is_stopped(ranks):
    assert [found["items"] for found in ranks] == [[0, 2], [1]]
    assert [found["seen"] for found in ranks] == [[], [1]]
    assert [found["between"] for found in ranks] == [130, 130]


def test_work_for_rank_0_is_done_once_and_its_stop_is_everybodys(ranks):
    assert [found["worked"] for found in ranks] == [[0], []]
    assert [found["on main"] for found in ranks] == [143, 143]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 7, 12])
def test_a_rank_slice_has_every_index_once_and_is_fair(n, size):
    parts = [list(rank_slice(n, World(torch.device("cpu"), rank, size))) for rank in range(size)]
    assert sorted(index for part in parts for index in part) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_shares_with_nobody():
    tensor, model = torch.ones(2), nn.Linear(2, 2)
    assert sum_over_ranks(tensor, ALONE) is tensor
    assert gather_objects("mine", ALONE) == ["mine"]
    assert share_gradients(model, ALONE) is model
    assert share_batch_statistics(norms := nn.BatchNorm2d(2), ALONE) is norms


def test_batch_norms_are_joined_on_gpus_with_the_same_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    joined = share_batch_statistics(model, World(torch.device("cuda", 0), 0, 2))
    assert isinstance(joined[1], nn.SyncBatchNorm)
    assert joined.state_dict().keys() == nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict().keys()


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch see so many GPUs, and torchrun have started so many processes."""

    def pretend(seen, processes=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
        for name in PLACE:
            monkeypatch.delenv(name, raising=False)
        if processes:
            for name, value in zip(PLACE, (0, 0, processes, processes, "127.0.0.1", 1), strict=True):
                monkeypatch.setenv(name, str(value))

    return pretend


def test_more_gpus_than_there_are_is_a_mistake_that_names_both_numbers(gpus):
    gpus(seen=1)
    with pytest.raises(UserError, match="NUM_GPUS is 2, but torch sees 1 CUDA device;"):
        join_world(load_config(None, ["NUM_GPUS", "2"]))


def test_torchrun_and_the_settings_must_agree_on_the_number_of_processes(gpus):
    gpus(seen=8, processes=4)
    with pytest.raises(UserError, match=r"NUM_GPUS is 2, but torchrun started 4 processes .* NUM_GPUS 4"):
        join_world(load_config(None, ["NUM_GPUS", "2"]))


def test_a_single_process_does_not_pretend_to_be_several(gpus):
    gpus(seen=2)
    with pytest.raises(UserError, match="NUM_GPUS is 2, and this is a single process"):
        join_world(load_config(None, ["NUM_GPUS", "2"]))


def test_one_process_of_torchrun_is_a_single_process(gpus):
    gpus(seen=0, processes=1)
    assert join_world(load_config(None, ["NUM_GPUS", "0"])) == ALONE


def test_processes_that_never_come_are_one_line_and_not_waited_for_for_ever(gpus, monkeypatch):
    gpus(seen=0, processes=2)
    monkeypatch.setenv("RANK", "1")  # of rank 0 there is no trace
    monkeypatch.setattr(distributed, "TIME_TO_MEET", timedelta(seconds=1))
    with pytest.raises(ConnectionError, match=r"the 2 processes of the run did not meet at 127\.0\.0\.1:1"):
        join_world(load_config(None, ["NUM_GPUS", "0"]))
