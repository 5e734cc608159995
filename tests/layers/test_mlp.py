"""Tokens in chunks give what all at once give."""

import pytest
import torch

from stvit.layers import mlp
from stvit.layers.mlp import MLP


def test_chunks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = MLP(6, 24, 10).double(), torch.randn(2, 3, 5, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        whole = layer(x)
        monkeypatch.setattr(mlp, "CHUNKED_ABOVE", 0)
        monkeypatch.setattr(mlp, "CHUNK_TOKENS", 16)
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        layer.fc1.register_forward_hook(count)
        chunked = layer(x)
    assert calls == -(-2 * 3 * 5 * 7 // 16)
    assert chunked.shape == (2, 3, 5, 7, 10)
    torch.testing.assert_close(chunked, whole)


def test_only_large_maps_without_gradients_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MLP(2, 8, 2)
    few, many = torch.randn(4, 2), torch.randn(5, 2)
    monkeypatch.setattr(mlp, "CHUNKED_ABOVE", 32)
    with torch.no_grad():
        assert (layer._wants_chunks(few), layer._wants_chunks(many)) == (False, True)
    assert not layer._wants_chunks(many)
