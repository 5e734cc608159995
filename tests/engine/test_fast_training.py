"""The fast settings of a training run change its speed, and its losses by no more than their number format does."""

from __future__ import annotations

import itertools

import pytest
import torch
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES

from stvit.config import default_config
from stvit.engine.distributed import World, seed_everything
from stvit.engine.run import build_model
from stvit.engine.state import new_state
from stvit.engine.steps import training_step
from stvit.engine.tasks import build_task

FAST = ("TRAIN.PRECISION", "bf16", "TRAIN.CHANNELS_LAST", True, "MOVING_MNIST.ON_DEVICE", True)


def settings(cache, *pairs, drop_path=0.1):
    """A run of one digit on 12 pixels, 32 steps an epoch."""
    cfg = default_config()
    for key, value in {**TINY_SEQUENCES, "TRAIN_SEQUENCES": 128, "VAL_SEQUENCES": 4, "TEST_SEQUENCES": 4}.items():
        cfg.MOVING_MNIST[key] = value
    for key, value in {**TINY_PREDICTOR, "drop_path": drop_path, "first_drop_path": drop_path}.items():
        cfg.MODEL.ARGS[key] = value
    cfg.merge_from_list([
        "DATA.CACHE_DIR", str(cache), "TRAIN.BATCH_SIZE", 4, "TRAIN.PRECISION", "fp32", "SOLVER.BASE_LR", 2e-3,
        "SOLVER.MAX_EPOCH", 10, "NUM_GPUS", 0, "DATA_LOADER.NUM_WORKERS", 0, *pairs,
    ])  # fmt: skip
    return cfg


def losses(cfg, steps):
    """Of the first steps of a run, as the training loop takes them."""
    world = World(torch.device("cuda", 0) if cfg.NUM_GPUS else torch.device("cpu"))
    seed_everything(cfg.RNG_SEED, deterministic=False)
    model = build_model(cfg, world).train()
    task = build_task(cfg, world)
    state = new_state(model, cfg, world, task.batches_per_epoch, task)
    batches = itertools.chain.from_iterable(task.train_batches(epoch, 0) for epoch in itertools.count())
    found = []
    for batch in itertools.islice(batches, steps):
        found.append(training_step(state.gradients, [batch], state.optimizer, state.precision)[0])
        state.scheduler.step()
    return torch.stack(found).cpu()


def assert_same_training(fast, plain):
    """Losses differ by little at each step, by less on average, and not more and more in one direction."""
    difference = (fast - plain) / plain
    assert difference.abs().max() < 0.02
    assert difference.abs().mean() < 0.004
    assert difference[-50:].mean().abs() < 0.002


def test_fast_settings_train_as_plain_ones_do_for_200_steps(tmp_path):
    plain = losses(settings(tmp_path), 200)
    fast = losses(settings(tmp_path, *FAST), 200)
    assert plain[-20:].mean() < 0.8 * plain[:20].mean()  # so that there is a training to compare
    assert not torch.equal(fast, plain)
    assert_same_training(fast, plain)


@pytest.mark.slow
def test_the_compiled_step_trains_as_the_plain_one_does_for_200_steps(tmp_path):
    # A compiler draws other numbers for drop path.
    plain = losses(settings(tmp_path, drop_path=0.0), 200)
    fast = losses(settings(tmp_path, *FAST, "TRAIN.COMPILE", True, drop_path=0.0), 200)
    assert_same_training(fast, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_recorded_steps_on_a_gpu_train_as_plain_ones_do_for_200_steps(tmp_path, compiled):
    plain = losses(settings(tmp_path, "NUM_GPUS", 1, drop_path=0.0), 200)
    recorded = ("NUM_GPUS", 1, "TRAIN.COMPILE", compiled, "TRAIN.CUDA_GRAPHS", True)
    fast = losses(settings(tmp_path, *FAST, *recorded, drop_path=0.0), 200)
    assert_same_training(fast, plain)
