"""Strips, animations, curves and files: what they show, for grey and colour frames."""

import io

import numpy as np
import pytest
from PIL import Image

from stvit.errors import UserError
from stvit.visual import files
from stvit.visual.curves import curves_png
from stvit.visual.files import replace_files
from stvit.visual.strips import Example, animation, draw_strip, encode_png, error_colours, to_pictures


def example(channels: int = 1, truth_frames: int | None = 3, size: tuple[int, int] = (8, 10)) -> Example:
    r = np.random.default_rng(0)
    frames = [r.random((t, channels, *size)) for t in (2, 3)]
    truth = None if truth_frames is None else r.random((truth_frames, channels, *size))
    return Example("best: sequence 17, MSE 41.2", *frames, truth)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_shows_every_frame_enlarged_and_unsmoothed(channels):
    shown = example(channels)
    strip = np.asarray(draw_strip([shown]))
    scale = 12  # 10 pixels to at least 112
    for pictures in (to_pictures(shown.past), to_pictures(shown.truth), to_pictures(shown.predicted)):
        for picture in pictures:
            assert holds(strip, picture.repeat(scale, 0).repeat(scale, 1))
    for picture in error_colours(shown.predicted, shown.truth):
        assert holds(strip, picture.repeat(scale, 0).repeat(scale, 1))


def holds(sheet: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture occurs in a sheet, found by its top left pixel."""
    h, w = picture.shape[:2]
    corners = np.argwhere((sheet[: -h + 1, : -w + 1] == picture[0, 0]).all(axis=2))
    return any(np.array_equal(sheet[y : y + h, x : x + w], picture) for y, x in corners)


def test_a_strip_stacks_its_examples_and_leaves_out_the_rows_of_a_missing_truth():
    one, two, bare = draw_strip([example()]), draw_strip([example(), example()]), draw_strip([example(1, None)])
    assert two.height > 1.8 * one.height
    assert bare.height < one.height


def test_a_title_longer_than_the_frames_is_not_cut():
    long = Example("a very long title " * 12, *[np.zeros((1, 1, 8, 8))] * 2)
    right_edge = np.asarray(draw_strip([long]))[:40, -8:]
    assert (right_edge == 255).all()
    assert draw_strip([long]).width > 1000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("truth_frames", [None, 1, 3])
def test_an_animation_has_a_page_for_every_frame_of_past_and_future(channels, truth_frames):
    with Image.open(io.BytesIO(animation(example(channels, truth_frames), milliseconds=100))) as gif:
        durations = []
        for page in range(gif.n_frames):
            gif.seek(page)
            durations.append(gif.info["duration"])
    assert durations == [100, 100, 100, 100, 500]


def test_errors_are_red_where_too_bright_and_blue_where_too_dark():
    predicted, truth = np.array([0.0, 1.0, 0.5]), np.array([1.0, 0.0, 0.5])
    too_dark, too_bright, exact = error_colours(predicted.reshape(1, 1, 1, 3), truth.reshape(1, 1, 1, 3))[0, 0]
    assert too_dark[2] > too_dark[0]
    assert too_bright[0] > too_bright[2]
    assert (exact == 0).all()


def test_predictions_beyond_the_range_are_clipped_for_showing():
    assert to_pictures(np.array([-3.0, 0.5, 7.0]).reshape(1, 1, 1, 3))[0, 0, :, 0].tolist() == [0, 128, 255]


def test_frames_of_different_size_or_unknown_channels_are_refused():
    with pytest.raises(UserError, match=r"predicted frames are \(1, 8, 9\), the past ones \(1, 8, 8\)"):
        Example("x", np.zeros((1, 1, 8, 8)), np.zeros((1, 1, 8, 9)))
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        Example("x", np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 8, 8)))
    with pytest.raises(UserError, match="no sequence"):
        draw_strip([])


def test_png_bytes_decode_to_the_picture():
    strip = draw_strip([example()])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(strip)))), np.asarray(strip))


def test_curves_are_drawn_for_every_method():
    methods = {name: {"mse": [mse, 2.0], "ssim": [0.9, 0.8]} for name, mse in (("model", 1.0), ("black", 3.0))}
    both = np.asarray(Image.open(io.BytesIO(curves_png(methods, 11, "title"))).convert("RGB"))
    one = np.asarray(Image.open(io.BytesIO(curves_png({"model": methods["model"]}, 11, "title"))).convert("RGB"))
    coloured = [int((np.ptp(picture.astype(int), axis=2) > 60).sum()) for picture in (both, one)]
    assert coloured[0] > 100  # the baseline; the model is black
    assert coloured[1] == 0
    with pytest.raises(UserError, match="no curve"):
        curves_png({}, 11)


def test_files_are_replaced_together(tmp_path):
    old = tmp_path / "old.txt"
    old.write_bytes(b"before")
    replace_files({old: b"after", tmp_path / "new" / "b.txt": b"b"})
    assert old.read_bytes() == b"after"
    assert (tmp_path / "new" / "b.txt").read_bytes() == b"b"
    assert {p.name for p in tmp_path.iterdir()} == {"old.txt", "new"}


def test_a_full_disk_leaves_earlier_files_and_no_litter(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"before")
    calls = []

    def full_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        replace_files({first: b"after", second: b"b"})
    assert first.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
