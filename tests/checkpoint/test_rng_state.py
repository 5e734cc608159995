"""The random generators go on where a checkpoint left them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from stvit.checkpoint import read_checkpoint, rng_state, save_checkpoint, set_rng_state
from stvit.errors import UserError


def draw() -> list[object]:
    """Normal draws too: Python and numpy keep the second of each pair."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()]


def test_every_generator_repeats_its_draws_after_a_round_trip_through_a_file(tmp_path: Path) -> None:
    draw()
    save_checkpoint(tmp_path / "a.pt", {"rng": rng_state()})
    expected = [draw() for _ in range(3)]
    set_rng_state(read_checkpoint(tmp_path / "a.pt")["rng"])
    assert [draw() for _ in range(3)] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="the state below is no real device's")
def test_states_of_absent_devices_are_left_out() -> None:
    state = rng_state()
    expected = draw()
    set_rng_state({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)]})
    assert draw() == expected


def test_what_is_no_state_is_refused_and_changes_nothing() -> None:
    state = rng_state()
    expected = draw()
    set_rng_state(state)
    with pytest.raises(UserError, match="states of the random generators are unreadable"):
        set_rng_state({**state, "numpy": [1, 2]})
    assert draw() == expected
