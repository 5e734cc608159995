"""The predictor that stvit ships: its name, its digests, and the files themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES
from safetensors.torch import save_file

import stvit
import stvit.builtin
from stvit.builtin import DIGESTS, FOLDER
from stvit.checkpoint import convert, model_from_checkpoint, pack_model, save_checkpoint
from stvit.config import load_config
from stvit.datasets import MovingMNIST, MovingMNISTSpec
from stvit.datasets.digits import load_digits
from stvit.datasets.moving_mnist import TEST_STREAM
from stvit.engine.predict import load_model
from stvit.engine.run import run
from stvit.errors import UserError
from stvit.metrics.frames import mse
from stvit.model import Model
from stvit.predictors.baselines import BASELINES

FILES = {"config.json", "model.safetensors", "README.md"}


def tiny(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return stvit.create_model(
        "mixvit_predictor", in_frames=2, out_frames=2, channels=1, image_size=[12, 12], **TINY_PREDICTOR
    )


def list_digests(folder: Path) -> None:
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES]
    (folder / DIGESTS).write_text("".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny predictor's, in place of the shipped one's; the working directory is another, empty one."""
    folder = tmp_path / "shipped"
    tiny().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": "stvit-checkpoint-1"}))
    half = {k: v.half() if v.is_floating_point() else v for k, v in tiny().state_dict().items()}
    save_file(half, folder / "model.safetensors")
    list_digests(folder)
    monkeypatch.setattr(stvit.builtin, "FOLDER", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def same_weights(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_all_ways_to_weights_know_the_name_and_give_float32(folder: Path) -> None:
    expected = tiny()
    expected.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in expected.state_dict().items()})
    models = [stvit.from_pretrained("builtin"), model_from_checkpoint("builtin"), load_model("builtin", "cpu")]
    assert not any(model.training for model in models)
    models.append(tiny(seed=1))
    report = stvit.load_checkpoint(models[-1], "builtin")
    assert (report.source, report.layout) == ("builtin", "stvit")
    assert all(same_weights(model, expected) for model in models)
    assert all(v.dtype != torch.float16 for v in convert("builtin", "openstl-mixvit").values())


def test_the_name_predicts(folder: Path) -> None:
    frames = torch.rand(2, 12, 12)
    by_name, by_model = (
        stvit.predict(frames, model, device="cpu") for model in ("builtin", model_from_checkpoint("builtin"))
    )
    assert (by_name.predicted == by_model.predicted).all()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_name_wins_over_the_user_s_own_which_is_called_by_a_path(folder: Path, kind: str) -> None:
    own = tiny(seed=1)
    if kind == "file":
        save_checkpoint("builtin", pack_model(own))
    else:
        own.save_pretrained("builtin")
    for build in (stvit.from_pretrained, load_model):
        assert not same_weights(build("builtin").cpu(), own)
        assert same_weights(build("./builtin").cpu(), own)
        assert same_weights(build(Path("builtin")).cpu(), own)


def test_another_network_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"builtin \(of model mixvit_predictor\) does not fit mixformer_b0: ") as error:
        stvit.create_model("mixformer_b0", checkpoint="builtin")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_byte_is_named_with_both_digests_and_the_way_out(folder: Path, name: str, place: int) -> None:
    content = bytearray((folder / name).read_bytes())
    shipped = hashlib.sha256(content).hexdigest()
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        stvit.from_pretrained("builtin")
    found = hashlib.sha256(content).hexdigest()
    assert str(error.value) == (
        f"{folder / name}, a part of builtin, is damaged or was changed: its SHA-256 begins with {found[:12]}, "
        f"the one in SHA256SUMS with {shipped[:12]}; reinstall stvit"
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", DIGESTS])
def test_a_file_that_is_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}, a part of builtin, is missing: reinstall stvit"):
        stvit.predict(torch.rand(2, 12, 12), "builtin")


def test_a_file_without_a_digest_is_not_trusted(folder: Path) -> None:
    (folder / DIGESTS).write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="the one in SHA256SUMS with none; reinstall stvit"):
        stvit.from_pretrained("builtin")


def test_training_starts_from_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "MODEL": {"NAME": "mixvit_predictor", "ARGS": TINY_PREDICTOR},
        "MOVING_MNIST": {**TINY_SEQUENCES, "TRAIN_SEQUENCES": 2, "VAL_SEQUENCES": 2, "TEST_SEQUENCES": 2},
        "TRAIN": {"BATCH_SIZE": 2},
        "SOLVER": {"MAX_EPOCH": 1},
        "DATA_LOADER": {"NUM_WORKERS": 0},
        "NUM_GPUS": 0,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    started = ["TRAIN.CHECKPOINT_FILE_PATH", "builtin", "TEST.ENABLE", "False", "OUTPUT_DIR", "started"]
    run(load_config(str(tmp_path / "run.yaml"), started))
    assert capsys.readouterr().out.splitlines()[0].split() == ["checkpoint", "builtin"]
    assert Path("started/checkpoints/best.pt").is_file()


def test_the_shipped_files_have_their_digests_and_a_card_with_the_figures() -> None:
    listed = dict(reversed(line.split()) for line in (FOLDER / DIGESTS).read_text().splitlines())
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, DIGESTS}
    assert listed == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in FILES}
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6
    config = json.loads((FOLDER / "config.json").read_text())
    name = config["model"]["name"]
    assert f"{config['results']['methods'][name]['mse']:.1f}" in (FOLDER / "README.md").read_text()
    demo = load_config(str(Path(__file__).parents[1] / "configs" / "moving_mnist" / "builtin_demo.yaml"))
    assert name == demo.MODEL.NAME


def test_the_shipped_predictor_beats_every_simple_method_on_digits_that_it_never_saw() -> None:
    digits = load_digits("sklearn", "test")
    sequences = MovingMNIST(digits, MovingMNISTSpec(), 20, seed=0, stream=TEST_STREAM)
    frames = torch.from_numpy(sequences.generate(0, np.arange(20)))[:, :, None].float() / 255  # (20, 20, 1, 64, 64)
    past, future = frames[:, :10], frames[:, 10:]
    with torch.inference_mode():
        predicted = stvit.from_pretrained("builtin")(past, 10)
    simple = min(mse(method(past, 10), future) for method in BASELINES.values())
    assert mse(predicted, future) < simple
