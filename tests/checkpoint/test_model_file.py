"""stvit's own checkpoints build their model again, with all that it needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import stvit
from stvit.checkpoint import load_checkpoint, model_from_checkpoint, pack_model, save_checkpoint
from stvit.errors import UserError

SMALL = {"hidden_spatial": 8, "hidden_translator": 32, "encoder_depth": 2, "translator_depth": 1}
SMALL |= {"window": (4, 4), "dim_head": 8, "channel_heads": 4, "in_frames": 4}


@pytest.fixture
def model() -> nn.Module:
    return stvit.create_model("mixvit_predictor", **SMALL)


def test_a_model_comes_back_as_it_was(tmp_path: Path, model: nn.Module) -> None:
    model.preprocessing = dataclasses.replace(model.preprocessing, labels=("a", "b"))
    save_checkpoint(tmp_path / "last.pt", pack_model(model) | {"epoch": 3})
    again = model_from_checkpoint(tmp_path / "last.pt")
    assert (again.model_name, again.model_args, again.spec) == (model.model_name, model.model_args, model.spec)
    assert again.preprocessing == model.preprocessing
    assert not again.training
    frames = torch.rand(1, 4, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(frames), model.eval()(frames))


def test_a_compiled_and_parallel_model_is_packed_as_itself(model: nn.Module) -> None:
    packed = pack_model(torch.compile(nn.DataParallel(model), backend="eager"))
    assert packed["state_dict"].keys() == model.state_dict().keys()


def test_the_average_is_preferred_where_there_is_one(tmp_path: Path, model: nn.Module) -> None:
    average = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_checkpoint(tmp_path / "last.pt", pack_model(model, ema=average))
    key = next(iter(average))
    assert torch.equal(model_from_checkpoint(tmp_path / "last.pt").state_dict()[key], average[key])
    created = stvit.create_model("mixvit_predictor", checkpoint=tmp_path / "last.pt", **SMALL)
    assert torch.equal(created.state_dict()[key], average[key])
    own = model_from_checkpoint(tmp_path / "last.pt", ema=False).state_dict()[key]
    assert torch.equal(own, model.state_dict()[key])


def test_own_checkpoints_load_into_a_given_model_too(tmp_path: Path, model: nn.Module) -> None:
    save_checkpoint(tmp_path / "last.pt", pack_model(model))
    report = load_checkpoint(stvit.create_model("mixvit_predictor", **SMALL), tmp_path / "last.pt")
    assert report.layout == "stvit"


def test_the_path_may_begin_at_home_and_be_an_address(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    save_checkpoint(tmp_path / "last.pt", pack_model(model))
    for source in ("~/last.pt", (tmp_path / "last.pt").as_uri()):
        assert model_from_checkpoint(source).spec == model.spec


def test_a_module_of_ones_own_cannot_be_packed() -> None:
    with pytest.raises(UserError, match="a Linear cannot be rebuilt from a file: build models with create_model"):
        pack_model(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"format": "stvit-checkpoint-2"},
            r"has format stvit-checkpoint-2, this stvit reads up to .*: install",
        ),
        ({"format": "another"}, r"is not one of stvit's own checkpoints: name its model"),
        (
            {"model": {"name": "mixvit_predicter", "args": {}}},
            r"cannot be built here: no model is named .*mean",
        ),
        (
            {"model": {"name": "mixvit_predictor", "args": {"colour": 1}}},
            r"cannot be built .*no setting 'colour'",
        ),
        (
            {"model": {"name": "mixvit_predictor", "args": {"checkpoint": "/other/file.pt"}}},
            r"cannot be built .*'checkpoint' is no setting of a model",
        ),
        ({"model": {"name": "mixvit_predictor"}}, "does not say which model it is of"),
        ({"preprocessing": None}, "does not say which model it is of"),
        ({"preprocessing": {"size": 1}}, "cannot be built here: preprocessing has no field 'size'"),
        ({"state_dict": {"w": torch.ones(1)}}, r"of model mixvit_predictor\) does not fit mixvit_predictor: it lacks"),
    ],
)
def test_what_cannot_be_rebuilt_is_explained(
    tmp_path: Path, model: nn.Module, change: dict[str, object], said: str
) -> None:
    save_checkpoint(tmp_path / "last.pt", pack_model(model) | change)
    with pytest.raises(UserError, match=r"last\.pt .*" + said) as error:
        model_from_checkpoint(tmp_path / "last.pt")
    assert "\n" not in str(error.value)


def test_another_librarys_checkpoint_is_refused_with_its_layout(tmp_path: Path, model: nn.Module) -> None:
    from stvit.checkpoint.layouts import openstl_mixvit

    torch.save({"state_dict": openstl_mixvit.from_stvit(model.state_dict())}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"has layout openstl-mixvit: name its model, as in create_model"):
        model_from_checkpoint(tmp_path / "a.pth")
