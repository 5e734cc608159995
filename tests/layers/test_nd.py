"""Operators that are chosen by the number of axes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from shrunken import build, example

from stvit.layers.nd import avg_pool


@pytest.mark.parametrize("kernel", [(1, 2, 2), (2, 2, 2), (1, 3, 2)])
def test_clips_are_pooled_as_torch_pools_them(kernel: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    torch.testing.assert_close(avg_pool(x, kernel), F.avg_pool3d(x, kernel))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_clip_network_in_half_precision_runs_on_a_cpu(dtype: torch.dtype) -> None:
    model = build("mixvit_t_224_16f")
    x = example(model)
    with torch.no_grad():
        expected = model(x)
        logits = model.to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0.1)
