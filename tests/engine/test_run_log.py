"""What a run says while it goes."""

from __future__ import annotations

import json
import re
import sys

import pytest

from stvit.engine.logging import Board, MetricsFile, Progress


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_file_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    first.write({"step": 1})
    kept = first.size
    first.write({"step": 2})  # a killed process got no further
    second = MetricsFile(path, keep=kept)
    second.write({"step": 3})
    assert records(path) == [{"step": 1}, {"step": 3}]


def test_a_new_run_begins_an_empty_file_and_a_lost_one_is_begun_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(path).close()
    assert path.read_text() == ""
    path.unlink()
    MetricsFile(path, keep=100).write({"step": 2})
    assert records(path) == [{"step": 2}]


def test_numbers_that_json_does_not_have_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        MetricsFile(tmp_path / "metrics.jsonl").write({"loss": float("nan")})


def test_away_from_a_terminal_a_report_is_one_line(capsys):
    progress = Progress(total=10, done=0)
    progress.step()
    progress.report("epoch 1/2 step 1/5", 0.5, 1e-3, 1234.0, 0.25)
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(
        r"epoch 1/2 step 1/5: loss 0.50000, lr 1.00e-03, 1234 frames/s, 25% waiting for data, 0:00:00 to go\n", out
    )


def test_on_a_terminal_there_is_a_bar_with_the_same_figures(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(total=10, done=4)
    progress.step()
    progress.report("epoch 1/2", 0.5, 1e-3, 1234.0, 0.25)
    progress.say("a line that stays")
    progress.close()
    out, err = capsys.readouterr()
    assert "a line that stays" in out
    for figure in ("epoch 1/2", "5/10", "loss 0.50000", "lr 1.00e-03", "1234 frames/s", "25% waiting for data"):
        assert figure in err


def test_other_ranks_are_quiet(capsys):
    progress = Progress(total=10, done=0, quiet=True)
    progress.say("nothing")
    assert capsys.readouterr() == ("", "")


def test_the_board_gets_the_figures_of_the_records(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board(tmp_path / "tensorboard", first_step=1)
    board.write({"kind": "train", "epoch": 1, "step": 7, "loss": 0.5})
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(7, 0.5)]


def test_without_a_folder_there_is_no_board(tmp_path):
    Board(None, first_step=1).write({"kind": "train", "step": 1, "loss": 0.5})
    assert list(tmp_path.iterdir()) == []
