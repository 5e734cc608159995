"""The configurations of MixViT, MPViT and MixFormer say what was published, and what was not is said to be ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvit.config import CfgNode, load_config
from stvit.config.derived import classifier_settings, contradictions, image_preprocessing, learning_rates
from stvit.registry import list_models, model_preprocessing, model_spec

CONFIGS = Path(__file__).parents[2] / "configs" / "imagenet"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STRONG, MILD = "rand-m9-mstd0.5-inc1", "rand-m7-mstd0.5-inc1"

# Configuration, model, drop path, side of the input, size it is cut out of, crop mode, mean and deviation.
PROTOCOLS = [
    ("MixViT_P1_224", "mixvit_p1_224", 0.1, 224, 256, "center", IMAGENET),
    ("MixViT_P2_224", "mixvit_p2_224", 0.1, 224, 256, "center", IMAGENET),
    ("MixViT_N_224", "mixvit_n_224", 0.1, 224, 256, "center", IMAGENET),
    ("MixViT_T_224", "mixvit_t_224", 0.2, 224, 235, "center", IMAGENET),
    ("MixViT_S_224", "mixvit_s_224", 0.35, 224, 235, "center", IMAGENET),
    ("MixViT_M_224", "mixvit_m_224", 0.6, 224, 235, "center", IMAGENET),
    ("MixViT_B_224", "mixvit_b_224", 0.7, 224, 235, "center", IMAGENET),
    ("MixViT_B_256", "mixvit_b_256", 0.7, 256, 269, "center", IMAGENET),
    ("MixViT_T_384", "mixvit_t_384", 0.2, 384, 404, "squash", HALF),
    ("MixViT_S_384", "mixvit_s_384", 0.35, 384, 404, "squash", HALF),
    ("MixViT_M_384", "mixvit_m_384", 0.6, 384, 404, "squash", HALF),
    ("MixViT_B_384", "mixvit_b_384", 0.7, 384, 404, "squash", HALF),
    ("MPViT_T", "mpvit_tiny", 0.0, 224, 256, "center", IMAGENET),
    ("MPViT_XS", "mpvit_xsmall", 0.0, 224, 256, "center", IMAGENET),
    ("MPViT_S", "mpvit_small", 0.05, 224, 256, "center", IMAGENET),
    ("MPViT_B", "mpvit_base", 0.3, 224, 256, "center", IMAGENET),
    ("MixFormer_B0", "mixformer_b0", 0.0, 224, 256, "center", IMAGENET),
    ("MixFormer_B1", "mixformer_b1", 0.0, 224, 256, "center", IMAGENET),
    ("MixFormer_B2", "mixformer_b2", 0.05, 224, 256, "center", IMAGENET),
    ("MixFormer_B3", "mixformer_b3", 0.1, 224, 256, "center", IMAGENET),
    ("MixFormer_B4", "mixformer_b4", 0.2, 224, 256, "center", IMAGENET),
    ("MixFormer_B5", "mixformer_b5", 0.3, 224, 256, "center", IMAGENET),
    ("MixFormer_B6", "mixformer_b6", 0.5, 224, 256, "center", IMAGENET),
]
NAMES = [row[0] for row in PROTOCOLS]
SCRATCH = [name for name in NAMES if not name.endswith("384")]  # with a published training


def load(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), overrides)


def test_every_published_variant_has_a_configuration():
    assert sorted(NAMES) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    families = [name for family in ("mixvit_*_[23]??", "mpvit_*", "mixformer_b?") for name in list_models(family)]
    assert sorted(row[1] for row in PROTOCOLS) == sorted(n for n in families if not n.endswith("_16f"))
    assert len({load(name).OUTPUT_DIR for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(("name", "model", "drop_path", "size", "resized", "mode", "pixels"), PROTOCOLS)
def test_network_and_test_transform_are_the_published_ones(name, model, drop_path, size, resized, mode, pixels):
    cfg = load(name, "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", "x.pth")
    row = model_spec(cfg.MODEL["NAME"], **classifier_settings(cfg))
    assert (cfg.MODEL["NAME"], cfg.MODEL.NUM_CLASSES) == (model, 1000)
    assert (row.drop_path, row.input_size) == (drop_path, (size, size))
    assert row == model_spec(model)
    published = model_preprocessing(model)
    prepared = image_preprocessing(cfg, published)
    assert (prepared.input_size, prepared.interpolation) == ((size, size), "bicubic")
    assert (int(size / prepared.crop_fraction), prepared.crop_mode) == (resized, mode)
    assert (prepared.mean, prepared.std) == pixels
    assert contradictions(prepared, published, "the published model") == []


@pytest.mark.parametrize("name", SCRATCH)
def test_what_all_published_trainings_share(name):
    cfg = load(name)
    solver, mixup = cfg.SOLVER, cfg.MIXUP
    assert (cfg.DATA.DATASET, solver.OPTIMIZING_METHOD, solver.LR_POLICY, solver.MAX_EPOCH) == (
        "imagenet", "adamw", "cosine", 300
    )  # fmt: skip
    assert (mixup.ENABLE, mixup.CUTMIX_ALPHA, mixup.PROB, mixup.SWITCH_PROB) == (True, 1.0, 1.0, 0.5)
    assert mixup.LABEL_SMOOTH_VALUE == 0.1
    assert (cfg.AUG.RE_PROB, cfg.AUG.RE_MODE, cfg.AUG.RE_COUNT) == (0.25, "pixel", 1)
    assert (solver.ZERO_WD_1D_PARAM, solver.ZERO_WD_POS_CLS, solver.LAYER_DECAY, solver.EMA_DECAY) == (
        True, True, 1.0, 0.0
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SCRATCH if name.startswith("MixViT")])
def test_mixvit_trains_by_its_scripts(name):
    cfg = load(name)
    batch, randaugment, mixup = (128, STRONG, 0.5)
    if name.split("_")[1] in ("P1", "P2", "N"):
        batch, randaugment, mixup = (256, MILD, 0.1)
    assert learning_rates(cfg) == (3e-3, 1e-6, 1e-5)
    assert batch == cfg.TRAIN.BATCH_SIZE
    assert cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS == 2048
    assert randaugment == cfg.AUG.AA_TYPE
    assert mixup == cfg.MIXUP.ALPHA
    assert (cfg.AUG.INTERPOLATION, cfg.AUG.REPEATS, cfg.TRAIN.CHANNELS_LAST) == ("random", 1, True)
    solver = cfg.SOLVER
    assert (solver.WEIGHT_DECAY, solver.WARMUP_EPOCHS, solver.CLIP_GRAD_L2NORM) == (0.05, 30, 1.0)
    assert not solver.COSINE_AFTER_WARMUP


@pytest.mark.parametrize("name", [name for name in SCRATCH if name.startswith("MPViT")])
def test_mpvit_trains_as_published(name):
    cfg = load(name)
    assert learning_rates(cfg) == (1e-3, 1e-6, 1e-5)
    assert cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS == 1024
    assert (cfg.AUG.AA_TYPE, cfg.MIXUP.ALPHA) == (STRONG, 0.8)
    assert (cfg.AUG.INTERPOLATION, cfg.AUG.REPEATS) == ("bicubic", 3)
    solver = cfg.SOLVER
    assert (solver.WEIGHT_DECAY, solver.WARMUP_EPOCHS, solver.CLIP_GRAD_L2NORM) == (0.05, 5, 0.0)
    assert not solver.COSINE_AFTER_WARMUP


@pytest.mark.parametrize("number", range(7))
def test_mixformer_trains_as_published(number):
    cfg = load(f"MixFormer_B{number}")
    rate, decay = (8e-4, 0.04) if number < 4 else (1e-3, 0.05)
    assert learning_rates(cfg) == (rate, 1e-7, 1e-6)
    assert cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS == 1024
    assert (cfg.AUG.AA_TYPE, cfg.MIXUP.ALPHA) == (STRONG, 0.2)
    assert (cfg.AUG.INTERPOLATION, cfg.AUG.REPEATS) == ("bicubic", 1)
    solver = cfg.SOLVER
    assert decay == solver.WEIGHT_DECAY
    assert (0.0, 20 if number < 5 else 40) == (solver.CLIP_GRAD_L2NORM, solver.WARMUP_EPOCHS)
    assert solver.COSINE_AFTER_WARMUP


def test_a_recipe_for_eight_gpus_needs_only_the_batch_of_all_of_them():
    eight = ("NUM_GPUS", "8", "TRAIN.BATCH_SIZE", "1024")
    assert learning_rates(load("MixViT_T_224", *eight, "TRAIN.ACCUMULATE_STEPS", "2")).base == 3e-3
    assert learning_rates(load("MPViT_T", *eight, "TRAIN.ACCUMULATE_STEPS", "1")).base == 1e-3


@pytest.mark.parametrize("variant", "TSMB")
def test_fine_tuning_at_384_is_short_and_slow(variant):
    cfg = load(f"MixViT_{variant}_384", "TRAIN.CHECKPOINT_FILE_PATH", "224.pth")
    assert cfg.TRAIN.BATCH_SIZE * cfg.TRAIN.ACCUMULATE_STEPS == 512
    assert (cfg.SOLVER.MAX_EPOCH, learning_rates(cfg).base) == (30, 5e-5)
