"""What is no video, or a broken one, has a stated outcome: one line that names file and cause, or frames."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from videos import corrupt, frame_numbers, truncate, write_sound, write_video

from stvit.datasets.video.reading import UndecodableVideoError, open_video
from stvit.errors import UserError

DECODERS = ["auto", "decord", "torchcodec"]


def refusal(path: Path, decoder: str = "auto", kind: type[Exception] = UndecodableVideoError) -> str:
    """The line with which a file is refused when its last frame is read."""
    with pytest.raises(kind) as raised, open_video(path, decoder) as video:
        video.read([len(video.times) - 1])
    line = str(raised.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def written(path: Path, **how: object) -> Path:
    return write_video(path, 60, gop=10, **how)


@pytest.mark.parametrize("decoder", DECODERS)
def test_files_that_hold_no_video_are_refused(decoder, tmp_path):
    pytest.importorskip(decoder, exc_type=(ImportError, OSError, RuntimeError)) if decoder != "auto" else None
    (tmp_path / "empty.mp4").touch()
    assert "cannot be decoded: it is empty" in refusal(tmp_path / "empty.mp4", decoder)
    for name, content in (("text.mp4", b"path label\n" * 50), ("noise.avi", bytes(range(256)) * 9)):
        path = tmp_path / name
        path.write_bytes(content)
        assert "cannot be decoded: Invalid data" in refusal(path, decoder)
    assert "has no video stream (it holds audio)" in refusal(write_sound(tmp_path / "sound.mp4"), decoder)
    assert "is cut off: it has" in refusal(truncate(written(tmp_path / "no_index.mp4"), 0.5), decoder)


def test_a_playlist_is_no_way_to_the_network(tmp_path):
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    assert "cannot be decoded" in refusal(path)


def test_a_file_that_breaks_off_before_its_header_says_is_refused(tmp_path):
    fast = written(tmp_path / "a.mp4", container={"movflags": "faststart"})
    assert "is cut off: it has" in refusal(truncate(fast, 0.6))
    assert "is cut off: it has" in refusal(truncate(written(tmp_path / "a.avi"), 0.6))
    index = written(tmp_path / "b.mp4")  # at the end of the file
    assert "is cut off: it has" in refusal(truncate(index, (index.stat().st_size - 50) / index.stat().st_size))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "a.mpg"])
def test_a_file_of_unknown_length_that_breaks_off_gives_the_frames_before(name, tmp_path):
    with open_video(truncate(written(tmp_path / name), 0.6)) as video:
        N = len(video.times)
        assert 20 <= N < 60
        assert frame_numbers(video.read(range(N - 1))) == list(range(N - 1))  # of the last a part may be missing


def test_damage_is_told_by_the_frames_that_need_it_and_the_others_are_read(tmp_path):
    path = corrupt(written(tmp_path / "a.mp4", b_frames=2), 0.4, 0.42)
    with open_video(path) as video:
        assert len(video.times) == 60
        whole = []
        for group in range(6):
            clip = [10 * group, 10 * group + 5, 10 * group + 9]
            try:
                assert frame_numbers(video.read(clip)) == clip
                whole.append(group)
            except UndecodableVideoError as error:
                assert f"{path} cannot be decoded" in str(error)  # noqa: PT017  (some groups are whole)
    assert {0, 1, 4, 5} <= set(whole) < {0, 1, 2, 3, 4, 5}


def test_a_frame_that_its_decoder_had_to_invent_is_refused_by_number(tmp_path):
    path = corrupt(written(tmp_path / "a.mp4"), 0.4, 0.401)
    with open_video(path) as video, pytest.raises(UndecodableVideoError, match=r"a.mp4 cannot be decoded.*frame \d+"):
        video.read(range(60))


def test_damaged_bytes_anywhere_give_frames_or_one_line(tmp_path):
    for name in ("a.mp4", "a.avi", "a.mkv"):
        whole = write_video(tmp_path / name, 12, gop=4).read_bytes()
        path = tmp_path / f"bad{Path(name).suffix}"
        for seed in range(12):
            path.write_bytes(whole)
            os.utime(corrupt(path, seed / 12, seed / 12 + 0.02, seed), ns=(seed, seed))
            try:
                with open_video(path) as video:
                    assert video.read(range(len(video.times))).shape[1:] == (*video.size, 3)
            except UndecodableVideoError as error:
                assert str(path) in str(error)  # noqa: PT017  (either outcome will do)


def test_an_encrypted_file_is_refused(tmp_path):
    path = written(tmp_path / "a.mp4")
    content = path.read_bytes()
    entry = content.index(b"stsd") + 16
    path.write_bytes(content[:entry] + b"encv" + content[entry + 4 :])
    assert "is encrypted (Common Encryption)" in refusal(path)


def test_a_change_of_size_within_a_video_is_refused(tmp_path):
    small, large = (write_video(tmp_path / f"{n}.ts", 6, gop=3) for n in "ab")
    large = write_video(large, np.zeros((6, 48, 64, 3), np.uint8), gop=3)
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert "changes its size from 32x24 to 64x48 at frame" in all_frames_refused(path)


def all_frames_refused(path: Path) -> str:
    with pytest.raises(UndecodableVideoError) as raised, open_video(path) as video:
        video.read(range(len(video.times)))
    return str(raised.value)


def test_what_is_not_there_or_no_file_is_refused_without_waiting(tmp_path):
    assert "does not exist" in refusal(tmp_path / "gone.mp4", kind=UserError)
    assert "holds no images" in refusal(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        assert "neither a file nor a folder" in refusal(tmp_path / "pipe.mp4", kind=UserError)
        assert "neither a file nor a folder" in refusal(Path("/dev/zero"), kind=UserError)


def test_a_file_without_the_right_to_read_it_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "a.mp4")
    monkeypatch.setattr(os, "access", lambda file, mode: False)  # the rights of root are not to be taken away
    assert "permission denied" in refusal(path, kind=UserError)


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_decoder_that_is_not_installed_is_named_with_the_way_to_get_it(decoder, tmp_path, monkeypatch):
    path = written(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, decoder, None)
    monkeypatch.setitem(sys.modules, f"{decoder}.decoders", None)
    with pytest.raises(UserError, match=rf"DATA.DECODER {decoder}.*pip install.*{decoder}.*use auto"):
        open_video(path, decoder)


def test_nothing_is_printed_about_bad_files(tmp_path, capfd):
    for path in (corrupt(written(tmp_path / "a.mp4"), 0.3, 0.5), truncate(written(tmp_path / "b.mp4"), 0.5)):
        for decoder in DECODERS:
            with pytest.raises(UserError), open_video(path, decoder) as video:
                video.read(range(60))
    assert capfd.readouterr() == ("", "")


def test_large_frames_are_read(tmp_path):
    black = np.zeros((2, 4320, 7680, 3), np.uint8)
    path = write_video(tmp_path / "a.avi", black, codec="mjpeg", pix_fmt="yuvj420p")
    with open_video(path) as video:
        assert video.size == (4320, 7680)
        assert video.read([1]).shape == (1, 4320, 7680, 3)
