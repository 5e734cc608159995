"""Folders of images: what is found, what is refused, how files become pixels, and which views training sees."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from PIL import Image

from stvit.datasets import EpochBatchSampler, ImageFolder, batch_loader, list_images, read_image
from stvit.datasets.image_transforms import Augmentation, evaluation_transform, training_transform
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images each, in train/ and val/."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for k in range(3):
                Image.fromarray(generator.integers(0, 256, (40, 52, 3), np.uint8)).save(folder / f"{k}.png")
    return tmp_path


def test_classes_are_the_sorted_folders_and_files_come_in_order(tree):
    (tree / "train" / "cat" / "more").mkdir()
    (tree / "train" / "cat" / "0.png").rename(tree / "train" / "cat" / "more" / "x.JPEG")
    for passed_over in ("notes.txt", ".hidden.png"):
        (tree / "train" / "cat" / passed_over).write_text("")
    images = list_images(tree / "train")
    assert images.classes == ("cat", "dog")
    assert [str(images.path(k).relative_to(tree / "train")) for k in range(4)] == [
        "cat/1.png", "cat/2.png", "cat/more/x.JPEG", "dog/0.png",
    ]  # fmt: skip
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_labels_of_validation_are_those_of_training(tree):
    (tree / "val" / "cat").rename(tree / "val" / "elk")
    assert list_images(tree / "val", ("cat", "dog", "elk")).labels.tolist() == [1, 1, 1, 2, 2, 2]


def test_the_identity_follows_the_files(tree):
    before = list_images(tree / "train").identity()
    assert before == list_images(tree / "train").identity()
    assert {key: before[key] for key in ("folder", "images", "classes")} == {
        "folder": "train",
        "images": 6,
        "classes": 2,
    }
    (tree / "train" / "dog" / "2.png").rename(tree / "train" / "dog" / "3.png")
    after = list_images(tree / "train").identity()
    assert {key for key in before if before[key] != after[key]} == {"files_sha256"}


def empty_class(tree):
    (tree / "train" / "emu").mkdir()


def unknown_class(tree):
    (tree / "val" / "cat").rename(tree / "val" / "emu")


def no_images(tree):
    for file in (tree / "val").rglob("*.png"):
        file.unlink()


def no_classes(tree):
    no_images(tree)
    for folder in ("cat", "dog"):
        (tree / "val" / folder).rmdir()


@pytest.mark.parametrize(
    ("spoil", "split", "classes", "message"),
    [
        (empty_class, "train", None, "train/emu holds no images"),
        (unknown_class, "val", ("cat", "dog"), "val/emu is a class that .*train has not"),
        (no_images, "val", ("cat", "dog"), "the classes in .*val hold no images"),
        (no_classes, "val", ("cat", "dog"), "val holds no folders"),
        (lambda tree: None, "test", None, "there is no folder .*test"),
    ],
)
def test_a_tree_that_cannot_be_used_is_refused(tree, spoil, split, classes, message):
    spoil(tree)
    with pytest.raises(UserError, match=message):
        list_images(tree / split, classes)


def grey(value):
    return Image.fromarray(np.full((4, 6), value, np.uint8))


@pytest.mark.parametrize(
    ("image", "name", "pixel"),
    [
        (grey(100), "grey.png", (100, 100, 100)),
        (grey(255).convert("1"), "bits.png", (255, 255, 255)),
        (Image.fromarray(np.full((4, 6), 51400, np.uint16)), "grey16.png", (200, 200, 200)),
        (Image.fromarray(np.full((4, 6), 51400, np.int32)), "grey32.tif", (200, 200, 200)),
        (Image.new("CMYK", (6, 4), (255, 0, 255, 0)), "cmyk.jpg", (0, 255, 0)),
        (Image.new("RGBA", (6, 4), (10, 20, 30, 0)), "clear.png", (10, 20, 30)),
        (Image.new("RGB", (6, 4), (250, 0, 0)).quantize(4), "palette.gif", (250, 0, 0)),
        (Image.new("LA", (6, 4), (90, 10)), "grey_alpha.png", (90, 90, 90)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_mode_becomes_8_bit_rgb(tmp_path, image, name, pixel):
    image.save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert (read.mode, read.size) == ("RGB", (6, 4))
    assert np.allclose(read.getpixel((2, 2)), pixel, atol=2)


def test_the_orientation_of_the_camera_is_undone(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 6)


def test_images_that_cannot_be_read_are_named(tree):
    path = tree / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"train/cat/1\.png cannot be decoded as an image: .*(?<!remove it)$"):
        read_image(path)
    with pytest.raises(UserError, match=r"train is a folder, not an image$"):
        read_image(tree / "train")
    with pytest.raises(UserError, match=r"there is no image .*cat/9\.png"):
        read_image(tree / "train" / "cat" / "9.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tree / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif holds floating-point pixels"):
        read_image(tree / "float.tif")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_hands_over_the_mistake_that_an_image_is(tree, workers):
    path = tree / "train" / "dog" / "0.png"
    path.write_bytes(b"no image")
    dataset = ImageFolder(list_images(tree / "train"), evaluation_transform(Preprocessing("classification", (8, 8))))
    batches = list(batch_loader(dataset, 3, workers))
    assert batches[0].images.shape == (3, 3, 8, 8)
    assert isinstance(batches[1], UserError)
    assert "dog/0.png cannot be decoded" in str(batches[1])
    assert str(batches[1]).endswith("; replace or remove it")


@pytest.fixture
def training(tree):
    return ImageFolder(list_images(tree / "train"), training_transform(Augmentation((16, 16), erase=1.0)), seed=3)


def test_a_view_depends_on_seed_epoch_and_index_alone(training):
    batches = EpochBatchSampler(6, 3, epoch=2, seed=3, shuffle=True)
    alone, workers = list(batch_loader(training, batches)), list(batch_loader(training, batches, workers=2))
    for ours, theirs in zip(alone, workers, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
    ranks = [EpochBatchSampler(6, 1, epoch=2, seed=3, shuffle=True, rank=r, world_size=3) for r in range(3)]
    parts = [list(batch_loader(training, rank)) for rank in ranks]
    assert torch.equal(torch.cat([part[0].images for part in parts]), alone[0].images)
    for k, index in enumerate(alone[1].indices.tolist()):
        assert torch.equal(training[2, index].image, alone[1].images[k])


def test_every_epoch_image_and_seed_has_its_own_view(training):
    other = ImageFolder(training.images, training.transform, seed=4)
    views = [training[0, 1], training[1, 1], training[0, 2], other[0, 1]]
    assert all(not torch.equal(a.image, b.image) for k, a in enumerate(views) for b in views[:k])


def test_repeated_augmentation_shows_each_image_several_times(training):
    training.views = 2
    batch = training.__getitems__([(1, 4), (1, 0)])
    assert batch.indices.tolist() == [4, 4, 0, 0]
    assert batch.labels.tolist() == [1, 1, 0, 0]
    assert not torch.equal(batch.images[0], batch.images[1])
    assert torch.equal(batch.images[0], training[1, 4].image)


def test_an_image_that_comes_again_in_an_epoch_does_so_in_another_view(training):
    batch = training.__getitems__([(1, 4), (1, 4 + 6), (1, 4 + 12)])
    assert batch.indices.tolist() == [4, 4, 4]
    assert batch.labels.tolist() == [1, 1, 1]
    assert len({image.numpy().tobytes() for image in batch.images}) == 3
    assert torch.equal(batch.images[0], training[1, 4].image)


def test_augmentation_takes_no_number_from_the_generators_of_the_run(training):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    training.__getitems__([(0, 0), (0, 1)])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_that_may_not_be_read_is_named(tree):
    path = tree / "train" / "cat" / "1.png"
    path.chmod(0)
    with pytest.raises(UserError, match=r"cat/1\.png may not be read"):
        read_image(path)
