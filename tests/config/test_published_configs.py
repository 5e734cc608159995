"""The configurations of the published MViTv2 networks say what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvit.config import CfgNode, load_config
from stvit.config.derived import classifier_settings, learning_rates
from stvit.errors import UserError
from stvit.registry import model_spec

CONFIGS = Path(__file__).parents[2] / "configs"

VARIANTS = [
    ("T", "mvitv2_tiny", 0.1),
    ("S", "mvitv2_small", 0.1),
    ("B", "mvitv2_base", 0.3),
    ("L", "mvitv2_large", 0.5),
]


def load(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / name), overrides)


@pytest.mark.parametrize(("variant", "name", "drop_path"), VARIANTS)
def test_training_is_the_published_recipe(variant, name, drop_path):
    cfg = load(f"MViTv2_{variant}.yaml")
    solver = cfg.SOLVER
    assert cfg.MODEL["NAME"] == name
    assert model_spec(name, **classifier_settings(cfg)).drop_path == drop_path
    assert (cfg.DATA.DATASET, cfg.TRAIN.BATCH_SIZE, cfg.MODEL.NUM_CLASSES) == ("imagenet", 256, 1000)
    assert (solver.OPTIMIZING_METHOD, solver.WEIGHT_DECAY, solver.CLIP_GRAD_L2NORM) == ("adamw", 0.05, 1.0)
    assert (solver.LR_POLICY, solver.MAX_EPOCH, solver.WARMUP_EPOCHS) == ("cosine", 300, 70)
    assert learning_rates(cfg) == (2.5e-4, 1e-8, 1e-6)
    assert (solver.ZERO_WD_1D_PARAM, solver.ZERO_WD_POS_CLS, solver.LAYER_DECAY) == (True, False, 1.0)
    assert (cfg.AUG.AA_TYPE, cfg.AUG.RE_PROB, cfg.AUG.RE_MODE) == ("rand-m9-n6-mstd0.5-inc1", 0.25, "pixel")
    mixup = cfg.MIXUP
    assert (mixup.ENABLE, mixup.ALPHA, mixup.CUTMIX_ALPHA, mixup.PROB, mixup.SWITCH_PROB) == (True, 0.8, 1.0, 1.0, 0.5)
    assert mixup.LABEL_SMOOTH_VALUE == 0.1


@pytest.mark.parametrize("variant", "TSBL")
def test_the_test_configuration_evaluates_the_same_network(variant):
    training, test = load(f"MViTv2_{variant}.yaml"), load(f"test/MViTv2_{variant}_test.yaml")
    assert (test.TRAIN.ENABLE, test.TEST.ENABLE) == (False, True)
    assert (test.MODEL.NAME, classifier_settings(test)) == (training.MODEL.NAME, classifier_settings(training))
    assert int(test.DATA.TEST_CROP_SIZE / test.DATA.VAL_CROP_RATIO) == 256
    assert test.OUTPUT_DIR != training.OUTPUT_DIR


def test_a_small_batch_on_a_cpu_needs_no_other_setting():
    cfg = load("MViTv2_T.yaml", "DATA.PATH_TO_DATA_DIR", "somewhere", "NUM_GPUS", "0", "TRAIN.BATCH_SIZE", "8")
    assert learning_rates(cfg).base == pytest.approx(2.5e-4 * 8 / 256)


def test_a_short_run_only_has_to_leave_the_warm_up_out():
    short = ("SOLVER.MAX_EPOCH", "1")
    assert load("MViTv2_T.yaml", *short, "SOLVER.WARMUP_EPOCHS", "0").SOLVER.WARMUP_EPOCHS == 0
    slow = ("SOLVER.BASE_LR", "1e-7", "SOLVER.COSINE_END_LR", "0")
    load("finetune/MViTv2_T_finetune.yaml", *short, *slow, "SOLVER.WARMUP_EPOCHS", "0")
    with pytest.raises(UserError, match=r"SOLVER\.WARMUP_EPOCHS is 5\.0, .*MAX_EPOCH 1: lower it \(0: no warm-up\)"):
        load("finetune/MViTv2_T_finetune.yaml", *short)


def test_fine_tuning_replaces_the_head_and_spares_early_layers():
    cfg = load("finetune/MViTv2_T_finetune.yaml")
    assert cfg.TRAIN.NEW_HEAD
    assert cfg.SOLVER.LAYER_DECAY < 1
