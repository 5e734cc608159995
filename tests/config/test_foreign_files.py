"""Files written for facebookresearch/mvit and SlowFast: the same network, their defaults, and a line for what is lost.

The texts hold the facts of the published files (which keys, which values), none of their lines is longer than needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import stvit
from stvit.config import CfgNode, config_to_dict, load_config
from stvit.config.derived import classifier_settings
from stvit.config.slowfast_keys import ABSENT, AS_HERE, DEFAULTS, IGNORED, KNOWN, ONLY_MVIT, ONLY_SLOWFAST, REFUSED
from stvit.errors import UserError
from stvit.registry import model_spec

# The blocks in which a stage starts.
STARTS = {"T": (1, 3, 8), "S": (1, 3, 14), "B": (2, 5, 21), "L": (2, 8, 44)}
DEPTHS = {"T": 10, "S": 16, "B": 24, "L": 48}


def query_strides(variant: str, *time: int) -> list[list[int]]:
    """Every block with its stride; ``time`` is the stride of clips' first axis, or nothing."""
    return [[b, *time, 2, 2] if b in STARTS[variant] else [b, *time, 1, 1] for b in range(DEPTHS[variant])]


def network(variant: str, *time: int) -> dict[str, object]:
    """What all files say about the blocks of a variant."""
    doubling = [[block, 2.0] for block in STARTS[variant]]
    wide = {"EMBED_DIM": 144, "NUM_HEADS": 2} if variant == "L" else {}
    return {
        "DEPTH": DEPTHS[variant],
        "DIM_MUL": doubling,
        "HEAD_MUL": doubling,
        "POOL_Q_STRIDE": query_strides(variant, *time),
        **wide,
    }


def mvit(variant: str, **more: object) -> dict[str, object]:
    """A file of facebookresearch/mvit: images, and little is said that is not about blocks."""
    blocks = {"POOL_KVQ_KERNEL": [3, 3], "POOL_KV_STRIDE_ADAPTIVE": [4, 4], **network(variant), **more}
    return {"MVIT": blocks, "SOLVER": {"OPTIMIZING_METHOD": "adamw", "CLIP_GRAD_L2NORM": 1.0}}


def slowfast(variant: str, frames: int, crop: int, **more: object) -> dict[str, object]:
    """A file of SlowFast for clips."""
    blocks = {
        "CLS_EMBED_ON": True,
        "USE_ABS_POS": False,
        "REL_POS_SPATIAL": True,
        "REL_POS_TEMPORAL": True,
        "RESIDUAL_POOLING": True,
        "DIM_MUL_IN_ATT": True,
        "PATCH_KERNEL": "(3, 7, 7)",
        "PATCH_STRIDE": "(2, 4, 4)",
        "PATCH_PADDING": "(1, 3, 3)",
        "POOL_KVQ_KERNEL": [3, 3, 3],
        "POOL_KV_STRIDE_ADAPTIVE": [1, 8, 8],
        "ZERO_DECAY_POS_CLS": False,
        **network(variant, 1),
        **more,
    }
    return {
        "MVIT": blocks,
        "MODEL": {"ARCH": "mvit", "MODEL_NAME": "MViT", "LOSS_FUNC": "soft_cross_entropy"},
        "DATA": {
            "NUM_FRAMES": frames,
            "TRAIN_CROP_SIZE": crop,
            "TEST_CROP_SIZE": crop,
            "TRAIN_JITTER_SCALES": [356, 446] if crop > 256 else [256, 320],
            "INPUT_CHANNEL_NUM": [3],
        },
    }


def slowfast_images(**more: object) -> dict[str, object]:
    """A file of SlowFast for images."""
    content = slowfast("T", 1, 224)
    content["TRAIN"] = {"DATASET": "imagenet"}
    content["TEST"] = {"DATASET": "imagenet"}
    content["MODEL"] = {"ARCH": "mvit", "MODEL_NAME": "MViT", "NUM_CLASSES": 1000, "DROPOUT_RATE": 0.0}
    content["MVIT"] = {
        **content["MVIT"],  # type: ignore[dict-item]
        "PATCH_2D": True,
        "CLS_EMBED_ON": False,
        "REL_POS_TEMPORAL": False,
        "PATCH_KERNEL": [7, 7],
        "PATCH_STRIDE": [4, 4],
        "PATCH_PADDING": [3, 3],
        "POOL_KVQ_KERNEL": [1, 3, 3],
        "POOL_KV_STRIDE_ADAPTIVE": [1, 4, 4],
        **more,
    }
    return content


def load(folder: Path, content: dict[str, object] | str, *overrides: str) -> CfgNode:
    path = folder / "theirs.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return load_config(str(path), overrides)


def refusal(folder: Path, content: dict[str, object] | str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, content, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "name", "different"),
    [
        (mvit("T"), "mvitv2_tiny", {}),
        (mvit("S"), "mvitv2_small", {}),
        (mvit("B", DROPPATH_RATE=0.3), "mvitv2_base", {}),
        (mvit("B"), "mvitv2_base", {"drop_path": 0.1}),
        (mvit("L", DROPPATH_RATE=0.5, DIM_MUL_IN_ATT=False), "mvitv2_large", {}),
        (mvit("L", CLS_EMBED_ON=True, DROPPATH_RATE=0.5), "mvitv2_large_in21k", {}),
        (slowfast("S", 16, 224, DROPPATH_RATE=0.2), "mvitv2_small_16x4", {}),
        (slowfast("B", 32, 224, DROPPATH_RATE=0.4), "mvitv2_base_32x3", {"drop_path": 0.4}),
        (slowfast("L", 40, 312, DROPPATH_RATE=0.75), "mvitv2_large_40x3", {}),
        (slowfast_images(), "mvitv2_tiny", {}),
    ],
)
def test_a_published_network_is_recognised_by_its_numbers(tmp_path, content, name, different):
    cfg = load(tmp_path, content)
    assert (cfg.MODEL.NAME, dict(cfg.MODEL.ARGS)) == (name, different)


def test_the_network_has_the_frames_the_crop_and_the_classes_of_the_file(tmp_path):
    cfg = load(tmp_path, slowfast("S", 8, 200), "MODEL.NUM_CLASSES", "5")
    spec = model_spec(cfg.MODEL.NAME, **classifier_settings(cfg))
    assert (spec.input_size, spec.num_classes, spec.head_dropout) == ((8, 200, 200), 5, 0.5)


def test_strides_of_keys_are_the_same_network_listed_or_derived(tmp_path):
    listed = [[b, *stride] for b, stride in enumerate([(1, 4, 4), (1, 2, 2), (1, 2, 2)] + [(1, 1, 1)] * 7)]
    derived = load(tmp_path, slowfast_images())
    by_list = load(tmp_path, slowfast_images(POOL_KV_STRIDE=listed, POOL_KV_STRIDE_ADAPTIVE=None))
    assert (by_list.MODEL.NAME, by_list.MODEL.ARGS) == (derived.MODEL.NAME, derived.MODEL.ARGS)
    listed[2] = [2, 1, 4, 4]
    message = refusal(tmp_path, slowfast_images(POOL_KV_STRIDE=listed, POOL_KV_STRIDE_ADAPTIVE=None))
    assert "MVIT.POOL_KV_STRIDE is " in message
    assert "block 2 is [4, 4]: it is the stride of block 0 over those of the queries up to there, [2, 2]" in message


def test_the_first_mvit_is_built_from_a_row_and_what_differs_from_it(tmp_path, capsys):
    """36.611 M parameters in 313 tensors, as torchvision's mvit_v1_b and the specification of the published file."""
    content = slowfast("S", 16, 224)
    strided = [row for row in query_strides("S", 1) if row[0] in STARTS["S"]]
    kept = ("CLS_EMBED_ON", "PATCH_KERNEL", "PATCH_STRIDE", "PATCH_PADDING", "DEPTH", "DIM_MUL", "HEAD_MUL")
    blocks = {key: content["MVIT"][key] for key in (*kept, "POOL_KVQ_KERNEL", "POOL_KV_STRIDE_ADAPTIVE")}  # type: ignore[index]
    content["MVIT"] = {**blocks, "POOL_Q_STRIDE": strided, "SEP_POS_EMBED": True}
    cfg = load(tmp_path, content)
    assert "no named model is this network" in capsys.readouterr().err
    with torch.device("meta"):
        model = stvit.create_model(cfg.MODEL.NAME, **classifier_settings(cfg))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 36.611
    assert len(model.state_dict()) == 313


def test_mean_pooling_before_the_norm_is_kept_apart_from_that_after_it(tmp_path):
    cfg = load(tmp_path, slowfast("S", 16, 224, USE_MEAN_POOLING=True, DROPPATH_RATE=0.2))
    assert dict(cfg.MODEL.ARGS) == {"head_pooling": "mean_then_norm"}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"POOL_FIRST": True}, "MVIT.POOL_FIRST"),
        ({"MODE": "max"}, "MVIT.MODE"),
        ({"NORM": "batchnorm"}, "MVIT.NORM"),
        ({"SEPARATE_QKV": True}, "MVIT.SEPARATE_QKV"),
        ({"REV": {"ENABLE": True}}, "MVIT.REV.ENABLE"),
        ({"LAYER_SCALE_INIT_VALUE": 0.1}, "MVIT.LAYER_SCALE_INIT_VALUE"),
        ({"USE_ABS_POS": True}, "MVIT.USE_ABS_POS"),
        ({"REL_POS_TEMPORAL": False}, "MVIT.REL_POS_TEMPORAL"),
        ({"PATCH_PADDING": [2, 4, 4]}, "MVIT.PATCH_PADDING"),
        ({"PATCH_KERNEL": [7, 7]}, "MVIT.PATCH_KERNEL"),
        ({"POOL_KVQ_KERNEL": None}, "MVIT.POOL_KVQ_KERNEL"),
        ({"POOL_KV_STRIDE_ADAPTIVE": None}, "MVIT.POOL_KV_STRIDE_ADAPTIVE"),
        ({"DIM_MUL": [[1, 2.0]]}, "MVIT.DIM_MUL"),
        ({"HEAD_MUL": [[1, 3.0], [3, 2.0], [14, 2.0]]}, "MVIT.HEAD_MUL"),
        ({"POOL_Q_STRIDE": query_strides("S", 1)[1:]}, "MVIT.POOL_Q_STRIDE"),
        ({"POOL_Q_STRIDE": [[0, 1, 2, 2]]}, "MVIT.POOL_Q_STRIDE"),
        ({"POOL_Q_STRIDE": [[99, 1, 2, 2]]}, "MVIT.POOL_Q_STRIDE"),
        ({"DEPTH": 0}, "MVIT.DEPTH"),
    ],
)
def test_a_network_that_stvit_does_not_have_is_refused_at_the_setting_that_asks_for_it(tmp_path, more, key):
    message = refusal(tmp_path, slowfast("S", 16, 224, **more))
    assert f": {key} is " in message
    assert message.startswith((str(tmp_path / "theirs.yaml") + ":", "default of SlowFast (whose file this is by "))


def test_a_refused_default_says_what_made_it_one_and_what_the_file_can_set(tmp_path):
    message = refusal(tmp_path, "MODEL:\n  ARCH: mvit\n  NUM_CLASSES: 10\n")
    place = f"default of SlowFast (whose file this is by MODEL.ARCH, {tmp_path / 'theirs.yaml'}:2): "
    assert message.startswith(f"{place}MODEL.MODEL_NAME is 'SlowFast', but ")
    assert message.endswith("; set MODEL.MODEL_NAME: MViT in the file")


def test_another_network_of_theirs_is_refused(tmp_path):
    assert "MODEL.MODEL_NAME is 'SlowFast'" in refusal(tmp_path, "MODEL:\n  ARCH: slowfast\n  MODEL_NAME: SlowFast\n")
    content = slowfast("S", 16, 224)
    content["MODEL"] = {"MODEL_NAME": "MViT", "ARCH": "maskmvit"}
    assert "MODEL.ARCH is 'maskmvit'" in refusal(tmp_path, content)


def test_what_a_file_leaves_out_has_the_default_of_its_project(tmp_path):
    images, clips = load(tmp_path, mvit("T")), load(tmp_path, slowfast("S", 16, 224))
    assert (images.DATA.DATASET, clips.DATA.DATASET) == ("imagenet", "kinetics")
    assert (images.SOLVER.WARMUP_EPOCHS, clips.SOLVER.WARMUP_EPOCHS) == (70.0, 0.0)
    assert (images.SOLVER.BASE_LR, clips.SOLVER.BASE_LR) == (2.5e-4, 0.1)
    assert (images.SOLVER.ZERO_WD_1D_PARAM, clips.SOLVER.ZERO_WD_1D_PARAM) == (True, False)
    assert (images.SOLVER.COSINE_AFTER_WARMUP, clips.SOLVER.COSINE_AFTER_WARMUP) == (True, False)
    assert (images.DATA.MEAN, clips.DATA.MEAN) == ([0.485, 0.456, 0.406], [0.45, 0.45, 0.45])
    assert (images.MODEL.NUM_CLASSES, clips.MODEL.NUM_CLASSES) == (1000, 400)
    assert (images.TRAIN.BATCH_SIZE, clips.TRAIN.BATCH_SIZE) == (256, 64)
    assert (images.TEST.ENABLE, clips.TEST.ENABLE) == (False, True)
    assert (images.MIXUP.ENABLE, clips.MIXUP.ENABLE) == (True, False)
    assert (images.AUG.AA_TYPE, clips.AUG.AA_TYPE) == ("rand-m9-n6-mstd0.5-inc1", "")
    assert (images.TRAIN.PRECISION, clips.TRAIN.PRECISION) == ("fp32", "fp32")


def test_a_file_that_neither_project_can_load_is_refused(tmp_path):
    content = slowfast("S", 16, 224)
    content["TEST"] = {"CHECKPOINT_SQUEEZE_TEMPORAL": True}
    message = refusal(tmp_path, content)
    assert "TEST.CHECKPOINT_SQUEEZE_TEMPORAL is known to facebookresearch/mvit alone" in message
    assert "to SlowFast alone" in message


def test_settings_without_meaning_are_named_in_one_line_and_the_others_are_not(tmp_path, capsys):
    content = slowfast("S", 16, 224, DROPPATH_RATE=0.2)
    content["BN"] = {"USE_PRECISE_STATS": False}
    content["TENSORBOARD"] = {"HISTOGRAM": {"TOPK": 5}}
    load(tmp_path, content)
    lines = capsys.readouterr().err.splitlines()
    ignored = "BN.USE_PRECISE_STATS, TENSORBOARD.HISTOGRAM.TOPK"
    assert lines == [f"warning: these settings mean nothing here and are ignored: {ignored}"]


def test_nothing_is_said_where_nothing_is_lost(tmp_path, capsys):
    content = mvit("T")
    content["TEST"] = {"CHECKPOINT_SQUEEZE_TEMPORAL": True}
    load(tmp_path, content)
    assert capsys.readouterr().err == ""


def test_only_the_first_of_several_processes_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    content = mvit("T")
    content["DIST_BACKEND"] = "nccl"
    load(tmp_path, content)
    assert capsys.readouterr().err == ""


def test_every_setting_of_theirs_without_meaning_is_accepted_in_our_files_too(capsys):
    load_config(None, [word for key in sorted(IGNORED) for word in (key, "1")])
    assert capsys.readouterr().err.endswith(f"are ignored: {', '.join(sorted(IGNORED))}\n")


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_an_order_that_cannot_be_carried_out_is_refused(key):
    with pytest.raises(UserError, match=f"command line: {key} is 'other', but "):
        load_config(None, [key, "other"])
    load_config(None, [key, str(REFUSED[key][0][0])])


def test_an_unknown_setting_in_a_file_of_theirs_is_answered_with_their_nearest(tmp_path):
    message = refusal(tmp_path, mvit("T", DROPPATH=0.2))
    assert "no setting is named 'MVIT.DROPPATH' (did you mean 'MVIT.DROPPATH_RATE'" in message


def test_the_command_line_changes_files_of_theirs_in_their_words_and_in_ours(tmp_path):
    cfg = load(
        tmp_path,
        mvit("T"),
        *("NUM_GPUS", "0", "TRAIN.BATCH_SIZE", "8", "MVIT.DROPPATH_RATE", "0.2", "MODEL.ARGS.head_dropout", "0.3"),
        *("TRAIN.PRECISION", "bf16", "DATA.PATH_TO_DATA_DIR", "2024", "OUTPUT_DIR", "(1)", "SOLVER.BASE_LR", "1"),
    )
    assert (cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.PRECISION) == (0, 8, "bf16")
    assert dict(cfg.MODEL.ARGS) == {"drop_path": 0.2, "head_dropout": 0.3}
    assert (cfg.DATA.PATH_TO_DATA_DIR, cfg.OUTPUT_DIR, cfg.SOLVER.BASE_LR) == ("2024", "(1)", 1.0)


def test_what_was_read_is_written_and_read_again_in_our_words(tmp_path, capsys):
    cfg = load(tmp_path, slowfast("S", 8, 96, USE_MEAN_POOLING=True))
    capsys.readouterr()
    assert load(tmp_path, json.loads(json.dumps(config_to_dict(cfg)))) == cfg
    assert capsys.readouterr().err == ""


def test_two_settings_of_theirs_change_a_network_that_has_a_name():
    cfg = load_config(None, ["MODEL.NAME", "mvitv2_tiny", "MVIT.DROPPATH_RATE", "0.3", "MODEL.DROPOUT_RATE", "0.5"])
    assert dict(cfg.MODEL.ARGS) == {"drop_path": 0.3, "head_dropout": 0.5}
    with pytest.raises(UserError, match=r"MVIT.DEPTH describes a network, but MODEL.NAME \(command line\) names one"):
        load_config(None, ["MODEL.NAME", "mvitv2_tiny", "MVIT.DEPTH", "12"])


@pytest.mark.parametrize(
    ("gpus", "mixed", "precision"), [("1", "True", "fp16"), ("0", "True", "fp32"), ("1", "False", "fp32")]
)
def test_mixed_precision_is_float16_on_gpus(gpus, mixed, precision):
    train = load_config(None, ["NUM_GPUS", gpus, "TRAIN.MIXED_PRECISION", mixed]).TRAIN
    assert train["PRECISION"] == precision


def test_augmentation_and_smoothing_are_off_where_their_switches_are(tmp_path):
    content = slowfast("S", 16, 224)
    content["AUG"] = {"ENABLE": False, "RE_PROB": 0.25, "NUM_SAMPLE": 2}
    content["MIXUP"] = {"ENABLE": False, "LABEL_SMOOTH_VALUE": 0.1}
    cfg = load(tmp_path, content)
    assert (cfg.AUG.AA_TYPE, cfg.AUG.COLOR_JITTER, cfg.AUG.RE_PROB, cfg.AUG.NUM_SAMPLE) == ("", 0.0, 0.0, 1)
    assert cfg.MIXUP.LABEL_SMOOTH_VALUE == 0.0


def test_machines_multiply_the_batch_and_if_asked_the_rates(tmp_path, capsys):
    content = mvit("T")
    content["NUM_SHARDS"] = 4
    cfg = load(tmp_path, content)
    assert (cfg.TRAIN.BATCH_SIZE, cfg.SOLVER.BASE_LR) == (1024, 2.5e-4)
    assert "NUM_SHARDS 4: TRAIN.BATCH_SIZE are multiplied" in capsys.readouterr().err
    scaled = load(tmp_path, content, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", "True").SOLVER
    assert (scaled.BASE_LR, scaled.WARMUP_START_LR, scaled.COSINE_END_LR) == (1e-3, 4e-8, 4e-6)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("imagenetprefetch", "imagenet"), ("Kinetics", "kinetics"), ("ssv2", "ssv2")]
)
def test_their_data_sets_have_names_here(theirs, ours):
    data = load_config(None, ["TRAIN.DATASET", theirs]).DATA
    assert data["DATASET"] == ours


def test_a_data_set_without_a_name_here_and_two_in_one_run_are_refused():
    with pytest.raises(UserError, match=r"TRAIN.DATASET is 'charades', but of their data sets stvit knows"):
        load_config(None, ["TRAIN.DATASET", "charades"])
    with pytest.raises(UserError, match=r"TEST.DATASET is 'ssv2': a run has one data set"):
        load_config(None, ["TRAIN.DATASET", "kinetics", "TEST.DATASET", "ssv2"])


def test_a_setting_that_stands_twice_in_their_file_counts_as_there_and_is_named(tmp_path, capsys):
    text = yaml.safe_dump(slowfast("S", 16, 224, DROPPATH_RATE=0.2))
    twice = text.replace("  RESIDUAL_POOLING: true\n", "  RESIDUAL_POOLING: false\n  RESIDUAL_POOLING: true\n")
    assert twice != text
    assert dict(load(tmp_path, twice).MODEL.ARGS) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert "MVIT.RESIDUAL_POOLING stands here a second time" in line
    assert line.endswith("this one counts, as in SlowFast")


def test_a_group_that_stands_twice_in_their_file_is_refused_because_there_the_first_is_lost(tmp_path):
    assert "MVIT stands here a second time" in refusal(tmp_path, "MVIT:\n  DEPTH: 10\nMVIT:\n  DEPTH: 16\n")


def test_the_setting_that_slowfast_refuses_in_its_own_files_is_named(tmp_path, capsys):
    content = slowfast("S", 16, 224, DROPPATH_RATE=0.2)
    content["PREFETCH"] = {"NUM_LOADERS": 3}
    load(tmp_path, content)
    (line,) = capsys.readouterr().err.splitlines()
    assert "PREFETCH.NUM_LOADERS is ignored; SlowFast itself has no such setting and refuses it" in line


def test_a_line_with_too_few_spaces_is_refused_with_its_place(tmp_path):
    message = refusal(tmp_path, "MVIT:\n  QKV_BIAS: True\nDROPPATH_RATE: 0.3\n  DEPTH: 24\n")
    assert message.startswith(f"{tmp_path / 'theirs.yaml'}:4: not YAML")
    assert "spaces that are missing or too many" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MVIT.DEPTH", "ten"),
        ("MVIT.CLS_EMBED_ON", 1),
        ("MVIT.MLP_RATIO", True),
        ("MVIT.POOL_Q_STRIDE", 3),
        ("MVIT.EMBED_DIM", 96.5),
        ("SOLVER.CLIP_GRAD_L2NORM", "much"),
        ("MVIT.NORM", None),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, key, value):
    content = mvit("T")
    group, name = key.split(".")
    content[group][name] = value  # type: ignore[index]
    assert f"{key} must be of the kind of " in refusal(tmp_path, content)


@pytest.mark.parametrize("none", [None, "None"])
def test_none_is_no_augmentation_and_no_clipping(tmp_path, none):
    content = slowfast("S", 16, 224)
    content["AUG"] = {"ENABLE": True, "COLOR_JITTER": none, "AA_TYPE": none}
    content["SOLVER"] = {"CLIP_GRAD_L2NORM": none}
    cfg = load(tmp_path, content)
    assert (cfg.AUG.COLOR_JITTER, cfg.AUG.AA_TYPE, cfg.SOLVER.CLIP_GRAD_L2NORM) == (0.0, "", 0.0)


def test_empty_groups_of_theirs_change_nothing(tmp_path, capsys):
    content = mvit("T")
    assert load(tmp_path, {**content, "DEMO": None, "AVA": None}) == load(tmp_path, content)
    assert capsys.readouterr().err == ""


def test_the_tables_of_their_settings_agree_with_each_other():
    assert {key for key, (mvit_default, _) in DEFAULTS.items() if mvit_default is ABSENT} <= ONLY_SLOWFAST
    assert ONLY_MVIT.isdisjoint(ONLY_SLOWFAST)
    assert IGNORED.isdisjoint(DEFAULTS)
    assert IGNORED.isdisjoint(AS_HERE)
    assert len([key for key in KNOWN if not key.startswith("PREFETCH.")]) == 341
