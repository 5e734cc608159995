"""Full memory, dead loader workers and slow data: one line each, with a way out."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from stvit.config import load_config
from stvit.engine.advice import failures_in_a_line, faster_data, usable_cores

VIDEOS = ("DATA.DATASET", "kinetics", "MODEL.NAME", "mvitv2_small_16x4", "MODEL.NUM_CLASSES", "400")


class Killed(Dataset):
    """Its worker gets a signal when it loads."""

    def __init__(self, signum):
        self.signum = signum

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGKILL, "Killed"), (signal.SIGTERM, "Terminated")])
def test_a_worker_that_dies_is_one_line_with_what_to_do(signum, name):
    cfg = load_config(None, [*VIDEOS, "DATA_LOADER.NUM_WORKERS", "3"])
    said = rf"a loader worker has died.*{name}.*DATA_LOADER\.NUM_WORKERS 3"
    with pytest.raises(OSError, match=said) as caught, failures_in_a_line(cfg):
        list(DataLoader(Killed(signum), num_workers=1))
    assert "\n" not in str(caught.value)
    assert "tools/check_data.py" in str(caught.value)


def test_a_worker_without_shared_memory_is_told_from_others():
    said = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out"
    with pytest.raises(OSError, match=r"for want of shared memory \(/dev/shm\)"), failures_in_a_line(load_config(None)):
        raise RuntimeError(said)


def test_full_memory_names_the_settings_that_save_some():
    cfg = load_config(None, [*VIDEOS, "TRAIN.BATCH_SIZE", "24"])
    switches = r"lower TRAIN\.BATCH_SIZE 24 and raise TRAIN\.ACCUMULATE_STEPS 1 .*MODEL\.ACT_CHECKPOINT True"
    said = rf"GPU's memory is full \(2\.50 GiB more were asked for\): {switches}"
    with pytest.raises(OSError, match=said), failures_in_a_line(cfg):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")
    with pytest.raises(OSError, match=rf"machine's memory is full \(.*\): {switches}"), failures_in_a_line(cfg):
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(OSError, match="machine's memory is full"), failures_in_a_line(cfg):
        np.empty(2**58, np.uint8)


def test_a_network_that_does_not_compile_is_one_line_with_what_to_do():
    def broken(graph, inputs):
        raise OSError("no compiler\nis here")

    compiled = torch.compile(torch.nn.Linear(2, 2), backend=broken)
    said = r"^the network could not be compiled \(.*no compiler.*\): set TRAIN\.COMPILE False"
    with pytest.raises(OSError, match=said) as caught, failures_in_a_line(load_config(None, ["TRAIN.COMPILE", "True"])):
        compiled(torch.ones(1, 2))
    assert "\n" not in str(caught.value)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="a fault"), failures_in_a_line(load_config(None)):
        raise RuntimeError("a fault")


def test_slow_data_are_sped_up_by_workers_as_far_as_there_are_cores():
    cores = usable_cores()
    assert "raise DATA_LOADER.NUM_WORKERS 0" in faster_data(load_config(None, ["DATA_LOADER.NUM_WORKERS", "0"]))
    full = faster_data(load_config(None, [*VIDEOS, "DATA_LOADER.NUM_WORKERS", str(cores)]))
    assert f"takes all {cores} cores already" in full
    assert "tools/resize_videos.py" in full
