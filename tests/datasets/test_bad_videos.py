"""The ledger of bad videos: each is written once, a resumed run goes on with it, and too many stop the run."""

from __future__ import annotations

import csv
import os

import pytest

from stvit.datasets.video.bad_videos import BadVideo, BadVideos
from stvit.errors import UserError


def video(index: int, cause: str = "cut off") -> BadVideo:
    return BadVideo(index, f"clips/{index}.mp4", cause)


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.reader(lines))


def test_each_video_is_written_once_with_its_first_cause(tmp_path):
    file = tmp_path / "run" / "bad_videos.csv"
    ledger = BadVideos(file, 1000, 1.0)
    ledger.note([])
    assert not file.exists()
    ledger.note([video(3), video(5, 'no stream, "really"'), video(3, "later cause")])
    ledger.note([video(5, "other"), video(7)])
    assert rows(file) == [
        ["name", "cause"],
        ["clips/3.mp4", "cut off"],
        ["clips/5.mp4", 'no stream, "really"'],
        ["clips/7.mp4", "cut off"],
    ]
    assert len(ledger) == 3


def test_a_resumed_run_goes_on_with_the_ledger(tmp_path):
    file = tmp_path / "bad_videos.csv"
    BadVideos(file, 1000, 1.0).note([video(1), video(2)])
    resumed = BadVideos(file, 1000, 1.0)
    resumed.note([video(2, "again"), video(4)])
    assert [row[0] for row in rows(file)[1:]] == ["clips/1.mp4", "clips/2.mp4", "clips/4.mp4"]
    assert resumed.causes["clips/2.mp4"] == "cut off"


def test_a_row_that_a_killed_run_began_spoils_no_other(tmp_path):
    file = tmp_path / "bad_videos.csv"
    file.write_text("name,cause\nclips/1.mp4,cut off\nclips/2")
    ledger = BadVideos(file, 1000, 1.0)
    assert len(ledger) == 1
    ledger.note([video(2)])
    assert rows(file)[-1] == ["clips/2.mp4", "cut off"]
    assert BadVideos(file, 1000, 1.0).causes == ledger.causes


def test_a_name_that_is_no_text_comes_back(tmp_path):
    file, name = tmp_path / "bad_videos.csv", os.fsdecode(b"caf\xe9.mp4")
    BadVideos(file, 100, 1.0).note([BadVideo(0, name, "cut off")])
    assert BadVideos(file, 100, 1.0).causes == {name: "cut off"}


def test_more_than_the_cap_stop_the_run_and_name_the_first(tmp_path):
    file = tmp_path / "bad_videos.csv"
    ledger = BadVideos(file, 200, 1.0)
    ledger.note([video(1, "no video stream"), video(2)])  # exactly one percent
    with pytest.raises(UserError, match=r"^3 of 200 videos .*MAX_BAD_PERCENT 1 .*bad_videos.csv.*clips/1.mp4: no"):
        ledger.note([video(9)])
    assert rows(file)[-1][0] == "clips/9.mp4"
    resumed = BadVideos(file, 200, 1.0)
    resumed.note([])
    with pytest.raises(UserError, match=r"^3 of 200 videos"):
        resumed.note([video(9)])
    BadVideos(file, 200, 2.0).note([video(9)])


def test_a_cause_that_names_its_video_is_not_said_to_be_of_it_again():
    with pytest.raises(UserError, match=r"the first is data/clips/1\.mp4 is cut off;"):
        BadVideos(None, 1, 1.0).note([video(1, "data/clips/1.mp4 is cut off")])


def test_without_a_file_the_cap_still_counts():
    with pytest.raises(UserError, match=r"^1 of 50 videos cannot be used"):
        BadVideos(None, 50, 1.0).note([video(1)])
