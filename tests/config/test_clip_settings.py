"""The settings of videos: what is refused, and what they make of a model's own way of preparing clips."""

from __future__ import annotations

import dataclasses

import pytest

from stvit.config import CfgNode, load_config
from stvit.config.derived import clip_preprocessing, clip_sampling, contradictions
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

CLIPS = ("DATA.DATASET", "kinetics", "MODEL.NAME", "mvitv2_small_16x4")
OWN = Preprocessing(
    "classification", (224, 224), frames=16, mean=(0.45,) * 3, std=(0.225,) * 3, crop_fraction=0.9, test_views=5
)


def load(*overrides: str) -> CfgNode:
    return load_config(None, [*CLIPS, *overrides])


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("DATA.DECODER", "opencv", "one of auto, pyav, decord, torchcodec"),
        ("DATA.ON_BAD_VIDEO", "ignore", "one of raise, skip, replace"),
        ("DATA.SAMPLING_RATE", "0", "at least 1"),
        ("DATA.TARGET_FPS", "0", "above 0"),
        ("DATA.TRAIN_JITTER_FPS", "-1", "not be negative"),
        ("DATA.MAX_BAD_PERCENT", "101", "at most 100"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[1.0, 0.08]", "smallest and the largest share"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.5, 1.5]", "smallest and the largest share"),
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.5]", "or [] for none"),
        ("DATA.TRAIN_JITTER_ASPECT_RELATIVE", "[0, 1.0]", "lowest and the highest width over height"),
        ("DATA.TRAIN_JITTER_ASPECT_RELATIVE", "[]", "set both, or both to []"),
        ("DATA.TRAIN_JITTER_SCALES", "[320, 256]", "lowest and the highest short side"),
        ("TEST.NUM_ENSEMBLE_VIEWS", "0", "at least 1"),
        ("TEST.NUM_SPATIAL_CROPS", "2", "1, the centre, or 3"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_way_out(key, value, wanted):
    with pytest.raises(UserError) as caught:
        load(key, value)
    assert f"command line: {key} is " in str(caught.value)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("pairs", "key", "wanted"),
    [
        (
            ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "[]", "DATA.TRAIN_CROP_SIZE", "288"),
            "DATA.TRAIN_JITTER_SCALES",
            "TRAIN_CROP_SIZE 288",
        ),
        (("TEST.NUM_SPATIAL_CROPS", "3", "DATA.VAL_CROP_MODE", "squash"), "DATA.VAL_CROP_MODE", "longer side"),
        (("DATA.DATASET", "ssv2", "DATA.TRAIN_JITTER_FPS", "5"), "DATA.TRAIN_JITTER_FPS", "set it to 0, or kinetics"),
        (("MODEL.INIT", "a.pth", "TRAIN.CHECKPOINT_FILE_PATH", "b.pth"), "MODEL.INIT", "leave the other out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(pairs, key, wanted):
    with pytest.raises(UserError) as caught:
        load(*pairs)
    assert f" {key} is " in str(caught.value)
    assert wanted in str(caught.value)


def test_frames_may_be_smaller_than_a_crop_of_a_random_area():
    assert load("DATA.TRAIN_CROP_SIZE", "288").DATA.TRAIN_CROP_SIZE == 288


def test_what_settings_leave_open_about_clips_is_the_models_own():
    prepared = clip_preprocessing(load("AUG.INTERPOLATION", "random"), OWN)
    assert prepared == OWN


@pytest.mark.parametrize(
    ("own_crops", "crops", "ratio", "fraction"),
    [
        (1, 1, "0", 0.9),
        (3, 3, "0", 0.9),
        (1, 3, "0", 1.0),
        (3, 1, "0", 0.875),
        (1, 3, "0.8", 0.8),
        (1, 1, "0.8", 0.8),
    ],
)
def test_the_crop_is_the_models_own_only_for_as_many_crops(own_crops, crops, ratio, fraction):
    cfg = load("TEST.NUM_SPATIAL_CROPS", str(crops), "DATA.VAL_CROP_RATIO", ratio)
    prepared = clip_preprocessing(cfg, dataclasses.replace(OWN, test_crops=own_crops))
    assert (prepared.crop_fraction, prepared.test_crops) == (fraction, crops)


def test_three_crops_need_the_longer_side_that_squashing_removes():
    squashed = dataclasses.replace(OWN, crop_mode="squash")
    assert clip_preprocessing(load(), squashed).crop_mode == "squash"
    assert clip_preprocessing(load("TEST.NUM_SPATIAL_CROPS", "3"), squashed).crop_mode == "center"


def test_clips_are_sampled_as_the_settings_say():
    said = ("DATA.NUM_FRAMES", "8", "DATA.SAMPLING_RATE", "2", "DATA.TARGET_FPS", "15", "DATA.TRAIN_JITTER_FPS", "3")
    cfg = load(*said, "DATA.USE_OFFSET_SAMPLING", "False")
    sampling = clip_sampling(cfg, clip_preprocessing(cfg, OWN))
    assert (sampling.frames, sampling.method, sampling.rate, sampling.target_fps) == (8, "dense", 2, 15.0)
    assert (sampling.fps_jitter, sampling.offset) == (3.0, False)


def test_something_something_takes_a_frame_of_each_part():
    cfg = load("DATA.DATASET", "ssv2", "DATA.SAMPLING_RATE", "2")
    prepared = clip_preprocessing(cfg, OWN)
    assert (prepared.clip_sampling, prepared.sampling_rate) == ("segments", OWN.sampling_rate)
    assert clip_sampling(cfg, prepared).method == "segments"


def test_contradictions_name_the_key_and_not_what_follows_from_it():
    cfg = load("AUG.INTERPOLATION", "random", "TEST.NUM_SPATIAL_CROPS", "3", "DATA.SAMPLING_RATE", "8")
    assert contradictions(clip_preprocessing(cfg, OWN), OWN, "the checkpoint") == [
        "DATA.SAMPLING_RATE prepares clips with sampling rate 8; the checkpoint has 4",
        "TEST.NUM_SPATIAL_CROPS prepares clips with test crops 3; the checkpoint has 1",
    ]
