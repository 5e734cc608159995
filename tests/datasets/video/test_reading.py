"""Every decoder shows the frames of a plain decode from the beginning, upright, or refuses the file."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from videos import frame_numbers, numbered_frames, write_video

from stvit.datasets.video.reading import UndecodableVideoError, open_video
from stvit.errors import UserError

UNEVEN = [0, 1000, 1700, 5000, 5100, *range(6000, 21000, 900), 40000]

# File name, number of frames, how it is written. One of each kind that a decoder may stumble over.
FILES = {
    "short groups": ("a.mp4", 30, {}),
    "one long group": ("a.mp4", 60, {"gop": 250, "b_frames": 3}),
    "B-frames": ("a.mp4", 30, {"b_frames": 2}),
    "B-frames in Matroska": ("a.mkv", 30, {"b_frames": 2, "audio": True}),
    "open groups": ("a.mp4", 30, {"b_frames": 2, "open_gop": True, "gop": 6}),
    "open groups in Matroska": ("a.mkv", 30, {"b_frames": 2, "open_gop": True, "gop": 6}),
    "refreshed column by column": (
        "a.mp4",
        40,
        {"frames": numbered_frames(40, 64, 96), "gop": 8, "options": {"x264-params": "intra-refresh=1"}},
    ),
    "variable rate": ("a.mp4", len(UNEVEN), {"pts": UNEVEN}),
    "variable rate, B-frames": ("a.mp4", len(UNEVEN), {"pts": UNEVEN, "b_frames": 2, "gop": 6}),
    "29.97 a second": ("a.mp4", 20, {"fps": Fraction(30000, 1001)}),
    "120 a second": ("a.mp4", 20, {"fps": 120}),
    "edit list": ("a.mp4", 20, {"hidden": 5}),
    "edit list, B-frames": ("a.mp4", 20, {"hidden": 5, "b_frames": 2}),
    "edit list beyond a key frame": ("a.mp4", 30, {"hidden": 15, "b_frames": 2}),
    "sound": ("a.mp4", 20, {"audio": True}),
    "two video streams": ("a.mp4", 20, {"second": numbered_frames(20, 48, 64, first=500)}),
    "two alike video streams": ("a.mkv", 20, {"second": numbered_frames(20, first=500)}),
    "odd size": ("a.avi", 20, {"frames": numbered_frames(20, 23, 35), "codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "odd size, no subsampling": ("a.mp4", 20, {"frames": numbered_frames(20, 25, 37), "pix_fmt": "yuv444p"}),
    "one pixel": ("a.mp4", 3, {"frames": np.full((3, 1, 1, 3), 200, np.uint8), "pix_fmt": "yuv444p"}),
    "one frame": ("a.mp4", 1, {}),
    "gray": ("a.mp4", 20, {"pix_fmt": "gray"}),
    "10 bits": ("a.mp4", 20, {"pix_fmt": "yuv420p10le"}),
    "interlaced": ("a.mp4", 20, {"options": {"flags": "+ildct+ilme"}}),
    "alpha": ("a.webm", 20, {"pix_fmt": "yuva420p"}),
    "turned": ("a.mp4", 20, {"turn": 1}),
    "turned, wide rows": ("a.mp4", 20, {"turn": 3, "frames": numbered_frames(20, 64, 96)}),
    "upside down": ("a.mov", 20, {"turn": 2}),
    "mirrored": ("a.mp4", 20, {"mirror": True}),
    "mirrored and turned": ("a.mp4", 20, {"mirror": True, "turn": 1}),
    "AVI": ("a.avi", 30, {}),
    "AVI, B-frames": ("a.avi", 30, {"b_frames": 2, "audio": True}),
    "AVI of H.264, B-frames": ("a.avi", 30, {"b_frames": 2, "gop": 8, "codec": "libx264"}),
    "AVI of almost empty packets": ("a.avi", 20, {"frames": np.zeros((20, 24, 32, 3), np.uint8)}),
    "WebM": ("a.webm", 30, {"audio": True}),
    "MPEG-1": ("a.mpg", 30, {"b_frames": 2}),
    "MPEG-2 transport stream": ("a.ts", 30, {"b_frames": 2}),
}
# What a backend refuses, and a part of the line that says why.
REFUSED_BY_BOTH = {
    "open groups": "groups of pictures are open",
    "open groups in Matroska": "groups of pictures are open",
    "refreshed column by column": "groups of pictures are open",
    "mirrored": "mirrored",
    "mirrored and turned": "mirrored",
    "AVI, B-frames": "say nothing of the order",
    "AVI of H.264, B-frames": "say",
    "10 bits": "turns 10 bits into other colours",
    "interlaced": "turns interlaced frames into other colours",
    "AVI of almost empty packets": "do not tell its frames apart",
    "MPEG-1": "does not find key frames in mpeg",
    "MPEG-2 transport stream": "does not find key frames in mpegts",
}
REFUSED = {
    "decord": REFUSED_BY_BOTH
    | {
        "two video streams": "has 2 video streams",
        "two alike video streams": "has 2 video streams",
        "edit list": "counts 20 frames, there are 15",
        "edit list, B-frames": "counts 20 frames, there are 15",
        "edit list beyond a key frame": "frames, there are 15",
        "turned": "decord",  # rows that it pads
        "one pixel": "decord",
    },
    "torchcodec": REFUSED_BY_BOTH,
}


def written(folder: Path, kind: str) -> Path:
    name, count, how = FILES[kind]
    how = dict(how)
    return write_video(folder / name, how.pop("frames", count), **how)


def sequential(path: Path, turn: int = 0, mirror: bool = False) -> NDArray[np.uint8]:
    """All frames of the first video stream, by the plainest loop, and what the test's own file asks for."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])])
    frames = frames[:, :, ::-1] if mirror else frames
    return np.rot90(frames, k=-turn, axes=(1, 2))


def expected(path: Path, kind: str) -> NDArray[np.uint8]:
    how = FILES[kind][2]
    return sequential(path, how.get("turn", 0), how.get("mirror", False))


def choices(frames: int) -> list[list[int]]:
    """Clips, single frames, backwards, repeated ones, and all."""
    draw = np.random.default_rng(0)
    clips = [np.clip(draw.integers(frames) + step * np.arange(4), 0, frames - 1).tolist() for step in (1, 2, 5, 9)]
    return [*clips, draw.integers(0, frames, 5).tolist(), [frames - 1, 0, 0], list(range(frames))]


@pytest.mark.parametrize("kind", FILES)
def test_the_default_decoder_shows_the_frames_of_a_plain_decode(kind, tmp_path):
    path = written(tmp_path, kind)
    frames = expected(path, kind)
    with open_video(path) as video:
        assert len(video.times) == len(frames)
        assert video.size == frames.shape[1:3]
        for chosen in choices(len(frames)):
            assert np.array_equal(video.read(chosen), frames[chosen])
    with open_video(path) as video:  # from the list that was kept, and not from the beginning
        assert np.array_equal(video.read([len(frames) - 1]), frames[-1:])


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("kind", FILES)
def test_the_other_decoders_show_the_same_frames_or_refuse_the_file(kind, decoder, tmp_path):
    pytest.importorskip(decoder, exc_type=(ImportError, OSError, RuntimeError))
    path = written(tmp_path, kind)
    frames = expected(path, kind)
    if kind in REFUSED[decoder]:
        with (
            pytest.raises(UndecodableVideoError, match=REFUSED[decoder][kind]) as raised,
            open_video(path, decoder) as video,
        ):
            video.read([0])
        assert str(path) in str(raised.value)
        assert "use auto" in str(raised.value)
        return
    # Other versions of FFmpeg round the colours of odd heights otherwise.
    apart = {"odd size": 8}.get(kind, 0)
    with open_video(path, decoder) as video, open_video(path) as reference:
        assert np.array_equal(video.times, reference.times)
        assert (video.size, video.fps) == (reference.size, reference.fps)
        for chosen in choices(len(frames)):
            shown = video.read(chosen)
            assert shown.shape == (len(chosen), *video.size, 3)
            assert np.abs(shown.astype(int) - frames[chosen]).max() <= apart


@pytest.mark.parametrize(
    ("kind", "first", "count"),
    [
        ("one long group", 0, 60),
        ("edit list", 5, 15),
        ("edit list beyond a key frame", 15, 15),
        ("AVI, B-frames", 0, 30),
    ],
)
def test_the_frames_are_those_that_were_written(kind, first, count, tmp_path):
    with open_video(written(tmp_path, kind)) as video:
        assert frame_numbers(video.read(range(count))) == list(range(first, first + count))


@pytest.mark.parametrize(("turn", "mirror"), [(0, True), (1, False), (1, True), (2, True), (3, True)])
def test_pictures_are_shown_upright_as_the_file_asks(turn, mirror, tmp_path):
    # Written as a camera held otherwise would see them; the file says how to undo it.
    seen = np.rot90(numbered_frames(3, 32, 48), k=turn, axes=(1, 2))
    path = write_video(
        tmp_path / "a.mp4", np.ascontiguousarray(seen[:, :, ::-1] if mirror else seen), turn=turn, mirror=mirror
    )
    with open_video(path) as video:
        assert video.size == (32, 48)
        assert frame_numbers(video.read([0, 1, 2])) == [0, 1, 2]


def test_times_are_those_of_the_file_from_the_first_frame_on(tmp_path):
    with open_video(written(tmp_path, "variable rate")) as video:
        assert video.times == pytest.approx(np.array(UNEVEN) / 25000)
        assert video.fps == pytest.approx((len(UNEVEN) - 1) / 1.6)
    with open_video(write_video(tmp_path / "b.mp4", 10, pts=range(7000, 17000, 1000), hidden=2)) as video:
        assert video.times == pytest.approx(np.arange(10) / 25)
        assert video.fps == pytest.approx(25)
    with open_video(written(tmp_path, "one frame")) as video:
        assert video.times.tolist() == [0]
        assert video.fps == 25


def test_frames_that_are_not_there_are_no_frames(tmp_path):
    with open_video(written(tmp_path, "short groups")) as video:
        for bad in ([30], [0, -1]):
            with pytest.raises(IndexError, match="has frames 0 to 29; there is no frame"):
                video.read(bad)
        assert video.read([]).shape == (0, 24, 32, 3)


def test_a_video_is_closed_once_or_more(tmp_path):
    video = open_video(written(tmp_path, "short groups"))
    video.close()
    video.close()


def test_a_file_that_was_written_anew_is_listed_anew(tmp_path):
    for count in (5, 9):
        path = write_video(tmp_path / "a.mp4", count)
        os.utime(path, ns=(count, count))
        with open_video(path) as video:
            assert len(video.times) == count


def test_an_unknown_decoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no decoder 'opencv' \(DATA.DECODER\); known are auto, pyav"):
        open_video(tmp_path, "opencv")
