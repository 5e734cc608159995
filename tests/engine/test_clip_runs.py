"""Whole runs on lists of videos in miniature: training, resumption, test by views, bad videos, and mistakes."""

from __future__ import annotations

import csv
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from clip_runs import CLASSES, FRAMES, SETTINGS, SIZE, make_lists
from main_runs import equal_bits, records, results

import stvit
import stvit.engine.train
from stvit.checkpoint import model_from_checkpoint, pack_model, read_checkpoint, save_checkpoint
from stvit.config import load_config
from stvit.datasets.image_splits import logits_of_classes
from stvit.datasets.video.clip_sampling import ClipSampling, view_clip
from stvit.datasets.video.clip_transforms import normalised_clips, view_crops
from stvit.datasets.video.reading import open_video
from stvit.engine import run as run_module
from stvit.engine.distributed import World
from stvit.engine.evaluate_clips import refuse_miscount
from stvit.engine.signals import Stopped
from stvit.engine.steps import Interval
from stvit.engine.tasks import build_task
from stvit.errors import UserError

NAME = SETTINGS["MODEL"]["NAME"]
STEPS = 3  # of an epoch: 12 videos, 4 at a time
PLAIN = ("MIXUP.ENABLE", False, "AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0, "AUG.RE_PROB", 0)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    return make_lists(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, lists):
    """Makes the checked settings of a miniature run."""
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    data = ("DATA.PATH_TO_DATA_DIR", str(lists))
    return lambda output, *pairs: load_config(str(path), [*data, "OUTPUT_DIR", str(output), *map(str, pairs)])


@pytest.fixture(scope="module")
def run(settings):
    def start(output, *pairs):
        run_module.run(settings(output, *pairs))
        return output

    return start


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def task_of(settings, tmp_path):
    def build(*pairs, rank=0, size=1):
        return build_task(settings(tmp_path / "out", *pairs), World(torch.device("cpu"), rank, size))

    return build


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spoilt(lists, folder, *names):
    """A copy of the lists in which some videos cannot be decoded."""
    root = shutil.copytree(lists, folder)
    for name in names:
        (root / name).write_bytes(b"no video")
    return root


def test_a_run_leaves_checkpoints_figures_predictions_and_pictures(finished):
    left = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert left == {
        "checkpoints/last.pt", "checkpoints/best.pt", "config.yaml", "metrics.jsonl", "results.json", "examples.png",
        "confusion.png", "predictions.csv",
    }  # fmt: skip
    assert [set(line) for line in records(finished, "validation")] == [
        {"kind", "epoch", "step", "top1_error", "top5_error", "loss"}
    ] * 2


def test_the_checkpoint_carries_class_names_preparation_and_test_protocol(finished):
    described = model_from_checkpoint(finished / "checkpoints" / "best.pt").preprocessing
    assert described.labels == CLASSES
    assert (described.frames, described.clip_sampling, described.sampling_rate) == (FRAMES, "dense", 2)
    assert (described.test_views, described.test_crops, described.crop_fraction) == (2, 3, 1.0)


def plain_scores(checkpoint, lists, part, views, crops):
    """Every video of a list, frame by frame and view by view: truth, logits ``(videos, views * crops, classes)``."""
    model = model_from_checkpoint(checkpoint)
    prepared = model.preprocessing.__class__(**{**vars(model.preprocessing), "test_views": views, "test_crops": crops})
    truth, logits = [], []
    for line in (lists / f"{part}.csv").read_text().splitlines():
        name, label = line.split()
        truth.append(CLASSES.index(label))
        clips = []
        with open_video(lists / name) as video:
            for view in range(views):
                chosen = view_clip(ClipSampling(FRAMES, rate=2), video.times, video.fps, view, views)
                clips.append(view_crops(video.read(chosen), prepared))
        with torch.no_grad():
            logits.append(torch.stack([model(normalised_clips(clip[None], prepared))[0] for clip in torch.cat(clips)]))
    return torch.tensor(truth), torch.stack(logits)


def test_the_test_is_what_a_plain_loop_over_videos_and_views_gives(finished, lists):
    truth, logits = plain_scores(finished / "checkpoints" / "best.pt", lists, "test", views=2, crops=3)
    scores = logits.softmax(dim=-1).mean(dim=1)
    predicted = scores.argmax(dim=1)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (truth.numpy(), predicted.numpy()), 1)
    written = results(finished)
    assert (written["videos"], written["views"], written["views_of_a_video"]) == (9, 54, 6)
    assert written["confusion"] == {"classes": list(CLASSES), "rows_are_true": confusion.tolist()}
    figures = written["methods"][NAME]
    assert figures["mean"]["top1_accuracy"] == pytest.approx(100 * float((truth == predicted).double().mean()))
    assert figures["mean"]["mean_class_accuracy"] == pytest.approx(100 * np.mean(confusion.diagonal() / 3))
    of_clips = (logits.argmax(dim=-1) == truth[:, None]).double().mean()
    assert figures["single_clips"]["top1_accuracy"] == pytest.approx(100 * float(of_clips))
    table = rows(finished / "predictions.csv")
    assert [row["video"] for row in table] == [
        line.split()[0] for line in (lists / "test.csv").read_text().splitlines()
    ]
    assert [row["predicted"] for row in table] == [CLASSES[k] for k in predicted]
    assert [float(row["probability"]) for row in table] == pytest.approx(scores.max(dim=1).values.tolist(), abs=1e-4)
    assert written["notes"] == []
    assert "2 views x 3 crops, 4 frames spaced by 2 at 30 frames/s, short side 32" in written["protocol"]["views"]


def test_validation_is_the_loss_and_error_of_one_centre_view_of_each_video(finished, lists):
    truth, logits = plain_scores(finished / "checkpoints" / "last.pt", lists, "val", views=1, crops=1)
    last = records(finished, "validation")[-1]
    assert last["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits[:, 0], truth).item(), rel=1e-4)
    wrong = (logits[:, 0].argmax(dim=1) != truth).double().mean()
    assert last["top1_error"] == pytest.approx(100 * float(wrong))


def test_a_network_learns_what_its_classes_look_like(run, tmp_path, capsys):
    output = run(tmp_path / "run", *PLAIN, "SOLVER.MAX_EPOCH", 6, "SOLVER.BASE_LR", 5e-3, "TRAIN.EVAL_PERIOD", 6)
    assert results(output)["methods"][NAME]["mean"]["top1_accuracy"] == 100
    assert "clips/s" in capsys.readouterr().out


EVERYTHING = (
    *("AUG.NUM_SAMPLE", 2, "AUG.RE_PROB", 0.8, "TRAIN.ACCUMULATE_STEPS", 2, "TRAIN.BATCH_SIZE", 2),
    *("SOLVER.EMA_DECAY", 0.9, "TEST.ENABLE", False),
)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run", *EVERYTHING)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_to_the_bits_of_an_uninterrupted_one(whole, run, tmp_path, monkeypatch, workers):
    """With two clips of each video, mixing, erasing, accumulation and a running mean of the weights."""
    step, calls = stvit.engine.train.training_step, []

    def signalled(*arguments):
        calls.append(None)
        if len(calls) == STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(stvit.engine.train, "training_step", signalled)
    with pytest.raises(Stopped):
        run(tmp_path / "run", *EVERYTHING)
    monkeypatch.undo()
    run(tmp_path / "run", *EVERYTHING, "DATA_LOADER.NUM_WORKERS", workers)
    for name in ("last.pt", "best.pt"):
        ours, theirs = (read_checkpoint(path / "checkpoints" / name) for path in (tmp_path / "run", whole))
        for entry in theirs.keys() - {"config", "metrics_bytes", "seconds"}:
            assert equal_bits(ours[entry], theirs[entry]), entry


def test_bytes_leave_the_loader_and_erased_clips_reach_the_network(task_of):
    task = task_of("AUG.RE_PROB", 1.0, "MIXUP.ENABLE", False)
    batch = next(iter(task.train_batches(0, 0)))
    assert batch.clips.dtype == torch.uint8
    seen = []
    task.loss(lambda clips: seen.append(clips) or torch.zeros(len(clips), 3), task.inputs(batch))
    normalised, _ = task.on_device(batch)
    changed = (seen[0] != normalised).any(dim=1)  # (B, T, h, w)
    assert changed.flatten(1).any(dim=1).all()
    assert torch.equal(changed.any(dim=1), changed.all(dim=1))  # the same places in all frames


def test_mixing_and_erasing_depend_on_the_step_alone(task_of):
    model = stvit.create_model(NAME, **SETTINGS["MODEL"]["ARGS"], num_classes=3, input_size=[FRAMES, SIZE, SIZE]).eval()

    def losses(task, start):
        return [task.loss(model, task.inputs(batch)).item() for batch in task.train_batches(0, start)]

    assert losses(task_of(), 0)[1:] == losses(task_of(), 1)
    assert losses(task_of(), 0)[0] != losses(task_of("MIXUP.ENABLE", False), 0)[0]


def test_names_of_some_of_kinetics_classes_tell_which_logits_they_are():
    logits, names = logits_of_classes(("zumba", "abseiling"), 400, None, False, "val")
    assert (logits, len(names)) == ([399, 0], 400)


def test_clips_train_in_bfloat16_from_one_frame_of_each_part_of_a_video(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Interval, "speed", lambda interval: (2.0, 0.6))
    segments = ("DATA.DATASET", "ssv2", "TRAIN.PRECISION", "bf16", "SOLVER.MAX_EPOCH", 2, "TEST.NUM_ENSEMBLE_VIEWS", 1)
    written = results(run(tmp_path / "run", *segments))
    assert written["precision"] == "bf16"
    assert written["views"] == 27
    assert "one from each of as many equal parts of the video" in written["protocol"]["views"]
    said = capsys.readouterr().out
    assert "2 clips/s, 60% waiting for data" in said
    assert said.count("note: 60% of the time goes into waiting for data: raise DATA_LOADER.NUM_WORKERS 0") == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_video_is_evaluated_by_one_process(task_of, ranks):
    seen = []
    for rank in range(ranks):
        task = task_of("MIXUP.ENABLE", False, rank=rank, size=ranks)
        seen += [n for batch in task.test_batches(task.splits.test) for n in batch.indices.tolist()]
    assert sorted(seen) == list(range(9))


def test_two_processes_train_on_the_clips_of_one(task_of):
    def epoch(rank, size):
        return list(task_of(rank=rank, size=size).train_batches(1, start_batch=1))

    halves = [epoch(0, 2), epoch(1, 2)]
    for batch, *parts in zip(epoch(0, 1), *halves, strict=True):
        assert torch.equal(batch.clips, torch.cat([part.clips for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))


def test_a_view_that_is_not_counted_once_is_noticed():
    refuse_miscount(np.array([6, 0, 6]), 6, bad=[1])
    for counted, bad in (([6, 5, 6], []), ([6, 12, 6], []), ([6, 6, 6], [1]), ([6, 0, 6], []), ([6, 0, 6], [1, 1])):
        with pytest.raises(AssertionError):
            refuse_miscount(np.array(counted), 6, bad)


BAD = ("train_0_1.mp4", "val_1_0.mp4", "test_2_0.mp4")


def test_a_bad_video_stops_the_run_and_is_named_with_the_way_out(run, lists, tmp_path):
    root = spoilt(lists, tmp_path / "videos", BAD[0])
    with pytest.raises(UserError, match=r"train\.csv:2: .*train_0_1\.mp4.*DATA\.ON_BAD_VIDEO skip") as caught:
        run(tmp_path / "run", "DATA.PATH_TO_DATA_DIR", root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reaction", ["skip", "replace"])
def test_bad_videos_are_noted_and_count_as_mistakes_of_the_evaluation(run, lists, tmp_path, reaction):
    root = spoilt(lists, tmp_path / "videos", *BAD)
    output = run(
        tmp_path / "run", "DATA.PATH_TO_DATA_DIR", root, "DATA.ON_BAD_VIDEO", reaction, "DATA.MAX_BAD_PERCENT", 20,
        "SOLVER.MAX_EPOCH", 1, "TRAIN.BATCH_SIZE", 2,
    )  # fmt: skip
    assert [row["name"] for row in rows(output / "bad_videos.csv")] == [BAD[0]]
    assert [row["name"] for row in rows(output / "bad_videos_of_validation.csv")] == [BAD[1]]
    assert records(output, "validation")[-1]["top1_error"] >= 100 / 6 - 1e-6
    written = results(output)
    assert list(written["undecodable"]) == [BAD[2]]
    assert (written["videos"], written["views"]) == (9, 54)
    assert sum(map(sum, written["confusion"]["rows_are_true"])) == 8
    assert written["per_class"]["curry"]["videos"] == 3
    right = sum(row["true"] == row["predicted"] for row in rows(output / "predictions.csv"))
    assert written["methods"][NAME]["mean"]["top1_accuracy"] == pytest.approx(100 * right / 9)
    assert rows(output / "predictions.csv")[6]["undecodable"]
    (note,) = [note for note in written["notes"] if "cannot be decoded and count as mistakes, such as " in note]
    assert note.count("test_2_0.mp4") == 1


def test_too_many_bad_videos_stop_the_run(run, lists, tmp_path):
    root = spoilt(lists, tmp_path / "videos", BAD[0])
    with pytest.raises(UserError, match=r"1 of 12 videos .*DATA\.MAX_BAD_PERCENT 1 .*train_0_1\.mp4"):
        run(tmp_path / "run", "DATA.PATH_TO_DATA_DIR", root, "DATA.ON_BAD_VIDEO", "skip")


def test_a_batch_without_any_clip_has_no_loss_and_gradients_of_zero(task_of, lists, tmp_path):
    root = spoilt(lists, tmp_path / "videos", *(f"train_{c}_{k}.mp4" for c in range(3) for k in range(4)))
    skip = ("DATA.ON_BAD_VIDEO", "skip", "DATA.MAX_BAD_PERCENT", 100)
    task = task_of("DATA.PATH_TO_DATA_DIR", root, *skip)
    batch = next(iter(task.train_batches(0, 0)))
    assert len(batch.clips) == 0
    model = stvit.create_model(NAME, **SETTINGS["MODEL"]["ARGS"], num_classes=3, input_size=[FRAMES, SIZE, SIZE])
    loss = task.loss(model, task.inputs(batch))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    assert "no videos" in task.describe(batch)


def test_a_batch_without_any_clip_teaches_batch_norms_nothing(task_of):
    task = task_of()
    batch = next(iter(task.train_batches(0, 0)))
    empty = batch._replace(clips=batch.clips[:0], labels=batch.labels[:0], indices=batch.indices[:0])
    model = torch.nn.Sequential(torch.nn.BatchNorm3d(3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = task.loss(model.train(), task.inputs(empty))
    loss.backward()
    assert loss.item() == 0
    assert model[0].weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def image_weights(path):
    """Weights of an image network for five classes."""
    torch.manual_seed(1)
    image = {**SETTINGS["MODEL"]["ARGS"], "num_classes": 5, "input_size": [SIZE, SIZE]}
    model = stvit.create_model("mvitv2_tiny", **image)
    save_checkpoint(path, pack_model(model))
    return model


def test_training_begins_from_the_inflated_weights_of_an_image_network_with_a_new_head(run, tmp_path, capsys):
    image = image_weights(tmp_path / "image.pt")
    short = ("SOLVER.MAX_EPOCH", 1, "SOLVER.BASE_LR", 1e-9, "TEST.ENABLE", False)
    output = run(tmp_path / "run", "MODEL.INIT", tmp_path / "image.pt", "MODEL.NAME", "mvitv2_tiny_16f", *short)
    said = capsys.readouterr().out
    assert "inflated" in said
    assert "head.projection.weight" in said
    trained = read_checkpoint(output / "checkpoints" / "last.pt")["state_dict"]
    ours, before = trained["blocks.2.mlp.fc1.weight"], image.state_dict()["blocks.2.mlp.fc1.weight"]
    torch.testing.assert_close(ours, before, rtol=0, atol=1e-6)
    assert trained["head.projection.weight"].shape[0] == 3


def test_weights_to_begin_from_are_looked_for_before_any_work(run, tmp_path):
    with pytest.raises(UserError, match=r"MODEL\.INIT is .*gone\.pt', and there is no such file"):
        run(tmp_path / "run", "MODEL.INIT", tmp_path / "gone.pt")
    both = ("MODEL.INIT", tmp_path / "a.pt", "TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "b.pt")
    with pytest.raises(UserError, match="a run begins from one of them"):
        run(tmp_path / "run", *both)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_tested_alone_and_its_names_decide_which_logit_a_class_is(finished, run, lists, tmp_path):
    root = shutil.copytree(lists, tmp_path / "videos")
    lines = [line for line in (root / "test.csv").read_text().splitlines() if not line.endswith("apple")]
    (root / "test.csv").write_text("\n".join(lines))
    for part in ("train", "val"):
        (root / f"{part}.csv").unlink()
    best = finished / "checkpoints" / "best.pt"
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", best, "DATA.PATH_TO_DATA_DIR", root)
    ours = results(run(tmp_path / "run", *only, "TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1))
    assert set(ours["per_class"]) == {"berry", "curry"}
    assert any("test views 1; the checkpoint has 2" in note for note in ours["notes"])
    again = results(run(tmp_path / "again", *only))
    assert again["per_class"] == {name: results(finished)["per_class"][name] for name in ("berry", "curry")}
    assert again["notes"] == []


def beyond(root):
    numbers = "".join(f"train_{c}_{k}.mp4 {c}\n" for c in range(3) for k in range(4))
    (root / "train.csv").write_text(numbers)
    (root / "val.csv").write_text("val_0_0.mp4 0\n")
    (root / "test.csv").write_text("test_0_0.mp4 0\n")
    return {"MODEL.NUM_CLASSES": 2}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val.csv").unlink(), r"holds neither a list val\.csv"),
        (lambda root: {"MODEL.NUM_CLASSES": 2}, r"has 3 classes, but MODEL\.NUM_CLASSES is 2: MODEL\.NUM_CLASSES 3"),
        (beyond, r"train\.csv:9: train_2_0\.mp4 has the label 2 .*3 more.*MODEL\.NUM_CLASSES is 2 .*NUM_CLASSES 3"),
        (lambda root: {"TRAIN.BATCH_SIZE": 14}, r"train\.csv holds 12 videos, fewer than one optimiser step takes"),
        (lambda root: {"MODEL.NAME": "mvitv2_tiny"}, "which takes images, but DATA.DATASET kinetics holds clips"),
    ],
    ids=["val", "classes", "label", "batch", "network"],
)
def test_a_mistake_is_one_line(run, lists, tmp_path, spoil, message):
    root = shutil.copytree(lists, tmp_path / "videos")
    changed = {"DATA.PATH_TO_DATA_DIR": root, **(spoil(root) or {})}
    with pytest.raises(UserError, match=message) as raised:
        run(tmp_path / "run", *(word for pair in changed.items() for word in pair))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_classes_without_training_videos_are_noted(task_of, lists, tmp_path):
    root = shutil.copytree(lists, tmp_path / "videos")
    (root / "labels.txt").write_text("\n".join(["apple", "apricot", "berry", "curry"]))
    named = ("DATA.PATH_TO_DATA_DIR", root, "DATA.LABEL_FILE", root / "labels.txt", "MODEL.NUM_CLASSES", 10)
    beyond_the_names, unseen = task_of(*named).notes()
    assert "has 4 classes and the network 10" in beyond_the_names
    assert "has no video of 1 of its 4 classes: apricot" in unseen


def test_prediction_says_of_a_video_what_the_test_said(finished, lists):
    """The checkpoint carries the names, how frames are prepared, and the views."""
    for row in rows(finished / "predictions.csv"):
        told = stvit.predict(lists / row["video"], finished / "checkpoints" / "best.pt", device="cpu", top_k=1)
        assert told.labels == (row["predicted"],)
        assert told.probabilities[0] == pytest.approx(float(row["probability"]), abs=1e-4)
        assert told.clips == 6
