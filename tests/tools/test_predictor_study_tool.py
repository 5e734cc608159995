"""The comparison of predictors: what it writes, its clock, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tool_calls import ToolCall

from stvit.engine.distributed import ALONE
from stvit.engine.signals import stop_on_signals
from stvit.errors import UserError
from stvit.registry import create_model

SETTINGS = [
    *("MOVING_MNIST.DIGITS", "sklearn", "MOVING_MNIST.FRAMES_IN", 2, "MOVING_MNIST.FRAMES_OUT", 2),
    *("MOVING_MNIST.TRAIN_SEQUENCES", 2, "MOVING_MNIST.VAL_SEQUENCES", 2, "MOVING_MNIST.TEST_SEQUENCES", 2),
    *("SOLVER.MAX_EPOCH", 2, "TRAIN.BATCH_SIZE", 2, "LOG_PERIOD", 1),
    *("MOVING_MNIST.IMAGE_SIZE", 24, "MOVING_MNIST.DIGIT_SIZE", 12),
]


@pytest.fixture
def study(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("predictor_study", capsys)


def test_networks_are_trained_and_measured_after_every_epoch(study: ToolCall, tmp_path: Path) -> None:
    words = ["--data", tmp_path, "--output", tmp_path / "out", *SETTINGS]
    assert study(*words, "--only", "mixvit3d_predictor")[0] == 0
    status, table, error = study(*words)  # the others, too
    assert status == 0, error
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == list(study.module.ARMS)
    for arm, result in results.items():
        assert [line["epoch"] for line in result["curve"]] == [1, 2]
        first, second = (line["cpu_s"] for line in result["curve"])
        assert 0 < first < second
        assert all(metric in line for line in result["curve"] for metric in study.module.SHOWN)
        assert f"| {arm} | " in table
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")

    status, again, _ = study(*words)  # nothing is left to do
    assert (status, again.partition("| network")[2]) == (0, table.partition("| network")[2])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results


def test_a_run_that_was_stopped_goes_on_with_its_clock(
    study: ToolCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", tmp_path, "--output", tmp_path / "out", *SETTINGS, "--only", "mixvit3d_predictor"]
    train = study.module.train

    def stopped(*arguments: object) -> None:
        train(*arguments)
        raise UserError("stopped")

    monkeypatch.setattr(study.module, "train", stopped)
    assert study(*words)[0] == 2
    clock = tmp_path / "out" / "mixvit3d_predictor" / "seconds.txt"
    clock.write_text("500")
    spent: list[float] = []
    monkeypatch.setattr(study.module, "train", lambda cfg, model, task, *rest: spent.append(task.spent))
    assert study(*words)[0] == 0
    assert 500 <= spent[0] < 510
    assert 500 <= float(clock.read_text()) < 510


def test_the_small_network_costs_no_more_than_the_published_one_made_small(study: ToolCall) -> None:
    costs = [study.module.cost(study.module.settings(f"{name}_mini", [])) for name in study.module.FULL_SIZE]
    assert costs[1]["gmacs"] <= costs[0]["gmacs"]
    assert costs[1]["params_m"] <= costs[0]["params_m"]


def test_the_clock_goes_on_from_what_an_interrupted_run_took_and_stands_still_in_validation(study: ToolCall) -> None:
    words = [str(word) for word in SETTINGS]
    cfg = study.module.settings("mixvit_predictor_mini", words)
    task = study.module.TimedPrediction(cfg, ALONE, spent=1000.0)
    model = create_model("mixvit_predictor_mini", in_frames=2, out_frames=2)
    with stop_on_signals(ALONE) as stop:
        first, second = (task.validate(model, stop)["cpu_s"] for _ in range(2))
    assert 1000 <= first < 1001
    assert second - first < 0.005


def test_steps_at_full_size_are_described_in_a_line(study: ToolCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.module, "FULL_BATCH", 1)
    words = [str(word) for word in SETTINGS]
    line = study.module.full_size("mixvit3d_predictor_mini", 1, words)  # 64x64 pixels, but a small network
    assert line.startswith("mixvit3d_predictor_mini: 0.")
    assert " GMACs, " in line
    assert len(line.rpartition("losses ")[2].split()) == 2


def test_a_mistake_is_one_line(study: ToolCall, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (["--output", tmp_path / "file"], ["--output", tmp_path, "--full-size", 0]):
        status, _, error = study("--data", tmp_path, *words)
        assert status == 2
        assert error.count("\n") == 1
