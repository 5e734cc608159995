"""Which frames make a clip: tables worked out by hand, SlowFast's formulas, and what holds for every video."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from stvit.datasets.image_transforms import seeded
from stvit.datasets.video.clip_sampling import ClipSampling, random_clip, view_clip
from stvit.errors import UserError


def even(count: int, fps: float = 30.0) -> np.ndarray:
    """When the frames of a video of constant rate are shown."""
    return np.arange(count) / fps


def positions(count: int, start: float, length: float, frames: int) -> list[int]:
    """SlowFast's frame numbers of a clip that starts there."""
    return torch.linspace(start, start + length - 1, frames).clamp(0, count - 1).long().tolist()


@pytest.mark.parametrize(
    ("count", "frames", "rate", "fps", "view", "views", "offset", "expected"),
    [
        (300, 8, 8, 30, 0, 1, True, [118, 127, 136, 145, 154, 163, 172, 181]),  # (300 - 64) / 2; spaced by 63 / 7
        (300, 8, 8, 30, 4, 5, True, [236, 245, 254, 263, 272, 281, 290, 299]),  # 4 * 59
        (300, 8, 8, 30, 4, 5, False, [188, 197, 206, 215, 224, 233, 242, 251]),  # 236 * 4 / 5 = 188.8
        (250, 8, 8, 25, 2, 5, True, [98, 105, 112, 120, 127, 135, 142, 150]),  # 53 1/3 frames long, 2 * 49
        (300, 4, 2, 60, 1, 2, True, [284, 289, 294, 299]),  # 16 frames of 60 fps last as long as 8 of 30
        (40, 8, 8, 30, 0, 1, True, [0, 9, 18, 27, 36, 39, 39, 39]),  # too short: the last frame repeats
        (40, 8, 8, 30, 3, 5, False, [0, 9, 18, 27, 36, 39, 39, 39]),
        (1, 4, 4, 30, 0, 1, True, [0, 0, 0, 0]),
        (10, 4, 2, 30, 2, 3, True, [2, 4, 6, 9]),  # 2 * floor(2 / 2)
        (10, 1, 4, 30, 0, 1, True, [3]),
    ],
)
def test_dense_views_worked_out_by_hand(count, frames, rate, fps, view, views, offset, expected):
    sampling = ClipSampling(frames, rate=rate, offset=offset)
    assert view_clip(sampling, even(count, fps), fps, view, views).tolist() == expected


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize(("frames", "rate"), [(16, 4), (32, 3), (40, 3), (8, 8), (5, 1)])
def test_dense_views_are_slowfasts_for_every_length_and_rate(frames, rate, offset):
    for count in (1, 2, 17, 63, 64, 65, 119, 250, 300, 301, 1799):
        for fps in (12.0, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 50.0, 120.0):
            for views in (1, 2, 3, 5, 10):
                length = rate * frames * fps / 30
                room = max(count - length, 0)
                step = math.floor(room / (views - 1)) if views > 1 else 0
                for view in range(views):
                    start = (view * step if views > 1 else math.floor(room / 2)) if offset else room * view / views
                    got = view_clip(ClipSampling(frames, rate=rate, offset=offset), even(count, fps), fps, view, views)
                    assert got.tolist() == positions(count, start, length, frames), (count, fps, view, views)


def test_random_clips_are_slowfasts_for_the_same_draws():
    sampling = ClipSampling(16, rate=4, fps_jitter=5.0)
    for seed in range(50):
        for count, fps in ((300, 30.0), (250, 25.0), (70, 30.0), (20, 24.0)):
            with seeded(seed):
                got = random_clip(sampling, even(count, fps), fps).tolist()
            with seeded(seed):
                length = 64 * fps / (30 + random.uniform(0, 5))
                assert got == positions(count, random.uniform(0, max(count - length, 0)), round(length, 6), 16)


def test_random_clips_reach_both_ends_and_all_between():
    clips = [random_clip(ClipSampling(4, rate=4), even(20), 30.0) for _ in range(300)]
    assert {int(clip[0]) for clip in clips} == {0, 1, 2, 3}
    assert max(clip[-1] for clip in clips) >= 18


@pytest.mark.parametrize("method", ["dense", "segments"])
def test_frames_of_any_clip_are_in_order_and_in_the_video(method):
    for count in (1, 2, 5, 16, 31, 200):
        for fps in (10.0, 30.0, 59.94):
            sampling = ClipSampling(16, method, rate=3, fps_jitter=2.0)
            clips = [random_clip(sampling, even(count, fps), fps) for _ in range(20)]
            clips += [view_clip(sampling, even(count, fps), fps, view, 4) for view in range(4)]
            for clip in clips:
                assert clip.dtype == np.int64
                assert clip.shape == (16,)
                assert clip.min() >= 0
                assert clip.max() < count
                assert (np.diff(clip) >= 0).all()


def test_offset_views_begin_with_the_video_and_end_with_it():
    for count in (64, 65, 100, 299, 300):
        for views in (2, 3, 5, 10):
            clips = [view_clip(ClipSampling(16), even(count), 30.0, view, views) for view in range(views)]
            assert clips[0][0] == 0
            assert count - 1 - (views - 1) < clips[-1][-1] <= count - 1
            steps = np.diff([clip[0] for clip in clips])
            assert (steps == steps[0]).all()


def test_views_spread_as_pytorchvideos_sampler_spreads_them():
    pytorchvideo = pytest.importorskip("pytorchvideo.data.clip_sampling")
    for count, views in ((300, 5), (250, 10), (97, 3)):
        sampler = pytorchvideo.ConstantClipsPerVideoSampler(64 / 30, views)
        for view in range(views):
            theirs = float(sampler(0.0, count / 30, {}).clip_start_sec) * 30
            ours = view_clip(ClipSampling(16, offset=False), even(count), 30.0, view, views)[0]
            assert ours == math.floor(theirs + 1e-6)


@pytest.mark.parametrize(
    ("count", "frames", "view", "views", "expected"),
    [
        # 32 / 4 frames a part: 0-8, 8-16, 16-24, 24-32
        (33, 4, 0, 1, [4, 12, 20, 28]),
        (33, 4, 0, 2, [2, 10, 18, 26]),
        (33, 4, 1, 2, [6, 14, 22, 30]),
        # 9 / 4: 0-2, 2-4 (4.5 is rounded to even), 4-7, 7-9
        (10, 4, 0, 1, [1, 3, 5, 8]),
        # fewer frames than parts: 2 / 8, rounded
        (3, 8, 0, 1, [0, 0, 0, 1, 1, 1, 2, 2]),
        (1, 4, 0, 1, [0, 0, 0, 0]),
    ],
)
def test_segments_worked_out_by_hand(count, frames, view, views, expected):
    assert view_clip(ClipSampling(frames, "segments"), even(count), 30.0, view, views).tolist() == expected


def test_segments_are_slowfasts_in_test_and_in_training():
    for count in (2, 5, 16, 47, 117, 300):
        for frames in (8, 16, 32):
            size = (count - 1) / frames
            parts = [(int(np.round(size * i)), int(np.round(size * (i + 1)))) for i in range(frames)]
            sampling = ClipSampling(frames, "segments")
            assert view_clip(sampling, even(count), 24.0, 0, 1).tolist() == [(a + b) // 2 for a, b in parts]
            with seeded(count):
                got = random_clip(sampling, even(count), 24.0).tolist()
            with seeded(count):
                assert got == [random.randint(a, b) for a, b in parts]


def test_views_of_segments_differ_and_stay_inside_their_parts():
    views = [view_clip(ClipSampling(8, "segments"), even(161), 30.0, view, 5) for view in range(5)]
    for i in range(8):
        frames = [int(view[i]) for view in views]
        assert frames == sorted(set(frames))
        assert 20 * i <= frames[0]
        assert frames[-1] <= 20 * (i + 1)


def test_where_the_rate_varies_a_clip_is_even_in_time():
    """Five seconds at 10 frames a second, then five at 50: 30 on average."""
    times = np.concatenate([np.arange(50) / 10, 5 + np.arange(250) / 50])
    clip = view_clip(ClipSampling(16, rate=18), times, 30.0, 0, 1)
    moments = torch.linspace(6, 6 + 287, 16).double().numpy() * times[-1] / 299
    for frame, moment in zip(clip, moments, strict=True):
        assert times[frame] <= moment + 1e-3
        assert frame == 299 or times[frame + 1] > moment
    assert set(np.diff(clip)[:6]) == {6, 7}  # 0.64 seconds at 10 frames a second
    assert set(np.diff(clip)[-6:]) == {31, 32}


def test_a_clip_of_varying_rate_reaches_the_last_frame():
    times = np.cumsum(np.r_[0, np.tile([1, 1, 1, 5], 20)]) / 60
    fps = (len(times) - 1) / times[-1]
    assert view_clip(ClipSampling(8, rate=8, target_fps=fps), times, fps, 1, 2)[-1] == len(times) - 1
    assert view_clip(ClipSampling(4, "segments"), times, fps, 0, 1)[0] == np.searchsorted(times, 10 / fps, "right") - 1


def test_timestamps_in_whole_milliseconds_do_not_count_as_varying():
    rounded = np.round(even(300), 3)
    for view in range(5):
        exact = view_clip(ClipSampling(16), even(300), 30.0, view, 5)
        assert view_clip(ClipSampling(16), rounded, 30.0, view, 5).tolist() == exact.tolist()


def test_an_average_that_is_off_by_rounding_moves_no_frame():
    for fps in (np.nextafter(30, 31), np.nextafter(30, 29)):
        for view in range(5):
            exact = view_clip(ClipSampling(16), even(300), 30.0, view, 5)
            assert view_clip(ClipSampling(16), even(300), fps, view, 5).tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "sparse"}, "dense or segments, not 'sparse'"),
        ({"frames": 0}, "frames 0: at least 1"),
        ({"rate": 0}, "rate 0: at least 1"),
        ({"target_fps": 0.0}, r"at 0\.0 frames a second"),
        ({"fps_jitter": -1.0}, r"jitter of -1\.0"),
    ],
)
def test_impossible_samplings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        ClipSampling(**{"frames": 8, **wrong})


def test_a_view_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"view 3 is outside 0\.\.2"):
        view_clip(ClipSampling(8), even(100), 30.0, 3, 3)
