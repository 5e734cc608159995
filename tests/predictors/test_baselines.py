"""Predictions without learning, on frames whose future is known."""

import pytest
import torch

from stvit.errors import UserError
from stvit.predictors.baselines import BASELINES, displacement


def moving(shift: tuple[int, int], frames: int, batch: int = 2, channels: int = 1) -> torch.Tensor:
    """A random patch that moves by ``shift`` a frame on a 32x36 canvas and stays inside for 7 frames."""
    patch = torch.rand(batch, channels, 6, 5, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(batch, frames, channels, 32, 36)
    for t in range(frames):
        top, left = 13 + shift[0] * (t - 3), 15 + shift[1] * (t - 3)
        out[:, t, :, top : top + 6, left : left + 5] = patch
    return out


def test_the_table_order_and_the_common_shape():
    assert list(BASELINES) == ["black", "last_frame", "mean_frame", "linear_extrapolation", "shifted_last_frame"]
    past = moving((1, 2), 4, channels=3)
    for name, baseline in BASELINES.items():
        predicted = baseline(past, 5)
        assert predicted.shape == (2, 5, 3, 32, 36), name
        assert predicted.dtype == past.dtype, name
        assert 0 <= predicted.min() <= predicted.max() <= 1, name


def test_black_last_and_mean():
    past = moving((1, 2), 4)
    assert BASELINES["black"](past, 2).abs().sum() == 0
    assert torch.equal(BASELINES["last_frame"](past, 2)[:, 1], past[:, -1])
    assert torch.allclose(BASELINES["mean_frame"](past, 2)[:, 1], past.mean(dim=1))


def test_linear_extrapolation_continues_each_pixel_and_stays_in_range():
    ramp = torch.tensor([0.5, 0.6, 0.7]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 8, 8)
    predicted = BASELINES["linear_extrapolation"](ramp, 4)[0, :, 0, 0, 0]
    assert predicted.tolist() == pytest.approx([0.8, 0.9, 1.0, 1.0])


@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (-2, 3), (3, -1), (-1, -1)])
def test_the_shifted_last_frame_is_right_for_one_object_in_steady_motion(shift):
    frames = moving(shift, 7)
    assert torch.equal(BASELINES["shifted_last_frame"](frames[:, :4], 3), frames[:, 4:])


def test_sequences_of_a_batch_have_their_own_displacements():
    right, up = moving((0, 2), 4)[:1], moving((-3, 0), 4)[:1]
    both = torch.cat([right, up])
    assert displacement(both[:, 2], both[:, 3]).tolist() == [[0, 2], [-3, 0]]


def test_what_leaves_the_frame_does_not_come_back_on_the_other_side():
    past = torch.zeros(1, 2, 1, 16, 16)
    past[0, 0, 0, 4:8, 8:12] = past[0, 1, 0, 4:8, 12:16] = 1
    predicted = BASELINES["shifted_last_frame"](past, 2)
    assert predicted.abs().sum() == 0


def test_empty_frames_have_not_moved():
    empty = torch.zeros(1, 3, 1, 16, 16)
    assert displacement(empty[:, 0], empty[:, 1]).tolist() == [[0, 0]]
    assert BASELINES["shifted_last_frame"](empty, 2).abs().sum() == 0


@pytest.mark.parametrize("name", ["linear_extrapolation", "shifted_last_frame"])
def test_a_motion_needs_two_frames(name):
    with pytest.raises(UserError, match=f"{name} needs at least 2 past frames"):
        BASELINES[name](torch.zeros(1, 1, 1, 8, 8), 2)
