"""Optimisers, schedules, number formats and the running mean of the weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from stvit.config import load_config
from stvit.engine.optim import (
    build_ema,
    build_optimizer,
    build_precision,
    build_scheduler,
    clip_gradients,
    cosine_lr,
    parameter_groups,
)
from stvit.errors import UserError
from stvit.model import Model
from stvit.registry import create_model

CPU = torch.device("cpu")


def settings(*overrides: str):
    return load_config(None, overrides)


def run_schedule(cfg, steps_per_epoch):
    """Learning rate and beta1 at every step of a run."""
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    scheduler = build_scheduler(optimizer, cfg, steps_per_epoch)
    values = []
    for _ in range(cfg.SOLVER.MAX_EPOCH * steps_per_epoch):
        group = optimizer.param_groups[0]
        values.append((group["lr"], *group["betas"]))
        optimizer.step()
        scheduler.step()
    return values


def test_onecycle_has_the_published_shape():
    values = run_schedule(settings("SOLVER.MAX_EPOCH", "4"), 625)
    rates = [lr for lr, _, _ in values]
    assert rates[0] == pytest.approx(4e-5)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 0.3 * 2500 - 1
    assert rates[-1] == pytest.approx(4e-9)


def test_onecycle_swings_beta1_against_the_learning_rate():
    values = run_schedule(settings("SOLVER.MAX_EPOCH", "4"), 625)
    first = [beta for _, beta, _ in values]
    assert (first[0], min(first), first[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert first.index(min(first)) == 0.3 * 2500 - 1
    assert {second for _, _, second in values} == {0.999}


def test_onecycle_keys_shape_it():
    cfg = settings(
        "SOLVER.MAX_EPOCH", "1", "SOLVER.BASE_LR", "2", "SOLVER.ONECYCLE_PCT_START", "0.5",
        "SOLVER.ONECYCLE_DIV", "4", "SOLVER.ONECYCLE_FINAL_DIV", "10",
    )  # fmt: skip
    rates = [lr for lr, _, _ in run_schedule(cfg, 100)]
    assert (rates[0], rates[49], rates[-1]) == pytest.approx((0.5, 2.0, 0.05))


def test_onecycle_whose_rise_is_one_step_is_refused():
    cfg = settings("SOLVER.MAX_EPOCH", "1", "SOLVER.ONECYCLE_PCT_START", "0.25")
    with pytest.raises(UserError, match="ONECYCLE_PCT_START"):
        run_schedule(cfg, 4)


def test_cosine_warms_up_per_step_and_ends_where_it_should():
    cfg = settings(
        "SOLVER.LR_POLICY", "cosine", "SOLVER.MAX_EPOCH", "2", "SOLVER.BASE_LR", "1", "SOLVER.WARMUP_EPOCHS", "0.5",
        "SOLVER.WARMUP_START_LR", "0.2", "SOLVER.COSINE_END_LR", "0.1", "SOLVER.BETAS", "[0.8, 0.9]",
    )  # fmt: skip
    values = run_schedule(cfg, 8)
    rates = [lr for lr, _, _ in values]
    assert rates[:5] == pytest.approx([0.36, 0.52, 0.68, 0.84, 1.0])
    assert rates[9] > 0.55 > rates[10]  # half way down, between the middle two of twelve
    assert rates[9] + rates[10] == pytest.approx(1.1)
    assert rates[-1] == pytest.approx(0.1, rel=1e-12)
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert {(first, second) for _, first, second in values} == {(0.8, 0.9)}


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_last_step_of_a_cosine_run_has_exactly_its_end(warmup):
    assert cosine_lr(99, 100, warmup, 0.0, 1.0, 0.25) == 0.25
    assert cosine_lr(98, 100, warmup, 0.0, 1.0, 0.25) > 0.25


def test_no_step_of_a_warm_up_is_wasted_on_a_rate_of_zero():
    assert cosine_lr(0, 100, 4, 0.0, 1.0, 0.0) == pytest.approx(0.2)
    assert cosine_lr(4, 100, 4, 0.0, 1.0, 0.0) == 1.0


def test_a_cosine_that_has_gone_on_since_the_first_step_meets_the_warm_up_on_its_way_down():
    rates = [cosine_lr(step, 101, 10, 0.01, 1.0, 0.1, after_warmup=False) for step in range(101)]
    whole = [cosine_lr(step, 101, 0, 0.0, 1.0, 0.1) for step in range(101)]
    assert rates[10:] == whole[10:]
    assert rates[:10] == pytest.approx([0.01 + (whole[10] - 0.01) * (k + 1) / 11 for k in range(10)])
    assert max(rates) == whole[10] < 1


def test_learning_rates_follow_the_batch_that_they_are_meant_for():
    cfg = settings(
        "SOLVER.LR_POLICY", "cosine", "SOLVER.BASE_LR", "1", "SOLVER.COSINE_END_LR", "0.5", "SOLVER.MAX_EPOCH", "1",
        "SOLVER.BASE_LR_BATCH_SIZE", "256", "TRAIN.BATCH_SIZE", "32", "TRAIN.ACCUMULATE_STEPS", "4",
    )  # fmt: skip
    rates = [lr for lr, _, _ in run_schedule(cfg, 10)]
    assert (rates[0], rates[-1]) == pytest.approx((0.5, 0.25))


def test_sgd_has_its_momentum_and_looks_ahead():
    cfg = settings(
        "SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.MOMENTUM", "0.8", "SOLVER.NESTEROV", "True", "SOLVER.BASE_LR", "0.1"
    )
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["dampening"], group["nesterov"]) == (0.1, 0.8, 0.0, True)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_is_the_one_that_was_asked_for(name, kind):
    assert type(build_optimizer(nn.Linear(2, 2), settings("SOLVER.OPTIMIZING_METHOD", name))) is kind


class Net(Model):
    """Two layers, norms, and a table that asks to be spared."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.table = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Parameter(torch.zeros(3, 3))

    def no_weight_decay(self) -> set[str]:
        return {"table"}


def of_groups(net, optimizer, key):
    values = {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: values[id(p)] for name, p in net.named_parameters()}


@pytest.mark.parametrize(("spare_1d", "spare_tables"), [(True, True), (True, False), (False, True), (False, False)])
def test_weights_decay_and_biases_norms_and_named_tables_only_if_asked(spare_1d, spare_tables):
    net, pairs = Net(), ("SOLVER.ZERO_WD_1D_PARAM", str(spare_1d), "SOLVER.ZERO_WD_POS_CLS", str(spare_tables))
    optimizer = build_optimizer(net, settings("SOLVER.WEIGHT_DECAY", "0.5", *pairs))
    table, one_axis = (0.0 if spare_tables else 0.5), (0.0 if spare_1d else 0.5)
    assert of_groups(net, optimizer, "weight_decay") == {
        "table": table, "linear.weight": 0.5, "linear.bias": one_axis, "norm.weight": one_axis, "norm.bias": one_axis,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "tables"), [("MixViT_P1_224", 2 * (1 + 1 + 2 + 1)), ("MPViT_T", 0), ("MixFormer_B0", 1 + 2 + 6 + 6)]
)
def test_published_recipes_spare_norms_biases_and_the_tables_of_relative_positions(file, tables):
    cfg = load_config(str(Path(__file__).parents[2] / "configs" / "imagenet" / f"{file}.yaml"), [])
    with torch.device("meta"):
        net = create_model(cfg.MODEL["NAME"])
    decays = {
        id(parameter): group["weight_decay"] for group in parameter_groups(net, cfg) for parameter in group["params"]
    }
    spared = [name for name, parameter in net.named_parameters() if not decays[id(parameter)]]
    weights = [name for name in spared if net.get_parameter(name).ndim > 1]
    assert len(weights) == tables
    assert all(name.endswith("rel_pos.table") for name in weights)
    assert {name for name, parameter in net.named_parameters() if parameter.ndim == 1} <= set(spared)


def test_the_running_mean_of_weights_has_that_of_their_statistics():
    net = nn.BatchNorm1d(1)
    ema = build_ema(net, 0.9)
    for step in range(1, 4):
        net(torch.tensor([[0.0], [float(step)]]))
        ema.update(net, step=step)
    assert 0 < ema.module.running_mean.item() < net.running_mean.item()
    assert ema.module.num_batches_tracked == 3


def test_layer_decay_slows_the_layers_far_from_the_head():
    net = create_model("mvitv2_tiny", depths=[1, 1, 1, 1], width=16, num_classes=2, input_size=[32, 32])
    cfg = settings(
        "SOLVER.LAYER_DECAY", "0.5", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.BASE_LR", "1", "SOLVER.LR_POLICY", "cosine",
        "SOLVER.COSINE_END_LR", "0.25", "SOLVER.MAX_EPOCH", "1",
    )  # fmt: skip
    optimizer = build_optimizer(net, cfg)
    rates, decays = of_groups(net, optimizer, "lr"), of_groups(net, optimizer, "weight_decay")
    assert [rates[f"blocks.{k}.mlp.fc1.weight"] for k in range(4)] == [0.5**n for n in (4, 3, 2, 1)]
    assert (rates["patch_embed.proj.weight"], rates["head.projection.weight"]) == (0.5**5, 1.0)
    assert (decays["head.projection.weight"], decays["head.projection.bias"]) == (0.1, 0.0)
    table = "blocks.0.attn.rel_pos_h"
    assert decays[table] == (0.0 if table in net.no_weight_decay() else 0.1)
    assert optimizer.param_groups[0]["lr"] == 1.0  # what the log shows
    scheduler = build_scheduler(optimizer, cfg, 2)
    optimizer.step()
    scheduler.step()
    assert of_groups(net, optimizer, "lr") == pytest.approx({name: rate / 4 for name, rate in rates.items()})


def test_layer_decay_of_a_model_without_layers_is_refused():
    with pytest.raises(UserError, match=r"SOLVER\.LAYER_DECAY is 0\.5, but Net does not say which layers it has"):
        parameter_groups(Net(), settings("SOLVER.LAYER_DECAY", "0.5"))


def net_with_gradients():
    net = nn.Linear(3, 1, bias=False)
    net.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
    return net


def test_clipping_scales_to_the_limit_and_tells_the_norm_before():
    net = net_with_gradients()
    assert clip_gradients(net, 1.0) == 5
    torch.testing.assert_close(net.weight.grad, torch.tensor([[0.6, 0.0, 0.8]]))


@pytest.mark.parametrize("limit", [0.0, 6.0])
def test_gradients_within_the_limit_stay(limit):
    net = net_with_gradients()
    assert clip_gradients(net, limit) == 5
    torch.testing.assert_close(net.weight.grad, torch.tensor([[3.0, 0.0, 4.0]]))


@pytest.mark.parametrize(
    ("name", "dtype", "scales"),
    [
        ("auto", torch.float32, False),
        ("fp32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, True),
    ],
)
def test_the_forward_pass_computes_in_the_chosen_format(name, dtype, scales):
    precision = build_precision(name, CPU)
    with precision.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype
    assert precision.scaler.is_enabled() is scales


def test_the_running_mean_starts_at_the_weights_and_then_lags_behind_them():
    net = nn.Linear(1, 1, bias=False)
    ema = build_ema(net, 0.9)
    for step, value in enumerate((1.0, 1.0, 2.0, 2.0), start=1):
        nn.init.constant_(net.weight, value)
        ema.update(net, step=step)
        if step == 1:
            assert ema.module.weight.item() == 1.0
    assert 1.0 < ema.module.weight.item() < 2.0
    assert build_ema(net, 0.0) is None
