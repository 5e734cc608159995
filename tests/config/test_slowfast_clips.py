"""Files of SlowFast for videos give the same network, the same clips and the same recipe.

The texts hold the facts of the published files: which keys, which values.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from stvit.config import CfgNode, load_config
from stvit.config.derived import classifier_settings, clip_preprocessing, clip_sampling, learning_rates
from stvit.errors import UserError
from stvit.registry import model_preprocessing, model_spec

Content = dict[str, dict[str, object]]

# Kinetics/MVITv2_S_16x4.yaml, but for MVIT.POOL_Q_STRIDE, which lists all blocks and is added below.
SMALL: Content = {
    "TRAIN": {"ENABLE": True, "DATASET": "kinetics", "BATCH_SIZE": 16, "EVAL_PERIOD": 10, "CHECKPOINT_PERIOD": 10},
    "DATA": {
        "USE_OFFSET_SAMPLING": True,
        "DECODING_BACKEND": "torchvision",
        "NUM_FRAMES": 16,
        "SAMPLING_RATE": 4,
        "TRAIN_JITTER_SCALES": [256, 320],
        "TRAIN_CROP_SIZE": 224,
        "TEST_CROP_SIZE": 224,
        "INPUT_CHANNEL_NUM": [3],
        "TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0],
        "TRAIN_JITTER_ASPECT_RELATIVE": [0.75, 1.3333],
    },
    "MVIT": {
        "ZERO_DECAY_POS_CLS": False,
        "USE_ABS_POS": False,
        "REL_POS_SPATIAL": True,
        "REL_POS_TEMPORAL": True,
        "DEPTH": 16,
        "NUM_HEADS": 1,
        "EMBED_DIM": 96,
        "PATCH_KERNEL": "(3, 7, 7)",
        "PATCH_STRIDE": "(2, 4, 4)",
        "PATCH_PADDING": "(1, 3, 3)",
        "MLP_RATIO": 4.0,
        "QKV_BIAS": True,
        "DROPPATH_RATE": 0.2,
        "NORM": "layernorm",
        "MODE": "conv",
        "CLS_EMBED_ON": True,
        "DIM_MUL": [[1, 2.0], [3, 2.0], [14, 2.0]],
        "HEAD_MUL": [[1, 2.0], [3, 2.0], [14, 2.0]],
        "POOL_Q_STRIDE": [[b, 1, 2, 2] if b in (1, 3, 14) else [b, 1, 1, 1] for b in range(16)],
        "POOL_KVQ_KERNEL": [3, 3, 3],
        "POOL_KV_STRIDE_ADAPTIVE": [1, 8, 8],
        "DROPOUT_RATE": 0.0,
        "DIM_MUL_IN_ATT": True,
        "RESIDUAL_POOLING": True,
    },
    "AUG": {
        "NUM_SAMPLE": 2,
        "ENABLE": True,
        "COLOR_JITTER": 0.4,
        "AA_TYPE": "rand-m7-n4-mstd0.5-inc1",
        "INTERPOLATION": "bicubic",
        "RE_PROB": 0.25,
        "RE_MODE": "pixel",
        "RE_COUNT": 1,
        "RE_SPLIT": False,
    },
    "MIXUP": {
        "ENABLE": True,
        "ALPHA": 0.8,
        "CUTMIX_ALPHA": 1.0,
        "PROB": 1.0,
        "SWITCH_PROB": 0.5,
        "LABEL_SMOOTH_VALUE": 0.1,
    },
    "SOLVER": {
        "ZERO_WD_1D_PARAM": True,
        "BASE_LR_SCALE_NUM_SHARDS": True,
        "CLIP_GRAD_L2NORM": 1.0,
        "BASE_LR": 0.0001,
        "COSINE_AFTER_WARMUP": True,
        "COSINE_END_LR": 1e-6,
        "WARMUP_START_LR": 1e-6,
        "WARMUP_EPOCHS": 30.0,
        "LR_POLICY": "cosine",
        "MAX_EPOCH": 200,
        "MOMENTUM": 0.9,
        "WEIGHT_DECAY": 0.05,
        "OPTIMIZING_METHOD": "adamw",
    },
    "MODEL": {
        "NUM_CLASSES": 400,
        "ARCH": "mvit",
        "MODEL_NAME": "MViT",
        "LOSS_FUNC": "soft_cross_entropy",
        "DROPOUT_RATE": 0.5,
    },
    "TEST": {
        "ENABLE": True,
        "DATASET": "kinetics",
        "BATCH_SIZE": 64,
        "NUM_SPATIAL_CROPS": 1,
        "NUM_ENSEMBLE_VIEWS": 5,
    },
    "DATA_LOADER": {"NUM_WORKERS": 8, "PIN_MEMORY": True},
}


def changed(**groups: dict[str, object]) -> Content:
    """The file with other values in some of its groups; None takes a setting out."""
    content = copy.deepcopy(SMALL)
    for group, values in groups.items():
        content.setdefault(group, {}).update(values)
        content[group] = {key: value for key, value in content[group].items() if value is not None}
    return content


def something_something() -> Content:
    """SSv2/MVITv2_S_16x4.yaml."""
    return changed(
        TRAIN={"DATASET": "ssv2", "EVAL_PERIOD": 2, "CHECKPOINT_TYPE": "pytorch", "CHECKPOINT_EPOCH_RESET": True},
        DATA={
            "USE_OFFSET_SAMPLING": None,
            "TRAIN_JITTER_SCALES_RELATIVE": None,
            "TRAIN_JITTER_ASPECT_RELATIVE": None,
            "INV_UNIFORM_SAMPLE": True,
            "RANDOM_FLIP": False,
            "REVERSE_INPUT_CHANNEL": True,
        },
        MVIT={"DROPPATH_RATE": 0.4},
        AUG={"NUM_SAMPLE": 1},
        SOLVER={
            "CLIP_GRAD_L2NORM": None,
            "BASE_LR": 0.0025,
            "WARMUP_START_LR": 1e-4,
            "WARMUP_EPOCHS": 3.0,
            "MAX_EPOCH": 100,
            "WEIGHT_DECAY": 1e-4,
            "OPTIMIZING_METHOD": "sgd",
        },
        MODEL={"NUM_CLASSES": 174},
        TEST={"DATASET": "ssv2", "NUM_ENSEMBLE_VIEWS": 1, "NUM_SPATIAL_CROPS": 3},
    )


def load(folder: Path, content: Content, *overrides: str) -> CfgNode:
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_config(str(path), ["NUM_GPUS", "0", *overrides])


def test_the_small_networks_file_gives_the_published_network_and_the_published_test(tmp_path):
    cfg = load(tmp_path, SMALL)
    assert model_spec(cfg.MODEL.NAME, **classifier_settings(cfg)) == model_spec("mvitv2_small_16x4")
    published = model_preprocessing("mvitv2_small_16x4")
    assert clip_preprocessing(cfg, published) == published


def test_the_small_networks_file_gives_the_same_sampling_and_views(tmp_path):
    cfg = load(tmp_path, SMALL)
    sampling = clip_sampling(cfg, clip_preprocessing(cfg, model_preprocessing(cfg.MODEL.NAME)))
    assert (sampling.frames, sampling.rate, sampling.target_fps) == (16, 4, 30.0)
    assert (sampling.method, sampling.fps_jitter, sampling.offset) == ("dense", 0.0, True)
    data = cfg.DATA
    assert (data.DATASET, data.TRAIN_CROP_SIZE, data.RANDOM_FLIP) == ("kinetics", 224, True)
    assert (data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_ASPECT_RELATIVE) == ([0.08, 1.0], [0.75, 1.3333])
    assert (data.MEAN, data.STD, data.DECODER) == ([0.45] * 3, [0.225] * 3, "auto")
    assert (data.PATH_PREFIX, data.PATH_LABEL_SEPARATOR) == ("", "")


def test_the_small_networks_file_gives_the_same_recipe(tmp_path):
    cfg = load(tmp_path, SMALL)
    aug, mixup, solver = cfg.AUG, cfg.MIXUP, cfg.SOLVER
    assert (aug.AA_TYPE, aug.NUM_SAMPLE, aug.REPEATS) == ("rand-m7-n4-mstd0.5-inc1", 2, 1)
    assert (aug.RE_PROB, aug.RE_MODE, aug.RE_COUNT) == (0.25, "pixel", 1)
    assert (mixup.ENABLE, mixup.ALPHA, mixup.CUTMIX_ALPHA, mixup.PROB, mixup.SWITCH_PROB) == (True, 0.8, 1.0, 1.0, 0.5)
    assert mixup.LABEL_SMOOTH_VALUE == 0.1
    assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.ACCUMULATE_STEPS, cfg.TRAIN.PRECISION) == (16, 1, "fp32")
    assert learning_rates(cfg) == (1e-4, 1e-6, 1e-6)
    assert (solver.OPTIMIZING_METHOD, solver.BETAS, solver.WEIGHT_DECAY) == ("adamw", [0.9, 0.999], 0.05)
    assert (solver.ZERO_WD_1D_PARAM, solver.ZERO_WD_POS_CLS, solver.LAYER_DECAY) == (True, False, 1.0)
    assert (solver.LR_POLICY, solver.MAX_EPOCH, solver.WARMUP_EPOCHS, solver.COSINE_AFTER_WARMUP) == (
        "cosine", 200, 30.0, True
    )  # fmt: skip
    assert (solver.CLIP_GRAD_L2NORM, solver.EMA_DECAY) == (1.0, 0.0)
    assert (cfg.TRAIN.ENABLE, cfg.TEST.ENABLE, cfg.TEST.BATCH_SIZE) == (True, True, 64)


def test_our_file_for_the_small_network_is_the_same_run(tmp_path):
    """But for precision, the loader and the folders, and that our learning rates follow the batch."""
    ours = load_config(str(Path(__file__).parents[2] / "configs/kinetics/MViTv2_S_16x4.yaml"))
    theirs = load(tmp_path, SMALL)
    assert learning_rates(ours) == learning_rates(theirs)
    assert (ours.MODEL, ours.MIXUP) == (theirs.MODEL, theirs.MIXUP)
    differ = {"BASE_LR_BATCH_SIZE"}
    assert {key for key in ours.SOLVER if ours.SOLVER[key] != theirs.SOLVER[key]} == differ
    assert {key for key in ours.AUG if ours.AUG[key] != theirs.AUG[key]} == set()
    assert {key for key in ours.DATA if ours.DATA[key] != theirs.DATA[key]} == {"PATH_TO_DATA_DIR", "VAL_CROP_MODE"}
    assert {key for key in ours.TEST if ours.TEST[key] != theirs.TEST[key]} == set()


def test_machines_multiply_batch_and_rates_as_the_file_says(tmp_path):
    cfg = load(tmp_path, {**SMALL, "NUM_SHARDS": 16})  # type: ignore[dict-item]
    assert cfg.TRAIN.BATCH_SIZE == 256
    assert learning_rates(cfg) == pytest.approx((1.6e-3, 1.6e-5, 1.6e-5))


def test_the_test_file_of_the_large_network_gives_three_crops_of_the_whole_longer_side(tmp_path):
    wide = {"DEPTH": 48, "NUM_HEADS": 2, "EMBED_DIM": 144, "DROPPATH_RATE": 0.75}
    starts = [[block, 2.0] for block in (2, 8, 44)]
    strides = [[b, 1, 2, 2] if b in (2, 8, 44) else [b, 1, 1, 1] for b in range(48)]
    content = changed(
        TRAIN={"ENABLE": False},
        DATA={
            "NUM_FRAMES": 40,
            "SAMPLING_RATE": 3,
            "TRAIN_JITTER_SCALES": [356, 446],
            "TRAIN_CROP_SIZE": 312,
            "TEST_CROP_SIZE": 312,
            "MEAN": [0.485, 0.456, 0.406],
            "STD": [0.229, 0.224, 0.225],
        },
        MVIT={**wide, "DIM_MUL": starts, "HEAD_MUL": starts, "POOL_Q_STRIDE": strides},
        MODEL={"ACT_CHECKPOINT": True},
        TEST={"NUM_SPATIAL_CROPS": 3, "BATCH_SIZE": 8},
    )
    cfg = load(tmp_path, content)
    assert cfg.MODEL.NAME == "mvitv2_large_40x3"
    published = model_preprocessing("mvitv2_large_40x3")
    assert clip_preprocessing(cfg, published) == published
    one = load(tmp_path, content, "TEST.NUM_SPATIAL_CROPS", "1")
    assert 312 / clip_preprocessing(one, published).crop_fraction == pytest.approx(356)


def test_something_something_is_sampled_cropped_and_tested_as_there(tmp_path, capsys):
    cfg = load(tmp_path, something_something())
    data, solver = cfg.DATA, cfg.SOLVER
    assert (data.DATASET, data.RANDOM_FLIP, data.INV_UNIFORM_SAMPLE) == ("ssv2", False, True)
    assert (data.TRAIN_JITTER_SCALES_RELATIVE, data.TRAIN_JITTER_SCALES) == ([], [256, 320])
    prepared = clip_preprocessing(cfg, model_preprocessing(cfg.MODEL.NAME))
    assert (prepared.clip_sampling, prepared.test_views, prepared.test_crops) == ("segments", 1, 3)
    assert (prepared.crop_fraction, prepared.interpolation) == (1.0, "bilinear")
    assert (solver.OPTIMIZING_METHOD, solver.MOMENTUM, solver.NESTEROV, solver.WEIGHT_DECAY) == ("sgd", 0.9, True, 1e-4)
    assert (learning_rates(cfg), solver.CLIP_GRAD_L2NORM) == ((2.5e-3, 1e-4, 1e-6), 0.0)
    assert dict(cfg.MODEL.ARGS) == {"drop_path": 0.4}
    assert "BGR" not in capsys.readouterr().err


def test_what_a_file_leaves_out_about_videos_has_slowfasts_default(tmp_path):
    cfg = load(tmp_path, changed(DATA={key: None for key in SMALL["DATA"] if key != "INPUT_CHANNEL_NUM"}, TEST={
        "NUM_SPATIAL_CROPS": None, "NUM_ENSEMBLE_VIEWS": None,
    }))  # fmt: skip
    data = cfg.DATA
    assert (data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, data.TRAIN_JITTER_FPS) == (8, 8, 30.0, 0.0)
    assert (data.TRAIN_JITTER_SCALES, data.TRAIN_JITTER_SCALES_RELATIVE) == ([256, 320], [])
    assert (data.USE_OFFSET_SAMPLING, data.RANDOM_FLIP, data.INV_UNIFORM_SAMPLE) == (False, True, False)
    assert (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS) == (10, 3)
    assert (data.TRAIN_CROP_SIZE, data.TEST_CROP_SIZE, data.VAL_CROP_RATIO) == (224, 256, 1.0)


def test_one_test_crop_is_cut_from_the_shortest_side_of_training(tmp_path):
    assert load(tmp_path, changed(DATA={"TRAIN_JITTER_SCALES": [280, 320]})).DATA.VAL_CROP_RATIO == 224 / 280
    rounded = load(tmp_path, changed(DATA={"TRAIN_JITTER_SCALES": [100, 320], "TEST_CROP_SIZE": 56})).DATA
    assert int(56 / rounded.VAL_CROP_RATIO) == 100  # 56 / (56 / 100) is below 100 in floating point
    assert load(tmp_path, SMALL, "DATA.VAL_CROP_RATIO", "0.95").DATA.VAL_CROP_RATIO == 0.95
    with pytest.raises(UserError, match=r"SCALES is \[200, 320\], but .* at least DATA.TEST_CROP_SIZE 224"):
        load(tmp_path, changed(DATA={"TRAIN_JITTER_SCALES": [200, 320]}))


def test_weights_to_begin_from_may_be_for_other_classes_as_there(tmp_path):
    cfg = load(tmp_path, SMALL, "TRAIN.CHECKPOINT_FILE_PATH", "k400.pyth")
    assert (cfg.MODEL.INIT, cfg.TRAIN.CHECKPOINT_FILE_PATH) == ("k400.pyth", "")


def test_a_video_that_cannot_be_read_is_replaced_as_there_but_not_without_end(tmp_path):
    data = load(tmp_path, SMALL).DATA
    assert (data.ON_BAD_VIDEO, data.MAX_BAD_PERCENT) == ("replace", 1.0)
    assert load(tmp_path, SMALL, "DATA.ON_BAD_VIDEO", "raise").DATA.ON_BAD_VIDEO == "raise"


def test_only_the_library_that_decodes_is_said_to_differ(tmp_path, capsys):
    load(tmp_path, SMALL)
    (line,) = capsys.readouterr().err.splitlines()
    assert "DATA.DECODING_BACKEND torchvision: decoding is DATA.DECODER's, auto" in line
    assert load(tmp_path, changed(DATA={"DECODING_BACKEND": "pyav"})).DATA.DECODER == "pyav"
    assert capsys.readouterr().err == ""


def test_frames_that_slowfast_would_see_as_bgr_are_named(tmp_path, capsys):
    load(tmp_path, changed(DATA={"REVERSE_INPUT_CHANNEL": True, "DECODING_BACKEND": "pyav"}))
    assert "REVERSE_INPUT_CHANNEL True: by it SlowFast's frames are BGR" in capsys.readouterr().err
    content = something_something()
    del content["DATA"]["REVERSE_INPUT_CHANNEL"]
    load(tmp_path, content)
    assert "REVERSE_INPUT_CHANNEL False: by it SlowFast's frames are BGR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATA.ENSEMBLE_METHOD", "max"),
        ("DATA.TRAIN_CROP_NUM_TEMPORAL", "2"),
        ("DATA.TRAIN_CROP_NUM_SPATIAL", "2"),
        ("DATA.TRAIN_JITTER_MOTION_SHIFT", "True"),
        ("DATA.SKIP_ROWS", "1"),
        ("TEST.NUM_SPATIAL_CROPS", "2"),
    ],
)
def test_what_would_be_another_training_or_test_is_refused(tmp_path, key, value):
    with pytest.raises(UserError, match=f"{key} is "):
        load(tmp_path, SMALL, key, value)
