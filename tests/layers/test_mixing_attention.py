"""Mixing attention beside its formulas written out, gates on the values and padded frames masked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stvit.errors import UserError
from stvit.layers.mixing_attention import MixingAttention
from stvit.layers.partition import key_mask, merge, pad_to_windows, partition

GRIDS = {
    (7, 7): [(7, 14)],
    (3, 5): [(6, 5)],
    (2, 3, 3): [(1, 3, 3), (4, 3, 6), (5, 6, 3)],
    (4, 2, 3): [(3, 2, 3), (6, 4, 3), (8, 2, 6)],
}


def build(window: tuple[int, ...]) -> MixingAttention:
    torch.manual_seed(0)
    layer = MixingAttention(16, window, (3,) * len(window), heads=2).double().eval()
    for name, tensor in layer.state_dict().items():
        if "running" in name or name.endswith((".1.weight", "norm.weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif name == "rel_pos.table":
            nn.init.normal_(tensor)
    return layer


def written_out(layer: MixingAttention, x: Tensor) -> Tensor:
    """The published order of steps; windows that reach past the last frame have their keys masked there."""
    size, axes = x.shape[1:-1], tuple(range(2, x.ndim))
    a, c = layer.proj_attn_norm(layer.proj_attn(x)), layer.proj_cnn_norm(layer.proj_cnn(x))
    c1 = F.gelu(layer.depthwise_norm(layer.depthwise(c.movedim(-1, 1))))
    gates = layer.channel_gate(c1.mean(axes, keepdim=True)).sigmoid()
    q, k, v = layer.qkv(a).movedim(-1, 1).chunk(3, dim=1)
    q, k, v = (
        rearrange(partition(pad_to_windows(t, layer.window), layer.window), "b g n (h d) -> b g h n d", h=2)
        for t in (q, k, v * gates)
    )
    scores = q @ k.mT * q.shape[-1] ** -0.5 + layer.rel_pos()
    if (seen := key_mask(size, layer.window)) is not None:
        scores = scores.masked_fill(~seen[:, None], -torch.inf)
    out = rearrange(scores.softmax(-1) @ v, "b g h n d -> b g n (h d)")
    whole = [-(-n // w) * w for n, w in zip(size, layer.window, strict=True)]
    out = merge(out, layer.window, whole)[(..., *(slice(n) for n in size))]
    c2 = layer.conv_norm(layer.projection(c1) * layer.spatial_gate(out).sigmoid())
    return layer.proj(torch.cat([layer.attn_norm(out.movedim(1, -1)), c2.movedim(1, -1)], dim=-1))


@pytest.mark.parametrize("window", GRIDS)
def test_it_follows_its_formulas_whatever_the_number_of_frames(window: tuple[int, ...]) -> None:
    layer = build(window)
    for grid in GRIDS[window]:
        x = torch.randn(2, *grid, 16, dtype=torch.float64)
        torch.testing.assert_close(layer(x), written_out(layer, x))


def test_windows_see_each_other_through_the_convolution_alone() -> None:
    """Behind the border of a window, attention alone would pass nothing on; the 3x3 kernel passes on its neighbours."""
    layer = build((3, 3))
    x = torch.randn(1, 3, 9, 16, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 3] += 1  # the first column of the second window
    with torch.no_grad():
        layer.channel_gate[3].weight.zero_()  # the gates, which see everything, at a constant
        differs = (layer(changed) - layer(x)).abs().amax((0, 1, 3)) > 1e-9
    assert differs.tolist() == [False, False, True, True, True, True, False, False, False]


def test_one_sample_cannot_train_the_gates_unless_their_norms_are_frozen() -> None:
    layer, x = build((3, 3)).train(), torch.randn(1, 3, 3, 16, dtype=torch.float64)
    with pytest.raises(UserError, match=r"take 2 or more on each device, SyncBatchNorm, or call model\.freeze_batch"):
        layer(x)
    assert layer(torch.cat([x, x])).isfinite().all()
    layer.channel_gate[1].eval()
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("window", [(7, 7), (2, 3, 3)])
def test_what_follows_the_convolution_is_in_half_precision_where_autocast_is(window: tuple[int, ...]) -> None:
    layer, seen = build(window).float(), []
    layer.depthwise_norm.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, *GRIDS[window][0], 16))
    assert [x.dtype for x in seen] == [torch.bfloat16] * 2


def test_forward_derivatives_of_images_are_those_of_differences() -> None:
    layer, step = build((3, 3)), 1e-6
    x, direction = torch.randn(2, 1, 3, 3, 16, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):  # the one that has forward derivatives
        _, derivative = torch.func.jvp(layer, (x,), (direction,))
    difference = (layer(x + step * direction) - layer(x - step * direction)) / (2 * step)
    torch.testing.assert_close(derivative, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("dim", "heads"), [(24, 5), (14, 1), (17, 1)])
def test_widths_that_cannot_be_halved_among_heads_are_refused(dim: int, heads: int) -> None:
    with pytest.raises(UserError, match=f"a width of {dim} cannot be mixed with {heads} heads"):
        MixingAttention(dim, (3, 3), (3, 3), heads)
