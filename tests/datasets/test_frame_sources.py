"""Past frames from files of every accepted kind, and the mistakes that are refused."""

import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import videos
from PIL import Image

from stvit.datasets import moving_mnist_splits
from stvit.datasets.frame_sources import frames_from_array, read_frames, to_model_frames
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


def numbered(frames: int, size: tuple[int, int] = (8, 12), channels: int = 1) -> np.ndarray:
    """(T, C, H, W) uint8; every frame has its own content."""
    return np.random.default_rng(0).integers(0, 256, (frames, channels, *size), dtype=np.uint8)


def described(channels: int = 1, size: tuple[int, int] = (8, 12)) -> Preprocessing:
    return Preprocessing("prediction", size, channels, (0.0,), (1.0,), "bilinear", 1.0, 2, 2)


FRAMES = numbered(5)
COLOUR = numbered(5, channels=3)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (FRAMES[:, 0], FRAMES),
        (FRAMES, FRAMES),
        (FRAMES.transpose(0, 2, 3, 1), FRAMES),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
        (COLOUR[None], COLOUR),
        (COLOUR.transpose(0, 2, 3, 1)[None], COLOUR),
        (FRAMES[None, :, 0], FRAMES),
    ],
)
def test_the_axes_of_an_array_are_told_by_their_number_and_the_channels(array, expected):
    assert np.array_equal(frames_from_array(array, "x"), expected)


@pytest.mark.parametrize("shape", [(5,), (8, 12), (5, 12, 3), (8, 12, 4), (5, 3, 12, 3), (2, 5, 2, 8, 12), (1,) * 6])
def test_other_layouts_are_refused_by_a_line_that_names_the_accepted_ones(shape):
    with pytest.raises(UserError, match=r"shape.*\(T, H, W\), \(T, H, W, C\)"):
        frames_from_array(np.zeros(shape, np.uint8), "x")


def test_a_sequence_of_several_has_to_be_chosen():
    batch = np.stack([COLOUR, COLOUR[::-1]])
    assert np.array_equal(frames_from_array(batch, "x", sequence=1), COLOUR[::-1])
    with pytest.raises(UserError, match=r"holds 2 sequences: choose one, from 0 to 1"):
        frames_from_array(batch, "x")
    with pytest.raises(UserError, match="there is no sequence 2"):
        frames_from_array(batch, "x", sequence=2)
    with pytest.raises(UserError, match="holds one sequence"):
        frames_from_array(COLOUR, "x", sequence=1)


def test_types_of_values():
    assert frames_from_array(FRAMES > 100, "x").max() == 255
    halves = frames_from_array((FRAMES / 255).astype(np.float64), "x")
    assert halves.dtype == np.float32
    for bad, message in (
        (FRAMES.astype(np.int64), "holds int64: frames are uint8"),
        (FRAMES.astype(np.float32), r"floats from 0 to 255, not in \[0, 1\]"),
        (np.full((2, 8, 8), np.nan), "128 values that are not finite"),
        (np.zeros((0, 8, 8), np.uint8), "empty"),
        ((FRAMES > 100).astype(np.uint8), "uint8 of 0 and 1, which is nearly black: multiply it by 255, or give bool"),
    ):
        with pytest.raises(UserError, match=message):
            frames_from_array(bad, "x")


def test_black_and_dark_frames_are_no_masks():
    assert frames_from_array(np.zeros((2, 8, 8), np.uint8), "x").max() == 0
    darkening = np.stack([np.full((8, 8), 200, np.uint8), np.ones((8, 8), np.uint8)])
    assert frames_from_array(darkening, "x", count=1).max() == 1


@pytest.mark.parametrize("kind", ["npy", "npz", "folder", "gif", "video"])
def test_a_window_of_frames_is_read_from_every_kind_of_source(kind, tmp_path):
    source = write(kind, tmp_path)
    everything = read_frames(source)
    assert everything.shape[0] == 5
    for start, count, expected in (
        (None, 2, slice(3, 5)),
        (1, 2, slice(1, 3)),
        (1, None, slice(1, 5)),
        (4, 9, slice(4, 5)),
    ):
        assert np.array_equal(read_frames(source, start=start, count=count), everything[expected])
    assert len(read_frames(source, start=9, count=2)) == 0


@pytest.mark.parametrize("kind", ["npy", "npz", "folder", "gif"])
def test_lossless_sources_give_the_pixels_that_were_written(kind, tmp_path):
    read = read_frames(write(kind, tmp_path))
    grey = to_model_frames(read, described())
    assert torch.equal((grey * 255).round().byte(), torch.from_numpy(FRAMES))


def write(kind: str, folder: Path) -> Path:
    """The test's five frames as a file or folder."""
    path = folder / {"npy": "x.npy", "npz": "x.npz", "folder": "images", "gif": "x.gif", "video": "x.mp4"}[kind]
    if kind == "npy":
        np.save(path, FRAMES)
    elif kind == "npz":
        np.savez(path, frames=FRAMES, labels=np.zeros(3))
    elif kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("not an image")
        (path / ".hidden.png").write_text("not an image")
        for t, name in enumerate(("1", "2", "9", "10", "100")):
            Image.fromarray(FRAMES[t, 0]).save(path / f"frame{name}.png")
    elif kind == "gif":
        pages = [Image.fromarray(frame[0]) for frame in FRAMES]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        write_video(path, FRAMES)
    return path


def write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_the_frames_of_a_video_are_about_what_was_written(tmp_path):
    ramp = np.stack([np.full((1, 32, 48), 40 * t, np.uint8) for t in range(6)])
    write_video(tmp_path / "x.mp4", ramp)
    read = read_frames(tmp_path / "x.mp4")
    assert read.shape == (6, 3, 32, 48)
    assert np.abs(read.astype(int) - ramp).max() <= 8


def test_a_video_is_turned_as_its_metadata_say(tmp_path):
    turned = videos.write_video(tmp_path / "x.mp4", 3, turn=1)
    upright = read_frames(turned).transpose(0, 2, 3, 1)
    assert videos.frame_numbers(np.rot90(upright, axes=(1, 2))) == [0, 1, 2]


@pytest.mark.parametrize("name", ["mnist_test_seq.npy", "moving_mnist_digits-0123456789ab_n2_64x64_t20_seed0_v1.npy"])
def test_test_sets_are_known_by_their_names(tmp_path, name):
    time_first = np.arange(20 * 6 * 8 * 8, dtype=np.uint64).astype(np.uint8).reshape(20, 6, 8, 8)
    np.save(tmp_path / name, time_first)
    assert np.array_equal(read_frames(tmp_path / name, sequence=4)[:, 0], time_first[:, 4])


def test_a_test_set_that_stvit_wrote_is_read_as_its_sequences(tmp_path):
    splits = moving_mnist_splits(root=tmp_path, frames_in=4, frames_out=3, train_length=5, val_length=5, test_length=6)
    (file,) = tmp_path.glob("**/moving_mnist_*.npy")
    read = read_frames(file, sequence=5)
    assert read.shape == (7, 1, 64, 64)
    assert np.array_equal(read, splits.test[5].frames[0].numpy())


def test_colour_and_grey_are_turned_into_each_other():
    grey = to_model_frames(COLOUR, described(1))
    assert torch.allclose(grey[0, 0, 0, 0] * 255, torch.tensor(COLOUR[0, :, 0, 0] @ [0.299, 0.587, 0.114]).float())
    rgb = to_model_frames(FRAMES, described(3))
    assert rgb.shape == (5, 3, 8, 12)
    assert torch.equal(rgb[:, 0], rgb[:, 2])
    with pytest.raises(UserError, match="takes frames of 2 channels, these have 1"):
        to_model_frames(FRAMES, described(2))


def test_frames_of_the_right_size_are_only_scaled():
    assert torch.equal(to_model_frames(FRAMES, described()), torch.from_numpy(FRAMES).float() / 255)


def test_large_frames_shrink_without_aliasing_and_keep_their_proportions():
    stripes = np.zeros((1, 1, 64, 128), np.uint8)
    stripes[..., ::2] = 255
    shrunk = to_model_frames(stripes, described(size=(16, 16)))
    assert shrunk.shape == (1, 1, 16, 16)
    assert (shrunk - 0.5).abs().max() < 0.02  # without antialiasing all black, all white or striped
    square = np.zeros((1, 1, 64, 128), np.uint8)
    square[..., 16:48, 48:80] = 255  # 32x32 in the middle: 8x8 after shrinking by 4 and cutting the sides off
    shrunk = to_model_frames(square, described(size=(16, 16)))[0, 0] > 0.5
    assert shrunk[4:12, 4:12].all()
    assert shrunk.sum() == 64


def test_missing_and_unreadable_sources_are_one_line_each(tmp_path):
    broken = {name: tmp_path / name for name in ("a.npy", "a.npz", "a.gif", "a.mp4", "a.xyz")}
    for file in broken.values():
        file.write_bytes(b"no frames here")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "pickled.npz", np.array([{}], dtype=object))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "two.npz", a=FRAMES, b=FRAMES)
    with zipfile.ZipFile(tmp_path / "nothing.npz", "w"):
        pass
    (tmp_path / "folder").mkdir()
    Image.fromarray(FRAMES[0, 0]).save(tmp_path / "one.png")
    cases = {
        "gone.npy": "does not exist",
        "a.npy": r"is not a numpy array file \(\.npy\): save it with np\.save",
        "a.npz": r"is not a numpy array file \(\.npz\)",
        "empty.npy": "is not a numpy array file",
        "cut.npy": "cannot be read as an array: ",
        "cut.npz": "cannot be read as an array: ",
        "pickled.npy": "cannot be read as an array: it holds Python objects; save an array of numbers",
        "pickled.npz": "cannot be read as an array: it holds Python objects; save an array of numbers",
        "two.npz": r"holds 2 arrays \['a', 'b'\]",
        "nothing.npz": "holds 0 arrays",
        "a.gif": "cannot be decoded as a GIF",
        "a.mp4": "cannot be decoded",
        "a.xyz": r"cannot be decoded: .*; give an .npy",
        "folder": "holds no images",
        "one.png": "is one image and not a sequence",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as raised:
            read_frames(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


def test_a_truncated_gif_and_a_truncated_image_are_refused(tmp_path):
    gif = write("gif", tmp_path)
    gif.write_bytes(gif.read_bytes()[:-120])
    folder = write("folder", tmp_path)
    (folder / "frame9.png").write_bytes((folder / "frame9.png").read_bytes()[:60])
    for source, message in ((gif, "x.gif cannot be decoded"), (folder, "frame9.png cannot be decoded")):
        with pytest.raises(UserError, match=message):
            read_frames(source)


def test_a_gif_cut_anywhere_gives_its_whole_frames_or_one_clear_error(tmp_path):
    whole = write("gif", tmp_path).read_bytes()
    cut = tmp_path / "cut.gif"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        try:
            assert len(read_frames(cut)) <= 5
        except UserError as error:
            assert "cut.gif cannot be decoded as a GIF" in str(error)  # noqa: PT017  (either outcome will do)


def test_images_of_different_size_or_more_than_8_bits_are_refused(tmp_path):
    folder = write("folder", tmp_path)
    Image.fromarray(FRAMES[0, 0, :, :6]).save(folder / "frame3.png")
    with pytest.raises(UserError, match=r"frame1.png and frame3.png have 12x8 and 6x8 pixels"):
        read_frames(folder)
    Image.fromarray(FRAMES[0, 0].astype(np.uint16)).save(folder / "frame3.png")
    with pytest.raises(UserError, match="more than 8 bits"):
        read_frames(folder)


def test_a_sound_file_has_no_video_stream(tmp_path):
    with av.open(str(tmp_path / "x.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="has no video stream"):
        read_frames(tmp_path / "x.wav")
