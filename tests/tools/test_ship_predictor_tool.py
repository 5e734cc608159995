"""From a finished run to the predictor that stvit ships: rounding, figures, card, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES, results
from tool_calls import ToolCall

import stvit
import stvit.builtin
from stvit.checkpoint import model_from_checkpoint, read_checkpoint, save_checkpoint
from stvit.config import load_config
from stvit.engine.run import run

FILES = ["model.safetensors", "config.json", "README.md", "SHA256SUMS"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's OUTPUT_DIR."""
    folder = tmp_path_factory.mktemp("ship")
    settings = {
        "MODEL": {"NAME": "mixvit_predictor", "ARGS": TINY_PREDICTOR},
        "DATA": {"PATH_TO_DATA_DIR": str(folder / "secret" / "digits")},
        "MOVING_MNIST": {**TINY_SEQUENCES, "TRAIN_SEQUENCES": 4, "VAL_SEQUENCES": 2, "TEST_SEQUENCES": 5},
        "TRAIN": {"BATCH_SIZE": 2},
        "SOLVER": {"MAX_EPOCH": 2, "BASE_LR": 0.01},
        "TEST": {"ENABLE": False, "BASELINES": False},
        "DATA_LOADER": {"NUM_WORKERS": 0},
        "NUM_GPUS": 0,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    run(load_config(str(folder / "run.yaml"), ["OUTPUT_DIR", str(folder / "secret" / "run")]))
    return folder / "secret" / "run"


@pytest.fixture
def ship(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("ship_predictor", capsys)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_the_folder_is_the_rounded_best_network_with_its_figures(
    ship: ToolCall, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shipped"
    status, out, error = ship("--run", finished, "--output", folder, "--note", "one quiet core")
    assert status == 0, error
    assert out.splitlines()[-4:] == [str(folder / name) for name in FILES]
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[:3]}

    monkeypatch.setattr(stvit.builtin, "FOLDER", folder)
    best = model_from_checkpoint(finished / "checkpoints" / "best.pt").state_dict()
    for model in (stvit.from_pretrained("builtin"), stvit.from_pretrained(folder)):  # a copy of the folder works, too
        for key, value in model.state_dict().items():
            rounded = best[key].half().float() if best[key].is_floating_point() else best[key]
            assert value.dtype == best[key].dtype
            assert torch.equal(value, rounded), key
    assert not all(torch.equal(value, model.state_dict()[key]) for key, value in best.items())

    # What is said of it is what anyone measures who evaluates it on the same set.
    again = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "TEST.BASELINES", "True"]
    again += ["TEST.CHECKPOINT_FILE_PATH", "builtin", "OUTPUT_DIR", str(tmp_path / "again")]
    run(load_config(str(finished / "config.yaml"), again))
    measured, config = results(tmp_path / "again"), config_of(folder)
    assert (measured["checkpoint"]["source"], measured["checkpoint"]["layout"]) == ("builtin", "stvit")
    assert measured["checkpoint"]["epochs"] == config["epoch"]
    said = config["results"]
    assert said["test_data"] == measured["data"]["test"]
    assert said["methods"].keys() == measured["methods"].keys()
    for name, values in said["methods"].items():
        assert values == pytest.approx(measured["methods"][name]["mean"], rel=1e-6)
    assert measured["trained_on"]["train"]["digits"] == "sklearn-train"
    assert config["training"]["note"] == "one quiet core"
    assert config["training"]["seconds"] == read_checkpoint(finished / "checkpoints" / "last.pt")["seconds"]
    assert said["parameters"] == sum(p.numel() for p in model.parameters())
    assert said["gmacs"] > 0


def test_the_card_has_the_figures_and_no_place_of_the_machine(ship: ToolCall, finished: Path, tmp_path: Path) -> None:
    assert ship("--run", finished, "--output", tmp_path / "shipped", "--data", tmp_path / "moved")[0] == 0
    card, config = (tmp_path / "shipped" / "README.md").read_text(), config_of(tmp_path / "shipped")
    (row,) = (line for line in card.splitlines() if line.startswith("| mixvit_predictor "))
    values = config["results"]["methods"]["mixvit_predictor"]
    for name, decimals in (("mse", 1), ("mae", 1), ("ssim", 4), ("ssim_range2", 4), ("psnr", 2)):
        assert f"{values[name]:.{decimals}f}" in row
    assert "| shifted last frame " in card
    assert f"{config['training']['seconds']:.0f} s |" in card
    assert "trained on: CPU, 1 process." in card
    assert "SOLVER.BASE_LR: 0.01" in card
    assert config["results"]["test_data"]["sha256"] in card
    assert "Apache-2.0" in card
    assert "UCI Machine Learning Repository" in card
    assert config["config"]["OUTPUT_DIR"] == "run"
    for name in FILES[1:]:
        assert str(finished.parent) not in (tmp_path / "shipped" / name).read_text()


def changed(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Writes one of a run's checkpoints anew."""

    def write(folder: Path) -> None:
        content = read_checkpoint(folder / "checkpoints" / file)
        change(content)
        save_checkpoint(folder / "checkpoints" / file, content)

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "checkpoints" / "best.pt").unlink(), "best.pt is missing"),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml is missing"),
        (changed("last.pt", lambda c: c.update(epoch=1)), "has done 1 of 2 epochs: give its command again first"),
        (changed("last.pt", lambda c: c["config"]["DATA"].update(DATASET="imagenet")), "DATA.DATASET imagenet: give"),
        (changed("best.pt", lambda c: c["data"].update(validation_is_test=True)), "its checkpoint on the test set"),
        (changed("best.pt", lambda c: c["state_dict"]["norm.weight"].fill_(1e6)), "norm.weight that half precision"),
    ],
)
def test_a_run_that_cannot_be_shipped_is_refused_and_the_old_files_stay(
    ship: ToolCall, finished: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    spoil(tmp_path / "run")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "README.md").write_text("earlier")
    status, _, error = ship("--run", tmp_path / "run", "--output", tmp_path / "shipped")
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
    assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["README.md"]
    assert (tmp_path / "shipped" / "README.md").read_text() == "earlier"


def test_the_card_names_the_weights_that_training_started_from(ship: ToolCall, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    changed("last.pt", lambda c: c["config"]["TRAIN"].update(CHECKPOINT_FILE_PATH="/somewhere/start.pt"))(
        tmp_path / "run"
    )
    assert ship("--run", tmp_path / "run", "--output", tmp_path / "shipped")[0] == 0
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert "TRAIN.CHECKPOINT_FILE_PATH: start.pt" in card


def test_a_network_that_is_too_large_is_refused(
    ship: ToolCall, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ship.module.LARGEST == 12e6
    monkeypatch.setattr(ship.module, "LARGEST", 1e3)
    status, _, error = ship("--run", finished, "--output", tmp_path / "shipped")
    assert status == 2
    assert "MB in half precision, and stvit ships at most" in error
    assert not (tmp_path / "shipped").exists()


def test_a_disk_that_is_full_leaves_the_old_files(
    ship: ToolCall, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ship("--run", finished, "--output", tmp_path / "shipped")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "shipped").iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stvit.visual.files.os.fsync", full)
    assert ship("--run", finished, "--output", tmp_path / "shipped", "--note", "another")[0] == 1
    assert before == {path: path.read_bytes() for path in (tmp_path / "shipped").iterdir()}


def test_an_output_that_is_a_file_is_named(ship: ToolCall, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, _, error = ship("--run", finished, "--output", tmp_path / "file")
    assert (status, error) == (2, f"error: --output {tmp_path / 'file'} is a file; give a folder\n")
