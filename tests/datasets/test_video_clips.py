"""Lists of videos as clips: the right frames, the same at every place, and what bad videos do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from videos import frame_numbers, numbered_frames, truncate, write_video

from stvit.datasets import EpochBatchSampler, batch_loader
from stvit.datasets.image_transforms import seeded
from stvit.datasets.video import clips as module
from stvit.datasets.video.clip_sampling import ClipSampling, random_clip, view_clip
from stvit.datasets.video.clip_transforms import ClipAugmentation, shown_clip
from stvit.datasets.video.clips import ClipBatch, EvaluationViews, TrainingClips, ViewBatch
from stvit.datasets.video.lists import VideoList, read_video_list
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

SAMPLING = ClipSampling(4, rate=4, target_fps=25.0)
# The whole frame of 24x32 as it is, so that clips show the numbers of their frames.
PLAIN = ClipAugmentation((24, 32), area=(1.0, 1.0), aspect=(4 / 3, 4 / 3), flip=0.0, auto_augment="", color_jitter=0.0)
RECIPE = ClipAugmentation((16, 16))
CENTRE = Preprocessing("classification", (24, 32), frames=4, crop_fraction=1.0, test_views=3)
LENGTHS = (40, 50, 60, 8, 45, 70)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> VideoList:
    """Six videos of three classes; the fourth is shorter than a clip."""
    folder = tmp_path_factory.mktemp("videos")
    for k, count in enumerate(LENGTHS):
        write_video(folder / f"{k}.mp4", count, b_frames=2)
    (folder / "train.csv").write_text("".join(f"{k}.mp4 {k % 3}\n" for k in range(len(LENGTHS))))
    return read_video_list(folder / "train.csv")


@pytest.fixture
def spoilt(videos, tmp_path) -> VideoList:
    """The same list, in which video 1 is cut off, 2 is missing and 4 is text."""
    for k in range(len(LENGTHS)):
        (tmp_path / f"{k}.mp4").write_bytes(videos.path(k).read_bytes())
    truncate(tmp_path / "1.mp4", 0.5)
    (tmp_path / "2.mp4").unlink()
    (tmp_path / "4.mp4").write_text("not found\n")
    (tmp_path / "train.csv").write_text((videos.root / "train.csv").read_text())
    return read_video_list(tmp_path / "train.csv")


def batch(dataset: TrainingClips, *keys: tuple[int, int]) -> ClipBatch:
    made = dataset.__getitems__(keys)
    assert isinstance(made, ClipBatch)
    return made


def views(dataset: EvaluationViews, *indices: int) -> ViewBatch:
    made = dataset.__getitems__(indices)
    assert isinstance(made, ViewBatch)
    return made


# Training


def test_a_batch_shows_sampled_frames_and_says_where_they_came_from(videos):
    made = batch(TrainingClips(videos, SAMPLING, PLAIN), (2, 0), (2, 5), (2, 3))
    assert made.clips.shape == (3, 3, 4, 24, 32)
    assert made.clips.dtype == torch.uint8
    assert made.labels.tolist() == [0, 2, 0]
    assert made.indices.tolist() == [0, 5, 3]
    assert (made.epoch, made.bad) == (2, ())
    for clip, count in zip(made.clips, (40, 70), strict=False):
        numbers = frame_numbers(shown_clip(clip))
        start = numbers[0]
        assert 0 <= start <= count - 16
        assert numbers == [start, start + 5, start + 10, start + 15]
    # Video 3 has 8 frames, and a clip is 16 long: its end is repeated.
    assert frame_numbers(shown_clip(made.clips[2])) == [0, 5, 7, 7]


def test_clips_start_anywhere_and_anew_in_each_epoch(videos):
    dataset = TrainingClips(videos, SAMPLING, PLAIN)
    starts = {frame_numbers(shown_clip(batch(dataset, (epoch, 0)).clips[0]))[0] for epoch in range(40)}
    assert len(starts) > 12
    assert starts <= set(range(25))


def test_views_show_the_same_frames_in_different_crops(videos):
    plain = batch(TrainingClips(videos, SAMPLING, PLAIN, views=3), (1, 0), (1, 5))
    assert plain.indices.tolist() == [0, 0, 0, 5, 5, 5]
    assert plain.labels.tolist() == [0, 0, 0, 2, 2, 2]
    shown = [frame_numbers(shown_clip(clip)) for clip in plain.clips]
    assert shown[0] == shown[1] == shown[2]
    assert shown[3] == shown[4] == shown[5]
    augmented = batch(TrainingClips(videos, SAMPLING, RECIPE, views=2), (1, 0)).clips
    assert not torch.equal(augmented[0], augmented[1])
    assert torch.equal(augmented[0], batch(TrainingClips(videos, SAMPLING, RECIPE), (1, 0)).clips[0])


def test_numbers_above_the_list_are_other_clips_of_the_same_videos(videos):
    """As the sampler counts the copies of a video under AUG.REPEATS."""
    made = batch(TrainingClips(videos, SAMPLING, PLAIN), *((0, 5 + 6 * repeat) for repeat in range(8)))
    assert set(made.indices.tolist()) == {5}
    assert made.views.tolist() == list(range(8))
    assert len({frame_numbers(shown_clip(clip))[0] for clip in made.clips}) > 3


def test_a_clip_depends_on_seed_epoch_and_video_alone(videos):
    dataset = TrainingClips(videos, SAMPLING, RECIPE, seed=7, views=2)
    together = batch(dataset, (3, 4), (3, 1), (3, 0))
    assert together.views.tolist() == [0, 1] * 3
    with seeded(99):
        alone = batch(dataset, (3, 1))
    assert torch.equal(alone.clips, together.clips[2:4])
    for other in (batch(dataset, (4, 1)), batch(TrainingClips(videos, SAMPLING, RECIPE, seed=8, views=2), (3, 1))):
        assert not torch.equal(other.clips, alone.clips)


def test_loading_leaves_the_generators_alone(videos):
    before = torch.default_generator.get_state()
    batch(TrainingClips(videos, SAMPLING, RECIPE), (0, 0))
    assert torch.equal(torch.default_generator.get_state(), before)


def test_workers_and_ranks_see_the_same_clips(videos):
    dataset = TrainingClips(videos, SAMPLING, RECIPE, seed=1)

    def epoch(workers: int, ranks: int) -> dict[int, torch.Tensor]:
        found = {}
        for rank in range(ranks):
            sampler = EpochBatchSampler(6, 2, 5, seed=1, rank=rank, world_size=ranks, shuffle=True)
            for made in batch_loader(dataset, sampler, workers):
                found.update(zip(made.indices.tolist(), made.clips, strict=True))
        return found

    alone = epoch(0, 1)
    assert set(alone) == set(range(6))
    for other in (epoch(2, 1), epoch(0, 3)):
        assert all(torch.equal(other[index], clip) for index, clip in alone.items())


def test_frames_decoded_in_parts_make_the_same_clip(videos, monkeypatch):
    whole = batch(TrainingClips(videos, SAMPLING, RECIPE, views=2), (0, 0), (0, 3))
    tested = views(EvaluationViews(videos, SAMPLING, CENTRE), 0, 3)
    sizes = []
    in_parts = module._in_parts

    def counting(reader, numbers):
        for frames in in_parts(reader, numbers):
            sizes.append(len(frames))
            yield frames

    monkeypatch.setattr(module, "_in_parts", counting)
    monkeypatch.setattr(module, "_DECODED_BYTES", 3 * 3 * 24 * 32)
    assert torch.equal(batch(TrainingClips(videos, SAMPLING, RECIPE, views=2), (0, 0), (0, 3)).clips, whole.clips)
    assert torch.equal(views(EvaluationViews(videos, SAMPLING, CENTRE), 0, 3).clips, tested.clips)
    assert max(sizes) == 3
    monkeypatch.setattr(module, "_DECODED_BYTES", 1)
    assert torch.equal(views(EvaluationViews(videos, SAMPLING, CENTRE), 0).clips, tested.clips[:1])


# Evaluation


def test_a_folder_of_frames_is_a_video_of_the_target_speed(tmp_path):
    """As prediction takes it: its frames say nothing of times."""
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(numbered_frames(40)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{t:03}.png")
    (tmp_path / "test.csv").write_text("frames 0\n")
    listed = read_video_list(tmp_path / "test.csv")
    for target in (10.0, 25.0):
        slow = dataclasses.replace(SAMPLING, target_fps=target)
        (clips,) = views(EvaluationViews(listed, slow, CENTRE), 0).clips
        assert [frame_numbers(shown_clip(clip)) for clip in clips] == [[s, s + 5, s + 10, s + 15] for s in (0, 12, 24)]
        (clip,) = batch(TrainingClips(listed, slow, PLAIN), (0, 0)).clips
        assert np.diff(frame_numbers(shown_clip(clip))).tolist() == [5, 5, 5]


def test_a_video_is_evaluated_with_all_its_views(videos):
    made = views(EvaluationViews(videos, SAMPLING, CENTRE), 5, 0, 3)
    assert made.clips.shape == (3, 3, 3, 4, 24, 32)
    assert made.labels.tolist() == [2, 0, 0]
    assert made.indices.tolist() == [5, 0, 3]
    assert made.bad == ()
    shown = [[frame_numbers(shown_clip(clip)) for clip in video] for video in made.clips]
    assert shown == [
        [[0, 5, 10, 15], [27, 32, 37, 42], [54, 59, 64, 69]],  # 70 frames, starts 27 apart
        [[0, 5, 10, 15], [12, 17, 22, 27], [24, 29, 34, 39]],
        [[0, 5, 7, 7]] * 3,
    ]


@pytest.mark.parametrize("method", ["dense", "segments"])
def test_views_are_those_of_the_sampling(videos, method):
    sampling = dataclasses.replace(SAMPLING, method=method)
    made = views(EvaluationViews(videos, sampling, CENTRE), 2)
    times = np.arange(60) / 25
    for view in range(3):
        assert frame_numbers(shown_clip(made.clips[0, view])) == view_clip(sampling, times, 25.0, view, 3).tolist()


def test_the_crops_of_a_view_follow_each_other(videos):
    three = dataclasses.replace(CENTRE, input_size=(24, 24), test_views=2, test_crops=3)
    made = views(EvaluationViews(videos, SAMPLING, three), 0)
    assert made.clips.shape == (1, 6, 3, 4, 24, 24)
    whole = views(EvaluationViews(videos, SAMPLING, dataclasses.replace(CENTRE, test_views=2)), 0).clips[0]
    for view in range(2):
        for crop, left in enumerate((0, 4, 8)):
            assert torch.equal(made.clips[0, 3 * view + crop], whole[view][..., left : left + 24])


def test_a_video_is_opened_once_and_each_frame_decoded_once(videos, monkeypatch):
    opened, read = [], []
    real = module.open_video

    def recording(path, decoder, **options):
        reader = real(path, decoder)
        opened.append(path)
        whole = reader.read
        reader.read = lambda numbers: read.append(list(numbers)) or whole(numbers)
        return reader

    monkeypatch.setattr(module, "open_video", recording)
    views(EvaluationViews(videos, SAMPLING, dataclasses.replace(CENTRE, test_views=5)), 3)
    assert opened == [videos.path(3)]
    assert read[-1] == [0, 5, 7]


def test_loaders_share_videos_and_count_each_once(videos):
    dataset = EvaluationViews(videos, SAMPLING, CENTRE)
    seen = []
    for part in (range(0, 4), range(4, 6)):
        for made in batch_loader(Subset(dataset, part), 3, workers=1):
            seen += made.indices.tolist()
    assert seen == list(range(6))


# Bad videos


def test_raise_names_the_line_and_the_first_cause(spoilt):
    dataset = TrainingClips(spoilt, SAMPLING, PLAIN)
    causes = {
        1: r"train\.csv:2: .*1\.mp4 .*",
        2: r"train\.csv:3: .*2\.mp4 does not exist",
        4: r"train\.csv:5: .*4\.mp4 ",
    }
    for index, message in causes.items():
        for made in (dataset.__getitems__([(0, 0), (0, index)]), EvaluationViews(spoilt, SAMPLING, CENTRE)[index]):
            assert isinstance(made, UserError)
            assert "\n" not in str(made)
            with pytest.raises(UserError, match=message + r".*DATA\.ON_BAD_VIDEO skip or replace"):
                raise made


def test_skip_leaves_videos_out_and_tells_of_them(spoilt):
    dataset = TrainingClips(spoilt, SAMPLING, PLAIN, on_bad="skip", views=2)
    made = batch(dataset, *((0, k) for k in range(6)))
    assert made.indices.tolist() == [0, 0, 3, 3, 5, 5]
    assert made.labels.tolist() == [0, 0, 0, 0, 2, 2]
    assert len(made.clips) == 6
    assert [(video.index, video.name) for video in made.bad] == [(1, "1.mp4"), (2, "2.mp4"), (4, "4.mp4")]
    assert all(video.cause.startswith(str(spoilt.path(video.index))) for video in made.bad)
    empty = batch(dataset, (0, 1), (0, 2))
    assert empty.clips.shape == (0, 3, 4, 24, 32)
    assert empty.labels.shape == (0,)
    assert len(empty.bad) == 2


def test_replace_shows_others_of_the_list_and_says_which(spoilt):
    dataset = TrainingClips(spoilt, SAMPLING, RECIPE, on_bad="replace")
    shown = []
    for epoch in range(5):
        made = batch(dataset, *((epoch, k) for k in range(6)))
        assert len(made.clips) == 6
        assert made.labels.tolist() == [index % 3 for index in made.indices.tolist()]
        assert made.indices[[0, 3, 5]].tolist() == [0, 3, 5]
        assert {1, 2, 4} <= {video.index for video in made.bad}
        assert torch.equal(batch(dataset, *((epoch, k) for k in range(6))).clips, made.clips)
        shown += made.indices[[1, 2, 4]].tolist()
    assert set(shown) == {0, 3, 5}


def test_replace_gives_up_after_some_trials_and_names_the_first_cause(spoilt):
    for k in (0, 3, 5):
        spoilt.path(k).write_text("")
    made = TrainingClips(spoilt, SAMPLING, PLAIN, on_bad="replace")[0, 2]
    assert isinstance(made, UserError)
    with pytest.raises(UserError, match=r"train\.csv:3: .*2\.mp4 does not exist.*10 others"):
        raise made


@pytest.mark.parametrize("on_bad", ["skip", "replace"])
def test_evaluation_never_shows_another_video(spoilt, on_bad):
    made = views(EvaluationViews(spoilt, SAMPLING, CENTRE, on_bad=on_bad), *range(6))
    assert made.indices.tolist() == [0, 3, 5]
    assert made.labels.tolist() == [0, 0, 2]
    assert [video.index for video in made.bad] == [1, 2, 4]
    none = views(EvaluationViews(spoilt, SAMPLING, CENTRE, on_bad=on_bad), 1)
    assert none.clips.shape == (0, 3, 3, 4, 24, 32)
    assert [video.index for video in none.bad] == [1]


def test_workers_hand_over_mistakes_and_survive_bad_videos(spoilt):
    sampler = EpochBatchSampler(6, 3, seed=0)
    handed = list(batch_loader(TrainingClips(spoilt, SAMPLING, PLAIN), sampler, workers=1))
    assert [type(made) for made in handed] == [UserError, UserError]
    skipped = list(batch_loader(TrainingClips(spoilt, SAMPLING, PLAIN, on_bad="skip"), sampler, workers=1))
    assert [made.indices.tolist() for made in skipped] == [[0], [3, 5]]
    assert [[video.index for video in made.bad] for made in skipped] == [[1, 2], [4]]


def test_an_error_of_ours_is_no_bad_video(videos, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "random_clip", broken)
    with pytest.raises(ZeroDivisionError):
        batch(TrainingClips(videos, SAMPLING, PLAIN, on_bad="skip"), (0, 0))


def test_a_wrong_decoder_or_rule_is_no_bad_video(videos):
    made = TrainingClips(videos, SAMPLING, PLAIN, on_bad="skip", decoder="gstreamer")[0, 0]
    assert isinstance(made, UserError)
    assert "DATA.DECODER" in str(made)
    with pytest.raises(UserError, match=r"ON_BAD_VIDEO is one of raise, skip, replace, not 'ignore'"):
        TrainingClips(videos, SAMPLING, PLAIN, on_bad="ignore")


def test_training_clips_are_those_of_the_sampling_and_its_seed(videos):
    """The frames are drawn apart from the crops, so that another augmentation shows the same frames."""
    plain = frame_numbers(shown_clip(batch(TrainingClips(videos, SAMPLING, PLAIN), (0, 5)).clips[0]))
    flipped = dataclasses.replace(PLAIN, flip=1.0)
    mirrored = batch(TrainingClips(videos, SAMPLING, flipped), (0, 5)).clips[0].flip(-1)
    assert frame_numbers(shown_clip(mirrored)) == plain
    with seeded(module.sample_seed(0, module.SAMPLING_STREAM, 0, 5, 0)):
        assert random_clip(SAMPLING, np.arange(70) / 25, 25.0).tolist() == plain
