"""The whole block on both grids, and drop path that drops samples rather than windows."""

from __future__ import annotations

import pytest
import torch

from stvit.layers.mixvit_block import GroupAttentionBlock, MixViTBlock


@pytest.mark.parametrize(
    ("window", "kernel", "stride", "size", "out"),
    [
        ((4, 4), (3, 3), None, (8, 12), (8, 12)),
        ((2, 4), (3, 3), (2, 2), (8, 16), (4, 8)),
        ((2, 4, 4), (3, 3, 3), None, (4, 8, 8), (4, 8, 8)),
        ((1, 2, 2), (1, 3, 3), (1, 2, 2), (3, 8, 8), (3, 4, 4)),
    ],
)
def test_one_class_builds_the_block_of_images_and_of_clips(
    window: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...] | None,
    size: tuple[int, ...],
    out: tuple[int, ...],
) -> None:
    block = MixViTBlock(8, 16, window=window, kernel=kernel, stride=stride, dim_head=8, channel_heads=2)
    y = block(torch.randn(2, 8, *size))
    assert y.shape == (2, 16, *out)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_a_clip_of_one_frame_is_an_image() -> None:
    """With window, kernel and stride of extent one in time, the 3D block computes what the 2D block does."""
    options = {"dim_head": 8, "channel_heads": 2}
    flat = MixViTBlock(8, 8, window=(2, 2), kernel=(3, 3), **options).eval().double()
    deep = MixViTBlock(8, 8, window=(1, 2, 2), kernel=(1, 3, 3), **options).eval().double()
    state = {k: v.reshape(deep.state_dict()[k].shape) for k, v in flat.state_dict().items()}
    deep.load_state_dict(state)
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(deep(x.unsqueeze(2)).squeeze(2), flat(x))


def test_drop_path_drops_whole_samples() -> None:
    torch.manual_seed(0)
    block = GroupAttentionBlock(
        8, (2, 2), grid=False, dim_head=4, mlp_ratio=2, act=torch.nn.GELU, norm_eps=1e-6, drop_path=0.5
    )
    x = torch.randn(64, 8, 4, 4)
    unchanged = (block(x) == x).flatten(1)
    assert 0 < unchanged.all(1).sum() < 64
    assert (unchanged.all(1) | ~unchanged.any(1)).all()
