"""On a GPU every tensor of a pass is the GPU's: tried without one, on tensors that have a device and no values.

Values are not known there either, so a pass that asks for one fails too.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import stvit
from stvit.datasets import DeviceMovingMNIST, MovingMNISTSpec, load_digits
from stvit.predictors.baselines import BASELINES


def on_gpu(model):
    """The model with tensors of a GPU that is not there."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device="cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mixvit_predictor_tiny", (10, 1, 64, 64)),
        ("mixvit3d_predictor_mini", (10, 1, 48, 48)),
        ("mvitv2_tiny", (3, 97, 130)),
        ("mvitv2_small_16x4", (3, 8, 64, 64)),
        ("mixvit_p1_224", (3, 97, 130)),
        ("mixvit_p1_224_16f", (3, 4, 97, 64)),
        ("mpvit_tiny", (3, 97, 130)),
        ("mpvit_tiny_16f", (3, 4, 64, 64)),
        ("mixformer_b0", (3, 97, 130)),
        ("mixformer_b0_16f", (3, 4, 97, 64)),
    ],
)
def test_a_pass_stays_on_the_device_and_asks_it_for_nothing(name, shape, training):
    with torch.device("meta"):
        model = stvit.create_model(name).train(training)
    with FakeTensorMode():
        out = on_gpu(model)(torch.empty(2, *shape, device="cuda"))
    assert out.device == torch.device("cuda", 0)
    assert len(out) == 2


def test_tensors_of_two_devices_would_be_noticed():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        on_gpu(nn.Linear(2, 2))(torch.empty(1, 2))


def test_sequences_and_simple_predictions_stay_on_the_device():
    digits = load_digits("sklearn", "train", ".")
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = list(DeviceMovingMNIST(digits, MovingMNISTSpec(), 0, "cuda").batches(0, [[1, 2, 3], [4, 5]]))
        assert [tuple(batch.frames.shape) for batch in made] == [(3, 20, 1, 64, 64), (2, 20, 1, 64, 64)]
        past = torch.empty(2, 10, 1, 64, 64, device="cuda")
        results = [made[0].frames, *(predict(past, 10) for predict in BASELINES.values())]
    assert {tensor.device for tensor in results} == {torch.device("cuda", 0)}
