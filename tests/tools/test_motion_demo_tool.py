"""The demonstration on videos: what it writes, what the two other networks are shown, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tool_calls import ToolCall

SMALL = [
    *("--videos", 16, 8, 8, "SOLVER.MAX_EPOCH", 1, "TRAIN.BATCH_SIZE", 8, "DATA_LOADER.NUM_WORKERS", 0),
    *("DATA.NUM_FRAMES", 4, "DATA.TRAIN_CROP_SIZE", 32, "DATA.TEST_CROP_SIZE", 32, "TEST.NUM_ENSEMBLE_VIEWS", 2),
]


@pytest.fixture
def demo(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("motion_demo", capsys)


def test_three_networks_are_trained_on_the_same_videos_and_tested_alike(
    demo: ToolCall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = demo.module.load_config
    few = ["SOLVER.MAX_EPOCH", "1", "TRAIN.BATCH_SIZE", "8", "DATA_LOADER.NUM_WORKERS", "0"]
    monkeypatch.setattr(demo.module, "load_config", lambda file, words: load(file, [*few, *words]))
    status, out, error = demo("--output", tmp_path, *SMALL)
    assert status == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["networks"]) == ["clips", "one_frame", "shuffled"]
    for arm, row in results["networks"].items():
        own = json.loads((tmp_path / arm / "results.json").read_text())
        assert row["videos"] == own["videos"] == 8
        assert own["views_of_a_video"] == 2
        assert row["class"] == pytest.approx(own["methods"]["mvitv2_tiny_16f"]["mean"]["top1_accuracy"])
        assert f"\n{arm} " in out
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")

    trained = {arm: (tmp_path / arm / "checkpoints" / "last.pt").stat().st_mtime_ns for arm in demo.module.ARMS}
    assert demo("--output", tmp_path, *SMALL)[0] == 0
    assert trained == {arm: (tmp_path / arm / "checkpoints" / "last.pt").stat().st_mtime_ns for arm in trained}
    assert json.loads((tmp_path / "results.json").read_text())["networks"] == results["networks"]


def test_the_other_networks_are_shown_one_frame_or_all_in_random_order(demo: ToolCall) -> None:
    clips = torch.arange(6.0).view(1, 1, 6, 1, 1) + 10 * torch.arange(50.0).view(50, 1, 1, 1, 1)
    clips = clips.expand(50, 3, 6, 2, 2)
    module = torch.nn.Identity()
    for mode in (module.train(), module.eval()):
        (one,) = demo.module.one_frame(mode, (clips,))
        assert (one == one[:, :, :1]).all()
        assert set((one - clips[:, :, :1]).unique().tolist()) == {0, 1, 2, 3, 4, 5}
        (mixed,) = demo.module.shuffled(mode, (clips,))
        assert (mixed.sort(dim=2).values == clips).all()
        orders = {tuple(order) for order in (mixed - clips[:, :, :1])[:, 0, :, 0, 0].tolist()}
        assert len(orders) > 40
    again = demo.module.shuffled(module.eval(), (clips,))[0]
    assert torch.equal(again, mixed)  # evaluation takes nothing from the generators of training


def test_pairs_and_directions_are_counted_apart(demo: ToolCall, tmp_path: Path) -> None:
    counts = np.zeros((8, 8), int)
    counts[range(8), range(8)] = 6
    counts[0, 1] = counts[1, 0] = 2  # the right pair, the wrong way
    counts[2, 7] = 4  # another pair
    (tmp_path / "results.json").write_text(json.dumps({"confusion": {"rows_are_true": counts.tolist()}}))
    row = demo.module.measured(tmp_path)
    assert row["videos"] == 56
    assert row["class"] == pytest.approx(100 * 48 / 56)
    assert row["pair"] == pytest.approx(100 * 52 / 56)
    assert row["direction"] == pytest.approx(100 * 48 / 52)


def test_a_mistake_is_one_line(demo: ToolCall, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (["--output", tmp_path / "file"], ["--output", tmp_path, "DATA.NUM_FRAME", 4]):
        status, _, error = demo(*words)
        assert (status, error.count("\n")) == (2, 1)
