"""The two-layer perceptron of transformer blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Without gradients, a CPU takes so many tokens at a time: the hidden values then stay in its cache, which saves up to
# half of the time, and most of the memory. Fewer hidden values than these fit there anyway.
CHUNK_TOKENS = 1024
CHUNKED_ABOVE = 2**22


class MLP(nn.Module):
    """Linear, exact GELU, linear on the last axis: ``(..., dim)`` to ``(..., dim_out)``."""

    def __init__(self, dim: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        if not self._wants_chunks(x):
            return self._perceive(x)
        tokens = x.reshape(-1, x.shape[-1])
        return torch.cat([self._perceive(chunk) for chunk in tokens.split(CHUNK_TOKENS)]).view(*x.shape[:-1], -1)

    def _perceive(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def _wants_chunks(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled() or x.device.type != "cpu":
            return False
        return x.numel() // x.shape[-1] * self.fc1.out_features > CHUNKED_ABOVE
