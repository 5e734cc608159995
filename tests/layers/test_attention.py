"""Group and channel attention beside their formulas written out."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from stvit.errors import UserError
from stvit.layers.attention import ChannelAttention, GroupAttention


@pytest.mark.parametrize("window", [(2, 3), (2, 2, 2)])
def test_group_attention_is_softmax_of_scaled_products_plus_bias(window: tuple[int, ...]) -> None:
    layer = GroupAttention(8, window, dim_head=4).double()
    x = torch.randn(2, 3, torch.tensor(window).prod(), 8, dtype=torch.float64)
    q, k, v = rearrange(layer.qkv(x), "b g n (three h d) -> three b g h n d", three=3, h=2)
    weights = (q @ k.transpose(-2, -1) / 2 + layer.rel_pos()).softmax(-1)
    want = layer.proj(rearrange(weights @ v, "b g h n d -> b g n (h d)"))
    torch.testing.assert_close(layer(x), want)


def test_groups_do_not_see_each_other() -> None:
    layer, x = GroupAttention(8, (2, 2), dim_head=4), torch.randn(1, 2, 4, 8)
    changed = x.clone()
    changed[:, 1] += 1
    torch.testing.assert_close(layer(changed)[:, 0], layer(x)[:, 0])


def test_channel_attention_follows_its_formula() -> None:
    layer = ChannelAttention(6, heads=2).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    q, k, v = layer.qkv(x).reshape(2, 7, 3, 2, 3).unbind(2)  # (B, N, heads, d)
    weights = (torch.einsum("bnhc,bnhd->bhcd", k, v) * 3**-0.5).softmax(-1)
    out = torch.einsum("bhcd,bnhd->bnhc", weights, q)
    torch.testing.assert_close(layer(x), layer.proj(out.reshape(2, 7, 6)))


def test_channel_logits_keep_float32_under_autocast() -> None:
    """Over 4,096 tokens the logits are large; rounding them to bfloat16 would flip the softmax."""
    torch.manual_seed(0)
    layer, x = ChannelAttention(16, heads=2), torch.randn(1, 4096, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    q, k, v = rearrange(layer.qkv(x).bfloat16(), "b n (three h d) -> three b h n d", three=3, h=2)
    weights = ((k * layer.scale).float().transpose(-2, -1) @ v.float()).softmax(-1)
    want = layer.proj(rearrange(q.float() @ weights.transpose(-2, -1), "b h n d -> b n (h d)"))
    assert (got.float() - want).abs().max() / want.abs().max() < 0.02


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GroupAttention(10, (2, 2), dim_head=4), "10 channels cannot be cut into heads of 4"),
        (lambda: ChannelAttention(10, heads=4), "10 channels cannot be shared by 4 channel heads"),
    ],
)
def test_widths_that_heads_do_not_divide_are_refused(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()  # type: ignore[operator]
