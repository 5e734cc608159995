"""Whole runs in miniature: what they leave in OUTPUT_DIR, and what becomes of mistakes and failures."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch
import torch._dynamo.exc
import yaml
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES, results

import stvit.engine.steps
import stvit.engine.tasks.moving_mnist
import stvit.engine.train
from stvit.checkpoint import model_from_checkpoint, read_checkpoint
from stvit.config import load_config
from stvit.engine import run as run_module
from stvit.engine.distributed import World
from stvit.engine.signals import Stopped, StopRequest
from stvit.engine.state import refuse_changed_data
from stvit.engine.steps import Diverged
from stvit.engine.tasks import MovingMNISTPrediction
from stvit.errors import UserError

STEPS, EPOCHS = 8, 2
SETTINGS = {
    "MODEL": {
        "NAME": "mixvit_predictor",
        "ARGS": TINY_PREDICTOR,
    },
    "MOVING_MNIST": {
        **TINY_SEQUENCES,
        "TRAIN_SEQUENCES": 2 * STEPS,
        "VAL_SEQUENCES": 5,
        "TEST_SEQUENCES": 5,
    },
    "TRAIN": {"BATCH_SIZE": 2},
    "SOLVER": {"MAX_EPOCH": EPOCHS, "BASE_LR": 1e-3},
    "TEST": {"BATCH_SIZE": 3},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 4,
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Makes the checked settings of a miniature run."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "DATA": {"CACHE_DIR": str(folder / "cache")}}))
    return lambda output, *pairs: load_config(str(path), ["OUTPUT_DIR", str(output), *pairs])


@pytest.fixture(scope="module")
def run(settings):
    """Makes a miniature run; its global side effects on torch are undone."""

    def start(output, *pairs):
        try:
            run_module.run(settings(output, *pairs))
        finally:
            torch.use_deterministic_algorithms(False)
        return output

    return start


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("finished") / "run")


def weights(output, name="last.pt"):
    return read_checkpoint(output / "checkpoints" / name)["state_dict"]


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def lines(output, kind):
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_checkpoints_figures_and_pictures(finished):
    assert {str(p) for p in snapshot(finished)} == {
        "config.yaml", "metrics.jsonl", "results.json", "strips.png", "prediction.gif", "curves.png",
        "checkpoints/last.pt", "checkpoints/best.pt",
    }  # fmt: skip
    assert [r["step"] for r in lines(finished, "train")] == [4, 8, 12, 16]
    assert [(r["epoch"], r["step"]) for r in lines(finished, "validation")] == [(1, 8), (2, 16)]


def test_the_written_settings_are_those_of_the_run(finished, settings):
    assert load_config(str(finished / "config.yaml")) == settings(finished)


def test_the_training_loss_is_the_mean_squared_error(settings, tmp_path):
    task = MovingMNISTPrediction(settings(tmp_path), World(torch.device("cpu")))
    batch = next(iter(task.train_batches(0, start_batch=0)))
    black = lambda past, out: torch.zeros_like(past)  # noqa: E731
    expected = (batch.frames[:, 2:].double() / 255).square().mean()
    assert task.loss(black, task.inputs(batch)).item() == pytest.approx(expected.item())


def test_checkpoints_are_read_without_running_code_and_give_the_model_back(finished):
    for name in ("last.pt", "best.pt"):
        torch.load(finished / "checkpoints" / name, weights_only=True)
        model = model_from_checkpoint(finished / "checkpoints" / name)
        assert model(torch.zeros(1, 2, 1, 12, 12)).shape == (1, 2, 1, 12, 12)


def test_the_best_checkpoint_has_the_lowest_validation_error(finished, settings):
    best = read_checkpoint(finished / "checkpoints" / "best.pt")
    assert best["best"] == min(r["mse"] for r in lines(finished, "validation"))
    task = MovingMNISTPrediction(settings(finished), World(torch.device("cpu")))
    measured = task.validate(model_from_checkpoint(finished / "checkpoints" / "best.pt"), StopRequest())
    assert measured["mse"] == pytest.approx(best["best"], rel=1e-6)


def test_a_worse_epoch_does_not_replace_the_best(run, tmp_path, monkeypatch):
    values = iter([3.0, 5.0])
    monkeypatch.setattr(MovingMNISTPrediction, "validate", lambda *_: {"mse": next(values)})
    output = run(tmp_path / "run", "TEST.ENABLE", "False")
    assert read_checkpoint(output / "checkpoints" / "best.pt")["epoch"] == 1
    assert read_checkpoint(output / "checkpoints" / "last.pt")["best"] == 3.0


def test_a_resumed_run_still_knows_that_its_first_epoch_was_the_best(run, tmp_path, monkeypatch):
    values = iter([3.0, 5.0])
    monkeypatch.setattr(MovingMNISTPrediction, "validate", lambda *_: {"mse": next(values)})
    step, calls = stvit.engine.train.training_step, iter(range(1, 1000))

    def signalled(*arguments):
        if next(calls) == STEPS + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(stvit.engine.train, "training_step", signalled)
    with pytest.raises(Stopped):
        run(tmp_path / "run", "TEST.ENABLE", "False")
    output = run(tmp_path / "run", "TEST.ENABLE", "False")
    assert read_checkpoint(output / "checkpoints" / "last.pt")["best"] == 3.0
    assert read_checkpoint(output / "checkpoints" / "best.pt")["epoch"] == 1


def failing_step(monkeypatch, error, signum=None):
    """Every step gets a signal, if one is given, and fails."""

    def step(*arguments):
        if signum is not None:
            os.kill(os.getpid(), signum)
        raise error

    monkeypatch.setattr(stvit.engine.train, "training_step", step)


def test_a_signal_that_ends_the_compiler_too_stops_the_run(run, tmp_path, monkeypatch):
    failing_step(monkeypatch, torch._dynamo.exc.TorchDynamoException("the compiler was ended"), signal.SIGTERM)
    with pytest.raises(Stopped, match="was being compiled; the same command goes on from the last") as caught:
        run(tmp_path / "run", "TRAIN.COMPILE", "True")
    assert caught.value.status == 128 + signal.SIGTERM


def test_a_compiler_that_fails_by_itself_and_a_fault_after_a_signal_are_errors(run, tmp_path, monkeypatch):
    failing_step(monkeypatch, torch._dynamo.exc.TorchDynamoException("no compiler"))
    with pytest.raises(OSError, match=r"could not be compiled \(no compiler\): set TRAIN\.COMPILE False"):
        run(tmp_path / "run", "TRAIN.COMPILE", "True")
    failing_step(monkeypatch, RuntimeError("a fault"), signal.SIGTERM)
    with pytest.raises(RuntimeError, match="a fault"):
        run(tmp_path / "run", "TRAIN.COMPILE", "True")


def test_the_results_say_what_was_measured_on_what_and_by_which_code(finished):
    found = results(finished)
    model = found["methods"]["mixvit_predictor"]
    assert model["mean"].keys() | {"peak_brightness"} == found["protocol"].keys()
    assert all(len(curve) == 2 for curve in model["per_frame"].values())
    assert model["mean"]["mse"] == pytest.approx(sum(model["per_frame"]["mse"]) / 2)
    assert found["methods"].keys() >= {"black", "last_frame", "mean_frame", "linear_extrapolation"}
    assert found["data"]["test"]["sha256"]
    assert found["sequences"] == 5
    assert found["config"]["MOVING_MNIST"]["IMAGE_SIZE"] == 12
    assert found["checkpoint"]["source"] == str(finished / "checkpoints" / "best.pt")
    assert found["model"]["parameters"] == sum(p.numel() for p in model_from_checkpoint(
        finished / "checkpoints" / "best.pt").parameters())  # fmt: skip
    assert found["versions"].keys() >= {"python", "stvit", "torch"}
    assert found["training_seconds"] > 0
    assert found["notes"] == []


def test_evaluation_alone_gives_the_numbers_of_the_run_and_touches_no_checkpoint(run, finished, tmp_path):
    before = snapshot(finished)
    checkpoint = str(finished / "checkpoints" / "best.pt")
    output = run(tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint)
    assert results(output)["methods"] == results(finished)["methods"]
    assert not (output / "metrics.jsonl").exists()
    assert snapshot(finished) == before


def test_evaluation_without_a_file_takes_the_best_of_the_folder(run, finished, tmp_path):
    with pytest.raises(UserError, match="nothing to evaluate"):
        run(tmp_path / "run", "TRAIN.ENABLE", "False")
    output = shutil.copytree(finished, tmp_path / "copy")
    run(output, "TRAIN.ENABLE", "False", "TEST.BASELINES", "False")
    assert results(output)["methods"].keys() == {"mixvit_predictor"}
    assert results(output)["methods"]["mixvit_predictor"] == results(finished)["methods"]["mixvit_predictor"]


def test_a_bare_state_dict_can_be_evaluated_and_trained_on(run, finished, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(weights(finished, "best.pt"), path)
    output = run(tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(path))
    assert not (output / "checkpoints").exists()
    assert results(output)["methods"]["mixvit_predictor"] == results(finished)["methods"]["mixvit_predictor"]
    tuned = ("TRAIN.CHECKPOINT_FILE_PATH", str(path), "SOLVER.MAX_EPOCH", "1", "SOLVER.BASE_LR", "1e-12")
    output = run(tmp_path / "tuned", *tuned, "TEST.ENABLE", "False")
    for name, value in weights(output).items():
        if name.endswith("weight"):
            torch.testing.assert_close(value, weights(finished, "best.pt")[name])


def test_the_running_mean_is_what_is_validated_and_evaluated(run, tmp_path, settings):
    output = run(tmp_path / "run", "SOLVER.EMA_DECAY", "0.9")
    best = output / "checkpoints" / "best.pt"
    task = MovingMNISTPrediction(settings(output), World(torch.device("cpu")))
    measured = task.validate(model_from_checkpoint(best, ema=True), StopRequest())
    assert measured["mse"] == pytest.approx(read_checkpoint(best)["best"], rel=1e-6)
    assert results(output)["checkpoint"]["weights"] == "running mean"
    task.splits = replace(task.splits, val=task.splits.test)
    mean, raw = (task.validate(model_from_checkpoint(best, ema=ema), StopRequest())["mse"] for ema in (True, False))
    assert results(output)["methods"]["mixvit_predictor"]["mean"]["mse"] == pytest.approx(mean, rel=1e-6)
    assert abs(raw / mean - 1) > 1e-4


def test_validation_on_the_test_set_is_confessed(run, tmp_path):
    output = run(tmp_path / "run", "MOVING_MNIST.VALIDATE_ON_TEST", "True")
    found = results(output)
    assert "chosen on the test set" in found["notes"][0]
    assert found["data"]["validation_is_test"] is True
    best = min(r["mse"] for r in lines(output, "validation"))
    assert found["methods"]["mixvit_predictor"]["mean"]["mse"] == pytest.approx(best, rel=1e-6)


def test_an_evaluation_confesses_how_its_checkpoint_was_chosen(run, tmp_path):
    chosen = ("MOVING_MNIST.VALIDATE_ON_TEST", "True", "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False")
    checkpoint = run(tmp_path / "run", *chosen) / "checkpoints" / "best.pt"
    output = run(tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(checkpoint))
    found = results(output)
    assert "chosen on the test set" in found["notes"][0]
    assert found["data"]["validation_is_test"] is False  # the evaluation's own setting
    assert "the test set" in found["trained_on"]["validation"]["kind"]


def test_the_results_say_what_the_checkpoint_was_trained_on_when_and_how(run, finished, tmp_path):
    found, saved = results(finished), read_checkpoint(finished / "checkpoints" / "best.pt")
    assert found["trained_on"] == {part: saved["data"][part] for part in ("train", "validation")}
    assert found["trained_on"]["train"]["length"] == 2 * STEPS
    assert found["precision"] == "fp32"  # what auto is on the CPU
    assert datetime.fromisoformat(found["date"]).utcoffset() == timedelta(0)
    assert 0 < found["evaluation_seconds"] < 600
    path = tmp_path / "weights.pth"
    torch.save(weights(finished, "best.pt"), path)
    output = run(tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(path))
    assert not (output / "checkpoints").exists()
    assert (results(output)["trained_on"], results(output)["precision"]) == (None, None)


def test_a_published_file_that_does_not_answer_the_settings_is_told(run, finished, tmp_path, capsys):
    import numpy as np

    np.save(tmp_path / "mnist_test_seq.npy", np.zeros((20, 5, 64, 64), dtype=np.uint8))
    checkpoint = str(finished / "checkpoints" / "best.pt")
    output = run(
        tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint,
        "DATA.PATH_TO_DATA_DIR", str(tmp_path),
    )  # fmt: skip
    (note,) = results(output)["notes"]
    assert "not used: digits is sklearn, not mnist" in note
    assert f"note: {note}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"kind": "published file"}, "5 sequences of 2 mnist digits on 12x12"),
        ({"kind": "generated", "digits": "sklearn", "n_digits": [1, 3]}, "5 sequences of 1 or 3 sklearn digits on"),
    ],
    ids=["published", "generated"],
)
def test_the_test_set_is_described_as_what_it_is(settings, tmp_path, test, said):
    task = MovingMNISTPrediction(settings(tmp_path), World(torch.device("cpu")))
    task.splits = replace(task.splits, identity={**task.splits.identity, "test": test})
    assert task.describe_test_set().startswith(said)


def test_evaluation_may_show_other_numbers_of_digits(run, finished, tmp_path):
    checkpoint = str(finished / "checkpoints" / "best.pt")
    output = run(
        tmp_path / "eval", "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", checkpoint,
        "MOVING_MNIST.TEST_NUM_DIGITS", "[3]",
    )  # fmt: skip
    assert results(output)["data"]["test"]["n_digits"] == [3]


def test_sequences_made_on_the_device_or_by_workers_train_the_same_weights(run, finished, tmp_path):
    for name, pairs in (
        ("device", ("MOVING_MNIST.ON_DEVICE", "True")),
        ("workers", ("DATA_LOADER.NUM_WORKERS", "1")),
    ):
        output = run(tmp_path / name, *pairs, "TEST.ENABLE", "False")
        assert same_weights(weights(output), weights(finished)), name


def test_the_seed_decides_the_weights(run, finished, tmp_path):
    other = run(tmp_path / "other", "RNG_SEED", "1", "TEST.ENABLE", "False")
    assert not same_weights(weights(other), weights(finished))


@pytest.fixture
def seen(monkeypatch):
    """What the training steps of later runs use: networks, number formats, memory layouts and clipping limits."""
    found = {"networks": [], "formats": set(), "channels_last": set(), "limits": set()}
    loss, clip = MovingMNISTPrediction.loss, stvit.engine.steps.clip_gradients

    def watched_loss(task, network, batch):
        def note(module, _, output):
            if isinstance(module, torch.nn.Conv2d):
                found["formats"].add(output.dtype)
                if min(module.weight.shape) > 1:  # else both layouts are the same
                    found["channels_last"].add(module.weight.stride(1) == 1)

        found["networks"].append(network)
        with torch.nn.modules.module.register_module_forward_hook(note):
            return loss(task, network, batch)

    def watched_clip(model, limit):
        found["limits"].add(limit)
        return clip(model, limit)

    monkeypatch.setattr(MovingMNISTPrediction, "loss", watched_loss)
    monkeypatch.setattr(stvit.engine.steps, "clip_gradients", watched_clip)
    return found


SHORT = ("SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False")


def test_training_is_plain_unless_told_otherwise(run, seen, tmp_path):
    run(tmp_path / "run", *SHORT)
    assert (seen["formats"], seen["channels_last"], seen["limits"]) == ({torch.float32}, {False}, {0.0})


@pytest.mark.parametrize(
    ("pairs", "what", "expected"),
    [
        (("TRAIN.PRECISION", "bf16"), "formats", {torch.bfloat16}),
        (("TRAIN.CHANNELS_LAST", "True"), "channels_last", {True}),
        (("SOLVER.CLIP_GRAD_L2NORM", "0.1"), "limits", {0.1}),
    ],
    ids=["bf16", "channels-last", "clipping"],
)
def test_number_format_memory_layout_and_clipping_reach_every_step(run, seen, tmp_path, pairs, what, expected):
    output = run(tmp_path / "run", *pairs, *SHORT)
    assert seen[what] == expected
    assert len(seen["networks"]) == STEPS
    if what == "formats":
        assert read_checkpoint(output / "checkpoints" / "best.pt")["precision"] == "bf16"


def test_the_compiled_network_is_the_one_that_is_trained(run, seen, tmp_path, monkeypatch):
    compiled = []

    class Compiled(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self._orig_mod = model
            compiled.append(self)

        def forward(self, *inputs):
            return self._orig_mod(*inputs)

    monkeypatch.setattr(torch, "compile", Compiled)
    run(tmp_path / "run", "TRAIN.COMPILE", "True", *SHORT)
    (network,) = compiled
    assert len(seen["networks"]) == STEPS
    assert all(used is network for used in seen["networks"])


def test_frozen_batch_norms_keep_their_statistics_and_are_trained_otherwise(run, finished, tmp_path):
    frozen = weights(run(tmp_path / "run", "MODEL.FROZEN_BN", "True", *SHORT))
    counts = {name: int(value) for name, value in frozen.items() if name.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {0}
    assert all(int(weights(finished)[name]) == STEPS * EPOCHS for name in counts)
    norm = next(iter(counts)).removesuffix("num_batches_tracked")
    assert (frozen[f"{norm}running_mean"] == 0).all()
    assert (frozen[f"{norm}weight"] != 1).any()


def test_deterministic_runs_refuse_operations_that_vary(settings, tmp_path):
    try:
        run_module.run(settings(tmp_path / "run", "DETERMINISTIC", "True", *SHORT))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_another_optimiser_and_schedule_learn_about_the_same(run, finished, tmp_path):
    pairs = ("SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.LR_POLICY", "cosine", "SOLVER.WARMUP_EPOCHS", "1")
    output = run(tmp_path / "run", *pairs, "TEST.ENABLE", "False")
    records, reference = lines(output, "train"), lines(finished, "train")
    assert [r["lr"] for r in records] != [r["lr"] for r in reference]
    for record, expected in zip(records, reference, strict=True):
        assert record["loss"] == pytest.approx(expected["loss"], rel=0.2)


def test_tensorboard_shows_the_same_figures(run, tmp_path):
    output = run(tmp_path / "run", "TENSORBOARD.ENABLE", "True", "TEST.ENABLE", "False")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [4, 8, 12, 16]
    assert events.Scalars("validation/mse")[-1].value == pytest.approx(lines(output, "validation")[-1]["mse"])


def test_validation_and_checkpoints_keep_their_periods_and_always_end_the_run(run, tmp_path, monkeypatch):
    saved = []
    original = stvit.engine.train.save_checkpoint
    monkeypatch.setattr(
        stvit.engine.train, "save_checkpoint", lambda path, what: (saved.append(path.name), original(path, what))
    )
    output = run(
        tmp_path / "run", "SOLVER.MAX_EPOCH", "3", "TRAIN.EVAL_PERIOD", "2", "TRAIN.CHECKPOINT_PERIOD", "2",
        "TEST.ENABLE", "False",
    )  # fmt: skip
    assert [r["epoch"] for r in lines(output, "validation")] == [2, 3]
    assert saved.count("last.pt") == 2


def test_a_loss_that_is_not_finite_stops_the_run_with_step_data_and_norm(run, tmp_path, monkeypatch):
    original, calls = MovingMNISTPrediction.loss, iter(range(1, 1000))
    monkeypatch.setattr(
        MovingMNISTPrediction, "loss", lambda *a: original(*a) * (math.nan if next(calls) == 7 else 1.0)
    )
    output = tmp_path / "run"
    with pytest.raises(Diverged) as caught:
        run(output, "TRAIN.CHECKPOINT_STEPS", "2")
    message = str(caught.value)
    assert "epoch 1, step 7 (sequences 12, 13 of epoch 1): loss nan, gradient norm nan" in message
    assert "\n" not in message
    kept = read_checkpoint(output / "checkpoints" / "last.pt")
    assert kept["step"] == 6
    assert all(v.isfinite().all() for v in kept["state_dict"].values())


def test_a_validation_that_is_not_finite_stops_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(MovingMNISTPrediction, "validate", lambda *_: {"mse": math.inf})
    with pytest.raises(Diverged, match="validation mse is inf"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_a_full_disk_leaves_the_last_checkpoint_whole(run, tmp_path, monkeypatch):
    output, original, calls = tmp_path / "run", os.fsync, iter(range(1, 1000))

    def full(descriptor):
        if next(calls) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(output, "TRAIN.CHECKPOINT_STEPS", "2")
    assert read_checkpoint(output / "checkpoints" / "last.pt")["step"] in (2, 4)
    assert [p.name for p in (output / "checkpoints").iterdir()] == ["last.pt"]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "build_task", lambda *_: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"OUTPUT_DIR .*file/run cannot be a folder: .*file is a file; choose another"):
        run(tmp_path / "file" / "run")
    with pytest.raises(OSError, match=r"^OUTPUT_DIR /proc/no/run cannot be written \(.*\): choose another OUTPUT_DIR$"):
        run(Path("/proc/no/run"))


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        (("MODEL.NAME", "mixvit_predictr"), "'mixvit_predictor'"),
        (("MODEL.ARGS.hiden_spatial", "8"), "'hidden_spatial'"),
        (("MODEL.ARGS.in_frames", "3"), "MOVING_MNIST.FRAMES_IN is 2"),
        (("MODEL.ARGS.out_frames", "3"), "MOVING_MNIST.FRAMES_OUT is 2"),
        (("MODEL.ARGS.image_size", "[12, 16]"), "MOVING_MNIST.IMAGE_SIZE is 12"),
        (("MODEL.ARGS.channels", "3"), "Moving MNIST has 1 channel"),
        (("TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", "nowhere.pt"), "TEST.CHECKPOINT_FILE_PATH is 'nowhere"),
        (("TRAIN.ENABLE", "False"), "nothing to evaluate"),
        (("TRAIN.CHECKPOINT_FILE_PATH", "nowhere.pt"), "nowhere.pt"),
        (("MOVING_MNIST.IMAGE_SIZE", "14"), "multiples of 4 and 4"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_before_any_data_are_made_or_any_folder(run, tmp_path, pairs, named, monkeypatch):
    monkeypatch.setattr(run_module, "build_task", lambda *_: pytest.fail("work began"))
    with pytest.raises(UserError) as caught:
        run(tmp_path / "run", *pairs)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_data_are_one_line_and_leave_no_file(run, tmp_path):
    with pytest.raises(UserError, match="/nowhere") as caught:
        run(tmp_path / "run", "MOVING_MNIST.DIGITS", "mnist", "DATA.PATH_TO_DATA_DIR", "/nowhere")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="NUM_GPUS 0"):
        run(tmp_path / "run", "NUM_GPUS", "1")


def test_a_finished_run_is_evaluated_again_and_otherwise_left_as_it_is(run, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "copy")
    before = snapshot(output)
    after = snapshot(run(output))
    assert {path for path in before if before[path] != after[path]} <= {
        Path("config.yaml"), Path("results.json"), Path("checkpoints/last.pt")
    }  # fmt: skip
    assert before[Path("checkpoints/last.pt")] == after[Path("checkpoints/last.pt")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.01"),
        ("SOLVER.MAX_EPOCH", "4"),
        ("MODEL.ARGS.drop_path", "0.2"),
        ("MOVING_MNIST.NUM_DIGITS", "[2]"),
        ("TRAIN.BATCH_SIZE", "1"),
        ("RNG_SEED", "1"),
    ],
)
def test_a_setting_that_would_change_a_resumed_run_is_refused_by_name(run, finished, key, value):
    before = snapshot(finished)
    with pytest.raises(UserError) as caught:
        run(finished, key, value)
    message = str(caught.value)
    assert ("MODEL.ARGS" if key.startswith("MODEL.ARGS") else key) in message
    assert "another OUTPUT_DIR" in message
    assert "\n" not in message
    assert snapshot(finished) == before


def test_other_data_under_the_same_settings_are_refused_when_resuming(run, finished, monkeypatch):
    before = snapshot(finished)
    original = stvit.engine.tasks.moving_mnist.moving_mnist_splits

    def other_digits(**settings):
        splits = original(**settings)
        train = {**splits.identity["train"], "digits_sha256": "0" * 64}
        return replace(splits, identity={**splits.identity, "train": train})

    monkeypatch.setattr(stvit.engine.tasks.moving_mnist, "moving_mnist_splits", other_digits)
    with pytest.raises(UserError, match=r"train\.digits_sha256 is .* this run's is '0000.*DATA\.PATH_TO_DATA_DIR"):
        run(finished)
    assert snapshot(finished) == before


def test_another_test_set_may_follow_a_resumed_run_unless_it_chooses_the_best():
    def identity(length, on_test):
        return {"train": {"seed": 1}, "test": {"length": length}, "validation_is_test": on_test}

    refuse_changed_data({"data": identity(5, False)}, identity(6, False), "last.pt")
    with pytest.raises(UserError, match=r"test\.length is 5 and this run's is 6"):
        refuse_changed_data({"data": identity(5, True)}, identity(6, True), "last.pt")


def test_settings_that_change_no_weight_may_differ_when_resuming(run, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "copy")
    run(output, "LOG_PERIOD", "5", "TRAIN.CHECKPOINT_STEPS", "3", "TEST.BATCH_SIZE", "2", "TEST.ENABLE", "False")
    assert same_weights(weights(output), weights(finished))


def test_test_settings_count_when_the_test_set_chooses_the_best(run, tmp_path):
    on_test = ("MOVING_MNIST.VALIDATE_ON_TEST", "True", "TEST.ENABLE", "False", "SOLVER.MAX_EPOCH", "1")
    output = run(tmp_path / "run", *on_test)
    with pytest.raises(UserError, match=r"MOVING_MNIST\.TEST_SEQUENCES"):
        run(output, *on_test, "MOVING_MNIST.TEST_SEQUENCES", "4")


@pytest.mark.parametrize("name", ["checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl", "results.json"])
def test_a_folder_that_holds_any_part_of_a_run_is_not_overwritten(run, finished, tmp_path, name):
    kept = tmp_path / "run" / name
    kept.parent.mkdir(parents=True)
    shutil.copy(finished / name, kept)
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match=f"holds a run already .*{name}"):
        run(tmp_path / "run", "TRAIN.AUTO_RESUME", "False")
    assert snapshot(tmp_path / "run") == before


def test_the_settings_file_of_a_run_is_replaced_whole_or_not_at_all(run, finished, tmp_path, monkeypatch):
    output = shutil.copytree(finished, tmp_path / "copy")
    before = snapshot(output)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(output, "LOG_PERIOD", "5")
    assert snapshot(output) == before


def test_a_checkpoint_that_cannot_be_resumed_is_named(run, finished, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    last, whole = checkpoints / "last.pt", finished / "checkpoints" / "last.pt"
    last.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(UserError, match=f"{last} is damaged"):
        run(tmp_path / "run")
    shutil.copy(finished / "checkpoints" / "best.pt", last)
    with pytest.raises(UserError, match=f"{last} is not a checkpoint that stvit's training wrote"):
        run(tmp_path / "run")


def test_a_signal_during_the_evaluation_stops_it_and_leaves_earlier_results(run, finished, monkeypatch):
    before, original = snapshot(finished), MovingMNISTPrediction.eval_batches

    def signalled(task, split):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(task, split)

    monkeypatch.setattr(MovingMNISTPrediction, "eval_batches", signalled)
    with pytest.raises(Stopped, match="stopped in the evaluation") as caught:
        run(finished, "TRAIN.ENABLE", "False")
    assert caught.value.status == 143
    assert snapshot(finished) == before
