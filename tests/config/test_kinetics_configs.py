"""The configurations for videos say what was published, build what they name, and say where the choice is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvit.config import CfgNode, load_config
from stvit.config.derived import (
    classifier_settings,
    clip_preprocessing,
    clip_sampling,
    contradictions,
    learning_rates,
)
from stvit.registry import model_preprocessing, model_spec

CONFIGS = Path(__file__).parents[2] / "configs"

# Configuration, model, drop path, frames, rate, side, shorter side of test frames, views and crops.
PUBLISHED = [
    ("kinetics/MViTv2_S_16x4", "mvitv2_small_16x4", 0.2, 16, 4, 224, 256, (5, 1)),
    ("kinetics/MViTv2_B_32x3", "mvitv2_base_32x3", 0.3, 32, 3, 224, 256, (5, 1)),
    ("kinetics/MViTv2_L_40x3", "mvitv2_large_40x3", 0.75, 40, 3, 312, 312, (5, 3)),
    ("test/MViTv2_S_16x4_test", "mvitv2_small_16x4", 0.2, 16, 4, 224, 256, (5, 1)),
    ("test/MViTv2_B_32x3_test", "mvitv2_base_32x3", 0.3, 32, 3, 224, 256, (5, 1)),
]
HALF = ((0.45,) * 3, (0.225,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

INFLATED = {path.stem: path for path in (CONFIGS / "kinetics").glob("*_16f.yaml")}


def load(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), overrides)


@pytest.mark.parametrize(("name", "model", "drop_path", "frames", "rate", "side", "short", "test"), PUBLISHED)
def test_network_sampling_and_test_protocol_are_the_published_ones(
    name, model, drop_path, frames, rate, side, short, test
):
    cfg = load(name)
    row = model_spec(cfg.MODEL["NAME"], **classifier_settings(cfg))
    assert (cfg.MODEL["NAME"], row) == (model, model_spec(model))
    assert (row.drop_path, row.head_dropout, row.input_size) == (drop_path, 0.5, (frames, side, side))
    published = model_preprocessing(model)
    prepared = clip_preprocessing(cfg, published)
    assert prepared == published
    assert (prepared.mean, prepared.std) == (IMAGENET if "_L_" in name else HALF)
    assert (prepared.interpolation, prepared.crop_mode) == ("bilinear", "center")
    assert int(side / prepared.crop_fraction) == short
    assert (prepared.test_views, prepared.test_crops) == test
    sampling = clip_sampling(cfg, prepared)
    assert (sampling.frames, sampling.rate, sampling.target_fps) == (frames, rate, 30.0)
    assert (sampling.method, sampling.fps_jitter, sampling.offset) == ("dense", 0.0, True)


@pytest.mark.parametrize("name", ["MViTv2_S_16x4", "MViTv2_B_32x3"])
def test_training_on_kinetics_is_the_published_recipe(name):
    cfg = load(f"kinetics/{name}")
    data, solver, mixup = cfg.DATA, cfg.SOLVER, cfg.MIXUP
    assert (data.DATASET, cfg.TRAIN.BATCH_SIZE, cfg.MODEL.NUM_CLASSES, cfg.AUG.NUM_SAMPLE) == ("kinetics", 16, 400, 2)
    assert (solver.OPTIMIZING_METHOD, solver.BETAS, solver.WEIGHT_DECAY) == ("adamw", [0.9, 0.999], 0.05)
    assert (solver.LR_POLICY, solver.MAX_EPOCH, solver.WARMUP_EPOCHS) == ("cosine", 200, 30)
    assert (learning_rates(cfg), solver.COSINE_AFTER_WARMUP, solver.CLIP_GRAD_L2NORM) == ((1e-4, 1e-6, 1e-6), True, 1.0)
    assert (solver.ZERO_WD_1D_PARAM, solver.ZERO_WD_POS_CLS, solver.LAYER_DECAY) == (True, False, 1.0)
    assert (cfg.AUG.AA_TYPE, cfg.AUG.RE_PROB, cfg.AUG.RE_MODE) == ("rand-m7-n4-mstd0.5-inc1", 0.25, "pixel")
    assert (mixup.ENABLE, mixup.ALPHA, mixup.CUTMIX_ALPHA, mixup.PROB, mixup.SWITCH_PROB) == (True, 0.8, 1.0, 1.0, 0.5)
    assert mixup.LABEL_SMOOTH_VALUE == 0.1
    assert (data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_ASPECT_RELATIVE) == ([0.08, 1.0], [0.75, 1.3333])
    assert data.RANDOM_FLIP


def test_the_large_network_has_no_published_training_and_is_only_tested():
    cfg = load("kinetics/MViTv2_L_40x3")
    assert (cfg.TRAIN.ENABLE, cfg.TEST.ENABLE) == (False, True)


def test_something_something_is_learnt_as_published():
    cfg = load("kinetics/MViTv2_S_16x4_ssv2")
    row = model_spec(cfg.MODEL.NAME, **classifier_settings(cfg))
    assert (row.num_classes, row.drop_path, row.head_dropout) == (174, 0.4, 0.5)
    prepared = clip_preprocessing(cfg, model_preprocessing(cfg.MODEL.NAME))
    assert (prepared.clip_sampling, prepared.test_views, prepared.test_crops) == ("segments", 1, 3)
    assert (prepared.crop_fraction, prepared.interpolation) == (1.0, "bilinear")
    data, solver = cfg.DATA, cfg.SOLVER
    assert (data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_SCALES) == ([], [256, 320])
    assert (data.INV_UNIFORM_SAMPLE, data.RANDOM_FLIP) == (True, False)
    assert (solver.OPTIMIZING_METHOD, solver.MOMENTUM, solver.NESTEROV, solver.WEIGHT_DECAY) == ("sgd", 0.9, True, 1e-4)
    assert learning_rates(cfg) == (2.5e-3, 1e-4, 1e-6)
    assert (solver.MAX_EPOCH, solver.WARMUP_EPOCHS, solver.CLIP_GRAD_L2NORM) == (100, 3, 0.0)
    assert (cfg.AUG.AA_TYPE, cfg.AUG.NUM_SAMPLE, cfg.MIXUP.PROB) == ("rand-m7-n4-mstd0.5-inc1", 1, 1.0)


def test_every_family_has_a_recipe_for_its_inflated_networks():
    assert {name.split("_")[0] for name in INFLATED} == {"MViTv2", "MixViT", "MPViT", "MixFormer"}


def test_every_configuration_for_videos_loads_and_has_a_folder_of_its_own():
    outputs = [load_config(str(path)).OUTPUT_DIR for path in CONFIGS.glob("kinetics/*.yaml")]
    assert len(set(outputs)) == len(outputs) > 10


@pytest.mark.parametrize("name", sorted(INFLATED))
def test_an_inflated_network_learns_clips_with_the_pixels_of_its_images(name):
    cfg = load(f"kinetics/{name}")
    model = cfg.MODEL.NAME
    assert model.endswith("_16f")
    own = model_preprocessing(model, **classifier_settings(cfg))
    image = model_preprocessing(model.removesuffix("_16f"))
    prepared = clip_preprocessing(cfg, own)
    assert contradictions(prepared, own, "the model") == []
    for part in ("mean", "std", "interpolation", "crop_fraction", "crop_mode", "input_size"):
        assert getattr(prepared, part) == getattr(image, part)
    assert (prepared.frames, prepared.sampling_rate, prepared.test_views, prepared.test_crops) == (16, 4, 5, 1)
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WARMUP_EPOCHS, cfg.MODEL.INIT) == (50, 5, "")


@pytest.mark.parametrize("name", ["mvitv2_small_16x4", "mvitv2_small_16f", "mixvit_t_224_16f", "mixformer_b1_16f"])
def test_a_small_data_set_is_learnt_from_weights_for_clips_and_from_inflated_ones(name):
    cfg = load("finetune/small_dataset", "MODEL.NAME", name, "MODEL.INIT", "weights.pth", "MODEL.NUM_CLASSES", "3")
    own = model_preprocessing(name, **classifier_settings(cfg))
    assert clip_preprocessing(cfg, own) == own
    assert model_spec(name, **classifier_settings(cfg)).num_classes == 3
    assert (cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.SOLVER.BASE_LR) == (0.75, 5.0, 6e-4)
    assert cfg.AUG.AA_TYPE == "rand-m7-mstd0.5-inc1"


def test_another_batch_needs_no_other_setting():
    cfg = load("kinetics/MViTv2_S_16x4", "TRAIN.BATCH_SIZE", "4", "NUM_GPUS", "0")
    assert learning_rates(cfg).base == pytest.approx(1e-4 * 4 / 16)
    assert learning_rates(load("finetune/small_dataset", "TRAIN.BATCH_SIZE", "16")).base == pytest.approx(1.5e-4)
