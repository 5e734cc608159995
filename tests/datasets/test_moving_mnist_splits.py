"""The sets of a run: three different ones, recorded so that results can be compared."""

import json
import multiprocessing
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from stvit.datasets import FrameSequences, MovingMNIST, Splits, batch_loader, load_digits, moving_mnist_splits
from stvit.datasets.moving_mnist import TRAIN_STREAM, VALIDATION_STREAM
from stvit.errors import UserError

SMALL = {"image_size": 40, "digit_size": 28, "train_length": 50, "val_length": 20, "test_length": 30}


def small_splits(root: Path, **settings: object) -> Splits:
    return moving_mnist_splits(root=root, **{**SMALL, **settings})  # type: ignore[arg-type]


def frames_of(dataset: MovingMNIST | FrameSequences) -> torch.Tensor:
    return torch.cat([batch.frames for batch in batch_loader(dataset, 16)])


def published_file(root: Path, shape: tuple[int, ...] = (20, 12, 64, 64)) -> np.ndarray:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    np.save(root / "mnist_test_seq.npy", array)
    return array


def mnist_files(root: Path) -> None:
    """Nine training and four test images under MNIST's names."""
    rng = np.random.default_rng(0)
    for name, count in (("train-images-idx3-ubyte", 9), ("t10k-images-idx3-ubyte", 4)):
        header = struct.pack(">4I", 0x803, count, 28, 28)
        (root / name).write_bytes(header + rng.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes())


def mnist_splits(root: Path, **settings: object) -> Splits:
    """Splits with the settings that the published test file answers, unless told otherwise."""
    mnist_files(root)
    return small_splits(root, **{"digits": "mnist", "image_size": 64, **settings})


class TestSplits:
    def test_sets_have_the_lengths_and_frames_asked_for(self, tmp_path: Path):
        splits = small_splits(tmp_path, frames_in=7, frames_out=5)
        assert (len(splits.train), len(splits.val), len(splits.test)) == (50, 20, 30)
        for dataset in (splits.train, splits.val, splits.test):
            batch = dataset[0]
            assert batch.frames.shape == (1, 12, 1, 40, 40)
            assert batch.frames.dtype == torch.uint8

    def test_validation_is_made_of_training_digits_in_a_stream_of_its_own(self, tmp_path: Path):
        splits = small_splits(tmp_path)
        assert isinstance(splits.val, MovingMNIST)
        assert splits.val.digits.name == splits.train.digits.name == "sklearn-train"
        assert (splits.train.stream, splits.val.stream) == (TRAIN_STREAM, VALIDATION_STREAM)
        trained = {
            frames.numpy().tobytes() for e in range(5) for i in range(50) for frames in [splits.train[(e, i)].frames]
        }
        assert len(trained) == 250
        assert not trained & {frames.numpy().tobytes() for frames in frames_of(splits.val)}
        assert splits.identity["validation_is_test"] is False

    def test_the_test_set_is_made_of_test_digits_only(self, tmp_path: Path):
        one_still_digit = small_splits(tmp_path, n_digits=(1,), image_size=28, test_length=40)
        shown = {frames[0].numpy().tobytes() for frames in frames_of(one_still_digit.test)}
        assert shown <= {image.tobytes() for image in load_digits("sklearn", "test").images}

    def test_validating_on_the_test_set_is_possible_and_admitted(self, tmp_path: Path):
        splits = small_splits(tmp_path, validate_on_test=True)
        assert splits.val is splits.test
        assert splits.identity["validation_is_test"] is True
        assert "test set" in str(splits.identity["validation"])

    def test_other_numbers_of_digits_can_be_tested_than_trained(self, tmp_path: Path):
        splits = small_splits(tmp_path, n_digits=(1,), test_n_digits=(3,))
        assert isinstance(splits.val, MovingMNIST)
        assert splits.train.spec.n_digits == splits.val.spec.n_digits == (1,)
        assert splits.identity["test"]["n_digits"] == [3]  # type: ignore[index]
        assert frames_of(splits.test).float().mean() > 1.5 * frames_of(splits.val).float().mean()

    def test_identity_is_plain_json_and_names_everything(self, tmp_path: Path):
        identity = json.loads(json.dumps(small_splits(tmp_path, seed=11).identity))
        assert identity["train"]["digits"] == "sklearn-train"
        assert identity["train"]["digits_sha256"] == load_digits("sklearn", "train").digest
        assert identity["test"]["digits"] == "sklearn-test"
        assert {identity[name]["seed"] for name in ("train", "validation", "test")} == {11}
        assert len(identity["test"]["sha256"]) == 64
        assert (tmp_path / "moving_mnist_cache" / identity["test"]["file"]).is_file()


class TestSeededTestSet:
    def test_it_is_written_once(self, tmp_path: Path):
        first = small_splits(tmp_path)
        path = Path(first.test.name)
        written = path.stat().st_mtime_ns
        second = small_splits(tmp_path)
        assert second.test.name == first.test.name
        assert path.stat().st_mtime_ns == written
        assert second.identity == first.identity
        assert torch.equal(frames_of(first.test), frames_of(second.test))

    def test_every_setting_is_in_its_name(self, tmp_path: Path):
        changes = [{}, {"seed": 1}, {"step": 0.2}, {"image_size": 41}, {"n_digits": (1,)}, {"test_n_digits": (1, 3)}]
        changes += [{"frames_out": 5}, {"test_length": 31}, {"digit_size": 20}, {"image_size": (40, 41)}]
        names = {Path(small_splits(tmp_path, **change).test.name).name for change in changes}
        assert len(names) == len(changes)
        assert all(name in {entry.name for entry in (tmp_path / "moving_mnist_cache").iterdir()} for name in names)

    def test_a_cache_folder_can_be_given(self, tmp_path: Path):
        splits = small_splits(tmp_path / "root", cache=tmp_path / "cache")
        assert Path(splits.test.name).parent == tmp_path / "cache"
        assert not (tmp_path / "root").exists()

    def test_a_file_with_other_content_is_refused(self, tmp_path: Path):
        path = Path(small_splits(tmp_path).test.name)
        np.save(path, np.zeros((20, 30, 40, 40), np.uint8))
        with pytest.raises(UserError, match="does not hold what its name says: delete it"):
            small_splits(tmp_path)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="truncated"):
            small_splits(tmp_path)

    @pytest.mark.parametrize(("length", "damaged"), [(30, slice(17, 18)), (300, slice(140, 150)), (1, slice(0, 1))])
    def test_damage_in_its_middle_is_noticed(self, tmp_path: Path, length: int, damaged: slice):
        path = Path(small_splits(tmp_path, test_length=length).test.name)
        array = np.load(path)
        array[3, damaged] ^= 1
        np.save(path, array)
        with pytest.raises(UserError, match="does not hold what its name says: delete it"):
            small_splits(tmp_path, test_length=length)

    def test_two_processes_can_make_it_at_once(self, tmp_path: Path):
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=small_splits, args=(tmp_path,), kwargs={"test_length": 300}) for _ in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert len(list((tmp_path / "moving_mnist_cache").iterdir())) == 1
        assert len(small_splits(tmp_path, test_length=300).test) == 300


class TestPublishedTestFile:
    @pytest.mark.parametrize("folder", [".", "MovingMNIST"])
    def test_it_is_used_where_it_lies(self, tmp_path: Path, folder: str):
        array = published_file(tmp_path / folder)
        splits = mnist_splits(tmp_path, test_length=None)
        assert np.array_equal(frames_of(splits.test)[:, :, 0].numpy(), array.swapaxes(0, 1))
        test = splits.identity["test"]
        assert isinstance(test, dict)
        assert (test["kind"], test["file"], test["length"]) == ("published file", "mnist_test_seq.npy", 12)
        assert not (tmp_path / "moving_mnist_cache").exists()

    def test_a_part_of_it_can_be_used(self, tmp_path: Path):
        array = published_file(tmp_path)
        splits = mnist_splits(tmp_path, test_length=5, frames_out=4)
        assert np.array_equal(frames_of(splits.test)[:, :, 0].numpy(), array[:14, :5].swapaxes(0, 1))

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"n_digits": (1,)}, r"n_digits is \(1,\)"),
            ({"image_size": 48}, r"image_size is \(48, 48\)"),
            ({"frames_out": 11}, "21 frames are needed, it has 20"),
            ({"digit_size": 20}, "digit_size is 20"),
            ({"step": 0.2}, "step is 0.2"),
            ({"digits": "sklearn"}, "digits is sklearn, not mnist"),
        ],
    )
    def test_other_settings_get_a_seeded_set_and_say_why(self, tmp_path: Path, settings: dict, reason: str):
        published_file(tmp_path)
        splits = mnist_splits(tmp_path, **settings)
        test = splits.identity["test"]
        assert isinstance(test, dict)
        assert test["kind"] == "generated"
        assert re.search(reason, test["published_file_unused_because"])

    def test_a_damaged_file_is_an_error_and_not_passed_over(self, tmp_path: Path):
        published_file(tmp_path)
        path = tmp_path / "mnist_test_seq.npy"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="truncated"):
            mnist_splits(tmp_path)

    @pytest.mark.parametrize("digits", ["mnist", "sklearn"])
    @pytest.mark.parametrize(
        ("dtype", "shape"),
        [
            (np.uint8, (20, 12, 64)),
            (np.uint8, (12, 20, 64, 64)),
            (np.uint8, (10, 12, 64, 64)),
            (np.uint8, (20, 0, 64, 64)),
            (np.uint8, (20, 12, 48, 48)),
            (np.uint8, (20, 12, 64, 64, 1)),
            (np.float32, (20, 12, 64, 64)),
            (np.int64, (20, 12, 64, 64)),
        ],
    )
    def test_another_file_of_its_name_is_refused(self, tmp_path: Path, digits: str, dtype: type, shape: tuple):
        np.save(tmp_path / "mnist_test_seq.npy", np.zeros(shape, dtype))
        with pytest.raises(UserError) as caught:
            mnist_splits(tmp_path, digits=digits)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{tmp_path / 'mnist_test_seq.npy'} holds {np.dtype(dtype)} of shape {shape}, but")
        assert "uint8 of shape (20, 10000, 64, 64)" in message
        assert not (tmp_path / "moving_mnist_cache").exists()

    def test_more_frames_or_fewer_sequences_than_published_are_no_damage(self, tmp_path: Path):
        published_file(tmp_path, (30, 3, 64, 64))
        test = mnist_splits(tmp_path, test_length=None, frames_out=20).identity["test"]
        assert isinstance(test, dict)
        assert (test["kind"], test["length"]) == ("published file", 3)


class TestMistakes:
    def test_mnist_without_files_says_what_to_do(self, tmp_path: Path):
        with pytest.raises(UserError, match=r"set DATA\.DOWNLOAD True .* or set MOVING_MNIST\.DIGITS sklearn"):
            small_splits(tmp_path, digits="mnist")

    def test_impossible_frames_are_named(self, tmp_path: Path):
        with pytest.raises(UserError, match="frames in and out are 10 and 0"):
            small_splits(tmp_path, frames_out=0)

    @pytest.mark.parametrize("name", ["train_length", "val_length", "test_length"])
    def test_empty_sets_are_refused(self, tmp_path: Path, name: str):
        with pytest.raises(UserError, match="is 0: give"):
            small_splits(tmp_path, **{name: 0})


def test_mnist_files_serve_all_three_sets(tmp_path: Path):
    mnist_files(tmp_path)
    identity = small_splits(tmp_path, digits="mnist").identity
    assert identity["train"]["digit_images"] == 9  # type: ignore[index]
    assert identity["test"]["digit_images"] == 4  # type: ignore[index]
