"""tools/check_data.py: what it finds, writes and says, and that no file stops it."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from tool_calls import ToolCall
from videos import truncate, write_sound, write_video

from stvit.datasets.video import data_check
from stvit.datasets.video.lists import video_splits


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("check_data", capsys)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short videos, all different."""
    folder = tmp_path_factory.mktemp("clips")
    for k, name in enumerate("abcdef"):
        write_video(folder / f"{name}.mp4", 4 + k)
    return folder


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "report.csv").open() as file:
        return {f"{row['part']}{row['path']}": row for row in csv.DictReader(file)}


def test_sound_videos_give_the_list_back_and_status_0(check, clips, tmp_path):
    (tmp_path / "list.csv").write_text(f"{clips}/a.mp4 0\n{clips}/b.mp4 1\n")
    status, out, _ = check(tmp_path / "list.csv", "--output", tmp_path / "out")
    assert status == 0
    assert "2 videos, all sound" in out
    assert (tmp_path / "out/clean.csv").read_text() == (tmp_path / "list.csv").read_text()
    row = rows(tmp_path / "out")[f"{clips}/b.mp4"]
    facts = ("outcome", "codec", "width", "height", "fps", "frames", "duration", "rotation", "label")
    assert [row[name] for name in facts] == ["sound", "h264", "32", "24", "25.0", "5", "0.2", "0", "1"]
    assert json.loads((tmp_path / "out/report.json").read_text())["parts"][0]["class_counts"] == {"0": 1, "1": 1}


def test_every_kind_of_bad_video_is_named_with_its_cause_and_left_out(check, clips, tmp_path):
    shutil.copy(clips / "a.mp4", tmp_path / "whole.mp4")
    truncate(Path(shutil.copy(clips / "f.mp4", tmp_path / "cut.mp4")), 0.6)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("404 not found")
    write_sound(tmp_path / "sound.mp4", 0.1)
    names = ("whole", "cut", "empty", "text", "sound", "gone")
    (tmp_path / "list.csv").write_text("".join(f"{name}.mp4,run\n" for name in names))
    status, out, _ = check(tmp_path / "list.csv", "--output", tmp_path / "out", "--workers", 2)
    assert status == 1
    found = rows(tmp_path / "out")
    assert {name: found[f"{name}.mp4"]["outcome"] for name in names} == {
        "whole": "sound", "cut": "undecodable", "empty": "undecodable", "text": "undecodable", "sound": "undecodable",
        "gone": "missing",
    }  # fmt: skip
    assert all(found[f"{name}.mp4"]["cause"] for name in names[1:])
    assert "no video stream" in found["sound.mp4"]["cause"]
    assert (tmp_path / "out/clean.csv").read_text() == f"{tmp_path}/whole.mp4 run\n"
    assert "1 missing:\n    gone.mp4 (list.csv:6) is not there\n" in out
    assert "4 undecodable:" in out


def test_labels_out_of_range_and_empty_classes_are_named(check, clips, tmp_path):
    (tmp_path / "list.csv").write_text(f"{clips}/a.mp4 0\n{clips}/b.mp4 5\n")
    status, out, _ = check(tmp_path / "list.csv", "--num-classes", 3, "--output", tmp_path / "out")
    assert status == 1
    assert "b.mp4 (list.csv:2) has label 5, and 3 classes have 0 to 2" in out
    assert "no sound video of 2 classes: 1, 2" in out
    assert (tmp_path / "out/clean.csv").read_text() == f"{clips}/a.mp4 0\n"
    names = tmp_path / "names.txt"
    names.write_text("run\njump\nwave\n")
    (tmp_path / "list.csv").write_text(f"{clips}/a.mp4 run\n{clips}/b.mp4 2\n")
    _, out, _ = check(tmp_path / "list.csv", "--label-file", names, "--output", tmp_path / "out")
    assert "1 run, 0 jump, 1 wave" in out
    assert "no sound video of 1 class: jump" in out
    assert (tmp_path / "out/clean.csv").read_text() == f"{clips}/a.mp4 0\n{clips}/b.mp4 2\n"


def test_videos_that_are_there_twice_stay_once_or_not_at_all_if_their_labels_differ(check, clips, tmp_path):
    for name, source in {"a": "a", "copy": "a", "b": "b", "other": "b", "c": "c"}.items():
        shutil.copy(clips / f"{source}.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "list.csv").write_text("c.mp4 0\na.mp4 0\ncopy.mp4 0\nb.mp4 0\nother.mp4 1\n./c.mp4 0\n")
    status, out, _ = check(tmp_path / "list.csv", "--output", tmp_path / "out")
    assert status == 1
    found = rows(tmp_path / "out")
    assert found["copy.mp4"]["problems"] == "repeated: is the video of list.csv:2"
    assert found["./c.mp4"]["problems"] == "repeated: is the video of list.csv:1"
    assert found["b.mp4"]["problems"] == "contradiction: is the video of list.csv:5, where its class is 1"
    assert "2 that are there twice, with different labels" in out
    assert (tmp_path / "out/clean.csv").read_text() == f"{tmp_path}/c.mp4 0\n{tmp_path}/a.mp4 0\n"


def test_videos_of_training_that_are_tested_on_are_found_and_leave_training(check, clips, tmp_path):
    data = tmp_path / "data"
    for place, source in {"train/run/a": "a", "train/jump/b": "b", "train/run/x": "c", "val/run/c": "c"}.items():
        (data / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / f"{source}.mp4", data / f"{place}.mp4")
    (data / "train/wave").mkdir()
    status, out, _ = check(data, "--output", tmp_path / "out")
    assert status == 1
    assert "run/x.mp4 is the video of val/run/c.mp4" in out
    assert "train has no sound video of 1 class: wave" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.csv", "val.csv", "report.csv", "report.json"}
    splits = video_splits(tmp_path / "out", training=True, testing=True)
    assert [splits.train.class_name(k) for k in range(len(splits.train))] == ["jump", "run"]
    assert splits.validation.path(0) == data / "val/run/c.mp4"


def test_a_test_list_that_is_the_validation_list_again_is_no_leak(check, clips, tmp_path):
    (tmp_path / "train.csv").write_text(f"{clips}/a.mp4 0\n")
    for name in ("val.csv", "test.csv"):
        (tmp_path / name).write_text(f"{clips}/b.mp4 0\n")
    status, out, _ = check(tmp_path, "--output", tmp_path / "out")
    assert status == 0
    assert "test has the same videos as val" in out


def test_folders_are_classes_unless_videos_lie_beside_them(check, clips, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(clips / "a.mp4", tmp_path / "run")
    (tmp_path / "readme.txt").touch()
    status, out, _ = check(tmp_path, "--output", tmp_path / "out")
    assert status == 0
    assert "1 video in class folders" in out
    assert "1 other file is passed over (1 .txt): readme.txt" in out
    _, out, _ = check(tmp_path, "--unlabelled", "--output", tmp_path / "out2")
    assert "1 video without labels" in out
    assert not (tmp_path / "out2/clean.csv").exists()
    shutil.copy(clips / "b.mp4", tmp_path)
    _, out, _ = check(tmp_path, "--output", tmp_path / "out3")
    assert "2 videos without labels" in out


@pytest.mark.skipif(sys.platform != "linux", reason="processes elsewhere do not see what the test replaces")
def test_a_file_that_kills_or_holds_its_process_is_named_and_the_others_are_checked(
    check, clips, tmp_path, monkeypatch
):
    real = data_check.inspect_video

    def inspect(path, *args, **kwargs):
        if path.name == "b.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "c.mp4":
            time.sleep(60)
        if path.name == "d.mp4":
            raise RuntimeError("odd")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(data_check, "inspect_video", inspect)
    status, out, _ = check(clips, "--timeout", 3, "--workers", 2, "--output", tmp_path / "out")
    assert status == 1
    found = rows(tmp_path / "out")
    assert [found[f"{name}.mp4"]["outcome"] for name in "abcdef"] == [
        "sound", "crashed", "timeout", "crashed", "sound", "sound",
    ]  # fmt: skip
    assert "SIGKILL" in found["b.mp4"]["cause"]
    assert "c.mp4 took longer than 3 seconds" in out
    assert found["d.mp4"]["cause"] == "RuntimeError: odd"


@pytest.mark.skipif(sys.platform != "linux", reason="processes elsewhere do not see what the test replaces")
def test_a_process_that_dies_once_costs_no_video(check, clips, tmp_path, monkeypatch):
    real = data_check.inspect_video

    def inspect(path, *args, **kwargs):
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(data_check, "inspect_video", inspect)
    assert check(clips, "--workers", 1, "--output", tmp_path / "out")[0] == 0


def test_all_frames_are_decoded_when_asked(check, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 40)
    content = path.read_bytes()
    monkeypatch.setattr("stvit.datasets.video.inspection._ROOM", 10 * 24 * 32 * 3)  # ten frames at once
    assert check(tmp_path, "--full", "--output", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["settings"]["frames"] == "all"
    assert path.read_bytes() == content


def test_mistakes_are_one_line_and_status_2(check, tmp_path):
    (tmp_path / "list.csv").write_text("a.mp4 0\nb.mp4\n")
    for words, said in (
        ([tmp_path / "gone.csv"], "there is no"),
        ([tmp_path / "list.csv"], "list.csv:2: 'b.mp4': no label"),
        ([tmp_path / "list.csv", "--frames", 0], "--frames 0"),
        ([tmp_path / "list.csv", "--decoder", "pyva"], "did you mean 'pyav'"),
        ([tmp_path / "list.csv", "--output", tmp_path / "list.csv"], "is a file"),
    ):
        status, out, err = check(*words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_an_interrupt_leaves_nothing_half_written(check, clips, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check.module, "judge", stop)
    status, _, err = check(clips, "--output", tmp_path / "out")
    assert (status, err) == (130, "error: interrupted\n")
    assert not (tmp_path / "out").exists()
