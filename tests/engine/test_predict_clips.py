"""Videos are classified by the test protocol, and over time; with stand-ins for the networks."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from videos import truncate, write_sound, write_video

from stvit.datasets.video.clip_sampling import ClipSampling, view_clip
from stvit.engine.classify_clips import MOST_WINDOWS, classify_clip, middle_clip
from stvit.engine.classify_folder import as_csv, classify_folder
from stvit.engine.predict import predict
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


class ReadsFrames(nn.Module):
    """Of clips of 4 frames: as many logits as frames, four times the brightness of each; keeps what it was shown."""

    model_name = "reads_frames"

    def __init__(self, logits: int = 4, **settings: object) -> None:
        super().__init__()
        self.scale, self.logits, self.shown = nn.Parameter(torch.tensor(4.0)), logits, []
        described = Preprocessing(
            "classification",
            (8, 8),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            frames=4,
            labels=("first", "second", "third", "last"),
            sampling_rate=2,
            target_fps=10.0,
        )
        self.preprocessing = replace(described, **settings)

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.shape[1:] == (self.preprocessing.channels, 4, 8, 8)
        levels = clips.mean(dim=(1, 3, 4))
        self.shown += [tuple(clip) for clip in (255 * levels).round().int().tolist()]
        return nn.functional.pad(levels * self.scale, (0, self.logits - 4), value=-99.0)

    def expected(self, clips: list[list[int]]) -> list[float]:
        """The mean of the probabilities of clips of these brightnesses."""
        return (torch.tensor(clips) / 255 * 4.0).softmax(dim=1).mean(dim=0).tolist()


def counting(count: int, H: int = 20, W: int = 30) -> np.ndarray:
    """Frame t has the brightness t everywhere."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, H, W))


def as_folder(frames: np.ndarray, folder: Path) -> Path:
    folder.mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t}.png")
    return folder


def in_order(result: object) -> list[float]:
    return [p for _, p in sorted(zip(result.indices, result.probabilities, strict=True))]


@pytest.mark.parametrize("offset", [True, False])
def test_the_probabilities_are_the_mean_over_the_views_of_the_protocol(offset):
    model = ReadsFrames(test_views=3, offset_sampling=offset)
    result = predict(counting(40), model)
    times, sampling = np.arange(40) / 10, ClipSampling(4, "dense", 2, 10.0, offset=offset)
    views = [view_clip(sampling, times, 10.0, view, 3).tolist() for view in range(3)]
    assert len({tuple(view) for view in views}) == 3
    assert set(model.shown) >= {tuple(view) for view in views}
    assert in_order(result) == pytest.approx(model.expected(views), abs=1e-5)
    assert sum(result.probabilities) == pytest.approx(1)
    assert (result.clips, result.duration, result.model_name) == (3, pytest.approx(4.0), "reads_frames")


def test_three_crops_of_each_view_count():
    frames = counting(40).copy()
    frames[:, :, :5] += 100  # at the left end alone
    model = ReadsFrames(test_crops=3, crop_fraction=1.0)
    result = predict(frames, model)
    assert result.clips == 3
    centre, left = model.shown[1], model.shown[0]
    assert min(left) > max(centre) + 15
    assert in_order(result) == pytest.approx(model.expected([list(clip) for clip in model.shown[:3]]), abs=0.01)


def test_windows_follow_each_other_from_the_beginning_to_the_end():
    model = ReadsFrames()
    windows = predict(counting(40), model).windows
    assert [(w.start, w.end) for w in windows] == [pytest.approx((k * 0.8, (k + 1) * 0.8)) for k in range(5)]
    expected = [[8 * k + offset for offset in (0, 2, 4, 7)] for k in range(5)]
    for window, numbers in zip(windows, expected, strict=True):
        assert in_order(window) == pytest.approx(model.expected([numbers]), abs=1e-5)


def test_a_window_tells_of_the_classes_of_the_whole_video():
    frames = counting(16, 8, 8).copy()
    frames[[0, 8]] = 200  # the first frame of a window's clip is bright, and in the second window the last more so
    frames[15] = 250
    result = predict(frames, ReadsFrames(), top_k=1)
    first, second = result.windows
    assert (first.labels, second.labels) == (("first",), ("last",))
    whole = predict(frames, ReadsFrames())
    for window, every in zip((first, second), whole.windows, strict=True):
        assert window.of_video == (in_order(every)[result.indices[0]],)


def test_windows_of_a_video_that_is_no_multiple_of_them_overlap_evenly():
    spans = [(w.start, w.end) for w in predict(counting(20), ReadsFrames()).windows]
    assert spans == [pytest.approx(span) for span in ((0.0, 0.8), (0.6, 1.4), (1.2, 2.0))]


def test_a_long_video_has_windows_with_gaps_between_them():
    windows = predict(np.zeros((1000, 8, 8), np.uint8), ReadsFrames()).windows
    assert len(windows) == MOST_WINDOWS
    assert (windows[0].start, windows[-1].end) == pytest.approx((0, 100))
    steps = np.diff([w.start for w in windows])
    assert steps == pytest.approx(np.full(MOST_WINDOWS - 1, 99.2 / (MOST_WINDOWS - 1)))


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_a_short_video_has_one_window_and_ends_with_repeats(count):
    model = ReadsFrames(test_views=5)
    result = predict(counting(count), model)
    numbers = np.linspace(0, 7, 4).astype(int).clip(max=count - 1)
    assert model.shown == [tuple(numbers.tolist())]  # the views are all the same, and are computed once
    (window,) = result.windows
    assert (window.start, window.end) == (0, pytest.approx(count / 10))
    assert window.probabilities == window.of_video == pytest.approx(result.probabilities)


def test_as_many_frames_as_the_network_takes_are_the_clip():
    for sampling in ("dense", "segments"):
        model = ReadsFrames(clip_sampling=sampling)
        sources = [counting(4), torch.from_numpy(counting(4).copy()), counting(4) / 255]
        for source in sources:
            result = predict(source, model)
            assert result.duration == pytest.approx(0.8 if sampling == "dense" else 0.4)
        assert set(model.shown) == {(0, 1, 2, 3)}


def test_a_folder_of_frames_is_sampled_as_in_training_however_many_they_are(tmp_path):
    model = ReadsFrames()
    predict(as_folder(counting(4), tmp_path / "x"), model)
    assert set(model.shown) == {(0, 2, 3, 3)}  # every second one, as a video that ends too early


def test_of_a_network_of_segments_the_whole_video_is_one_window():
    model = ReadsFrames(clip_sampling="segments", test_views=2)
    result = predict(counting(100), model)
    assert [(w.start, w.end) for w in result.windows] == [(0, 10)]
    assert all(max(shown) - min(shown) > 60 for shown in model.shown)


def test_a_file_a_folder_and_an_array_of_the_same_frames_are_the_same(tmp_path):
    frames = counting(12)
    np.save(tmp_path / "x.npy", frames)
    result = predict(frames, ReadsFrames())
    assert predict(tmp_path / "x.npy", ReadsFrames()) == result
    assert predict(as_folder(frames, tmp_path / "x"), ReadsFrames()) == result
    assert predict(np.stack([frames[::-1], frames]), ReadsFrames(), sequence=1) == result
    assert predict(frames, ReadsFrames(channels=1, mean=(0.0,), std=(1.0,))).probabilities == pytest.approx(
        result.probabilities, abs=1e-3
    )


def test_a_gif_without_times_is_a_row_of_frames(tmp_path):
    pages = [Image.fromarray(np.full((20, 30), 20 * t, np.uint8)) for t in range(12)]
    pages[0].save(tmp_path / "timeless.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "slow.gif", save_all=True, append_images=pages[1:], duration=200)
    assert predict(tmp_path / "timeless.gif", ReadsFrames()).duration == pytest.approx(1.2)
    assert predict(tmp_path / "slow.gif", ReadsFrames()).duration == pytest.approx(2.4)


def test_a_video_is_classified_at_its_own_rate(tmp_path):
    """At 20 frames a second, clips of 10 take every second frame."""
    frames = np.repeat(counting(40)[..., None] * np.uint8(6), 3, axis=3)
    path = write_video(tmp_path / "x.mp4", frames, fps=20)
    model = ReadsFrames()
    result = predict(path, model, top_k=2)
    assert result.duration == pytest.approx(2.0)
    expected = 6 * view_clip(ClipSampling(4, "dense", 2, 10.0), np.arange(40) / 20, 20.0, 0, 1)
    assert model.shown[0] == pytest.approx(expected, abs=4)
    assert [(w.start, w.end) for w in result.windows] == [
        pytest.approx(span) for span in ((0, 0.8), (0.6, 1.4), (1.2, 2))
    ]
    assert len(result.labels) == len(result.windows[0].labels) == 2


def test_four_hundred_classes_of_clips_without_names_are_those_of_kinetics():
    model = ReadsFrames(logits=400, labels=None)
    assert set(predict(counting(8), model, top_k=4).labels) == {
        "abseiling",
        "air drumming",
        "answering questions",
        "applauding",
    }


def test_the_clip_in_the_middle_is_what_the_network_sees_of_one_view():
    described = ReadsFrames(test_views=5, test_crops=3, offset_sampling=False).preprocessing
    levels = 255 * middle_clip(counting(40), described).mean(dim=(0, 2, 3))
    assert levels.round().tolist() == [16, 18, 20, 23]


def test_a_model_keeps_its_mode_and_its_precision():
    model = ReadsFrames().to(torch.float64).train()
    predict(counting(8), model)
    assert model.training


def test_logits_that_are_not_finite_are_refused():
    model = ReadsFrames()
    model.scale.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite for the array; its weights may be broken"):
        predict(counting(8), model)


def bad_sources(folder: Path) -> dict[str, tuple[object, str]]:
    """Things that are no clip, and what is said of each."""
    Image.fromarray(counting(3)[2]).save(folder / "one.png")
    (folder / "empty").mkdir()
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "a.mp4", 4)
    (folder / "text.mp4").write_text("hello")
    return {
        "image": (folder / "one.png", "is one image, and the network classifies clips: give a video"),
        "Pillow image": (Image.open(folder / "one.png"), "a numpy array or a tensor, not from a PngImageFile"),
        "lists": ([[1, 2]], "not from a list"),
        "array of an image": (np.zeros((8, 8), np.uint8), "which is none of"),
        "nothing": (folder / "gone.mp4", "does not exist"),
        "empty folder": (folder / "empty", "is no folder of images, and a clip is one video"),
        "folder of videos": (folder / "videos", "tools/predict.py classifies all videos in a folder"),
        "text": (folder / "text.mp4", "cannot be decoded"),
        "cut": (truncate(write_video(folder / "cut.mp4", 20), 0.3), "cut.mp4"),
        "sound": (write_sound(folder / "sound.mp4"), "no video stream"),
    }


def test_what_is_no_clip_is_refused_in_one_line(tmp_path):
    for source, message in bad_sources(tmp_path).values():
        with pytest.raises(UserError, match=re.escape(message)) as refused:
            predict(source, ReadsFrames())
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 1}, "start=1 is for frame prediction"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, not 0"),
        ({"sequence": 3}, "there is no sequence 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        predict(counting(8), ReadsFrames(), **settings)


def test_a_sequence_is_not_chosen_of_a_file_of_one(tmp_path):
    with pytest.raises(UserError, match="holds one sequence: a sequence number"):
        predict(write_video(tmp_path / "x.mp4", 4), ReadsFrames(), sequence=1)


def test_networks_of_other_tasks_are_refused():
    model = ReadsFrames()
    model.preprocessing = replace(model.preprocessing, frames=None)
    with pytest.raises(UserError, match="reads_frames classifies images: this is for networks that classify clips"):
        classify_clip(counting(8), model)


def test_every_video_of_a_folder_is_a_row_and_bad_ones_say_why(tmp_path):
    (tmp_path / "b").mkdir()
    write_video(tmp_path / "b" / "good.mp4", 10)
    (tmp_path / "b" / "bad.mp4").write_text("x")
    as_folder(counting(5), tmp_path / "a frames")
    (tmp_path / "notes.txt").write_text("not a video")
    rows = list(classify_folder(tmp_path, ReadsFrames(labels=("a, b", "c")), top_k=2))
    assert [row.name for row in rows] == ["a frames", "b/bad.mp4", "b/good.mp4"]
    assert rows[0].prediction == classify_clip(
        tmp_path / "a frames", ReadsFrames(labels=("a, b", "c")), top_k=2, over_time=False
    )
    assert rows[0].prediction.windows == ()
    assert rows[1].prediction is None
    assert "bad.mp4" in rows[1].error
    header, first, second, third = as_csv(rows, 2).decode().splitlines()
    assert header == "video,label_1,score_1,label_2,score_2,error"
    assert re.fullmatch(r'a frames,(class \d|c|"a, b"),0\.\d{6},(class \d|c|"a, b"),0\.\d{6},', first)
    assert second.startswith("b/bad.mp4,,,,,")
    assert third.startswith("b/good.mp4,")


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds neither images nor videos"):
        classify_folder(tmp_path, ReadsFrames())
