"""Digit sources: real images, or one line that says what is wrong with the files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from stvit.datasets import load_digits
from stvit.datasets.digits import read_idx_images
from stvit.errors import UserError

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def idx_bytes(images: np.ndarray, magic: int = 0x803, count: int | None = None) -> bytes:
    header = struct.pack(">4I", magic, len(images) if count is None else count, *images.shape[1:])
    return header + images.tobytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def one_line_error(*arguments: object, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        load_digits(*arguments, **settings)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestMNIST:
    @pytest.mark.parametrize("folder", [".", "MNIST/raw"])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize(("split", "name"), [("train", TRAIN), ("test", TEST)])
    def test_idx_files_are_found_plain_or_compressed(self, tmp_path: Path, images, folder, compressed, split, name):
        path = tmp_path / folder / (name + ".gz" * compressed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx_bytes(images)) if compressed else idx_bytes(images))
        digits = load_digits("mnist", split, tmp_path)
        assert np.array_equal(digits.images, images)
        assert digits.name == f"mnist-{split}"
        assert len(digits.digest) == 64

    def test_digits_can_be_made_smaller(self, tmp_path: Path):
        disc = np.hypot(*(np.indices((28, 28)) - 13.5)) < 9
        (tmp_path / TRAIN).write_bytes(idx_bytes((disc * np.uint8(255))[None]))
        small = load_digits("mnist", "train", tmp_path, size=20).images
        assert small.shape == (1, 20, 20)
        assert small.mean() == pytest.approx(disc.mean() * 255, rel=0.02)  # antialiased: ink is kept

    def test_a_missing_folder_or_file_names_the_way_out(self, tmp_path: Path):
        message = one_line_error("mnist", "train", tmp_path / "nowhere")
        assert f"there is no folder {tmp_path / 'nowhere'}" in message
        message = one_line_error("mnist", "test", tmp_path)
        assert f"no {TEST}[.gz] in {tmp_path}" in message
        assert "DATA.DOWNLOAD True" in message
        assert "MOVING_MNIST.DIGITS sklearn" in message

    @pytest.mark.parametrize("source", ["mnist", "sklearn"])
    @pytest.mark.parametrize("download", [False, True])
    def test_a_file_in_the_place_of_the_folder_is_named(self, tmp_path: Path, source: str, download: bool):
        (tmp_path / "data").write_text("a file")
        message = one_line_error(source, "train", tmp_path / "data", download)
        assert f"{tmp_path / 'data'} is a file, not a folder: set DATA.PATH_TO_DATA_DIR" in message

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda images: idx_bytes(images, magic=0x801), "starts with 0x00000801, not 0x00000803"),
            (lambda images: idx_bytes(images, count=6), "announces 6 images of 28x28 = 4704 bytes but holds 3920"),
            (lambda images: idx_bytes(images)[:-1], "holds 3919"),
            (lambda images: idx_bytes(images)[:9], "9 bytes, too few for an idx header"),
            (lambda images: idx_bytes(images[:, :27]), "holds images of 27x28, not MNIST's 28x28"),
            (lambda images: idx_bytes(images[:0]), "announces 0 images"),
        ],
    )
    def test_a_damaged_idx_file_is_named(self, tmp_path: Path, images, damage, message):
        (tmp_path / TRAIN).write_bytes(damage(images))
        error = one_line_error("mnist", "train", tmp_path)
        assert str(tmp_path / TRAIN) in error
        assert message in error

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-200], lambda data: b"not gzip at all", lambda data: data[:40] + data[60:]]
    )
    def test_a_damaged_gzip_file_is_named(self, tmp_path: Path, images, damage):
        (tmp_path / f"{TRAIN}.gz").write_bytes(damage(gzip.compress(idx_bytes(images))))
        assert f"{TRAIN}.gz is truncated or no gzip file" in one_line_error("mnist", "train", tmp_path)

    def test_a_failed_download_is_one_line_and_no_users_mistake(self, tmp_path: Path, monkeypatch):
        import torchvision.datasets

        def offline(*arguments: object, **settings: object) -> None:
            raise RuntimeError("Error downloading\ntrain-images-idx3-ubyte.gz")

        monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
        with pytest.raises(OSError, match=r"could not download MNIST to .*put the idx files there") as caught:
            load_digits("mnist", "train", tmp_path, download=True)
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, UserError)

    @pytest.mark.parametrize("there_before", ["", "data", "data/MNIST", "data/MNIST/raw"])
    def test_a_failed_download_removes_the_empty_folders_it_made(self, tmp_path: Path, there_before: str, monkeypatch):
        import torchvision.datasets

        def offline(root: str, **settings: object) -> None:
            (Path(root) / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
            raise RuntimeError("Error downloading")

        monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
        (tmp_path / there_before).mkdir(parents=True, exist_ok=True)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OSError, match="could not download MNIST"):
            load_digits("mnist", "train", tmp_path / "data", download=True)
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_failed_download_keeps_what_was_fetched(self, tmp_path: Path, monkeypatch):
        import torchvision.datasets

        def interrupted(root: str, **settings: object) -> None:
            folder = Path(root) / "MNIST" / "raw"
            folder.mkdir(parents=True)
            (folder / f"{TEST}.gz").write_bytes(b"fetched")
            raise RuntimeError("Error downloading")

        monkeypatch.setattr(torchvision.datasets, "MNIST", interrupted)
        with pytest.raises(OSError, match="could not download MNIST"):
            load_digits("mnist", "train", tmp_path / "data", download=True)
        assert (tmp_path / "data" / "MNIST" / "raw" / f"{TEST}.gz").read_bytes() == b"fetched"

    def test_a_download_is_used_and_only_asked_for_when_needed(self, tmp_path: Path, images, monkeypatch):
        import torchvision.datasets

        calls = []

        def fetch(root: str, train: bool, download: bool) -> None:
            calls.append((root, train, download))
            folder = Path(root) / "MNIST" / "raw"
            folder.mkdir(parents=True)
            (folder / TRAIN).write_bytes(idx_bytes(images))

        monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
        for _ in range(2):
            assert np.array_equal(load_digits("mnist", "train", tmp_path, download=True).images, images)
        assert calls == [(str(tmp_path), True, True)]


class TestSklearn:
    def test_splits_are_disjoint_and_complete(self):
        train, test = load_digits("sklearn", "train"), load_digits("sklearn", "test")
        assert (len(train.images), len(test.images)) == (1437, 360)
        assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}

    def test_the_same_pixels_on_every_machine(self):
        """Results name these digests; resampling in floating point could change them with the processor."""
        assert load_digits("sklearn", "train").digest[:16] == "8bb1673d1deee3aa"
        assert load_digits("sklearn", "test").digest[:16] == "9da000ea8392abb0"

    @pytest.mark.parametrize("size", [20, 28, 36])
    def test_strokes_are_white_on_a_black_border(self, size: int):
        images = load_digits("sklearn", "test", size=size).images
        assert images.shape[1:] == (size, size)
        assert images.max((1, 2)).min() == 255
        assert images[:, 0].max() == images[:, -1].max() == images[:, :, 0].max() == images[:, :, -1].max() == 0

    def test_every_image_is_one_of_scikit_learns_digits_made_larger(self):
        from sklearn.datasets import load_digits as raw_digits

        centres = ((np.arange(8) + 1.5) * 2.8).astype(int)  # of the 8 inner of 10 cells on 28 pixels
        images = np.concatenate([load_digits("sklearn", split).images for split in ("train", "test")])
        cells, raw = images[:, centres[:, None], centres].reshape(-1, 64), raw_digits().data
        cells, raw = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (cells, raw))
        likeness = cells @ raw.T / 64
        assert likeness.max(1).min() > 0.85
        assert len(set(likeness.argmax(1))) > 0.98 * len(raw)


def test_unknown_names_are_answered_with_the_known_ones():
    assert "did you mean 'mnist'?" in one_line_error("mnst", "train")
    assert "choose train or test" in one_line_error("sklearn", "val")


def test_idx_files_of_other_sizes_can_be_read_directly(tmp_path: Path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "some.idx"
    path.write_bytes(idx_bytes(images))
    assert np.array_equal(read_idx_images(path), images)
