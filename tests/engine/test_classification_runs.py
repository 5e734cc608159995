"""Whole runs of image classification in miniature: training, resumption, evaluation, fine-tuning, and mistakes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from main_runs import equal_bits, records, results
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

import stvit
import stvit.engine.train
from stvit.checkpoint import model_from_checkpoint, pack_model, read_checkpoint, save_checkpoint
from stvit.config import load_config
from stvit.engine import evaluate_classes
from stvit.engine import run as run_module
from stvit.engine.distributed import World
from stvit.engine.signals import Stopped
from stvit.engine.tasks import ImageClassification, build_task, model_settings
from stvit.errors import UserError

SIZE = 32
SETTINGS = {
    "MODEL": {
        "NAME": "mvitv2_tiny",
        "NUM_CLASSES": 3,
        "ARGS": {"depths": [1, 1, 1, 1], "width": 16, "drop_path": 0.1},
    },
    "DATA": {"DATASET": "imagenet", "TRAIN_CROP_SIZE": SIZE, "TEST_CROP_SIZE": SIZE},
    "TRAIN": {"BATCH_SIZE": 4},
    "TEST": {"BATCH_SIZE": 4},
    "SOLVER": {"OPTIMIZING_METHOD": "adamw", "LR_POLICY": "cosine", "BASE_LR": 1e-3, "MAX_EPOCH": 2},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 2,
}
CLASSES = ("apple", "berry", "curry")
STEPS = 3  # of an epoch: 12 images, 4 at a time


def make_tree(root, names=CLASSES, splits=("train", "val")):
    """Four training and three validation images of each class, which is a colour with stripes and noise."""
    generator = np.random.default_rng(0)
    colours = np.array([[200, 40, 40], [40, 40, 200], [190, 180, 30], [40, 160, 60]])
    for split in splits:
        for colour, name in zip(colours, names, strict=False):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(4 if split == "train" else 3):
                stripes = 30 * (np.arange(50) // (3 + k) % 2)[None, :, None]
                pixels = colour + stripes + generator.normal(0, 25, (40 + 3 * k, 50, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.jpg")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tree):
    """Makes the checked settings of a miniature run."""
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    data = ("DATA.PATH_TO_DATA_DIR", str(tree))
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


def test_a_run_leaves_checkpoints_figures_and_pictures(finished):
    left = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert left == {
        "checkpoints/last.pt", "checkpoints/best.pt", "config.yaml", "metrics.jsonl", "results.json", "examples.png",
        "confusion.png",
    }  # fmt: skip
    assert len(records(finished, "train")) == 2 * STEPS // 2
    assert [set(line) for line in records(finished, "validation")] == [
        {"kind", "epoch", "step", "top1_error", "top5_error", "loss"}
    ] * 2


def test_the_checkpoint_says_how_images_are_prepared_and_what_the_classes_are_called(finished):
    described = model_from_checkpoint(finished / "checkpoints" / "best.pt").preprocessing
    assert described.labels == CLASSES
    assert (described.input_size, described.crop_fraction, described.interpolation) == ((SIZE, SIZE), 0.875, "bicubic")


def test_the_best_checkpoint_has_the_lowest_top_1_error(finished):
    errors = [line["top1_error"] for line in records(finished, "validation")]
    assert read_checkpoint(finished / "checkpoints" / "best.pt")["best"] == min(errors)
    assert results(finished)["checkpoint"]["best_validation_top1_error"] == min(errors)


def test_a_network_learns_what_its_classes_look_like(run, tmp_path):
    plain = ("MIXUP.ENABLE", False, "AUG.AA_TYPE", "", "AUG.COLOR_JITTER", 0, "AUG.RE_PROB", 0, "SOLVER.MAX_EPOCH", 12)
    output = run(tmp_path / "run", *plain)
    losses = [line["loss"] for line in records(output, "train")]
    assert losses[-1] < 0.7 * losses[0]
    assert results(output)["methods"]["mvitv2_tiny"]["mean"]["top1_accuracy"] == 100


def plain_logits(checkpoint, folder, size=SIZE, short=int(SIZE / 0.875)):
    """Every image of a folder by torchvision's own transforms, one by one: truth, logits."""
    model = model_from_checkpoint(checkpoint)
    prepare = transforms.Compose([
        transforms.Resize(short, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size),
        transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    truth, logits = [], []
    for label, name in enumerate(sorted(p.name for p in folder.iterdir())):
        for path in sorted((folder / name).iterdir()):
            truth.append(label)
            with torch.no_grad():
                logits.append(model(prepare(Image.open(path))[None])[0].numpy())
    return np.array(truth), np.stack(logits)


def test_the_evaluation_is_what_a_plain_loop_over_the_images_gives(finished, tree):
    truth, logits = plain_logits(finished / "checkpoints" / "best.pt", tree / "val")
    predicted = logits.argmax(axis=1)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (truth, predicted), 1)
    written = results(finished)
    assert written["images"] == 9
    assert written["confusion"] == {"classes": list(CLASSES), "rows_are_true": confusion.tolist()}
    assert written["methods"]["mvitv2_tiny"]["mean"] == pytest.approx(
        {
            "top1_accuracy": 100 * np.mean(truth == predicted),
            "top1_error": 100 * np.mean(truth != predicted),
            "top5_accuracy": 100,
            "top5_error": 0,
            "mean_class_accuracy": 100 * np.mean(confusion.diagonal() / 3),
        }
    )
    assert "val/ is evaluated" in written["notes"][0]
    assert "chosen on these same images" in written["notes"][1]


def test_validation_is_the_loss_and_error_of_a_plain_loop(finished, tree):
    truth, logits = plain_logits(finished / "checkpoints" / "last.pt", tree / "val")
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    last = records(finished, "validation")[-1]
    assert last["loss"] == pytest.approx(-log_softmax[np.arange(9), truth].mean(), rel=1e-4)
    assert last["top1_error"] == pytest.approx(100 * np.mean(logits.argmax(axis=1) != truth))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_to_the_bits_of_an_uninterrupted_one(finished, run, tmp_path, monkeypatch, workers):
    """With mixing, augmentation and drop path."""
    step, calls = stvit.engine.train.training_step, []

    def signalled(*arguments):
        calls.append(None)
        if len(calls) == STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(stvit.engine.train, "training_step", signalled)
    with pytest.raises(Stopped):
        run(tmp_path / "run")
    monkeypatch.undo()
    run(tmp_path / "run", "DATA_LOADER.NUM_WORKERS", workers)
    for name in ("last.pt", "best.pt"):
        ours, theirs = (read_checkpoint(path / "checkpoints" / name) for path in (tmp_path / "run", finished))
        for entry in theirs.keys() - {"config", "metrics_bytes", "seconds"}:
            assert equal_bits(ours[entry], theirs[entry]), entry


def test_a_run_on_other_images_is_refused(finished, run, tmp_path, tree):
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(tree, tmp_path / "images")
    (tmp_path / "images" / "train" / "apple" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"trained on data whose train\.files_sha256 is"):
        run(tmp_path / "run", "DATA.PATH_TO_DATA_DIR", tmp_path / "images", "SOLVER.MAX_EPOCH", 2)


def test_a_test_folder_is_evaluated_where_there_is_one(finished, run, tmp_path, tree):
    root = shutil.copytree(tree, tmp_path / "images")
    shutil.copytree(root / "val" / "berry", root / "test" / "berry")
    best = finished / "checkpoints" / "best.pt"
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", best, "DATA.PATH_TO_DATA_DIR", root)
    written = results(run(tmp_path / "out", *only))
    assert written["images"] == 3
    assert written["notes"] == []
    assert written["per_class"]["apple"] == {"images": 0}
    assert written["per_class"]["berry"] == results(finished)["per_class"]["berry"]


def test_the_names_in_a_checkpoint_decide_which_logit_a_folder_is(finished, run, tmp_path, tree):
    for name in ("berry", "curry"):
        shutil.copytree(tree / "val" / name, tmp_path / "images" / "val" / name)
    best = finished / "checkpoints" / "best.pt"
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", best, "DATA.PATH_TO_DATA_DIR", tmp_path / "images")
    ours, whole = results(run(tmp_path / "out", *only)), results(finished)
    assert ours["per_class"] == {name: whole["per_class"][name] for name in ("berry", "curry")}
    (tmp_path / "images" / "val" / "berry").rename(tmp_path / "images" / "val" / "beery")
    with pytest.raises(UserError, match="has the class 'beery', which the checkpoint was not trained on"):
        run(tmp_path / "out", *only)


SQUASHED = ("DATA.MEAN", [0.5] * 3, "DATA.STD", [0.5] * 3, "DATA.VAL_CROP_RATIO", 0.95, "DATA.VAL_CROP_MODE", "squash")


def test_a_checkpoint_says_how_its_images_are_prepared_where_the_settings_leave_it_open(run, tmp_path, capsys):
    trained = run(tmp_path / "run", *SQUASHED, "AUG.INTERPOLATION", "random", "SOLVER.MAX_EPOCH", 1)
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", trained / "checkpoints" / "best.pt")
    open_, named = run(tmp_path / "open", *only), run(tmp_path / "named", *only, "DATA.VAL_CROP_MODE", "center")
    assert results(open_)["methods"] == results(trained)["methods"]
    prepared = {"input_size": [SIZE, SIZE], "crop_fraction": 0.95, "crop_mode": "squash", "interpolation": "bicubic"}
    prepared |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert results(trained)["preprocessing"] == results(open_)["preprocessing"] == prepared
    assert results(named)["preprocessing"] == prepared | {"crop_mode": "center"}
    note = "DATA.VAL_CROP_MODE prepares images with crop mode center; the checkpoint has squash"
    assert note in results(named)["notes"]
    assert f"note: {note}" in capsys.readouterr().out
    assert not any("prepares images" in line for line in results(open_)["notes"])


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Weights of a 1,000-class network in the layout of facebookresearch/mvit, without names."""
    torch.manual_seed(1)
    model = stvit.create_model("mvitv2_tiny", **SETTINGS["MODEL"]["ARGS"], num_classes=1000, input_size=[SIZE, SIZE])
    path = tmp_path_factory.mktemp("official") / "MViTv2.pyth"
    torch.save({"model_state": model.state_dict(), "epoch": 300}, path)
    return path


def test_published_weights_are_tested_on_some_of_imagenet_s_classes_by_their_ids(official, run, tmp_path):
    ids = ("n01440764", "n01443537", "n02123045")  # tench, goldfish, tabby: logits 0, 1, 281
    make_tree(tmp_path / "images", ids, splits=("val",))
    output = run(
        tmp_path / "out", "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", official, "MODEL.NUM_CLASSES", 1000,
        "DATA.PATH_TO_DATA_DIR", tmp_path / "images",
    )  # fmt: skip
    written = results(output)
    assert tuple(written["per_class"]) == ids
    assert (written["preprocessing"]["mean"], written["preprocessing"]["crop_fraction"]) == (
        [0.485, 0.456, 0.406],
        0.875,
    )
    assert "confusion" not in written
    model = stvit.create_model("mvitv2_tiny", **SETTINGS["MODEL"]["ARGS"], num_classes=1000, input_size=[SIZE, SIZE])
    stvit.load_checkpoint(model, official)
    save_checkpoint(tmp_path / "own.pt", pack_model(model))
    truth, logits = plain_logits(tmp_path / "own.pt", tmp_path / "images" / "val")
    place = (logits > logits[np.arange(9), np.array([0, 1, 281])[truth]][:, None]).sum(axis=1)
    mean = written["methods"]["mvitv2_tiny"]["mean"]
    assert (mean["top1_accuracy"], mean["top5_accuracy"]) == pytest.approx(
        (100 * np.mean(place < 1), 100 * np.mean(place < 5))
    )


def test_published_weights_on_other_classes_are_refused_with_a_way_out(official, run, tmp_path):
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", official, "MODEL.NUM_CLASSES", 1000)
    with pytest.raises(UserError, match=r"has 3 classes, but MODEL\.NUM_CLASSES is 1000: fine-tune .*NEW_HEAD True"):
        run(tmp_path / "out", *only)


def test_fine_tuning_keeps_the_weights_and_begins_a_new_head_when_asked(official, run, tmp_path, capsys):
    start = ("TRAIN.CHECKPOINT_FILE_PATH", official, "SOLVER.MAX_EPOCH", 1, "SOLVER.BASE_LR", 1e-9)
    with pytest.raises(UserError, match=r"TRAIN\.NEW_HEAD True"):
        run(tmp_path / "out", *start)
    decay = ("TRAIN.NEW_HEAD", True, "SOLVER.LAYER_DECAY", 0.75, "AUG.NUM_SAMPLE", 2, "TEST.ENABLE", False)
    output = run(tmp_path / "out", *start, *decay)
    assert "head.projection.weight" in capsys.readouterr().out
    trained = read_checkpoint(output / "checkpoints" / "last.pt")["state_dict"]
    before = torch.load(official, weights_only=True)["model_state"]
    assert trained["head.projection.weight"].shape[0] == 3
    torch.testing.assert_close(trained["blocks.2.mlp.fc1.weight"], before["blocks.2.mlp.fc1.weight"], rtol=0, atol=1e-6)


def test_a_head_with_more_classes_than_folders_is_trained_with_a_note(run, tmp_path, capsys):
    output = run(tmp_path / "out", "MODEL.NUM_CLASSES", 50, "SOLVER.MAX_EPOCH", 1)
    said = capsys.readouterr().out
    assert "has 3 classes and the network 50" in said
    assert "top-5" in said
    assert results(output)["per_class"].keys() == set(CLASSES)
    assert not (output / "confusion.png").exists()
    best = output / "checkpoints" / "best.pt"
    again = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", best, "MODEL.NUM_CLASSES", 50)
    assert results(run(tmp_path / "again", *again))["methods"] == results(output)["methods"]


def test_a_run_of_short_epochs_shows_its_losses_in_images_a_second(run, tmp_path, capsys):
    output = run(tmp_path / "out", "LOG_PERIOD", 50, "TRAIN.NEW_HEAD", True)
    assert [line["step"] for line in records(output, "train")] == [STEPS, 2 * STEPS]
    said = capsys.readouterr().out
    assert "images/s" in said
    assert "names no pretrained weights: the whole network starts from random ones" in said
    assert "top-5" not in said


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_image_is_evaluated_by_one_process(settings, tmp_path, ranks):
    seen, cfg = [], settings(tmp_path, "MIXUP.ENABLE", False)
    for rank in range(ranks):
        task = ImageClassification(cfg, World(torch.device("cpu"), rank, ranks))
        seen += [n for batch in task.eval_batches(task.splits.validation) for n in batch.indices.tolist()]
    assert sorted(seen) == list(range(9))


def test_two_processes_train_on_the_images_of_one(settings, tmp_path):
    def epoch(rank, size):
        task = ImageClassification(settings(tmp_path), World(torch.device("cpu"), rank, size))
        return list(task.train_batches(1, start_batch=1))

    halves = [epoch(0, 2), epoch(1, 2)]
    for whole, *parts in zip(epoch(0, 1), *halves, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))


# The smallest networks of the families that have BatchNorm, each with the configuration it is tested by.
BATCH_NORMED = {
    "MixViT_T_384": {
        "widths": [8, 8, 16, 16], "stem_width": 8, "window": [2, 2], "dim_head": 4, "channel_heads": [2, 2, 2, 2],
        "head_hidden": 8,
    },
    "MPViT_T": {"widths": [8, 8, 16, 16], "paths": [2, 1, 1, 1], "heads": [1, 1], "position_kernels": [3, 5]},
    "MixFormer_B0": {"widths": [16, 16, 16, 16], "heads": [1, 1, 2, 2], "window": [2, 2], "head_width": 16},
}  # fmt: skip


def shrunken(name, *pairs):
    """A published configuration with its network shrunken to four blocks, at 64 pixels, on the CPU."""
    fields = {"depths": [1, 1, 1, 1], **BATCH_NORMED[name]}
    args = [word for field, value in fields.items() for word in (f"MODEL.ARGS.{field}", str(value))]
    size = ("DATA.TRAIN_CROP_SIZE", "64", "DATA.TEST_CROP_SIZE", "64", "NUM_GPUS", "0", "DATA_LOADER.NUM_WORKERS", "0")
    path = Path(__file__).parents[2] / "configs" / "imagenet" / f"{name}.yaml"
    return load_config(str(path), [*args, *size, "TRAIN.PRECISION", "fp32", *map(str, pairs)])


@pytest.mark.parametrize("name", BATCH_NORMED)
def test_a_published_configuration_evaluates_weights_by_its_published_protocol(name, tmp_path, monkeypatch):
    root = make_tree(tmp_path / "images", ("n01440764", "n01443537", "n02123045"), splits=("val",))
    only = ("TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", tmp_path / "x.pth", "DATA.PATH_TO_DATA_DIR", root)
    cfg = shrunken(name, *only, "OUTPUT_DIR", tmp_path / "out")
    registered, settings = model_settings(cfg)
    torch.manual_seed(0)
    model = stvit.create_model(registered, **settings)
    with torch.no_grad():  # statistics that are not those of a fresh network, and logits that tell images apart
        model.train()(torch.randn(8, 3, 64, 64))
        model.get_classifier().weight.mul_(100)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    measured = []
    measure = evaluate_classes.measure
    monkeypatch.setattr(evaluate_classes, "measure", lambda *args: measured.append(measure(*args)) or measured[-1])
    run_module.run(cfg)

    def by_timm(**crop):
        prepare = create_transform((64, 64), interpolation="bicubic", **crop)
        images = torch.stack([prepare(Image.open(path)) for path in sorted((root / "val").rglob("*.jpg"))])
        with torch.no_grad():
            return model.eval()(images).softmax(dim=1)

    published: dict[str, object] = {"crop_pct": 0.875}
    other: dict[str, object] = {"crop_pct": 0.95, "crop_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    if name.endswith("384"):
        published, other = other, published
    probability = by_timm(**published)
    torch.testing.assert_close(measured[0].probability, probability.max(dim=1).values, rtol=1e-4, atol=1e-6)
    assert torch.equal(measured[0].predicted, probability.argmax(dim=1))
    assert not torch.allclose(by_timm(**other), probability, rtol=0.01)
    assert not any("prepares images" in note for note in results(tmp_path / "out")["notes"])


def test_a_batch_of_one_that_a_batch_norm_cannot_train_on_is_one_line(tree, tmp_path):
    pairs = ("DATA.PATH_TO_DATA_DIR", tree, "MODEL.NUM_CLASSES", 3, "TRAIN.BATCH_SIZE", 1, "MIXUP.ENABLE", False)
    short = ("SOLVER.MAX_EPOCH", 1, "SOLVER.WARMUP_EPOCHS", 0, "TEST.ENABLE", False)
    with pytest.raises(UserError, match="a batch of 1 cannot train") as caught:
        run_module.run(shrunken("MixFormer_B0", *pairs, *short, "OUTPUT_DIR", tmp_path / "one"))
    assert "\n" not in str(caught.value)
    run_module.run(shrunken("MixFormer_B0", *pairs, *short, "MODEL.FROZEN_BN", True, "OUTPUT_DIR", tmp_path / "frozen"))


def test_batch_norm_with_accumulation_and_a_running_mean_goes_on_to_the_same_bits(tree, tmp_path, monkeypatch):
    pairs = ("DATA.PATH_TO_DATA_DIR", tree, "MODEL.NUM_CLASSES", 3, "TRAIN.BATCH_SIZE", 2, "TRAIN.ACCUMULATE_STEPS", 2)
    more = ("SOLVER.MAX_EPOCH", 2, "SOLVER.WARMUP_EPOCHS", 1, "SOLVER.EMA_DECAY", 0.9, "TEST.BATCH_SIZE", 4)

    def start(output):
        run_module.run(shrunken("MixFormer_B0", *pairs, *more, "OUTPUT_DIR", output))
        return read_checkpoint(output / "checkpoints" / "last.pt")

    whole = start(tmp_path / "whole")
    step, calls = stvit.engine.train.training_step, []

    def signalled(*arguments):
        calls.append(None)
        if len(calls) == STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(stvit.engine.train, "training_step", signalled)
    with pytest.raises(Stopped):
        start(tmp_path / "run")
    resumed = start(tmp_path / "run")
    for entry in whole.keys() - {"config", "metrics_bytes", "seconds"}:
        assert equal_bits(resumed[entry], whole[entry]), entry
    weights, mean = whole["state_dict"], whole["ema"]
    counts = [value for key, value in weights.items() if key.endswith("num_batches_tracked")]
    assert set(map(int, counts)) == {2 * 2 * STEPS}  # every batch of an accumulated step counts
    statistics = [key for key in weights if key.endswith("running_var")]
    assert all(not torch.equal(weights[key], mean[key]) for key in statistics)
    best = model_from_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt")
    assert all(torch.equal(best.state_dict()[key], mean[key]) for key in statistics)


def test_repeated_augmentation_shows_some_images_thrice_in_an_epoch(settings, tmp_path):
    task = build_task(settings(tmp_path, "AUG.REPEATS", 3), World(torch.device("cpu")))
    batches = list(task.train_batches(0, start_batch=0))
    numbers = [n for batch in batches for n in batch.indices.tolist()]
    assert len(batches) == STEPS
    assert sorted(map(numbers.count, set(numbers))) == [3, 3, 3, 3]
    assert len({image.numpy().tobytes() for batch in batches for image in batch.images}) == 12


def test_mixing_depends_on_the_step_alone(settings, tmp_path):
    task = build_task(settings(tmp_path), World(torch.device("cpu")))
    task_again = build_task(settings(tmp_path), World(torch.device("cpu")))
    model = stvit.create_model("mvitv2_tiny", **model_settings(settings(tmp_path))[1]).eval()

    def losses_of(task, start):
        return [task.loss(model, task.inputs(batch)).item() for batch in task.train_batches(0, start_batch=start)]

    losses = losses_of(task, 0)
    assert losses[1:] == losses_of(task_again, 1)
    unmixed = build_task(settings(tmp_path, "MIXUP.ENABLE", False), World(torch.device("cpu")))
    batch = next(iter(unmixed.train_batches(0, start_batch=0)))
    assert losses[0] != unmixed.loss(model, unmixed.inputs(batch)).item()


def test_a_process_that_cannot_mix_its_images_in_pairs_is_refused(settings, tmp_path):
    with pytest.raises(UserError, match=r"TRAIN\.BATCH_SIZE 6 leaves 3 to each process: make it a multiple of 4"):
        build_task(settings(tmp_path, "TRAIN.BATCH_SIZE", 6), World(torch.device("cpu"), 0, 2))


def test_smoothing_without_mixing_is_that_of_the_cross_entropy(settings, tmp_path):
    task = build_task(settings(tmp_path, "MIXUP.ENABLE", False), World(torch.device("cpu")))
    model = stvit.create_model("mvitv2_tiny", **model_settings(settings(tmp_path))[1]).eval()
    batch = next(iter(task.train_batches(0, start_batch=0)))
    scores = model(batch.images).log_softmax(dim=1)
    targets = 0.9 * torch.nn.functional.one_hot(batch.labels, 3) + 0.1 / 3
    torch.testing.assert_close(task.loss(model, task.inputs(batch)), -(targets * scores).sum(dim=1).mean())


def no_such_folder(root):
    return {"DATA.PATH_TO_DATA_DIR": root / "gone"}


def one_part(root):
    return {"DATA.PATH_TO_DATA_DIR": root / "train"}


def no_parts(root):
    shutil.move(root / "train", root / "whole" / "pets")
    return {"DATA.PATH_TO_DATA_DIR": root / "whole" / "pets"}


def no_validation(root):
    shutil.rmtree(root / "val")


def broken_image(root):
    (root / "train" / "apple" / "2.jpg").write_bytes(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_such_folder, r"there is no folder .*gone: DATA\.PATH_TO_DATA_DIR names the one that holds train/ and val/"),
        (one_part, r"images/train is one part of a data set: set DATA\.PATH_TO_DATA_DIR to its parent .*/images$"),
        (no_parts, r"whole/pets holds folders, but neither train/ nor val/: DATA\.PATH_TO_DATA_DIR names the folder"),
        (no_validation, "there is no folder .*val: images belong in"),
        (broken_image, r"apple/2\.jpg cannot be decoded as an image"),
        (lambda root: {"MODEL.NUM_CLASSES": 2}, r"has 3 classes, but MODEL\.NUM_CLASSES is 2: MODEL\.NUM_CLASSES 3"),
        (lambda root: {"TRAIN.BATCH_SIZE": 14}, "holds 12 images, fewer than one optimiser step takes"),
    ],
    ids=["folder", "part", "parts", "val", "image", "classes", "batch"],
)
def test_a_mistake_is_one_line(run, tree, tmp_path, spoil, message):
    root = shutil.copytree(tree, tmp_path / "images")
    changed = {"DATA.PATH_TO_DATA_DIR": root, **(spoil(root) or {})}
    with pytest.raises(UserError, match=message) as raised:
        run(tmp_path / "out", *(word for pair in changed.items() for word in pair))
    assert "\n" not in str(raised.value)
    assert spoil is broken_image or not (tmp_path / "out").exists()
