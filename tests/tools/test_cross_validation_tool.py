"""Cross-validation by groups: what a fold may hold, and that every video is tested once by who never saw its group."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tool_calls import ToolCall
from videos import write_video

IMAGE = """
MODEL: {NAME: mvitv2_tiny, NUM_CLASSES: 2, ARGS: {depths: [1, 1], width: 8, drop_path: 0.0}}
DATA: {DATASET: imagenet, TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32, VAL_CROP_RATIO: 1.0}
AUG: {AA_TYPE: "", RE_PROB: 0.0}
MIXUP: {ENABLE: False}
TRAIN: {BATCH_SIZE: 16}
SOLVER: {OPTIMIZING_METHOD: adamw, LR_POLICY: cosine, MAX_EPOCH: 1}
DATA_LOADER: {NUM_WORKERS: 0}
NUM_GPUS: 0
"""
CLIPS = IMAGE.replace("mvitv2_tiny", "mvitv2_tiny_16f").replace("imagenet,", "kinetics, NUM_FRAMES: 2,")


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    return ToolCall("cross_validation", capsys)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """24 videos of 12 patients, dark or bright, and one of a class of its own."""
    lines = [("file", "label", "patient")]
    for k in range(25):
        label = "rare" if k == 24 else ("bright", "dark")[k // 2 % 2]
        file = write_video(tmp_path / f"{k}.mp4", np.full((6, 24, 32, 3), 40 + 150 * (label == "bright"), np.uint8))
        lines.append((file.name, label, f"p{k // 2}"))
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return tmp_path / "clips.csv"


def test_every_video_is_tested_once_by_networks_that_never_saw_its_group(
    tool: ToolCall, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "image.yaml").write_text(IMAGE)
    (tmp_path / "clips.yaml").write_text(CLIPS.replace("BATCH_SIZE: 16", "BATCH_SIZE: 4"))
    words = ["--list", videos, "--group-column", "patient", "--leave-out", "rare", "--folds", 2]
    words += ["--cfg", tmp_path / "clips.yaml", "--image-cfg", tmp_path / "image.yaml", "--output", tmp_path / "out"]
    status, out, error = tool(*words, "TEST.NUM_ENSEMBLE_VIEWS", 2)
    assert status == 0, error
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(int(Path(line["video"]).stem) for line in lines) == list(range(24))
    tested = {fold: {line["group"] for line in lines if line["fold"] == fold} for fold in "12"}
    assert not tested["1"] & tested["2"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["methods"]) == ["most frequent class", "middle frame", "mean of 8 frames", "clips"]
    for method, values in results["methods"].items():
        right = sum(line[method] == line["true"] for line in lines)
        assert values["top1_accuracy"] == pytest.approx(100 * right / 24)
        assert method in out
    for fold in (1, 2):
        own = json.loads((tmp_path / "out" / f"fold{fold}" / "clips" / "results.json").read_text())
        assert (own["videos"], own["views_of_a_video"]) == (len(lines) // 2, 2)
        assert own["model"]["name"] == "mvitv2_tiny_16f"


def test_no_two_parts_of_a_fold_share_a_group_and_each_has_its_share_of_the_classes(
    tool: ToolCall, videos: Path
) -> None:
    listed, names = tool.module.read_list(videos, ("file", "label", "patient"), ["rare"])
    assert names == ("bright", "dark")
    folds = tool.module.grouped_folds(listed, 3, seed=1)
    assert sorted(k for fold in folds for k in fold.test) == list(range(24))
    for fold in folds:
        groups = [{listed[k].group for k in part} for part in (fold.train, fold.val, fold.test)]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 12
        assert [listed[k].label for k in fold.test].count(0) == 4
        assert fold.val
    assert folds != tool.module.grouped_folds(listed, 3, seed=2)


def test_frames_of_a_stopped_run_with_other_folds_do_not_stay_among_those_to_train_on(
    tool: ToolCall, videos: Path, tmp_path: Path
) -> None:
    listed, names = tool.module.read_list(videos, ("file", "label", "patient"), ["rare"])
    before, fold = (tool.module.grouped_folds(listed, 2, seed)[0] for seed in (1, 2))
    assert set(before.train) & set(fold.test)
    for made in (before, fold):
        tool.module.write_frames(tmp_path / "images", listed, made, names)
    for part, own in (("train", fold.train), ("val", fold.val)):
        files = list((tmp_path / "images" / part).glob("*/*.png"))
        assert {int(file.name.partition("_")[0]) for file in files} == set(own)
        assert len(files) == 8 * len(own)


def test_a_mistake_is_one_line_that_says_the_way_out(tool: ToolCall, videos: Path, tmp_path: Path) -> None:
    words = ["--cfg", "none.yaml", "--output", tmp_path / "out"]
    for more, said in (
        (["--list", tmp_path / "none.csv", "--group-column", "patient"], "no such file"),
        (["--list", videos, "--group-column", "patients"], "no column 'patients' (did you mean 'patient'?)"),
        (["--list", videos, "--group-column", "patient", "--leave-out", "dork"], "did you mean 'dark'"),
        (["--list", videos, "--group-column", "patient", "--leave-out", "dark", "rare"], "leaves 1 classes"),
        (["--list", videos, "--group-column", "patient"], "no more than the 1 groups of the rarest class"),
    ):
        status, _, error = tool(*words, *more)
        assert (status, error.count("\n")) == (2, 1)
        assert said in error
