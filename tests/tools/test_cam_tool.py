"""The command line of class activation maps, on small networks of every kind of input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shrunken import build
from tool_calls import ToolCall

from stvit.checkpoint import pack_model, save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of an image and a clip network with five classes, a picture and a GIF of six frames."""
    folder = tmp_path_factory.mktemp("cam")
    for file, name in (("image.pt", "mpvit_tiny"), ("clip.pt", "mpvit_tiny_16f")):
        save_checkpoint(folder / file, pack_model(build(name)))
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)) for _ in range(6)]
    frames[0].save(folder / "picture.png")
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    return folder


@pytest.fixture
def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ToolCall:
    """Runs the tool in this process, in the folder: words -> (status, stdout, stderr)."""
    monkeypatch.chdir(folder)
    return ToolCall("cam", capsys)


def test_of_an_image_a_map_and_a_picture_are_written(folder: Path, tool: ToolCall) -> None:
    words = ("--checkpoint", "image.pt", "--input", "picture.png", "--class", 3)
    status, out, err = tool(*words, "--output", "first")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("class 3: ")
    assert lines[1] == "mpvit_tiny on picture.png, 2x2 map of stages.3"
    assert lines[-2:] == ["first/cam.npy", "first/overlay.png"]
    heat = np.load(folder / "first/cam.npy")
    assert heat.dtype == np.float32
    assert heat.shape == (64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1
    tool(*words, "--output", "again")
    for name in ("cam.npy", "overlay.png"):
        assert (folder / "first" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_of_a_clip_every_frame_is_shown(folder: Path, tool: ToolCall) -> None:
    status, out, _ = tool("--checkpoint", "clip.pt", "--input", "clip.gif", "--stage", 1, "--output", "clip")
    assert status == 0
    assert {file.name for file in (folder / "clip").iterdir()} == {"cam.npy", "overlay.png", "strip.png", "overlay.gif"}
    assert np.load(folder / "clip/cam.npy").shape == (4, 64, 64)
    assert "2x8x8 map" in out
    with Image.open(folder / "clip/overlay.gif") as gif:
        assert gif.n_frames == 4


def test_random_weights_are_said_to_be_random(folder: Path, tool: ToolCall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool.module, "create_model", lambda name, checkpoint: build(name))
    status, out, _ = tool("--model", "mpvit_tiny", "--input", "picture.png", "--output", "random")
    assert status == 0
    assert tool.module.FRESH in out
    pixels = np.asarray(Image.open(folder / "random/overlay.png").convert("RGB"))
    assert (pixels == (180, 20, 20)).all(-1).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "picture.png"), "neither --checkpoint nor --model is given"),
        (("--checkpoint", "image.pt", "--input", "clip.mp4"), "clip.mp4"),
        (("--checkpoint", "clip.pt", "--input", "picture.png"), "is one image, and the network classifies clips"),
        (("--checkpoint", "image.pt", "--input", "picture.png", "--class", "7"), "classes go from 0 to 4"),
        (("--checkpoint", "image.pt", "--input", "picture.png", "--class", "cat"), "--class 'cat' is the name of no"),
        (("--checkpoint", "image.pt", "--input", "picture.png", "--class", "class"), "is the name of 5 classes"),
        (("--checkpoint", "image.pt", "--input", "picture.png", "--stage", "9"), "stage 9 was asked for"),
        (("--checkpoint", "image.pt", "--input", "picture.png", "--device", "gpu"), "--device gpu cannot be used"),
        (("--checkpoint", "none.pt", "--input", "picture.png"), "none.pt"),
        (("--model", "mixvit_predictor_mini", "--input", "clip.gif"), "classifies nothing"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    words: tuple[str, ...], message: str, folder: Path, tool: ToolCall
) -> None:
    status, _, err = tool(*words, "--output", "refused")
    assert status in (1, 2)
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "refused").exists()


def test_a_class_is_known_by_its_name_or_a_part_that_no_other_has(tool: ToolCall) -> None:
    names = ("tabby cat", "tiger cat", "tiger")
    number = tool.module.class_number
    assert [number(word, names) for word in ("tabby", "TABBY CAT", "tiger", "2", None)] == [0, 0, 2, 2, None]
    with pytest.raises(ValueError, match=r"is the name of 2 classes \(tabby cat, tiger cat"):
        number("cat", names)
