"""Models in folders, as the Hugging Face Hub keeps them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

import stvit
from stvit.backbones.mvit import MViT
from stvit.checkpoint import load_checkpoint, pack_model, save_checkpoint
from stvit.errors import UserError
from stvit.hub import from_pretrained, push_to_hub, save_pretrained
from stvit.model import Model
from stvit.registry import model_spec

SMALL = {"depths": (1, 1), "width": 16, "num_classes": 3}


@pytest.fixture
def model() -> Model:
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32))
    model.preprocessing = dataclasses.replace(model.preprocessing, labels=("cat", "dog", "cow"))
    return model.eval()


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_model_comes_back_from_its_folder_with_tuples_as_tuples(tmp_path: Path, model: Model) -> None:
    save_pretrained(model, tmp_path / "made" / "here")
    assert {file.name for file in (tmp_path / "made" / "here").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    again = from_pretrained(tmp_path / "made" / "here")
    assert again.spec == model.spec
    assert type(again.spec.depths) is tuple
    assert again.preprocessing == model.preprocessing
    assert (again.model_name, again.model_args) == (model.model_name, model.model_args)
    assert not again.training
    assert same_weights(again, model)


def test_clips_and_feature_maps_come_back_as_well(tmp_path: Path) -> None:
    clips = stvit.create_model("mvitv2_small_16x4", **SMALL, input_size=(4, 32, 32))
    save_pretrained(nn.DataParallel(clips), tmp_path / "clips")
    assert from_pretrained(str(tmp_path / "clips")).spec == clips.spec
    maps = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32), features_only=True, out_indices=[0])
    save_pretrained(maps, tmp_path / "maps")
    again, x = from_pretrained(tmp_path / "maps"), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert [torch.equal(a, b) for a, b in zip(again(x), maps.eval()(x), strict=True)] == [True]


def test_the_weights_of_a_folder_load_as_a_checkpoint(tmp_path: Path, model: Model) -> None:
    save_pretrained(model, tmp_path)
    other = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32))
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert same_weights(other, model)


def test_the_hubs_mixin_reads_the_folder_and_writes_one_like_it(tmp_path: Path, model: Model) -> None:
    class OnTheHub(PyTorchModelHubMixin, MViT):  # before the network, whose own save_pretrained is ours
        def __init__(self, model: dict, preprocessing: dict, library_name: str = "stvit") -> None:
            super().__init__(model_spec(model["name"], **model["args"]))

    save_pretrained(model, tmp_path / "ours")
    theirs = OnTheHub.from_pretrained(str(tmp_path / "ours"), strict=True)
    assert same_weights(theirs, model)
    theirs.save_pretrained(tmp_path / "theirs")
    again = from_pretrained(tmp_path / "theirs")
    assert again.spec == model.spec
    assert again.preprocessing == model.preprocessing
    assert same_weights(again, model)


def test_an_earlier_model_is_replaced_and_its_card_stays(tmp_path: Path, model: Model) -> None:
    save_pretrained(stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64)), tmp_path)
    (tmp_path / "README.md").write_text("about my model")
    save_pretrained(model, tmp_path)
    assert from_pretrained(tmp_path).spec == model.spec
    assert (tmp_path / "README.md").read_text() == "about my model"


def test_a_failed_write_leaves_no_description_of_other_weights(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64)), tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match=r"cannot write checkpoint .*model\.safetensors"):
        save_pretrained(model, tmp_path)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config.json": None}, r"holds no config\.json: it is not a folder that save_pretrained wrote"),
        ({"model.safetensors": None}, r"holds no model\.safetensors"),
        ({"config.json": "{"}, r"config\.json is no JSON"),
        ({"config.json": "[]"}, r"config\.json holds a list"),
        ({"config.json": "{}"}, r"config\.json does not say which model it is of"),
        ({"model.safetensors": "<html>"}, r"model\.safetensors is a web page"),
    ],
)
def test_a_broken_folder_is_named_in_one_line(
    tmp_path: Path, model: Model, change: dict[str, str | None], said: str
) -> None:
    save_pretrained(model, tmp_path)
    for name, text in change.items():
        (tmp_path / name).unlink()
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said) as error:
        from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("mvitv2_teeny", {}, r"cannot be built here: no model is named 'mvitv2_teeny' \(did you mean"),
        ("mvitv2_tiny", {"depth": 3}, r"cannot be built here: model 'mvitv2_tiny' has no setting 'depth'"),
        ("mvitv2_tiny", {"pretrained": True}, r"cannot be built here: 'pretrained' is no setting of a model"),
        ("mvitv2_tiny", {}, r"model\.safetensors \(layout stvit\) does not fit mvitv2_tiny"),
    ],
)
def test_a_description_of_another_model_is_explained(
    tmp_path: Path, model: Model, name: str, args: dict[str, object], said: str
) -> None:
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": {"name": name, "args": args}}))
    with pytest.raises(UserError, match=said) as error:
        from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_the_folder_predicts_and_says_how_its_model_is_built(tmp_path: Path, model: Model) -> None:
    save_pretrained(model, tmp_path)
    pixels = torch.rand(3, 40, 40)
    assert stvit.predict(pixels, str(tmp_path)) == stvit.predict(pixels, model)
    with pytest.raises(
        UserError, match=r"is a folder of save_pretrained: stvit\.from_pretrained\('.*'\) builds"
    ) as error:
        load_checkpoint(model, tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_stvits_own_is_taken_and_anothers_is_refused_with_the_way_out(
    tmp_path: Path, model: Model
) -> None:
    save_checkpoint(tmp_path / "best.pt", pack_model(model))
    again = from_pretrained(tmp_path / "best.pt")
    assert same_weights(again, model)
    assert again.preprocessing == model.preprocessing
    torch.save(model.state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"other\.pth is not one of stvit's own .*create_model\(name, checkpoint="
    ) as error:
        from_pretrained(tmp_path / "other.pth")
    assert "\n" not in str(error.value)


def test_the_card_links_to_no_package_index(tmp_path: Path, model: Model) -> None:
    save_pretrained(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "pip install /path/to/stvit" in card
    assert "pypi" not in card


def test_what_cannot_be_saved_or_found_is_named(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="a Linear cannot be rebuilt from a file"):
        save_pretrained(nn.Linear(1, 1), tmp_path / "linear")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file: name a folder"):
        save_pretrained(model, tmp_path / "file")
    with pytest.raises(UserError, match=r"there is no folder or checkpoint .*missing, and it is no id of the Hub"):
        from_pretrained(tmp_path / "missing")
    with pytest.raises(OSError, match="nobody/nothing is no folder and cannot be had from the Hub") as error:
        from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_a_model_is_pushed_as_its_folder(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> object:
            calls.append(("create", (repo_id, private, exist_ok)))
            return type("Made", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, revision: str | None) -> str:
            calls.append(("upload", (repo_id, same_weights(from_pretrained(folder_path), model))))
            return "https://hub/commit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push_to_hub(model, "cats", private=True) == "https://hub/commit"
    assert calls == [("token", None), ("create", ("cats", True, True)), ("upload", ("me/cats", True))]


def test_importing_stvit_and_its_hub_does_not_import_the_hubs_library(tmp_path: Path) -> None:
    probe = (
        "import sys, timm; theirs = set(sys.modules); import stvit, stvit.hub; "
        "print([m for m in set(sys.modules) - theirs if m.startswith('huggingface_hub')])"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
