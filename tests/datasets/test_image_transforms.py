"""What happens to images before a classifier sees them, against torchvision's own steps and timm's mixing."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from stvit.datasets.image_transforms import (
    Augmentation,
    cropped,
    evaluation_transform,
    make_mixer,
    normalised,
    sample_seed,
    seeded,
    shown,
    training_transform,
)
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

IMAGENET = Preprocessing("classification", (224, 224))


def picture(H: int = 300, W: int = 401) -> Image.Image:
    y, x = np.mgrid[:H, :W]
    waves = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 401), (401, 300), (224, 224), (100, 90)])
def test_evaluation_is_the_published_resize_to_256_and_centre_crop(size):
    published = transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    ours = evaluation_transform(IMAGENET)(picture(*size))
    torch.testing.assert_close(ours, published(picture(*size)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(300, 401), (401, 300), (384, 384), (100, 90)])
def test_crop_modes_are_timms_to_the_bit(size, mode):
    given = {"crop_mode": mode, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    theirs = create_transform((384, 384), crop_pct=0.95, interpolation="bicubic", **given)
    ours = evaluation_transform(Preprocessing("classification", (384, 384), crop_fraction=0.95, **given))
    assert torch.equal(ours(picture(*size)), theirs(picture(*size)))


def test_squashing_keeps_what_a_centre_crop_cuts_off():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :10] = 255
    squash = Preprocessing("classification", (20, 30), crop_fraction=1.0, crop_mode="squash")
    assert np.asarray(cropped(Image.fromarray(image), squash))[:, :4].min() > 250
    assert np.asarray(cropped(Image.fromarray(image), dataclasses.replace(squash, crop_mode="center"))).max() == 0


def test_tensors_are_resized_like_images():
    image = picture()
    as_tensor = transforms.functional.to_tensor(image)
    difference = normalised(cropped(as_tensor, IMAGENET), IMAGENET) - evaluation_transform(IMAGENET)(image)
    assert difference.abs().mean() < 0.02  # an image is rounded to 8 bits after each direction


def test_inputs_need_not_be_square():
    wide = Preprocessing("classification", (32, 64), crop_fraction=1.0)
    assert evaluation_transform(wide)(picture(100, 101)).shape == (3, 32, 64)
    assert evaluation_transform(wide)(picture(100, 500)).shape == (3, 32, 64)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(UserError, match=r"one of nearest, .*not 'cubic'"):
        evaluation_transform(Preprocessing("classification", (8, 8), interpolation="cubic"))(picture())


def test_an_unknown_crop_mode_is_refused():
    with pytest.raises(UserError, match=r"one of the modes center, squash, not 'border'"):
        evaluation_transform(Preprocessing("classification", (8, 8), crop_mode="border"))(picture())


def test_a_description_from_before_there_were_crop_modes_means_the_centre():
    before = {key: value for key, value in IMAGENET.to_dict().items() if key != "crop_mode"}
    assert Preprocessing.from_dict(before) == IMAGENET
    squash = dataclasses.replace(IMAGENET, crop_mode="squash")
    assert Preprocessing.from_dict(squash.to_dict()) == squash


def test_shown_pixels_are_those_before_normalisation():
    image = picture(8, 8)
    assert np.array_equal(shown(normalised(image, IMAGENET), IMAGENET), np.asarray(image))


def test_training_views_are_normalised_crops_of_the_wanted_size():
    plain = Augmentation((32, 48), flip=0.0, auto_augment="", color_jitter=0.0, erase=0.0)
    view = training_transform(plain)(Image.new("RGB", (90, 70), (255, 0, 0)))
    expected = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(plain.mean)) / torch.tensor(plain.std)
    torch.testing.assert_close(view, expected[:, None, None].expand(3, 32, 48))


@pytest.mark.parametrize(
    "change",
    [{"flip": 1.0}, {"auto_augment": "rand-m9-n6-mstd0.5-inc1"}, {"color_jitter": 0.4}, {"erase": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_recipe_changes_the_image(change):
    settings = {"flip": 0.0, "auto_augment": "", "color_jitter": 0.0, "erase": 0.0}
    views = []
    for augmentation in (Augmentation((64, 64), **settings), Augmentation((64, 64), **{**settings, **change})):
        with seeded(5):
            views.append(training_transform(augmentation)(picture()))
    assert not torch.equal(*views)


def test_random_interpolation_is_drawn_for_each_view():
    plain = {"flip": 0.0, "auto_augment": "", "color_jitter": 0.0, "erase": 0.0, "area": (1.0, 1.0), "aspect": (1, 1)}
    views = {}
    for kind in ("bicubic", "bilinear", "random"):
        transform = training_transform(Augmentation((16, 16), interpolation=kind, **plain))
        for seed in range(8):
            with seeded(seed):
                views[kind, seed] = transform(picture(40, 40))
    drawn = [[torch.equal(views["random", k], views[kind, k]) for kind in ("bicubic", "bilinear")] for k in range(8)]
    assert all(sum(same) == 1 for same in drawn)
    assert 0 < sum(bicubic for bicubic, _ in drawn) < 8


def test_colours_jitter_only_where_nothing_else_augments():
    """As in timm, so that the 0.4 which some recipes state beside RandAugment is without effect."""
    views = []
    for jitter in (0.0, 0.4):
        with seeded(3):
            views.append(training_transform(Augmentation((16, 16), color_jitter=jitter))(picture()))
    assert torch.equal(*views)


def test_the_highest_magnitude_may_leave_no_bits_of_an_image():
    """Pillow 13 refuses what timm then asks for; a magnitude with a spread gets there once in some hundred images."""
    strongest = training_transform(Augmentation((16, 16), auto_augment="rand-m10-n30-p1-inc1", erase=0.0))
    (posterize,) = (op for op in strongest.transforms[2].ops if op.name.startswith("Posterize"))
    assert np.asarray(posterize(picture(20, 20))).max() == 0
    posterize.magnitude = 8  # one bit
    assert set(np.unique(posterize(picture(20, 20)))) == {0, 128}
    with seeded(0):
        assert strongest(picture(20, 20)).isfinite().all()


def test_an_augmentation_in_another_notation_is_refused():
    with pytest.raises(UserError, match=r"'rand-x9' \(AUG\.AA_TYPE\) is not in timm's notation"):
        training_transform(Augmentation((8, 8), auto_augment="rand-x9"))


def test_mixing_pairs_each_image_with_its_mirror_in_the_batch():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2).clone()
    labels = torch.tensor([0, 1, 2, 3])
    with seeded(1):
        mixed, targets = make_mixer(0.8, 0.0, 1.0, 0.5, 0.0, 4)(images.clone(), labels)
    share = targets[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(targets[0], torch.tensor([share, 0, 0, 1 - share]))
    torch.testing.assert_close(mixed[0], torch.full((1, 2, 2), 3 * (1 - share)))


def test_cutmix_pastes_a_part_and_counts_its_area():
    images = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    with seeded(3):
        mixed, targets = make_mixer(0.0, 1.0, 1.0, 0.5, 0.0, 2)(images, torch.tensor([0, 1]))
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert mixed[0].mean().item() == pytest.approx(targets[0, 1].item(), abs=1e-6)


def test_smoothing_spreads_its_share_over_all_classes():
    _, targets = make_mixer(0.8, 1.0, 0.0, 0.5, 0.1, 4)(torch.zeros(2, 1, 2, 2), torch.tensor([0, 3]))
    torch.testing.assert_close(targets, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]]))


def test_seeds_differ_in_every_argument():
    seeds = [sample_seed(*key) for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]]
    assert len({*seeds, sample_seed(0, 0, 0, 0, 1)}) == 6
    assert sample_seed(1, 0, 2, 3) == sample_seed(1, 0, 2, 3)


def test_a_seed_fixes_all_three_generators():
    def draws():
        return np.random.rand(), torch.rand(1).item(), random.random()

    with seeded(7):
        first = draws()
    with seeded(7):
        assert draws() == first
    with seeded(8):
        assert draws() != first
