"""The experiment on inflation: its clips, its four starts, and going on after an interruption."""

import json

import numpy as np
import pytest
import torch
from tool_calls import load_tool

from stvit.cli import run


@pytest.fixture
def study(monkeypatch):
    """The tool's module, with runs of two steps."""
    module = load_tool("inflation_study")
    small = {"IMAGE_STEPS": 2, "IMAGE_BATCH": 2, "STEPS": 2, "EVERY": 1, "BATCH": 2, "VALIDATION_CLIPS": 4}
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_a_clips_class_is_its_digit_and_the_way_it_moves(study, monkeypatch):
    monkeypatch.setattr(study, "NOISE", 0.0)
    (images, targets), (others, _) = study.digits()
    assert (len(images), len(others)) == (1437, 360)
    clips, labels = study.make_clips(images, targets, 64, np.random.default_rng(0))
    places = torch.arange(24.0)
    mass = clips.sum((1, 3, 4))
    for axis, profile in enumerate((clips.sum((1, 4)), clips.sum((1, 3)))):  # rows, columns
        centre = (profile * places).sum(-1) / mass
        moved = torch.tensor([study.DIRECTIONS[label % 4][axis] for label in labels])
        assert torch.allclose(centre.diff(dim=1), moved[:, None].float().expand(-1, 7), atol=1e-3)
    ink = images.sum((1, 2))
    for clip_ink, label in zip(mass[:, 0], labels, strict=True):
        assert (ink[targets == label // 4] - clip_ink).abs().min() < 1e-3


def test_an_interrupted_study_goes_on_with_the_runs_that_lack(study, tmp_path, capsys, monkeypatch):
    assert run(study.main, ["--output", str(tmp_path), "--seeds", "1"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == set(study.ARMS)
    assert all([len(curve) for curve in runs.values()] == [3] for runs in results.values())
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert all(f"| {arm} | " in table for arm in study.ARMS)

    del results["mean"]["0"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    trained = []
    original = study.training
    monkeypatch.setattr(study, "training", lambda model, arm, *rest: trained.append(arm) or original(model, arm, *rest))
    assert run(study.main, ["--output", str(tmp_path), "--seeds", "1"]) == 0
    assert trained == ["mean"]
    assert capsys.readouterr().out == table  # from the image network that was kept, with the same clips


def test_a_mistake_is_one_line(study, tmp_path, capsys):
    (tmp_path / "file").touch()
    for words in (["--output", str(tmp_path / "file")], ["--output", str(tmp_path), "--seeds", "0"]):
        assert run(study.main, words) == 2
        assert capsys.readouterr().err.count("\n") == 1
