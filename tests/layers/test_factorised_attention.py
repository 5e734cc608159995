"""Factorised attention beside its formula written out, and its accuracy in half precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from stvit.errors import UserError
from stvit.layers.factorised_attention import ConvRelativePosition, FactorisedAttention


@pytest.mark.parametrize("grid", [(5, 6), (3, 4, 5)])
def test_the_formula(grid: tuple[int, ...]) -> None:
    layer = FactorisedAttention(8, heads=4).double()
    position = ConvRelativePosition(8, (1, 3), [(3,) * len(grid), (5,) * len(grid)]).double()
    x = torch.randn(2, math.prod(grid), 8, dtype=torch.float64)
    q, k, v = layer.qkv(x).reshape(2, -1, 3, 4, 2).unbind(2)  # (B, N, heads, d)
    context = torch.einsum("bnhc,bnhd->bhcd", k.softmax(dim=1), v)
    around = position(v.flatten(2).mT.reshape(2, 8, *grid)).flatten(2).mT
    want = torch.einsum("bnhc,bhcd->bnhd", q, context).flatten(2) * 2**-0.5 + q.flatten(2) * around
    torch.testing.assert_close(layer(x, grid, position), layer.proj(want))


def test_later_heads_look_further() -> None:
    position = ConvRelativePosition(8, (2, 3, 3), [(3, 3), (5, 5), (7, 7)])
    for conv in position.convs:
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
    spot = torch.zeros(1, 8, 9, 9)
    spot[..., 4, 4] = 1
    reach = position(spot)[0, :, 4].sum(-1)  # positions of the middle row that see the spot
    assert reach.tolist() == [3, 3, 5, 5, 5, 7, 7, 7]


def nothing_around(v: Tensor) -> Tensor:
    return torch.zeros_like(v)


def context_of_faint_keys() -> tuple[FactorisedAttention, Tensor]:
    """Of 65,536 tokens every second one has a key that is fainter by e^-5; only those have a value, 1.

    Their weights are 2.0e-7, which float16 knows to 12 %, all of them off the same way.
    """
    layer = FactorisedAttention(2, heads=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        layer.qkv.bias[:2] = 1  # q is 1
        layer.qkv.weight[2:4, 0] = 1  # k is the first channel
        layer.qkv.weight[4:, 1] = 1  # v the second
        layer.proj.weight.copy_(torch.eye(2))
    return layer, torch.tensor([[0.0, 0.0], [-5.0, 1.0]]).repeat(32768, 1)[None]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("autocast", [False, True])
def test_many_tokens_stay_accurate_in_half_precision(dtype: torch.dtype, bound: float, autocast: bool) -> None:
    layer, x = context_of_faint_keys()
    want = copy.deepcopy(layer).double()(x.double(), (256, 256), nothing_around)
    assert want.mean().item() == pytest.approx(2**0.5 / (1 + math.exp(5)), rel=1e-6)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=autocast):
        got = (
            layer(x, (256, 256), nothing_around)
            if autocast
            else layer.to(dtype)(x.to(dtype), (256, 256), nothing_around)
        )
    assert got.dtype == dtype
    assert ((got.double() - want).abs() / want).max() < bound


def test_random_keys_of_many_tokens_stay_accurate() -> None:
    torch.manual_seed(0)
    layer, x = FactorisedAttention(8, heads=2), torch.randn(1, 40000, 8)
    nn.init.normal_(layer.qkv.weight)
    want = copy.deepcopy(layer).double()(x.double(), (200, 200), nothing_around)
    for dtype, bound in ((torch.float32, 3e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
        got = copy.deepcopy(layer).to(dtype)(x.to(dtype), (200, 200), nothing_around)
        assert (got.double() - want).abs().max() / want.abs().max() < bound, dtype


def test_widths_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="10 channels cannot be shared by 4 heads"):
        FactorisedAttention(10, heads=4)
