"""The settings of classification: what is refused, and what several of them decide together."""

from __future__ import annotations

import dataclasses

import pytest

from stvit.config import load_config
from stvit.config.checks import randaugment_problem
from stvit.config.derived import classifier_settings, contradictions, image_preprocessing, learning_rates
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

IMAGES = ("DATA.DATASET", "imagenet", "MODEL.NAME", "mvitv2_tiny")


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(None, [*IMAGES, *overrides])
    return str(caught.value)


@pytest.mark.parametrize("text", ["rand-m9-n6-mstd0.5-inc1", "rand-m7-n4-mstd0.5-inc1", "rand-m9", "rand", "rand-p0.5"])
def test_timms_spelling_of_randaugment_is_accepted(text):
    assert randaugment_problem(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("augmix-m5", "only RandAugment"),
        ("rand-m11", "from 0 to 10"),
        ("rand-n0", "at least 1"),
        ("rand-m9-n2.5", "at least 1"),
        ("rand-m9-mst0.5", "'mstd'"),
        ("rand-m9-inc2", "0 or 1"),
        ("rand-9", "no part"),
        ("rand-m9-", "no part"),
    ],
)
def test_a_mistake_in_randaugment_is_found_before_any_image_is_read(text, wanted):
    message = refusal("AUG.AA_TYPE", text)
    assert message.startswith(f"command line: AUG.AA_TYPE is {text!r}, but ")
    assert wanted in message


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        (("MIXUP.ALPHA", "0", "MIXUP.CUTMIX_ALPHA", "0"), "MIXUP.ENABLE"),
        (("TRAIN.BATCH_SIZE", "7"), "TRAIN.BATCH_SIZE"),
        (("DATA.STD", "[0.2, 0, 0.2]"), "DATA.STD"),
        (("DATA.MEAN", "[124, 116, 104]"), "DATA.MEAN"),
        (("DATA.MEAN", "[0.5]"), "DATA.MEAN"),
        (("DATA.STD", "[0.5, 0.5]"), "DATA.STD"),
    ],
)
def test_combinations_that_cannot_work_are_refused(pairs, key):
    assert f" {key} is " in refusal(*pairs)


def test_what_only_the_other_task_reads_is_not_checked():
    load_config(None, [*IMAGES, "MOVING_MNIST.DIGIT_SIZE", "100"])
    load_config(None, ["AUG.AA_TYPE", "nonsense"])


def test_an_odd_batch_is_fine_where_nothing_is_mixed():
    load_config(None, [*IMAGES, "TRAIN.BATCH_SIZE", "7", "MIXUP.ENABLE", "False"])
    load_config(None, [*IMAGES, "TRAIN.BATCH_SIZE", "7", "AUG.NUM_SAMPLE", "2"])


def test_what_processes_get_of_an_odd_batch_is_looked_at_when_it_is_divided(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    load_config(None, [*IMAGES, "TRAIN.BATCH_SIZE", "7"])


def test_rates_follow_the_samples_of_an_optimiser_step():
    pairs = ("SOLVER.LR_POLICY", "cosine", "SOLVER.BASE_LR", "1e-3", "SOLVER.COSINE_END_LR", "1e-5")
    warm = ("SOLVER.WARMUP_EPOCHS", "1", "SOLVER.WARMUP_START_LR", "1e-4")
    batch = ("TRAIN.BATCH_SIZE", "32", "TRAIN.ACCUMULATE_STEPS", "2")
    as_given = load_config(None, [*IMAGES, *pairs, *warm, *batch])
    scaled = load_config(None, [*IMAGES, *pairs, *warm, *batch, "SOLVER.BASE_LR_BATCH_SIZE", "256"])
    assert learning_rates(as_given) == (1e-3, 1e-4, 1e-5)
    assert learning_rates(scaled) == pytest.approx((0.25e-3, 0.25e-4, 0.25e-5))


def test_a_classifier_gets_its_classes_and_sizes_from_their_settings():
    sizes = ("MODEL.NUM_CLASSES", "7", "DATA.TRAIN_CROP_SIZE", "96", "DATA.NUM_FRAMES", "8")
    images = load_config(None, [*IMAGES, *sizes, "MODEL.ARGS.drop_path", "0.2"])
    clips = load_config(None, ["DATA.DATASET", "kinetics", "MODEL.NAME", "mvitv2_small_16x4", *sizes])
    assert classifier_settings(images) == {"num_classes": 7, "input_size": [96, 96], "drop_path": 0.2}
    assert classifier_settings(clips) == {"num_classes": 7, "input_size": [8, 96, 96]}


OWN = Preprocessing("classification", (8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, crop_fraction=0.95, crop_mode="squash")


def test_what_settings_leave_open_about_images_is_the_models_own():
    cfg = load_config(None, [*IMAGES, "AUG.INTERPOLATION", "random"])
    assert image_preprocessing(cfg, OWN) == dataclasses.replace(OWN, input_size=(224, 224))


def test_what_settings_say_about_images_holds_and_contradictions_are_told():
    named = ("DATA.MEAN", "[0.1, 0.2, 0.3]", "DATA.STD", "[1, 1, 1]", "AUG.INTERPOLATION", "bilinear")
    crop = ("DATA.TEST_CROP_SIZE", "8", "DATA.VAL_CROP_RATIO", "0.95", "DATA.VAL_CROP_MODE", "center")
    prepared = image_preprocessing(load_config(None, [*IMAGES, *named, *crop]), OWN)
    values = {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "interpolation": "bilinear", "crop_mode": "center"}
    assert prepared == dataclasses.replace(OWN, **values)
    said = contradictions(prepared, OWN, "the checkpoint")
    assert [line.split()[0] for line in said] == [
        "DATA.MEAN", "DATA.STD", "AUG.INTERPOLATION", "DATA.VAL_CROP_MODE"
    ]  # fmt: skip
    assert said[0] == "DATA.MEAN prepares images with mean (0.1, 0.2, 0.3); the checkpoint has (0.5, 0.5, 0.5)"
    assert contradictions(OWN, OWN, "the checkpoint") == []


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        (("MODEL.NAME", "mixvit_predictor"), "needs a model that classifies"),
        (("MODEL.NAME", "mvitv2_small_16x4"), "takes clips, but DATA.DATASET imagenet holds images"),
        (("DATA.DATASET", "kinetics"), "takes images, but DATA.DATASET kinetics holds clips"),
        (("MODEL.ARGS.num_classes", "3"), "MODEL.NUM_CLASSES decides it"),
        (("MODEL.ARGS.input_size", "[64, 64]"), "DATA.TRAIN_CROP_SIZE decides it"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(pairs, wanted):
    with pytest.raises(UserError, match=wanted):
        classifier_settings(load_config(None, [*IMAGES, *pairs]))
