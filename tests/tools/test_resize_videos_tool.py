"""tools/resize_videos.py: small copies with the same frames at the same times, and runs that go on."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from tool_calls import ToolCall
from videos import frame_numbers, numbered_frames, truncate, write_video

from stvit.datasets.video import reencode as reencoding
from stvit.datasets.video.lists import read_video_list, video_splits
from stvit.datasets.video.reading import open_video
from stvit.datasets.video.reencode import resized


@pytest.fixture
def resize(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("resize_videos", capsys)


def packets(path: Path) -> list[tuple[int, bool]]:
    """When each packet is shown, in 90,000ths of a second, and whether decoding can start there."""
    with av.open(str(path)) as container:
        stream = container.streams[0]
        return [(int(p.pts * p.time_base * 90_000), p.is_keyframe) for p in container.demux(stream) if p.size]


def test_frames_keep_their_order_times_and_turn_and_get_many_key_frames(resize, tmp_path):
    (tmp_path / "in").mkdir()
    stamps = np.cumsum([0, 1000, 500, 2500, 1000, 700, 1300, *[1000] * 23]).tolist()
    source = write_video(
        tmp_path / "in/a.mp4", numbered_frames(30, 64, 96), pts=stamps, gop=30, b_frames=2, turn=1, audio=True
    )
    assert resize(tmp_path / "in", "--output", tmp_path / "out", "--short-side", 32, "--gop", 5)[0] == 0
    target = tmp_path / "out/a.mp4"
    with open_video(source) as before, open_video(target) as after:
        assert before.size == (96, 64)
        assert after.size == (48, 32)
        np.testing.assert_allclose(after.times, before.times, atol=1 / 90_000)
        shown = after.read(range(30))
        assert frame_numbers(np.rot90(shown, axes=(1, 2))) == list(range(30)), "turned clockwise by a quarter"
    assert [k for k, (_, key) in enumerate(packets(target)) if key] == [0, 5, 10, 15, 20, 25]
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams[0].codec_context.name == "h264"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 340), (256, 340)), ((480, 853), (256, 454)), ((1920, 1080), (456, 256)), ((25, 33), (24, 32)),
     ((1, 1), (2, 2)), ((255, 401), (256, 400))],
)  # fmt: skip
def test_short_sides_are_reduced_and_sides_made_even(size, expected):
    assert resized(*size, 256) == expected


def test_odd_and_tiny_videos_and_folders_of_frames_are_encoded_too(resize, tmp_path):
    data = tmp_path / "in"
    (data / "frames").mkdir(parents=True)
    write_video(
        data / "odd.avi", numbered_frames(5, 25, 33), pix_fmt="yuv420p", codec="mjpeg", options={"strict": "-2"}
    )
    from PIL import Image

    for k, frame in enumerate(numbered_frames(4)):
        Image.fromarray(frame).save(data / f"frames/{k}.png")
    status, out, _ = resize(data, "--output", tmp_path / "out")
    assert status == 0, out
    for name, count, size in (("odd", 5, (24, 32)), ("frames", 4, (24, 32))):
        with open_video(tmp_path / f"out/{name}.mp4") as reader:
            assert (len(reader.times), reader.size) == (count, size)
            assert frame_numbers(reader.read(range(count))) == list(range(count))


def test_lists_are_written_anew_without_bad_videos_which_are_named(resize, tmp_path):
    data = tmp_path / "in"
    (data / "my clips").mkdir(parents=True)
    write_video(data / "my clips/a.mp4", 3)
    write_video(data / "my clips/a.mkv", 4)
    truncate(write_video(data / "b.mp4", 9), 0.5)
    (data / "train.csv").write_text("my clips/a.mp4,wave\nmy clips/a.mkv,run\nb.mp4,run\ngone.mp4,run\n")
    (data / "val.csv").write_text("my clips/a.mkv,run\n")
    status, out, _ = resize(data, "--output", tmp_path / "out", "--workers", 2)
    assert status == 1
    assert "2 videos, 2 left out" in out
    splits = video_splits(tmp_path / "out", training=True, testing=False)
    assert [splits.train.name(k) for k in range(2)] == ["my clips/a.mp4", "my clips/a.mkv.mp4"]
    assert splits.classes == ("run", "wave")
    assert [splits.train.class_name(k) for k in range(2)] == ["wave", "run"]
    with open_video(splits.validation.path(0)) as reader:
        assert len(reader.times) == 4
    bad = (tmp_path / "out/bad_videos.csv").read_text().splitlines()
    assert bad[0] == "name,cause"
    assert bad[1].startswith(f"{data}/b.mp4,is cut off")
    assert bad[2].startswith(f"{data}/gone.mp4,")


def test_class_folders_stay_class_folders(resize, tmp_path):
    for name in ("train/run/a", "train/wave/b", "val/run/c"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / f"in/{name}.mp4", 2)
    assert resize(tmp_path / "in", "--output", tmp_path / "out")[0] == 0
    splits = video_splits(tmp_path / "out", training=True, testing=False)
    assert [splits.train.name(k) for k in range(2)] == ["run/a.mp4", "wave/b.mp4"]
    assert not list((tmp_path / "out").glob("t*.csv"))


def test_a_list_of_videos_elsewhere_keeps_what_is_below_their_common_folder(resize, tmp_path):
    for name in ("videos/x/a", "videos/y/b"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_video(tmp_path / f"{name}.mp4", 2)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/my.txt").write_text(f"../videos/x/a.mp4 0\n{tmp_path}/videos/y/b.mp4 3\n")
    assert resize(tmp_path / "lists/my.txt", "--output", tmp_path / "out")[0] == 0
    listed = read_video_list(tmp_path / "out/my.txt")
    assert [(listed.name(k), int(listed.labels[k])) for k in range(2)] == [("x/a.mp4", 0), ("y/b.mp4", 3)]
    assert listed.path(1).is_file()


def test_a_second_run_does_only_what_is_missing(resize, tmp_path):
    data = tmp_path / "in"
    data.mkdir()
    write_video(data / "a.mp4", 2)
    (data / "b.mp4").touch()
    assert resize(data, "--output", tmp_path / "out")[0] == 1
    before = (tmp_path / "out/a.mp4").stat().st_mtime_ns
    write_video(data / "b.mp4", 3)
    status, out, _ = resize(data, "--output", tmp_path / "out")
    assert (status, (tmp_path / "out/a.mp4").stat().st_mtime_ns) == (0, before)
    assert "2 videos, of which 1 are in" in out
    assert (tmp_path / "out/bad_videos.csv").read_text() == "name,cause\n"
    status, _, err = resize(data, "--output", tmp_path / "out", "--gop", 6)
    assert status == 2
    assert "GOP 12" in err
    assert json.loads((tmp_path / "out/resize_videos.json").read_text()) == {"short_side": 256, "gop": 12}


@pytest.mark.skipif(sys.platform != "linux", reason="processes elsewhere do not see what the test replaces")
def test_a_video_appears_whole_or_not_at_all(resize, tmp_path, monkeypatch):
    data = tmp_path / "in"
    data.mkdir()
    for name in "ab":
        write_video(data / f"{name}.mp4", 6)
    real = reencoding._pictures

    def breaks(source, counted):
        for k, picture in enumerate(real(source, counted)):
            if k == 3 and source.name == "a.mp4":
                os.kill(os.getpid(), signal.SIGKILL)
            yield picture

    monkeypatch.setattr(reencoding, "_pictures", breaks)
    status, out, _ = resize(data, "--output", tmp_path / "out")
    assert status == 1
    assert "a.mp4 the process that decoded it was killed by SIGKILL" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "b.mp4",
        "bad_videos.csv",
        "resize_videos.json",
    ]

    def fills(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resize.module, "reencode", fills)
    status, _, err = resize(data, "--output", tmp_path / "out2")
    assert status == 1
    assert "cannot be written: No space left on device" in err


def test_mistakes_are_one_line_and_status_2(resize, tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in/a.mp4", 2)
    shutil.copytree(tmp_path / "in", tmp_path / "other")
    (tmp_path / "lost.csv").write_text("nowhere/a.mp4 0\n")
    for words, said in (
        ([tmp_path / "gone", "--output", tmp_path / "out"], "there is no"),
        ([tmp_path / "lost.csv", "--output", tmp_path / "out"], "DATA.PATH_PREFIX names another folder"),
        ([tmp_path / "in", "--output", tmp_path / "in"], "where the videos are"),
        ([tmp_path / "in", "--output", tmp_path / "in/small"], "name a folder beside it"),
        ([tmp_path / "in", "--output", tmp_path / "other"], "holds other files"),
        ([tmp_path / "in", "--output", tmp_path / "in/a.mp4"], "is a file"),
        ([tmp_path / "in", "--output", tmp_path / "out", "--short-side", 0], "--short-side 0"),
        ([tmp_path / "in"], "--output"),
    ):
        status, out, err = resize(*words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err
