"""The settings of a run: files, overrides, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvit.config import config_to_dict, default_config, load_config
from stvit.config.checks import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    AT_MOST,
    CHOICES,
    FRACTIONS,
    NOT_NEGATIVE,
    PROBABILITIES,
    RATIOS,
)
from stvit.config.reading import leaves
from stvit.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def refusal(path: str | None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_config_of_the_repository_loads(path):
    assert load_config(str(path)).is_frozen()


def test_the_defaults_pass_their_own_checks():
    assert config_to_dict(load_config(None)) == config_to_dict(default_config())


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = write(tmp_path, "SOLVER:\n  MAX_EPOCH: 7\n  BASE_LR: 0.5\n")
    cfg = load_config(path, ["SOLVER.BASE_LR", "0.25", "SOLVER.BASE_LR", "0.125"])
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.BASE_LR, cfg.TRAIN.BATCH_SIZE) == (7, 0.125, 16)


def test_a_file_builds_on_its_base(tmp_path):
    write(tmp_path, "SOLVER: {MAX_EPOCH: 7, BASE_LR: 0.5}\n", "base.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: base.yaml\nSOLVER: {MAX_EPOCH: 9}\n"))
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.BASE_LR) == (9, 0.5)


def test_a_base_that_leads_back_is_refused(tmp_path):
    write(tmp_path, "_BASE_: run.yaml\n", "base.yaml")
    assert "leads back" in refusal(write(tmp_path, "_BASE_: base.yaml\n"))


@pytest.mark.parametrize("text", ["1", "1e-3", "0.001", "1.0e-03"])
def test_numbers_are_read_however_they_are_written(tmp_path, text):
    from_file = load_config(write(tmp_path, f"SOLVER:\n  BASE_LR: {text}\n")).SOLVER.BASE_LR
    from_line = load_config(None, ["SOLVER.BASE_LR", text]).SOLVER.BASE_LR
    assert from_file == from_line == float(text)
    assert isinstance(from_file, float)


@pytest.mark.parametrize("text", ["1", "True", "null", "[a]", "2024-01-01", "{x}"])
def test_text_settings_take_the_command_line_verbatim(text):
    cfg = load_config(None, ["OUTPUT_DIR", text])
    value = cfg.OUTPUT_DIR
    assert value == text


@pytest.mark.parametrize("text", ["True", "true"])
def test_truth_values_are_read_in_both_spellings(text):
    assert load_config(None, ["TRAIN.COMPILE", text]).TRAIN.COMPILE is True


def test_model_settings_are_free_and_keep_their_types(tmp_path):
    path = write(tmp_path, "MODEL:\n  ARGS:\n    window: [4, 4]\n    block: mixvit\n")
    args = load_config(path, ["MODEL.ARGS.drop_path", "1e-1", "MODEL.ARGS.depth", "2"]).MODEL.ARGS
    assert dict(args) == {"window": [4, 4], "block": "mixvit", "drop_path": 0.1, "depth": 2}


def test_an_empty_group_and_an_empty_file_change_nothing(tmp_path):
    assert load_config(write(tmp_path, "TRAIN:\n  # BATCH_SIZE: 1\n")) == load_config(write(tmp_path, "", "e.yaml"))


def test_the_tree_is_frozen():
    with pytest.raises(AttributeError):
        load_config(None).SOLVER.BASE_LR = 1.0


def test_an_unknown_key_is_answered_with_the_place_and_the_nearest(tmp_path):
    path = write(tmp_path, "TRAIN:\n  ENABLE: True\n  BATCHSIZE: 4\n")
    message = refusal(path)
    assert f"{path}:3" in message
    assert "TRAIN.BATCHSIZE" in message
    assert "'TRAIN.BATCH_SIZE'" in message
    assert refusal(None, "SOLVR.BASE_LR", "1").startswith("command line: no setting is named 'SOLVR.BASE_LR'")
    assert "no setting" in refusal(None, "SOLVER.BASE_LR.x", "1")


def test_a_key_that_stands_twice_in_a_file_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path, "TRAIN:\n  BATCH_SIZE: 4\n  BATCH_SIZE: 8\n")
    assert refusal(path) == f"{path}:3: TRAIN.BATCH_SIZE stands here a second time; the first is in line 2"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("SOLVER.BASE_LR", "fast", "a number"),
        ("SOLVER.BASE_LR", "1e999", "a number"),
        ("SOLVER.MAX_EPOCH", "1.5", "a whole number"),
        ("SOLVER.MAX_EPOCH", "True", "a whole number"),
        ("TRAIN.ENABLE", "1", "True or False"),
        ("SOLVER.BETAS", "[0.9]", "a list of 2 numbers"),
        ("SOLVER.BETAS", "0.9", "a list of 2 numbers"),
        ("SOLVER.BETAS", "['a', 0.9]", "a number"),
        ("MOVING_MNIST.NUM_DIGITS", "2", "a list of numbers like [2]"),
        ("MOVING_MNIST.TEST_NUM_DIGITS", "[1.5]", "a whole number"),
        ("SOLVER", "1", "group"),
        ("MODEL.ARGS.x", "{'a': 1}", "a number, a name or a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key, value, wanted):
    message = refusal(None, key, value)
    assert message.startswith(f"command line: {key}")
    assert wanted in message


def test_text_that_yaml_reads_as_something_else_is_refused_with_the_way_out(tmp_path):
    assert "quotes" in refusal(write(tmp_path, "OUTPUT_DIR: 123\n"))


@pytest.mark.parametrize(
    "text", ["TRAIN: [unclosed\n", "- a\n- b\n", "TRAIN: 5\n", "just words\n", "A: !!python/name:os\n"]
)
def test_a_file_that_holds_no_settings_is_refused_with_its_name(tmp_path, text):
    path = write(tmp_path, text)
    assert refusal(path).startswith(path)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "OUTPUT_DIR: é\n".encode("latin-1")])
def test_a_file_that_is_not_text_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert refusal(str(path)) == f"{path}: not a UTF-8 text file"


def test_a_missing_file_is_named():
    assert "nowhere.yaml" in refusal("nowhere.yaml")


def test_a_key_without_a_value_is_named():
    assert "'TRAIN.ENABLE' has no value" in refusal(None, "TRAIN.ENABLE")


@pytest.mark.parametrize("key", CHOICES)
def test_names_outside_the_known_ones_are_refused(key):
    assert "it must be one of" in refusal(None, key, "nonsense")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (AT_LEAST_ONE, 0),
        (NOT_NEGATIVE, -1),
        (ABOVE_ZERO, 0),
        (PROBABILITIES, -1),
        (PROBABILITIES, 2),
        (FRACTIONS, -1),
        (FRACTIONS, 1),
        (RATIOS, 0),
        (RATIOS, 2),
    ],
)
def test_numbers_outside_their_range_are_refused(keys, value):
    for key in keys:
        assert refusal(None, key, str(value)).startswith(f"command line: {key} is {value}")


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        (("SOLVER.LR_POLICY", "cosine", "SOLVER.WARMUP_EPOCHS", "200"), "SOLVER.WARMUP_EPOCHS"),
        (("SOLVER.LR_POLICY", "cosine", "SOLVER.COSINE_END_LR", "1"), "SOLVER.COSINE_END_LR"),
        (("SOLVER.WARMUP_EPOCHS", "1"), "SOLVER.WARMUP_EPOCHS"),
        (("SOLVER.LR_POLICY", "cosine", "SOLVER.WARMUP_START_LR", "1e-5"), "SOLVER.WARMUP_START_LR"),
        (("SOLVER.LR_POLICY", "cosine", "SOLVER.ONECYCLE_PCT_START", "0.1"), "SOLVER.ONECYCLE_PCT_START"),
        (("SOLVER.LR_POLICY", "cosine", "SOLVER.ONECYCLE_DIV", "5"), "SOLVER.ONECYCLE_DIV"),
        (("NUM_GPUS", "0", "TRAIN.PRECISION", "fp16"), "TRAIN.PRECISION"),
        (("NUM_GPUS", "0", "TRAIN.CUDA_GRAPHS", "True"), "TRAIN.CUDA_GRAPHS"),
        (("NUM_GPUS", "2", "TRAIN.CUDA_GRAPHS", "True"), "TRAIN.CUDA_GRAPHS"),
        (("TRAIN.ACCUMULATE_STEPS", "2", "TRAIN.CUDA_GRAPHS", "True"), "TRAIN.CUDA_GRAPHS"),
        (("TRAIN.PRECISION", "fp16", "TRAIN.CUDA_GRAPHS", "True"), "TRAIN.CUDA_GRAPHS"),
        (("MODEL.ACT_CHECKPOINT", "True", "TRAIN.CUDA_GRAPHS", "True"), "TRAIN.CUDA_GRAPHS"),
        (("SOLVER.ONECYCLE_PCT_START", "1"), "SOLVER.ONECYCLE_PCT_START"),
        (("SOLVER.BETAS", "[1, 0.9]"), "SOLVER.BETAS"),
        (("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.MOMENTUM", "0"), "SOLVER.NESTEROV"),
        (("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.DAMPENING", "0.1"), "SOLVER.NESTEROV"),
        (("MOVING_MNIST.NUM_DIGITS", "[]"), "MOVING_MNIST.NUM_DIGITS"),
        (("MOVING_MNIST.TEST_NUM_DIGITS", "[0]"), "MOVING_MNIST.TEST_NUM_DIGITS"),
        (("MOVING_MNIST.DIGIT_SIZE", "65"), "MOVING_MNIST.DIGIT_SIZE"),
        (("MOVING_MNIST.IMAGE_SIZE", "6", "MOVING_MNIST.DIGIT_SIZE", "3"), "MOVING_MNIST.IMAGE_SIZE"),
        (("MOVING_MNIST.FRAMES_IN", "1"), "MOVING_MNIST.FRAMES_IN"),
        (("TRAIN.ACCUMULATE_STEPS", "626"), "MOVING_MNIST.TRAIN_SEQUENCES"),
        (("NUM_GPUS", "3"), "TRAIN.BATCH_SIZE"),
        (("BN.NORM_TYPE", "sync_batchnorm", "MODEL.FROZEN_BN", "True"), "BN.NORM_TYPE"),
        (("TRAIN.ENABLE", "False", "TEST.ENABLE", "False"), "TRAIN.ENABLE"),
        (("TEST.CHECKPOINT_FILE_PATH", "x.pt"), "TEST.CHECKPOINT_FILE_PATH"),
        (("OUTPUT_DIR", ""), "OUTPUT_DIR"),
        (("MODEL.NAME", ""), "MODEL.NAME"),
    ],
)
def test_combinations_that_cannot_work_are_refused(pairs, key):
    assert f" {key} is " in refusal(None, *pairs)


@pytest.mark.parametrize("key", AT_MOST)
def test_numbers_above_their_limit_are_refused_and_the_limit_is_not(key):
    assert refusal(None, key, str(AT_MOST[key] + 1)).endswith(f"it must be at most {AT_MOST[key]}")
    assert leaves(load_config(None, [key, str(AT_MOST[key])]))[key] == AT_MOST[key]


def test_every_numeric_setting_has_a_range():
    checked = {*AT_LEAST_ONE, *NOT_NEGATIVE, *ABOVE_ZERO, *PROBABILITIES, *FRACTIONS, *RATIOS}
    by_hand = {"SOLVER.ONECYCLE_PCT_START", "MOVING_MNIST.IMAGE_SIZE", "TEST.NUM_SPATIAL_CROPS"}
    numeric = {key for key, value in leaves(default_config()).items() if type(value) in (int, float)}
    assert numeric == checked | by_hand
