"""The list of a video's frames: kept while its file stays the same, corrected where it is wrong, and never growing."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from videos import frame_numbers, write_video

from stvit.datasets.video import pyav_index
from stvit.datasets.video.pyav_index import VideoIndex, video_index
from stvit.datasets.video.reading import UndecodableVideoError, open_video


def test_a_list_is_kept_until_its_file_changes(tmp_path):
    path = write_video(tmp_path / "a.mp4", 5)
    assert video_index(path) is video_index(path)
    os.utime(path, ns=(1, 1))
    anew = video_index(path)
    assert anew is video_index(path)
    pyav_index.forget_indices()
    assert anew is not video_index(path)


def test_lists_are_let_go_of_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(pyav_index, "_FRAMES", 12)
    first, second, third = (write_video(tmp_path / f"{n}.mp4", 5) for n in range(3))
    lists = [video_index(path) for path in (first, second, third)]
    assert [video_index(path) for path in (second, third)] == lists[1:]
    assert video_index(first) is not lists[0]


def test_a_list_that_proves_wrong_is_made_by_counting(tmp_path, monkeypatch):
    listed = pyav_index._from_packets

    def with_a_frame_too_many(*source) -> VideoIndex:
        index = listed(*source)
        return dataclasses.replace(
            index, times=np.insert(index.times, 8, 0.3), stamps=np.insert(index.stamps, 8, index.stamps[7] + 500)
        )

    monkeypatch.setattr(pyav_index, "_from_packets", with_a_frame_too_many)
    path = write_video(tmp_path / "a.mp4", 20)
    with open_video(path) as video:
        assert len(video.times) == 21
        assert frame_numbers(video.read([2, 10])) == [2, 9]  # the frames that were due then
        assert len(video.times) == 20
        assert frame_numbers(video.read([19])) == [19]
    pyav_index.forget_indices()
    with open_video(path) as video, pytest.raises(UndecodableVideoError, match="at frame 8: it is missing"):
        video.read(range(21))


def memory_and_files() -> tuple[int, int]:
    """MiB in use, and open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20, len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("opens", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_however_often_videos_are_opened(opens, tmp_path):
    good = [write_video(tmp_path / "a.mp4", 30, b_frames=2, audio=True), write_video(tmp_path / "a.mpg", 10)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    before = (0, 0)
    for k in range(opens + 50):
        if k == 50:
            before = memory_and_files()
        path = good[k % 2]
        os.utime(path, ns=(k, k))  # as if it were another file
        with open_video(path) as video:
            video.read([k % 10, 9])
        with pytest.raises(UndecodableVideoError):
            open_video(bad)
    memory, files = memory_and_files()
    assert memory - before[0] <= 10
    assert files == before[1]
