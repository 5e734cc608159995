"""Videos of moving digits: nothing but the motion depends on the class, and the files are what they say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stvit.datasets.digits import load_digits, sklearn_labels
from stvit.datasets.video import moving_digits
from stvit.datasets.video.lists import video_splits
from stvit.datasets.video.moving_digits import (
    FPS,
    MOTIONS,
    SIDE,
    Counts,
    Course,
    draw_frames,
    places,
    write_data_set,
)
from stvit.datasets.video.reading import open_video

COUNTS = Counts(train=16, val=8, test=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_data_set(folder, COUNTS, seed=3)
    return folder


def a_course(**settings: object) -> Course:
    return replace(Course.draw(np.random.default_rng(0)), **settings)


def steps(motion: str, **settings: object) -> np.ndarray:
    """How the digit's centre moves from frame to frame on the canvas without edges, ``(T - 1, 2)``."""
    centre, _ = places(a_course(**settings), motion)
    return (np.diff(centre, axis=0) + SIDE / 2) % SIDE - SIDE / 2


def test_each_class_moves_as_it_is_called() -> None:
    for motion, way in (("left", (0, -2)), ("right", (0, 2)), ("up", (-2, 0)), ("down", (2, 0))):
        np.testing.assert_allclose(steps(motion, speed=2.0), np.tile(way, (a_course().frames - 1, 1)), atol=1e-9)
    for motion, sign in (("clockwise", 1), ("counterclockwise", -1)):
        moved = steps(motion)  # as seen, y downwards: a clockwise turn bends from right to down
        turned = moved[:-1, 1] * moved[1:, 0] - moved[:-1, 0] * moved[1:, 1]
        assert (sign * turned > 0).all()
    for motion, sign in (("growing", 1), ("shrinking", -1)):
        _, size = places(a_course(), motion)
        grown = np.diff(size)
        assert (sign * grown > 0).sum() >= len(grown) - 1  # once it may start anew at the other end
        assert np.ptp(places(a_course(), motion)[0], axis=0).max() == 0


def test_of_each_pair_one_is_the_other_backwards_in_time() -> None:
    course = a_course(frames=20)
    for forwards, backwards in zip(MOTIONS[::2], MOTIONS[1::2], strict=True):
        centre, size = places(course, forwards)
        end = {"start": tuple(centre[-1]), "size": np.log(size[-1] / 20) / np.log(36 / 20)}
        if forwards == "clockwise":  # there the start is the circle's centre
            end = {"angle": course.angle + 2 * np.pi * 19 / course.period}
        back, shrunk = places(replace(course, **end), backwards)
        np.testing.assert_allclose(back[::-1], centre, atol=1e-6)
        np.testing.assert_allclose(shrunk[::-1], size, atol=1e-6)


def test_where_a_digit_is_and_how_large_says_nothing_of_the_class_at_any_time() -> None:
    # Of each class the same 1,000 courses: histograms of places and sizes at three times.
    courses = [replace(Course.draw(np.random.default_rng([1, k])), frames=16) for k in range(1000)]
    for motion in MOTIONS:
        drawn = [places(course, motion) for course in courses]
        for t in (0, 7, 15):
            turns = np.stack([centre[t] for centre, _ in drawn]) / SIDE
            sizes = np.log(np.array([size[t] for _, size in drawn]) / 20) / np.log(36 / 20)
            for even in (*turns.T, sizes):  # evenly over [0, 1): no class's frames are told by a histogram
                counts = np.histogram(even, bins=10, range=(0, 1))[0]
                assert ((counts - 100) ** 2 / 100).sum() < 35, (motion, t)  # chi-squared of 9: 33.7 at 1 in 10,000


def test_digit_course_and_length_are_the_same_whatever_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[bytes, Course, str]] = []

    def noted(digit: np.ndarray, course: Course, motion: str) -> np.ndarray:
        drawn.append((digit.tobytes(), course, motion))
        return np.zeros((course.frames, SIDE, SIDE), np.uint8)

    monkeypatch.setattr(moving_digits, "draw_frames", noted)
    monkeypatch.setattr(moving_digits, "encode_mp4", lambda frames: b"")
    for k, motions in enumerate((MOTIONS, (*MOTIONS[3:], *MOTIONS[:3]))):
        monkeypatch.setattr(moving_digits, "MOTIONS", motions)
        write_data_set(tmp_path / str(k), COUNTS, seed=3)
    first, second = drawn[:32], drawn[32:]
    assert [video[:2] for video in first] == [video[:2] for video in second]
    assert all(one != other for (_, _, one), (_, _, other) in zip(first, second, strict=True))
    assert len({course.frames for _, course, _ in first}) > 8


def test_the_lists_are_balanced_and_all_files_have_one_size(folder: Path) -> None:
    splits = video_splits(folder, training=True, testing=True, label_file=str(folder / "labels.txt"))
    assert splits.classes == MOTIONS
    for part, count in (("train", 16), ("validation", 8), ("test", 8)):
        videos = getattr(splits, part)
        assert np.bincount(videos.labels).tolist() == [count // 8] * 8
        for index in range(count):
            with open_video(videos.path(index)) as video:
                assert video.size == (SIDE, SIDE)
                assert video.fps == pytest.approx(FPS)
                assert 16 <= len(video.times) <= 32
    assert len({path.stat().st_size for path in folder.rglob("*.mp4")}) == 1


def test_a_digit_that_leaves_at_an_edge_comes_back_at_the_other(folder: Path) -> None:
    digit = load_digits("sklearn", "test").images[0]
    frames = draw_frames(digit, a_course(brightness=1.0, size=0.0), "right")
    assert (frames.dtype, frames.shape[1:]) == (np.uint8, (SIDE, SIDE))
    ink = frames.sum(axis=(1, 2), dtype=np.int64)
    assert np.ptp(ink) < 0.05 * ink.mean()
    with open_video(folder / "test" / "0001.mp4") as video:
        shown = video.read(range(len(video.times)))
    assert shown.max() > 100
    assert (np.abs(shown.astype(int) - shown[..., :1]).max()) <= 2  # grey


def test_parts_share_no_digit_and_images_lie_in_the_folder_of_their_digit(folder: Path) -> None:
    train, test = (load_digits("sklearn", split).images for split in ("train", "test"))
    digests = [{hashlib.sha256(image.tobytes()).digest() for image in part} for part in (train, test)]
    assert not digests[0] & digests[1]
    assert len(sklearn_labels("train")) == len(train)
    assert len(list((folder / "images" / "train").rglob("*.png"))) == 3 * 16
    assert {path.name for path in (folder / "images").iterdir()} == {"train", "val"}
    digits = {path.name for path in (folder / "images" / "train").iterdir()}
    assert digits <= {str(digit) for digit in range(10)}


def test_what_is_there_is_not_written_again_unless_other_videos_are_asked_for(tmp_path: Path) -> None:
    one = Counts(train=1, val=1, test=1)
    write_data_set(tmp_path, one, seed=3)
    file = tmp_path / "test" / "0000.mp4"
    before = file.stat().st_mtime_ns, file.read_bytes()
    write_data_set(tmp_path, one, seed=3)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    write_data_set(tmp_path, one, seed=4)
    assert file.read_bytes() != before[1]
    write_data_set(tmp_path, one, seed=3)
    assert file.read_bytes() == before[1]
