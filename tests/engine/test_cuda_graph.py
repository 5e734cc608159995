"""Recorded steps compute what plain steps compute, and nothing in a step waits for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import stvit
from stvit.checkpoint import rng_state
from stvit.config import default_config
from stvit.datasets import SequenceBatch
from stvit.engine.cuda_graph import WARM_UP, RecordedGradients, Recording
from stvit.engine.distributed import ALONE
from stvit.engine.optim import build_precision
from stvit.engine.state import load_optimizer, new_state, restore, training_payload
from stvit.engine.steps import MeanGradients, training_step
from stvit.engine.tasks.moving_mnist import MovingMNISTPrediction
from stvit.errors import UserError

CPU = torch.device("cpu")


class SquaredError:
    """To the input's sum."""

    def inputs(self, batch):
        return (batch, batch.sum(1, keepdim=True))

    def loss(self, model, inputs):
        x, wanted = inputs
        return (model(x) - wanted).square().mean()


class Tape:
    """Stands in for the device: calls the work again at a replay, and puts what it leaves where it was recorded."""

    def __init__(self, model):
        self.model, self.recordings, self.replays = model, 0, 0

    def __call__(self, work):
        self.recordings += 1
        before, draws = copy.deepcopy(self.model.state_dict()), torch.get_rng_state()
        result = work().clone()
        self.model.load_state_dict(before)  # recording computes nothing
        torch.set_rng_state(draws)
        places = [parameter.grad for parameter in self.model.parameters()]
        for place in (result, *places):
            place.fill_(float("nan"))

        def replay():
            self.replays += 1
            result.copy_(work())
            for place, parameter in zip(places, self.model.parameters(), strict=True):
                place.copy_(parameter.grad)
                parameter.grad = None  # whoever wants gradients must look where the recording leaves them

        return Recording(replay, result)


def trained(batches, *, recorded, clip=0.0):
    """Losses and norms of a step on each batch, the weights after them, and the tape."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    plain = MeanGradients(model, SquaredError(), optimizer, build_precision("fp32", CPU), clip)
    tape = Tape(model)
    gradients = RecordedGradients(plain, tape) if recorded else plain
    steps = [training_step(gradients, [batch], optimizer, plain.precision) for batch in batches]
    return [(float(loss), float(norm)) for loss, norm in steps], model.state_dict(), tape


def some_batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for size in sizes]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_recorded_steps_are_plain_steps(clip):
    batches = some_batches(*[8] * (WARM_UP + 5))
    plain, weights, _ = trained(batches, recorded=False, clip=clip)
    found, recorded_weights, tape = trained(batches, recorded=True, clip=clip)
    assert (tape.recordings, tape.replays) == (1, 5)
    assert found == plain  # read after all steps: a replay leaves earlier results alone
    assert all(torch.equal(recorded_weights[name], value) for name, value in weights.items())


def test_a_batch_of_another_shape_is_computed_without_the_recording():
    batches = some_batches(*[8] * (WARM_UP + 2), 5, 8, 2, 8)
    plain, weights, _ = trained(batches, recorded=False)
    found, recorded_weights, tape = trained(batches, recorded=True)
    assert (tape.recordings, tape.replays) == (1, 4)
    assert found == plain
    assert all(torch.equal(recorded_weights[name], value) for name, value in weights.items())


def test_only_a_shape_that_was_warmed_up_is_recorded():
    batches = some_batches(*[8] * WARM_UP, 5, *[8] * WARM_UP, 8, 8)
    plain, weights, _ = trained(batches, recorded=False)
    found, recorded_weights, tape = trained(batches, recorded=True)
    assert (tape.recordings, tape.replays) == (1, 2)
    assert found == plain
    assert all(torch.equal(recorded_weights[name], value) for name, value in weights.items())


def fail_to_record(failure):
    """Steps up to a recording that fails."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = MeanGradients(model, SquaredError(), optimizer, build_precision("fp32", CPU), 0.0)

    def broken(work):
        try:
            raise failure
        finally:
            if not isinstance(failure, torch.OutOfMemoryError):
                raise RuntimeError("the end of the recording fails as well")

    gradients = RecordedGradients(plain, broken)
    for batch in some_batches(*[4] * (WARM_UP + 1)):
        gradients([batch])


def test_a_step_that_cannot_be_recorded_is_refused_in_one_line():
    failure = RuntimeError("operation not permitted when stream is capturing\nCompile with ...")
    with pytest.raises(UserError, match=r"^the training step of Linear .*capturing\): set TRAIN\.CUDA_GRAPHS False$"):
        fail_to_record(failure)


def test_full_memory_while_recording_stays_what_it_is():
    with pytest.raises(torch.OutOfMemoryError):
        fail_to_record(torch.OutOfMemoryError("CUDA out of memory"))


# What asks a device for a number, or brings one to it: the host waits, or a recording is refused.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "equal.", "lift_fresh", "bincount")


class Watch(TorchDispatchMode):
    """Notes the operations that make a host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found, self.operations = [], 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.operations += 1
        if any(word in str(operation) for word in WAITING):
            self.found.append(str(operation))
        return operation(*arguments, **(named or {}))


def predictor_state(*pairs, layout=torch.contiguous_format):
    """The settings and the state of a run with a small predictor, before its first step."""
    cfg = default_config()
    cfg.merge_from_list(["SOLVER.CLIP_GRAD_L2NORM", 1.0, "SOLVER.MAX_EPOCH", 2, *pairs])
    task = MovingMNISTPrediction.__new__(MovingMNISTPrediction)  # without its data
    task.device, task.frames_in, task.frames_out = CPU, 10, 10
    settings = {"hidden_spatial": 4, "hidden_translator": 32, "channel_heads": 4, "dim_head": 8}
    model = stvit.create_model("mixvit_predictor", **settings).train().to(memory_format=layout)
    return cfg, new_state(model, cfg, ALONE, 200, task)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_of_the_predictor_never_waits_for_the_device(precision):
    _, state = predictor_state("TRAIN.PRECISION", precision)
    batch = SequenceBatch(torch.randint(0, 256, (2, 20, 1, 64, 64), dtype=torch.uint8), 0, torch.arange(2))
    training_step(state.gradients, [batch], state.optimizer, state.precision)
    with Watch() as watch:
        loss, _ = state.gradients([batch])
    assert watch.operations > 500
    assert watch.found == []
    with Watch() as watch:
        float(loss)
    assert watch.found  # so the watch sees what it is meant to see


def test_a_pass_of_a_video_network_brings_no_number_to_the_device_twice():
    model = stvit.create_model("mvitv2_small_16x4", depths=(1, 1, 1, 1), input_size=(4, 64, 64)).train()
    clips = torch.rand(1, 3, 4, 64, 64)
    model(clips).sum().backward()
    with Watch() as watch:
        model(clips).sum().backward()
    assert watch.operations > 100
    assert watch.found == []


def test_settings_decide_whether_steps_are_recorded():
    assert isinstance(predictor_state()[1].gradients, MeanGradients)
    assert isinstance(predictor_state("TRAIN.CUDA_GRAPHS", True)[1].gradients, RecordedGradients)


def test_a_run_that_goes_on_in_another_memory_layout_has_its_means_in_it():
    cfg, state = predictor_state()
    batch = SequenceBatch(torch.randint(0, 256, (2, 20, 1, 64, 64), dtype=torch.uint8), 0, torch.arange(2))
    training_step(state.gradients, [batch], state.optimizer, state.precision)
    payload = training_payload(state, cfg, {}, [rng_state()], 0)
    _, other = predictor_state(layout=torch.channels_last)
    restore(other, payload, 0, ALONE)
    pairs = zip(state.model.parameters(), other.model.parameters(), strict=True)
    changed = 0
    for before, after in pairs:
        mean = other.optimizer.state[after]["exp_avg"]
        assert mean.stride() == after.stride()
        assert torch.equal(mean, state.optimizer.state[before]["exp_avg"])
        changed += after.stride() != before.stride()
    assert changed > 5


def test_a_resumed_optimiser_keeps_the_way_of_its_device():
    weights = [nn.Parameter(torch.ones(3))]
    weights[0].grad = torch.ones(3)
    saved_on_a_gpu, here = (torch.optim.Adam(weights, lr=0.1, fused=fused) for fused in (True, None))
    saved_on_a_gpu.step()
    load_optimizer(here, saved_on_a_gpu.state_dict())
    assert here.param_groups[0]["fused"] is None
    assert here.state[weights[0]]["step"] == 1


@pytest.mark.gpu
def test_recorded_steps_on_a_gpu_are_plain_steps():
    def losses(recorded):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)).cuda()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
        plain = MeanGradients(model, SquaredError(), optimizer, build_precision("bf16", torch.device("cuda")), 0.5)
        gradients = RecordedGradients(plain) if recorded else plain
        steps = [
            training_step(gradients, [batch.cuda()], optimizer, plain.precision)
            for batch in some_batches(*[8] * (WARM_UP + 5), 5, 8)
        ]
        return torch.tensor([[float(loss), float(norm)] for loss, norm in steps])

    torch.testing.assert_close(losses(True), losses(False), rtol=1e-2, atol=1e-3)
