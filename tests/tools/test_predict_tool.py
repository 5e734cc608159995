"""The command line that predicts from a file, on a checkpoint of a small network."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tool_calls import ToolCall
from videos import write_sound, write_video

import stvit
from stvit.checkpoint import model_from_checkpoint, pack_model, save_checkpoint
from stvit.checkpoint.layouts import openstl_mixvit
from stvit.engine.predict import predict
from stvit.engine.predict_frames import FramePrediction

TOOL = Path(__file__).parents[2] / "tools" / "predict.py"
ROWS = {"prediction.npy", "prediction.gif", "strip.png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of an untrained predictor of 32x32 frames, and a GIF of a square that moves."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    model = stvit.create_model(
        "mixvit_predictor",
        in_frames=3,
        out_frames=2,
        image_size=(32, 32),
        hidden_spatial=8,
        hidden_translator=32,
        encoder_depth=2,
        translator_depth=1,
        window=(4, 4),
        dim_head=8,
        channel_heads=4,
    )
    save_checkpoint(folder / "small.pt", pack_model(model))
    frames = np.zeros((6, 32, 32), np.uint8)
    for t in range(6):
        frames[t, 8:16, 4 + 3 * t : 12 + 3 * t] = 255
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(folder / "square.gif", save_all=True, append_images=pages[1:])
    return folder


@pytest.fixture
def tool(folder, monkeypatch, capsys):
    """Runs the tool in this process, in the folder: words -> (status, stdout, stderr)."""
    monkeypatch.chdir(folder)
    return ToolCall("predict", capsys)


def test_array_animation_and_strip_are_written_and_named(folder, tool):
    status, out, err = tool("--checkpoint", "small.pt", "--input", "square.gif", "--start", 0, "--output", "out/new")
    assert (status, err) == (0, "")
    assert out.split() == [f"out/new/{name}" for name in ("prediction.npy", "prediction.gif", "strip.png")]
    written = folder / "out" / "new"
    assert {file.name for file in written.iterdir()} == ROWS
    predicted = np.load(written / "prediction.npy")
    expected = predict(folder / "square.gif", folder / "small.pt", start=0).predicted
    assert predicted.dtype == np.float32
    assert predicted.shape == (2, 1, 32, 32)
    assert np.allclose(predicted, expected, atol=1e-4)
    with Image.open(written / "prediction.gif") as gif, Image.open(written / "strip.png") as strip:
        assert gif.n_frames == 5
        assert strip.width > 3 * 112


def test_a_bare_state_dict_is_used_when_its_model_is_named(folder, tool):
    """The published files do not say which network they are of."""
    weights = openstl_mixvit.from_stvit(stvit.create_model("mixvit_predictor_mini").state_dict())
    torch.save(weights, folder / "published.pth")
    np.save(folder / "clip.npy", np.zeros((10, 48, 48), np.uint8))
    words = ("--checkpoint", "published.pth", "--input", "clip.npy", "--output", "out/published")
    status, _, err = tool(*words)
    assert status == 2
    assert "name its model" in err
    assert tool(*words, "--model", "mixvit_predictor_mini")[0] == 0
    assert np.load(folder / "out/published/prediction.npy").shape == (10, 1, 48, 48)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--input", "gone.gif", "--output", "kept"), 2, "gone.gif does not exist"),
        (("--input", "square.gif", "--start", 5, "--output", "kept"), 2, "1 frames from frame 5 on; the model needs 3"),
        (("--input", "square.gif", "--start", "x", "--output", "kept"), 2, "invalid int value: 'x'"),
        (("--input", "square.gif", "--output", "square.gif"), 2, "square.gif is a file; give a folder"),
        (("--input", "square.gif", "--checkpoint", "square.gif", "--output", "kept"), 2, "square.gif"),
        (("--input", "square.gif", "--output", "square.gif/x"), 2, "square.gif, which is a file; give a folder"),
        (("--input", "square.gif", "--output", "/proc/no/folder"), 1, "--output /proc/no/folder cannot be written ("),
        (("--input", "square.gif", "--checkpoint", "run", "--output", "kept"), 2, "as run/checkpoints/best.pt"),
        (
            ("--input", "square.gif", "--device", "abacus", "--output", "kept"),
            2,
            "'abacus' cannot be used here: choose",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_earlier_results(folder, tool, words, status, message):
    (folder / "kept").mkdir(exist_ok=True)
    (folder / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "checkpoints" / "best.pt").touch()
    for name in ROWS:
        (folder / "kept" / name).write_bytes(b"earlier")
    got, _, err = tool("--checkpoint", "small.pt", *words)
    assert got == status
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert all((folder / "kept" / name).read_bytes() == b"earlier" for name in ROWS)
    assert {file.name for file in (folder / "kept").iterdir()} == ROWS


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tool):
    """The checkpoint that is not there would be missed next."""
    status, _, err = tool("--checkpoint", "gone.pt", "--input", "gone.gif", "--output", "/proc/no/folder")
    assert status == 1
    assert err.startswith("error: --output /proc/no/folder cannot be written (")
    assert err.endswith("): free space or give another folder\n")


def test_a_disk_that_fills_up_is_named_by_the_option(folder, tool, monkeypatch):
    def full(files: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tool.module, "replace_files", full)
    status, _, err = tool("--checkpoint", "small.pt", "--input", "square.gif", "--output", "out/full")
    assert (status, err.count("\n")) == (1, 1)
    assert "--output out/full cannot be written (No space left on device): free space" in err


def test_the_title_says_that_the_error_is_of_clipped_frames(tool):
    frames = np.zeros((2, 1, 4, 4), np.float32)
    result = FramePrediction(frames, frames + 0.5, frames[:1], "net")
    assert tool.module.title(result, "x.gif", 0) == "net from x.gif, frame 0 on, MSE (clipped) 4.0"


def test_help_shows_an_example(tool, capsys):
    with pytest.raises(SystemExit) as left:
        tool("--help")
    assert left.value.code == 0
    assert "Example:\n    python tools/predict.py cat.jpg --checkpoint" in capsys.readouterr().out


def test_the_process_leaves_with_the_status_and_no_traceback(folder):
    words = ["--checkpoint", "gone.pt", "--input", "square.gif", "--output", "out"]
    done = subprocess.run([sys.executable, TOOL, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: there is no checkpoint gone.pt\n")


@pytest.fixture(scope="module")
def classifier(folder):
    """A checkpoint of an untrained classifier of cats, dogs and emus, and an image."""
    torch.manual_seed(0)
    model = stvit.create_model("mvitv2_tiny", depths=[1, 1, 1, 1], width=16, num_classes=3, input_size=[32, 32])
    model.preprocessing = replace(model.preprocessing, labels=("cat", "dog", "emu"))
    save_checkpoint(folder / "classifier.pt", pack_model(model))
    slope = np.linspace(0, 255, 60 * 80 * 3).reshape(60, 80, 3)
    Image.fromarray(slope.astype(np.uint8)).save(folder / "image.png")
    return ("--checkpoint", "classifier.pt", "--input", "image.png")


def test_a_classifier_s_checkpoint_names_the_classes_of_an_image(folder, tool, classifier):
    status, out, err = tool(*classifier, "--top-k", 2, "--output", "out/classes")
    assert (status, err) == (0, "")
    expected = predict(folder / "image.png", folder / "classifier.pt", top_k=2)
    assert set(expected.labels) < {"cat", "dog", "emu"}
    *lines, written = out.splitlines()
    assert [line.split()[1] for line in lines] == list(expected.labels)
    assert float(lines[0].split()[0].rstrip("%")) == pytest.approx(100 * expected.probabilities[0], abs=0.01)
    assert written == "out/classes/prediction.json"
    content = json.loads((folder / written).read_text())
    assert (content["input"], tuple(content["labels"])) == ("image.png", expected.labels)


def test_a_folder_of_save_pretrained_predicts_as_its_checkpoint(folder, tool, classifier):
    model_from_checkpoint(folder / "classifier.pt").save_pretrained(folder / "my_model")
    status, out, err = tool("--checkpoint", "my_model", "--input", "image.png")
    assert (status, err) == (0, "")
    assert out == tool(*classifier)[1]


def test_classes_need_no_folder_and_frames_do(tool, classifier):
    status, out, _ = tool(*classifier)
    assert (status, len(out.splitlines())) == (0, 3)
    status, _, err = tool("--checkpoint", "small.pt", "--input", "square.gif")
    assert status == 2
    assert "--output is missing" in err


def test_who_has_no_checkpoint_is_told_of_the_shipped_one(tool):
    status, _, err = tool("square.gif", "--output", "out/none")
    assert (status, err.count("\n")) == (2, 1)
    assert "--checkpoint is missing: name weights" in err
    assert "--checkpoint builtin needs no file" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [(("--start", 1), "start=1 is for frame prediction"), (("--top-k", 0), "top_k must be"), (("--top-k", "x"), "'x'")],
)
def test_a_mistake_about_classification_is_one_line(tool, classifier, words, named):
    status, _, err = tool(*classifier, *words)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.fixture(scope="module")
def of_clips(folder):
    """A checkpoint of an untrained classifier of runs and jumps; a video, and a folder of one and a bad one."""
    torch.manual_seed(0)
    model = stvit.create_model(
        "mvitv2_small_16x4", depths=[1, 1, 1, 1], width=8, num_classes=2, input_size=[4, 32, 32], head_dropout=0.0
    )
    model.preprocessing = replace(model.preprocessing, labels=("run_$5", "jump"), test_views=2)
    save_checkpoint(folder / "clips.pt", pack_model(model))
    (folder / "videos").mkdir()
    write_video(folder / "clip.mp4", 40, fps=30)
    write_video(folder / "videos" / "good.mkv", 3)
    write_sound(folder / "videos" / "sound.mp4")
    return ("--checkpoint", "clips.pt")


def test_a_video_is_told_as_a_whole_and_over_time(folder, tool, of_clips):
    status, out, err = tool("clip.mp4", *of_clips, "--output", "out/clip")
    assert (status, err) == (0, "")
    expected = predict(folder / "clip.mp4", folder / "clips.pt")
    head, first, second, over_time, *windows, json_file, picture = out.splitlines()
    assert head == "the whole video, 1.3 s (mean of 2 clips):"
    assert [line.split()[1] for line in (first, second)] == list(expected.labels)
    assert over_time == "over time:"
    assert len(windows) == len(expected.windows) == 3
    assert windows[2].startswith("  0.8 - 1.3 s  ")
    assert all(label in windows[2] for label in expected.labels)
    assert (json_file, picture) == ("out/clip/prediction.json", "out/clip/scores.png")
    content = json.loads((folder / json_file).read_text())
    assert content["input"] == "clip.mp4"
    assert content["labels"] == list(expected.labels)
    assert content["windows"][1]["probabilities"] == pytest.approx(expected.windows[1].probabilities, abs=1e-6)
    with Image.open(folder / picture) as image:
        assert min(image.size) > 400


def test_input_may_be_named(tool, of_clips):
    assert tool("--input", "clip.mp4", *of_clips) == tool("clip.mp4", *of_clips)
    for words in ((), ("clip.mp4", "--input", "clip.mp4")):
        status, _, err = tool(*words, *of_clips)
        assert status == 2
        assert err.startswith("error: give what to predict from once")


def test_a_folder_of_videos_becomes_a_table_and_bad_ones_a_status(folder, tool, of_clips):
    status, out, err = tool("videos", *of_clips, "--output", "out/table", "--top-k", 1)
    assert status == 1
    assert err == "error: 1 of 2 videos could not be classified; out/table/predictions.csv says why\n"
    good, sound, written = out.splitlines()
    assert good.startswith("good.mkv: ")
    assert "no video stream" in sound
    assert written == "out/table/predictions.csv"
    header, first, second = (folder / written).read_text().splitlines()
    assert header == "video,label_1,score_1,error"
    assert first.startswith("good.mkv,")
    assert "no video stream" in second
    (folder / "videos" / "sound.mp4").unlink()
    assert tool("videos", *of_clips, "--output", "out/table")[0] == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("videos",), "--output is missing"),
        (("videos", "--output", "x", "--start", 1), "--start 1 is not for a folder of videos"),
        (("videos", "--output", "x", "--top-k", 0), "top_k must be"),
        (("image.png",), "is one image, and the network classifies clips"),
        (("gone.mp4",), "gone.mp4 does not exist"),
        (("clips.pt",), "clips.pt"),
    ],
)
def test_a_mistake_about_videos_is_one_line(folder, tool, of_clips, classifier, words, named):
    status, _, err = tool(*words, *of_clips)
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert not (folder / "x").exists()


def test_a_video_for_a_network_of_images_is_named(tool, of_clips, classifier):
    status, _, err = tool("clip.mp4", "--checkpoint", "classifier.pt")
    assert status == 2
    assert "clip.mp4 is a video by its name, and the network classifies images" in err
