"""The metrics of the published tables, against the published code's values and against scikit-image."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from stvit.errors import UserError
from stvit.metrics import frames as metrics
from stvit.metrics.frames import FrameMetrics, mae, mse, psnr, psnr_uint8_wrapped, rmse, ssim

FIXTURE = Path(__file__).parents[1] / "fixtures" / "metrics_mmnist.npz"


@pytest.fixture(scope="module")
def published():
    """The pair of the fixture's rule and the values that the published implementations gave for it."""
    with np.load(FIXTURE) as file:
        values = {key[4:]: float(file[key]) for key in file.files if key.startswith("out:")}
        values |= {f"reference_{k}": v for k, v in json.loads(str(file["meta"]))["reference64"].items()}
    shape = (4, 10, 1, 64, 64)
    r = np.random.RandomState(0)
    true = (r.randint(0, 256, shape) / 255.0).astype(np.float32)
    true[r.rand(*shape) < 0.7] = 0
    pred = (true + 0.2 * r.standard_normal(shape)).astype(np.float32)
    return torch.from_numpy(pred), torch.from_numpy(true), values


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    r = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=r)
    return target + 0.2 * torch.randn(shape, generator=r), target


def skimage_ssim(pred: torch.Tensor, target: torch.Tensor, data_range: float) -> float:
    p, t = pred.clamp(0, 1).flatten(0, 1).numpy(), target.flatten(0, 1).numpy()
    scores = [structural_similarity(a, b, data_range=data_range, channel_axis=0) for a, b in zip(p, t, strict=True)]
    return float(np.mean(scores))


def test_the_published_values_are_met(published):
    pred, true, values = published
    ours = {
        "mse": mse(pred, true),
        "mae": mae(pred, true),
        "rmse": rmse(pred, true),
        "ssim": ssim(pred, true, data_range=1.0),
        "psnr": psnr_uint8_wrapped(pred, true),
        "openstl_mse": mse(pred, true),
        "openstl_mae": mae(pred, true),
        "openstl_rmse": rmse(pred, true),
        "openstl_psnr": psnr(pred, true),
        "openstl_ssim_range2": ssim(pred, true, data_range=2.0),
        "reference_mse": mse(pred, true),
        "reference_mae": mae(pred, true),
        "reference_psnr_float_per_frame": psnr(pred, true),
    }
    for name, value in ours.items():
        assert value == pytest.approx(values[name], abs=1e-5), name


def test_the_streaming_metrics_meet_the_published_values(published):
    pred, true, values = published
    stream = FrameMetrics()
    for n in range(4):
        stream.update(pred[n : n + 1], true[n : n + 1])
    got = stream.compute()
    assert tuple(got) == metrics.METRICS
    for name, key in {"ssim_range2": "openstl_ssim_range2", "psnr": "openstl_psnr"}.items():
        assert got[name] == pytest.approx(values[key], abs=1e-5)
    for name, key in {"mse": "mse", "mae": "mae", "rmse": "rmse", "ssim": "ssim", "psnr_uint8_wrapped": "psnr"}.items():
        assert got[name] == pytest.approx(values[key], abs=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("shape", [(2, 3, 1, 64, 64), (3, 2, 3, 32, 40), (2, 2, 1, 7, 7), (1, 1, 3, 7, 200)])
def test_ssim_is_that_of_scikit_image(shape, data_range):
    pred, target = pair(*shape)
    assert ssim(pred, target, data_range=data_range) == pytest.approx(skimage_ssim(pred, target, data_range), abs=1e-5)


def test_ssim_is_exact_on_a_bright_and_nearly_constant_image():
    r = torch.Generator().manual_seed(0)
    target = (0.98 + 1e-4 * torch.randn(2, 2, 1, 32, 32, generator=r)).clamp(0, 1)
    pred = (target + 1e-4 * torch.randn(target.shape, generator=r)).clamp(0, 1)
    # In float64, because scikit-image itself loses its variances to cancellation on float32 images. The small data
    # range makes the variances matter: at 1.0 the formula's constants would hide any error.
    expected = skimage_ssim(pred.double(), target.double(), data_range=0.001)
    assert 0.1 < expected < 0.9
    assert ssim(pred, target, data_range=0.001) == pytest.approx(expected, abs=1e-7)


def test_predictions_are_clipped_for_ssim_and_psnr_but_not_for_mse():
    target = torch.ones(1, 1, 1, 8, 8)
    over = target + 0.5
    assert ssim(over, target, data_range=1.0) == pytest.approx(1)
    assert psnr(over, target) == math.inf
    assert psnr_uint8_wrapped(over, target) == math.inf
    assert mse(over, target) == pytest.approx(64 * 0.25)


def test_inputs_are_left_as_they_are():
    pred, target = (x.double() for x in pair(1, 2, 1, 8, 8))
    before = pred.clone(), target.clone()
    FrameMetrics().update(pred, target)
    psnr(pred, target)
    assert torch.equal(pred, before[0])
    assert torch.equal(target, before[1])


def test_psnr_has_peak_one_and_averages_the_frames():
    target = torch.zeros(1, 2, 1, 8, 8)
    pred = torch.stack([torch.full((1, 8, 8), 0.1), torch.full((1, 8, 8), 0.01)])[None]
    assert psnr(pred, target) == pytest.approx((20 + 40) / 2, abs=1e-5)


@pytest.mark.parametrize(("levels", "counted"), [(1, 1), (15, 225), (17, 33), (128 + 15, 225), (255, 1)])
def test_the_wrapped_psnr_takes_squared_errors_modulo_256(levels, counted):
    pred = torch.full((1, 1, 1, 8, 8), levels / 255, dtype=torch.float64)
    expected = 20 * math.log10(255) - 10 * math.log10(counted)
    assert psnr_uint8_wrapped(pred, torch.zeros_like(pred)) == pytest.approx(expected)


def test_the_wrapped_psnr_calls_an_error_of_16_levels_perfect():
    off_by_16 = torch.full((1, 1, 1, 8, 8), 16 / 255)
    assert psnr_uint8_wrapped(off_by_16, torch.zeros_like(off_by_16)) == math.inf


def test_an_exact_frame_is_left_out_of_the_mean_psnr_and_counted():
    pred, target = pair(2, 3, 1, 8, 8)
    pred[1, 2] = target[1, 2]
    stream = FrameMetrics()
    stream.update(pred[1:], target[1:])
    assert stream.per_frame()["psnr"][2] == math.inf
    stream.update(pred[:1], target[:1])
    rest = [psnr(pred[:1], target[:1])] * 3 + [psnr(pred[1:, :2], target[1:, :2])] * 2
    assert stream.compute()["psnr"] == pytest.approx(np.mean(rest)) == psnr(pred, target)
    assert stream.per_frame()["psnr"][2] == pytest.approx(psnr(pred[:1, 2:], target[:1, 2:]))
    assert stream.infinite_frames() == {"psnr": 1, "psnr_uint8_wrapped": 1}


def test_only_exact_frames_have_an_infinite_mean():
    _, target = pair(2, 3, 1, 8, 8)
    stream = FrameMetrics()
    stream.update(target, target)
    got = stream.compute()
    assert got["psnr"] == got["psnr_uint8_wrapped"] == psnr(target, target) == math.inf
    assert got["mse"] == got["mae"] == got["rmse"] == 0
    assert got["ssim"] == pytest.approx(1)


def test_the_stream_equals_the_functions_however_it_is_cut():
    pred, target = pair(7, 3, 2, 16, 12)
    whole, cut, other = FrameMetrics(), FrameMetrics(), FrameMetrics()
    sequence_mse = whole.update(pred, target)
    cut.update(pred[:2], target[:2])
    other.update(pred[2:3], target[2:3])
    other.update(pred[3:], target[3:])
    cut.merge(other.state())
    cut.merge(FrameMetrics().state())
    expected = {
        "mse": mse(pred, target),
        "mae": mae(pred, target),
        "rmse": rmse(pred, target),
        "ssim": ssim(pred, target, data_range=1.0),
        "ssim_range2": ssim(pred, target, data_range=2.0),
        "psnr": psnr(pred, target),
        "psnr_uint8_wrapped": psnr_uint8_wrapped(pred, target),
    }
    assert whole.compute() == pytest.approx(expected, rel=1e-12)
    assert cut.compute() == pytest.approx(expected, rel=1e-12)
    assert cut.sequences == 7
    assert sequence_mse.tolist() == pytest.approx([mse(pred[n : n + 1], target[n : n + 1]) for n in range(7)])


def test_a_fresh_accumulator_takes_over_a_merged_state():
    pred, target = pair(2, 3, 1, 8, 8)
    first, second = FrameMetrics(), FrameMetrics()
    first.update(pred, target)
    second.merge(first.state())
    assert second.compute() == first.compute()


def test_per_frame_curves_are_the_metrics_of_each_frame():
    pred, target = pair(3, 4, 1, 16, 16)
    stream = FrameMetrics()
    stream.update(pred, target)
    curves = stream.per_frame()
    for t in range(4):
        p, q = pred[:, t : t + 1], target[:, t : t + 1]
        assert curves["mse"][t] == pytest.approx(mse(p, q))
        assert curves["rmse"][t] == pytest.approx(rmse(p, q))
        assert curves["ssim"][t] == pytest.approx(ssim(p, q, data_range=1.0))
        assert curves["psnr"][t] == pytest.approx(psnr(p, q))


def test_pieces_of_a_large_batch_give_the_whole(monkeypatch):
    pred, target = pair(3, 4, 1, 16, 16)
    whole = ssim(pred, target, data_range=1.0)
    monkeypatch.setattr(metrics, "_CPU_PIXELS", 5 * 256)
    assert ssim(pred, target, data_range=1.0) == pytest.approx(whole, rel=1e-12)


def test_half_precision_predictions_are_scored():
    pred, target = pair(1, 2, 1, 8, 8)
    stream = FrameMetrics()
    stream.update(pred.bfloat16(), target)
    assert stream.compute()["mse"] == pytest.approx(mse(pred, target), rel=0.02)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8), r"\(1, 2, 1, 8, 8\) and \(1, 3, 1, 8, 8\)"),
        (
            torch.zeros(2, 1, 8, 8),
            torch.zeros(2, 1, 8, 8),
            r"\(N, T, C, H, W\), not of shape \(2, 1, 8, 8\): x\[None\]",
        ),
        (torch.zeros(1, 2, 1, 8, 8), torch.zeros(8, 8), r"the truth must be \(N, T, C, H, W\), not of shape \(8, 8\)$"),
        (
            np.zeros((2, 1, 8, 8)),
            torch.zeros(1, 2, 1, 8, 8),
            r"not a ndarray: torch\.from_numpy\(x\) makes .*\(x\)\[None\]",
        ),
        (torch.zeros(1, 2, 1, 8, 8), [0.0], r"the truth must be a tensor \(N, T, C, H, W\), not a list"),
        (torch.zeros(0, 2, 1, 8, 8), torch.zeros(0, 2, 1, 8, 8), "no frames"),
        (torch.zeros(1, 1, 1, 6, 8), torch.zeros(1, 1, 1, 6, 8), "at least 7x7 pixels.*got 6x8"),
        (torch.zeros(1, 1, 1, 8, 8), torch.full((1, 1, 1, 8, 8), 255.0), r"truth must lie in \[0, 1\].*255"),
        (torch.zeros(1, 1, 1, 8, 8), torch.full((1, 1, 1, 8, 8), math.nan), r"truth must lie in \[0, 1\]"),
        (torch.zeros(1, 1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 1, 1, 8, 8), "divide 8-bit frames by 255"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(pred, target, message):
    with pytest.raises(UserError, match=message):
        FrameMetrics().update(pred, target)


def test_predictions_that_are_not_finite_are_refused_and_leave_the_sums_alone():
    pred, target = pair(2, 3, 1, 8, 8)
    stream = FrameMetrics()
    stream.update(pred, target)
    before = stream.compute()
    broken = pred.clone()
    broken[1, 2, 0, 3, 3] = math.nan
    with pytest.raises(UserError, match="1 predicted values are not finite, first in sequence 1, frame 3"):
        stream.update(broken, target)
    assert stream.compute() == before


def test_a_stream_keeps_to_one_number_of_frames():
    stream = FrameMetrics()
    stream.update(*pair(1, 3, 1, 8, 8))
    with pytest.raises(UserError, match="this batch has 4 frames a sequence and earlier ones had 3"):
        stream.update(*pair(1, 4, 1, 8, 8))


def test_metrics_of_nothing_are_refused():
    with pytest.raises(UserError, match="no sequences were measured"):
        FrameMetrics().compute()


def test_data_range_must_be_given_and_positive():
    pred, target = pair(1, 1, 1, 8, 8)
    with pytest.raises(TypeError):
        ssim(pred, target)
    with pytest.raises(UserError, match="data_range must be a positive number"):
        ssim(pred, target, data_range=0)


@pytest.mark.gpu
def test_the_metrics_are_the_same_on_the_accelerator():
    pred, target = pair(4, 3, 1, 64, 64)
    cpu, gpu = FrameMetrics(), FrameMetrics()
    cpu.update(pred, target)
    gpu.update(pred.cuda(), target.cuda())
    assert gpu.compute() == pytest.approx(cpu.compute(), rel=1e-9)
