"""The wavelet stem beside the published transform, PyWavelets, and a transform written out from its definition."""

from __future__ import annotations

import parity
import pytest
import pywt
import torch

from stvit.errors import UserError
from stvit.layers.wavelet import BANDS, UndecimatedWavelet, analysis_filters

WAVELETS = ("haar", "db2", "db3", "sym4", "bior2.2")
SHAPES = ((64, 64), (64, 48), (48, 64), (40, 56), (63, 63), (17, 31), (5, 32))


def cut(band: torch.Tensor, how: str) -> torch.Tensor:
    return {
        "": band,
        "sub": band[:, :, ::9, ::9],
        "top": band[:, :1, :1, :],
        "left": band[:, :1, :, :1],
        "bottom": band[:, :, -1:, :],
        "right": band[:, :, :, -1:],
    }[how]


@pytest.mark.parametrize(
    ("name", "wavelet"), [("dwt_haar_64x64", "haar"), ("dwt_haar_224x224", "haar"), ("dwt_db2_40x56", "db2")]
)
def test_bands_equal_the_published_transform(name: str, wavelet: str) -> None:
    fixture = parity.load(name)
    bands = dict(zip(BANDS, UndecimatedWavelet(wavelet)(fixture.x).chunk(4, dim=1), strict=True))
    for key, want in fixture.expected.items():
        band, _, how = key.partition("_")
        assert parity.relative_error(cut(bands[band], how), want) < 1e-5, key


def by_definition(x: torch.Tensor, wavelet: str) -> torch.Tensor:
    """y[i] = sum_j f[j] z[(i + j - (L/2 - 1)) mod N] along both axes, element by element."""
    filters = dict(zip("LH", analysis_filters(wavelet), strict=True))
    length = len(filters["L"])
    n = 1
    while n < max(*x.shape[-2:], length):
        n *= 2
    z = torch.zeros(*x.shape[:-2], n, n, dtype=x.dtype)
    z[..., : x.shape[-2], : x.shape[-1]] = x

    def along(z: torch.Tensor, axis: int, taps: tuple[float, ...]) -> torch.Tensor:
        return sum(tap * z.roll(-(j - (length // 2 - 1)), dims=axis) for j, tap in enumerate(taps))

    bands = [along(along(z, -1, filters[first]), -2, filters[second]) for first, second in BANDS]
    return torch.cat(bands, dim=1)[..., : x.shape[-2], : x.shape[-1]]


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size_and_wavelet_follows_the_definition(wavelet: str, shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(UndecimatedWavelet(wavelet).double()(x), by_definition(x, wavelet))


def test_filters_longer_than_the_frame_still_follow_the_definition() -> None:
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(UndecimatedWavelet("db10").double()(x), by_definition(x, "db10"))


def test_even_positions_are_the_decimated_transform_of_pywavelets() -> None:
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    ll, lh, hl, hh = UndecimatedWavelet("haar").double()(x)[0, :, ::2, ::2].numpy()
    approximation, (horizontal, vertical, diagonal) = pywt.dwt2(x[0, 0].numpy(), "haar")
    for ours, theirs in ((ll, approximation), (lh, -horizontal), (hl, -vertical), (hh, diagonal)):
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs))


def test_a_clip_is_transformed_frame_by_frame() -> None:
    stem, clip = UndecimatedWavelet("db2"), torch.randn(2, 3, 4, 16, 24)
    got = stem(clip)
    assert got.shape == (2, 12, 4, 16, 24)
    for t in range(4):
        torch.testing.assert_close(got[:, :, t], stem(clip[:, :, t]))


def test_gradients_reach_the_pixels() -> None:
    stem = UndecimatedWavelet("db2").double()
    x = torch.randn(1, 2, 12, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stem, (x,))


def test_filters_are_exact_in_whatever_type_the_module_is_cast_to() -> None:
    stem = UndecimatedWavelet("db2").half().float().double()
    low, _ = analysis_filters("db2")
    assert stem.kernels[0, 0, 1, 2].item() == low[1] * low[2]
    assert "kernels" not in stem.state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    stem, x = UndecimatedWavelet("haar"), torch.rand(1, 1, 16, 16)
    assert parity.relative_error(stem.to(dtype)(x.to(dtype)).float(), UndecimatedWavelet("haar")(x)) < 0.01


def test_compiles_as_one_graph_and_exports() -> None:
    stem, x = UndecimatedWavelet("db2"), torch.randn(1, 2, 20, 32)
    want = stem(x)
    torch.testing.assert_close(torch.compile(stem, backend="eager", fullgraph=True)(x), want)
    torch.testing.assert_close(torch.export.export(stem, (x,)).module()(x), want)


def test_an_unknown_wavelet_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no discrete wavelet 'harr' \(did you mean 'haar'"):
        UndecimatedWavelet("harr")
