"""One optimiser step, and the watch over losses and gradients."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from stvit.engine.optim import build_precision
from stvit.engine.steps import Diverged, Interval, MeanGradients, training_step

CPU = torch.device("cpu")


class SquaredError:
    """To ones."""

    def inputs(self, batch):
        return (batch,)

    def loss(self, model, inputs):
        return (model(*inputs) - 1).square().mean()


def stepped(batches, clip=0.0, precision="fp32", scale=256.0):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    format = build_precision(precision, CPU)
    if format.scaler.is_enabled():
        format.scaler.load_state_dict({**format.scaler.state_dict(), "scale": scale})
    gradients = MeanGradients(model, SquaredError(), optimizer, format, clip)
    loss, norm = training_step(gradients, batches, optimizer, format)
    return model.weight.detach(), loss, norm


def test_several_small_batches_make_the_step_of_one_large_one():
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for one, two in zip(stepped([data]), stepped(list(data.split(2))), strict=True):
        torch.testing.assert_close(one, two)


def test_the_gradients_of_several_batches_travel_between_processes_once():
    class Shared(nn.Linear):
        """Counts, as DistributedDataParallel would travel, the backward passes outside of ``no_sync``."""

        here, travelled = False, 0

        @contextmanager
        def no_sync(self):
            self.here = True
            yield
            self.here = False

        def forward(self, batch):
            out = super().forward(batch)
            out.register_hook(lambda _: setattr(self, "travelled", self.travelled + (not self.here)))
            return out

    model = Shared(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients = MeanGradients(model, SquaredError(), optimizer, build_precision("fp32", CPU), 0.0)
    training_step(gradients, list(torch.ones(6, 3).split(2)), optimizer, gradients.precision)
    assert model.travelled == 1


def test_clipping_shortens_the_step():
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    before = nn.Linear(3, 1).weight.detach()
    free, _, norm = stepped([data])
    clipped, _, _ = stepped([data], clip=float(norm) / 2)
    torch.testing.assert_close(clipped - before, (free - before) / 2)


def test_fp16_steps_are_scaled_back():
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for full, half in zip(stepped([data]), stepped([data], precision="fp16"), strict=True):
        torch.testing.assert_close(full, half, rtol=1e-2, atol=1e-3)


def test_fp16_steps_whose_gradients_overflow_are_skipped():
    torch.manual_seed(0)
    before = nn.Linear(3, 1).weight.detach()
    after, loss, norm = stepped([torch.ones(8, 3)], precision="fp16", scale=2.0**30)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert loss.isfinite()
    assert not norm.isfinite()


def fill(interval, losses, norms):
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1):
        interval.add(f"step {step}", torch.tensor(loss), torch.tensor(norm), samples=2)


def test_an_interval_sums_up():
    interval = Interval()
    fill(interval, [1.0, 2.0], [5.0, 3.0])
    interval.settle(build_precision("fp32", CPU))
    assert interval.state() == {"loss_sum": 3.0, "steps": 2, "norm_max": 5.0}
    assert Interval(**interval.state()).state() == interval.state()


@pytest.mark.parametrize(
    ("losses", "norms", "named"),
    [
        ([1.0, math.nan, math.nan], [1.0, math.nan, 1.0], "step 2: loss nan, gradient norm nan"),
        ([1.0, 1.0, math.inf], [1.0, 1.0, 1.0], "step 3: loss inf, gradient norm 1"),
        ([1.0, 1.0, 1.0], [1.0, math.inf, math.nan], "step 2: loss 1, gradient norm inf"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(losses, norms, named):
    interval = Interval()
    fill(interval, losses, norms)
    with pytest.raises(Diverged, match=named):
        interval.settle(build_precision("fp32", CPU))


def test_fp16_gradients_may_overflow_while_the_scale_adapts():
    interval, precision = Interval(), build_precision("fp16", CPU)
    fill(interval, [1.0, 1.0], [math.inf, 2.0])
    interval.settle(precision)
    assert interval.state()["norm_max"] == 2.0


def test_fp16_that_overflows_at_any_scale_has_diverged():
    interval, precision = Interval(), build_precision("fp16", CPU)
    precision.scaler.load_state_dict({**precision.scaler.state_dict(), "scale": 2.0**-12})
    fill(interval, [1.0], [math.inf])
    with pytest.raises(Diverged, match="loss scale"):
        interval.settle(precision)


def test_pauses_do_not_count_as_training_time(monkeypatch):
    clock = iter([0.0, 10.0, 110.0, 120.0])
    monkeypatch.setattr("stvit.engine.steps.time.monotonic", lambda: next(clock))
    interval = Interval()
    interval.add("", torch.tensor(1.0), torch.tensor(1.0), samples=40)
    interval.wait(5.0)
    with interval.pause():
        pass
    assert interval.speed() == (2.0, 0.25)
