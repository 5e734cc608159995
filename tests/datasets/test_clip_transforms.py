"""What happens to clips before a network sees them: whatever is drawn is drawn once for all frames."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2.functional import resize

from stvit.datasets.image_transforms import cropped, seeded
from stvit.datasets.video.clip_transforms import (
    ClipAugmentation,
    erased,
    make_clip_mixer,
    normalised_clips,
    shown_clip,
    training_clip,
    view_crops,
)
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

PLAIN = ClipAugmentation((24, 32), flip=0.0, auto_augment="", color_jitter=0.0)
WHOLE = {"area": (1.0, 1.0), "aspect": (4 / 3, 4 / 3)}  # of frames of 60x80
KINETICS = Preprocessing("classification", (224, 224), mean=(0.45,) * 3, std=(0.225,) * 3)


def moving(T: int = 4, H: int = 60, W: int = 80) -> np.ndarray:
    """Frames of waves that run to the right."""
    t, y, x = np.mgrid[:T, :H, :W]
    waves = [127 + 120 * np.sin((x - 2 * t) / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return np.stack(waves, axis=3).astype(np.uint8)


def still(T: int = 4, H: int = 60, W: int = 80) -> np.ndarray:
    return np.repeat(moving(1, H, W), T, axis=0)


def is_still(clips: torch.Tensor) -> bool:
    """Whether all frames of ``(..., T, h, w)`` are the same."""
    return torch.equal(clips, clips[..., :1, :, :].expand_as(clips))


def view(frames: np.ndarray, augmentation: ClipAugmentation, seed: int = 0) -> torch.Tensor:
    with seeded(seed):
        return training_clip(frames, augmentation)


# Training views


def test_the_default_recipe_gives_8_bit_clips_that_move():
    clip = view(moving(), ClipAugmentation((24, 32)), 1)
    assert clip.dtype == torch.uint8
    assert clip.shape == (3, 4, 24, 32)
    assert not is_still(clip)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"area": None, "short_side": (40, 70)},
        {"area": None, "short_side": (40, 70), "inverse_uniform": True},
        {"flip": 0.5},
        {"interpolation": "random"},
        {"color_jitter": 0.8},
        {"auto_augment": "rand-m7-n4-mstd0.5-inc1"},
        {"auto_augment": "rand-m9-n6-mstd0.5-inc1", "interpolation": "random"},
        {"auto_augment": "augmix-m5-w3"},
        {"auto_augment": "original-mstd0.5"},
        {"auto_augment": "3a"},
    ],
    ids=str,
)
def test_a_still_clip_stays_still(changed):
    augmentation = dataclasses.replace(PLAIN, **changed)
    for seed in range(12):
        clip = view(still(), augmentation, seed)
        assert is_still(clip), seed
        assert torch.equal(view(still(1), augmentation, seed), clip[:, :1]), "draws depend on the number of frames"


def test_every_operation_of_randaugment_keeps_a_still_clip_still(monkeypatch):
    used = set()
    for name, function in auto_augment.NAME_TO_OP.items():
        monkeypatch.setitem(
            auto_augment.NAME_TO_OP, name, lambda *a, f=function, **k: used.add(f.__name__) or f(*a, **k)
        )
    strongest = dataclasses.replace(PLAIN, auto_augment="rand-m10-n3-mstd2-p1-inc1", interpolation="bilinear")
    for seed in range(60):
        assert is_still(view(still(3, 30, 40), strongest, seed)), seed
    # 15 operations, of which Posterize is replaced by a mended one
    assert len(used) == 14


def test_frames_get_the_same_operation_that_one_image_would():
    """RandAugment draws anew whenever it is called; here the second frame is treated as it would be alone."""
    augmentation = dataclasses.replace(PLAIN, auto_augment="rand-m9-n4-p1-inc1")
    for seed in range(6):
        clip = view(moving(3), augmentation, seed)
        for t in range(3):
            assert torch.equal(view(moving(3)[t : t + 1], augmentation, seed)[:, 0], clip[:, t])


def test_the_same_seed_gives_the_same_view_and_another_seed_another():
    for augmentation in (ClipAugmentation((24, 32)), dataclasses.replace(PLAIN, area=None, short_side=(40, 70))):
        first = view(moving(), augmentation, 3)
        assert torch.equal(view(moving(), augmentation, 3), first)
        assert not torch.equal(view(moving(), augmentation, 4), first)


def test_crops_are_torchvisions_for_the_same_draws():
    for seed in range(10):
        frames = torch.from_numpy(moving()).permute(0, 3, 1, 2)
        with seeded(seed):
            top, left, h, w = RandomResizedCrop.get_params(frames, [0.08, 1.0], [3 / 4, 4 / 3])
        expected = resize(frames[..., top : top + h, left : left + w].contiguous(), [24, 32], 3, antialias=True)
        assert torch.equal(view(moving(), PLAIN, seed), expected.transpose(0, 1))


def test_a_crop_of_the_whole_frame_is_pillows_resize_to_a_level():
    clip = view(moving(), dataclasses.replace(PLAIN, **WHOLE, size=(30, 40)))
    for t, frame in enumerate(moving()):
        expected = np.asarray(Image.fromarray(frame).resize((40, 30), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(shown_clip(clip)[t].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (60, 60)])
@pytest.mark.parametrize("inverse", [False, True])
def test_jittered_short_sides_cover_their_range_and_keep_the_shape(size, inverse, monkeypatch):
    """The share of the short side that a crop sees is crop size / drawn side."""
    boxes = []

    def recording(pixels, *_, **__):
        boxes.append(tuple(pixels.shape[-2:]))
        return torch.zeros(*pixels.shape[:-2], 20, 20, dtype=torch.uint8)

    monkeypatch.setattr("torchvision.transforms.v2.functional.resize", recording)
    jitter = dataclasses.replace(PLAIN, size=(20, 20), area=None, short_side=(20, 60), inverse_uniform=inverse)
    for seed in range(200):
        view(np.zeros((1, *size, 3), np.uint8), jitter, seed)
    heights, widths = np.array(boxes).T
    assert (heights == widths).all()
    assert (heights.min(), heights.max()) == (20, 60) if inverse else (heights.min() == 20 and heights.max() >= 55)
    # Even inverses see an even share of the frame: 20 to 60 of 60 pixels, 40 on average; even sides see less of it.
    assert np.mean(heights) == pytest.approx(40 if inverse else 60 * 20 * math.log(3) / 40, abs=2.5)


def test_jittered_crops_are_those_of_a_resized_frame():
    """As SlowFast does it: resize to the drawn short side, then crop; here the crop comes first."""
    augmentation = dataclasses.replace(PLAIN, size=(32, 32), area=None, short_side=(40, 40))
    frames = torch.from_numpy(moving(1, 120, 160)).permute(0, 3, 1, 2)
    resized = resize(frames, [40, 53], 3, antialias=True)[0].float()
    for seed in range(5):
        clip = view(moving(1, 120, 160), augmentation, seed)[:, 0].float()
        nearest = min(
            (resized[:, y : y + 32, x : x + 32] - clip).abs().mean().item() for y in range(9) for x in range(22)
        )
        assert nearest < 12  # levels: up to half a pixel of the resized frame beside


def test_a_crop_larger_than_the_resized_frame_is_refused():
    with pytest.raises(UserError, match=r"to 224x224 .* short side of 200: raise DATA.TRAIN_JITTER_SCALES"):
        ClipAugmentation((224, 224), area=None, short_side=(200, 300))


def test_without_flips_left_stays_left():
    frames = np.zeros((2, 60, 80, 3), np.uint8)
    frames[:, :, :40] = 255
    for seed in range(20):
        kept = view(frames, dataclasses.replace(PLAIN, **WHOLE, flip=0.0), seed).float()
        assert kept[..., :10].mean() > 250
        assert kept[..., -10:].mean() < 5
    sides = [view(frames, dataclasses.replace(PLAIN, **WHOLE, flip=0.5), seed)[0, 0, 0, 0].item() for seed in range(40)]
    assert 10 <= sides.count(255) <= 30
    assert set(sides) == {0, 255}


def test_random_interpolation_is_drawn_for_each_clip():
    views = {
        (name, seed): view(moving(), dataclasses.replace(PLAIN, **WHOLE, size=(24, 24), interpolation=name), seed)
        for name in ("bilinear", "bicubic", "random")
        for seed in range(8)
    }
    drawn = [[torch.equal(views["random", k], views[name, k]) for name in ("bilinear", "bicubic")] for k in range(8)]
    assert all(sum(same) == 1 for same in drawn)
    assert 0 < sum(bicubic for _, bicubic in drawn) < 8


def test_colours_jitter_only_without_randaugment():
    jittered = dataclasses.replace(PLAIN, color_jitter=0.4)
    assert not torch.equal(view(moving(), jittered), view(moving(), PLAIN))
    both = dataclasses.replace(PLAIN, auto_augment="rand-m7-n4-mstd0.5-inc1", color_jitter=0.0)
    assert torch.equal(view(moving(), both, 2), view(moving(), dataclasses.replace(both, color_jitter=0.4), 2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"auto_augment": "rand-x9"}, r"'rand-x9' \(AUG\.AA_TYPE\) is not in timm's notation"),
        ({"interpolation": "cubic"}, "one of nearest, .*not 'cubic'"),
    ],
)
def test_unknown_words_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        view(moving(), dataclasses.replace(PLAIN, **wrong))


# Test views


def slowfast_corner(size: tuple[int, int], crop: int, index: int) -> tuple[int, int]:
    """Top and left of SlowFast's uniform crop 0, 1 or 2 of a frame of ``(height, width)``."""
    height, width = size
    top, left = math.ceil((height - crop) / 2), math.ceil((width - crop) / 2)
    if height > width:
        return (0, top, height - crop)[index], left
    return top, (0, left, width - crop)[index]


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("size", [(256, 341), (341, 256), (256, 256), (257, 258)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_crops_lie_where_slowfasts_do(size, crops, fraction):
    H, W = size
    frames = moving(2, H, W)
    ours = view_crops(frames, dataclasses.replace(KINETICS, test_crops=crops, crop_fraction=fraction))
    assert ours.dtype == torch.uint8
    assert ours.shape == (crops, 3, 2, 224, 224)
    short = int(224 / fraction)
    resized_to = (short, short * W // H) if H < W else (short * H // W, short)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    pixels = resize(pixels.contiguous(), list(resized_to), 3, antialias=True).transpose(0, 1)
    for k, index in enumerate((1,) if crops == 1 else (0, 1, 2)):
        top, left = slowfast_corner(resized_to, 224, index)
        assert torch.equal(ours[k], pixels[..., top : top + 224, left : left + 224])


def test_the_centre_view_is_that_of_images():
    """Where the pixels to spare are even; SlowFast cuts an odd one off at the left."""
    frames = moving(3, 120, 180)
    for fraction in (1.0, 0.875):
        prepared = dataclasses.replace(KINETICS, crop_fraction=fraction, interpolation="bilinear")
        (clip,) = view_crops(frames, prepared)
        for t in range(3):
            image = torch.from_numpy(frames[t]).permute(2, 0, 1)
            assert torch.equal(clip[:, t], cropped(image, prepared))


def test_frames_are_independent_of_each_other_in_a_view():
    clip = view_crops(moving(4), dataclasses.replace(KINETICS, input_size=(32, 32), test_crops=3))
    for t in range(4):
        alone = view_crops(moving(4)[t : t + 1], dataclasses.replace(KINETICS, input_size=(32, 32), test_crops=3))
        assert torch.equal(clip[:, :, t : t + 1], alone)


def test_other_numbers_of_crops_are_refused():
    with pytest.raises(UserError, match=r"1 or 3 crops, not 2 \(TEST\.NUM_SPATIAL_CROPS\)"):
        view_crops(moving(), dataclasses.replace(KINETICS, test_crops=2))


# On the device


def test_clips_are_normalised_channel_by_channel():
    own = dataclasses.replace(KINETICS, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    clips = view(moving(), PLAIN)[None].expand(2, -1, -1, -1, -1)
    numbers = normalised_clips(clips, own)
    assert numbers.dtype == torch.float32
    assert numbers.is_contiguous()
    for c in range(3):
        expected = (clips[:, c].double() / 255 - own.mean[c]) / own.std[c]
        torch.testing.assert_close(numbers[:, c].double(), expected, rtol=1e-6, atol=1e-6)
    assert clips.dtype == torch.uint8
    assert normalised_clips(clips[:0], own).shape == (0, 3, 4, 24, 32)


def noise(B: int = 4, T: int = 5, h: int = 20, w: int = 30) -> torch.Tensor:
    return torch.randn(B, 3, 1, h, w, generator=torch.Generator().manual_seed(0)).repeat(1, 1, T, 1, 1)


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
@pytest.mark.parametrize("count", [1, 3])
def test_erasing_takes_boxes_of_pixels_through_all_frames_and_channels(mode, count):
    clips = noise()
    out = erased(clips.clone(), 1.0, mode, count, range(4))
    changed = out != clips
    for clip, mask in zip(out, changed, strict=True):
        assert is_still(clip)
        assert torch.equal(mask, mask[:1, :1].expand_as(mask)), "a box takes all channels of all frames"
        assert 0.01 < mask.float().mean() < 0.4
        if mode == "const":
            assert (clip[mask] == 0).all()
    if count == 1:
        for mask in changed[:, 0, 0]:
            rows, columns = mask.any(1), mask.any(0)
            assert mask.sum() == rows.sum() * columns.sum(), "not a box"
    assert not torch.equal(changed[0], changed[1])


def test_erasing_is_a_function_of_the_seed_alone():
    clips = noise()
    together = erased(clips.clone(), 0.5, "pixel", 1, [7, 8, 9, 10])
    for k, seed in enumerate([7, 8, 9, 10]):
        assert torch.equal(erased(clips[k : k + 1].clone(), 0.5, "pixel", 1, [seed])[0], together[k])
    before = torch.default_generator.get_state()
    erased(clips.clone(), 1.0, "pixel", 1, [1, 2, 3, 4])
    assert torch.equal(torch.default_generator.get_state(), before)


def test_erasing_meets_its_share_of_clips():
    clips = noise(200, 1, 8, 8)
    touched = (erased(clips.clone(), 0.25, "pixel", 1, range(200)) != clips).flatten(1).any(1).sum()
    assert 30 <= touched <= 70
    assert torch.equal(erased(clips.clone(), 0.0, "pixel", 1, range(200)), clips)


def test_cutmix_counts_the_share_of_pixels_that_each_clip_has():
    """timm's on clips as they are would cut boxes of T x h and weigh them as h x w."""
    for seed in range(20):
        clips = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 5, 16, 16).clone()
        with seeded(seed):
            mixed, targets = make_clip_mixer(0.0, 1.0, 1.0, 0.5, 0.0, 4)(clips, torch.arange(4))
        assert is_still(mixed)
        for k in range(4):
            shares = torch.stack([(mixed[k] == value).float().mean() for value in range(4)])
            torch.testing.assert_close(targets[k], shares, rtol=0, atol=1e-6)


def test_mixup_weighs_every_pixel_as_the_label():
    clips = noise(4)
    with seeded(1):
        mixed, targets = make_clip_mixer(0.8, 0.0, 1.0, 0.5, 0.0, 4)(clips.clone(), torch.arange(4))
    assert is_still(mixed)
    share = targets[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(mixed[0], share * clips[0] + (1 - share) * clips[3])


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_last_clip_of_an_odd_batch_is_not_mixed(cutmix):
    clips, labels = noise(5), torch.arange(5)
    with seeded(2):
        mixed, targets = make_clip_mixer(0.8, cutmix, 1.0, 0.5, 0.1, 5)(clips.clone(), labels)
    with seeded(2):
        even, even_targets = make_clip_mixer(0.8, cutmix, 1.0, 0.5, 0.1, 5)(clips[:4].clone(), labels[:4])
    assert torch.equal(mixed[4], clips[4])
    torch.testing.assert_close(targets[4], torch.tensor([0.02, 0.02, 0.02, 0.02, 0.92]))
    assert torch.equal(mixed[:4], even)
    assert torch.equal(targets[:4], even_targets)


@pytest.mark.parametrize("B", [0, 1])
def test_batches_too_small_to_mix_pass(B):
    mixed, targets = make_clip_mixer(0.8, 1.0, 1.0, 0.5, 0.0, 3)(noise(B), torch.arange(B))
    assert torch.equal(mixed, noise(B))
    assert torch.equal(targets, torch.eye(3)[:B])


def test_shown_frames_are_the_pixels_of_the_clip():
    clip = view(moving(), dataclasses.replace(PLAIN, **WHOLE, size=(60, 80)))
    assert np.array_equal(shown_clip(clip), moving())
