"""Array files of frame sequences: read as they are, refused in one line when they are something else."""

import errno
import operator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stvit.datasets import Digits, FrameSequences, MovingMNIST, MovingMNISTSpec, batch_loader, open_frame_sequences
from stvit.datasets.frame_sequences import write_sequences
from stvit.datasets.moving_mnist import TEST_STREAM
from stvit.errors import UserError


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 10, 8, 12), dtype=np.uint8)


@pytest.fixture
def source() -> MovingMNIST:
    images = np.random.default_rng(1).integers(1, 256, (20, 6, 6), dtype=np.uint8)
    spec = MovingMNISTSpec(image_size=(10, 13), digit_size=6, frames=5)
    return MovingMNIST(Digits.of(images, "noise-test"), spec, 600, seed=3, stream=TEST_STREAM)


def refused(array: np.ndarray, **settings: int) -> str:
    with pytest.raises(UserError) as caught:
        FrameSequences(array, name="set.npy", **settings)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("set.npy ")
    assert "\n" not in message
    return message


class TestReading:
    def test_sequence_i_is_column_i(self, tmp_path: Path, array: np.ndarray):
        np.save(tmp_path / "set.npy", array)
        dataset = open_frame_sequences(tmp_path / "set.npy")
        batches = list(batch_loader(dataset, 4))
        assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        frames = torch.cat([batch.frames for batch in batches])
        assert frames.shape == (10, 6, 1, 8, 12)
        assert np.array_equal(frames[:, :, 0].numpy(), array.swapaxes(0, 1))

    def test_workers_do_not_matter(self, tmp_path: Path, array: np.ndarray):
        np.save(tmp_path / "set.npy", array)
        dataset = open_frame_sequences(tmp_path / "set.npy")
        for ours, theirs in zip(batch_loader(dataset, 3), batch_loader(dataset, 3, workers=2), strict=True):
            assert torch.equal(ours.frames, theirs.frames)

    def test_workers_can_be_prepared(self, array: np.ndarray):
        fails_in_worker_0 = partial(operator.floordiv, 1)  # workers may be spawned, so no function of this module
        loader = batch_loader(FrameSequences(array), 3, workers=1, worker_init_fn=fails_in_worker_0)
        with pytest.raises(ZeroDivisionError):
            next(iter(loader))

    def test_fewer_frames_and_sequences_are_the_first_ones(self, array: np.ndarray):
        dataset = FrameSequences(array, frames=4, length=7)
        assert len(dataset) == len(list(dataset)) == 7
        assert np.array_equal(dataset[6].frames[0, :, 0].numpy(), array[:4, 6])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
    def test_floats_come_back_as_grey_levels(self, array: np.ndarray, dtype: type):
        dataset = FrameSequences((array / 255).astype(dtype))
        if dtype == np.float16:
            assert abs(dataset[3].frames[0, :, 0].numpy().astype(int) - array[:, 3]).max() <= 1
        else:
            assert np.array_equal(dataset[3].frames[0, :, 0].numpy(), array[:, 3])

    def test_the_file_is_mapped_not_read(self, tmp_path: Path, array: np.ndarray):
        np.save(tmp_path / "set.npy", array)
        assert isinstance(open_frame_sequences(tmp_path / "set.npy").array, np.memmap)


class TestMistakes:
    def test_a_wrong_shape_or_type_is_named(self, array: np.ndarray):
        assert "shape (6, 10, 8)" in refused(array[..., 0])
        assert "shape (6, 0, 8, 12)" in refused(array[:, :0])
        assert "holds int64" in refused(array.astype(np.int64))
        assert "holds bool" in refused(array > 0)

    def test_too_few_frames_or_sequences_are_named(self, array: np.ndarray):
        assert "has 6 frames a sequence but 20 are needed" in refused(array, frames=20)
        assert "has 10 sequences but 11 are asked for" in refused(array, length=11)

    def test_swapped_axes_are_recognised(self, array: np.ndarray):
        assert "transpose" in refused(array.swapaxes(0, 1), frames=6)
        assert "transpose" in refused(array, frames=10)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 1.01])
    def test_values_that_are_no_brightness_are_found(self, array: np.ndarray, value: float):
        floats = (array / 255).astype(np.float32)
        floats[4, 7, 2, 1] = value
        assert f"holds {np.float32(value)} in frame 4 of sequence 7" in refused(floats)

    def test_files_that_are_no_array_are_named(self, tmp_path: Path, array: np.ndarray):
        np.save(tmp_path / "cut.npy", array)
        (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-100])
        (tmp_path / "text.npy").write_text("hello")
        (tmp_path / "empty.npy").write_bytes(b"")
        np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
        np.savez(tmp_path / "archive.npz", array)
        for name in ("cut.npy", "text.npy", "empty.npy", "objects.npy", "archive.npz", "missing.npy"):
            with pytest.raises(UserError, match=name) as caught:
                open_frame_sequences(tmp_path / name)
            assert "\n" not in str(caught.value)


class TestWriting:
    def test_the_file_holds_the_generated_sequences(self, tmp_path: Path, source: MovingMNIST):
        path = tmp_path / "new" / "folder" / "set.npy"
        write_sequences(source, path)
        assert [entry.name for entry in path.parent.iterdir()] == ["set.npy"]
        expected = source.generate(0, np.arange(600))  # more than two chunks
        assert np.array_equal(np.load(path), expected.swapaxes(0, 1))

    def test_a_write_that_fails_half_way_is_one_line_and_leaves_nothing(self, tmp_path: Path, source: MovingMNIST):
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the set needs 390,000 bytes
        try:
            with pytest.raises(OSError, match=r"cannot write .*set\.npy \(.*\): free space") as caught:
                write_sequences(source, tmp_path / "set.npy")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_the_earlier_file_as_it_was(self, tmp_path: Path, source: MovingMNIST, monkeypatch):
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        (tmp_path / "set.npy").write_bytes(b"earlier")
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_sequences(source, tmp_path / "set.npy")
        assert caught.value.errno == errno.ENOSPC
        assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("set.npy", b"earlier")]

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path, source: MovingMNIST):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(OSError, match=r"set DATA\.CACHE_DIR to a folder that can be written") as caught:
            write_sequences(source, tmp_path / "taken" / "set.npy")
        assert caught.value.errno == errno.EEXIST

    def test_a_folder_that_may_not_be_written_keeps_its_error_number(self, tmp_path: Path, source, monkeypatch):
        def forbidden(path: Path, **settings: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", forbidden)
        path = tmp_path / "cache" / "set.npy"
        with pytest.raises(PermissionError) as caught:
            write_sequences(source, path)
        assert caught.value.errno == errno.EACCES
        assert f"cannot write {path} (Permission denied)" in str(caught.value)
        assert "set DATA.CACHE_DIR to a folder that can be written" in str(caught.value)
        assert "\n" not in str(caught.value)
