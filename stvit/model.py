"""What every network of stvit carries besides its weights."""

from __future__ import annotations

from torch import nn

from stvit.preprocessing import Preprocessing


class Model(nn.Module):
    """Base of all networks; :func:`stvit.create_model` fills these in, and checkpoints carry them along."""

    model_name: str  # the registered name
    model_args: dict[str, object]  # settings that differ from the registered row, as plain values
    preprocessing: Preprocessing  # what has to happen to pixels first

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone, besides those of one axis (biases and norms)."""
        return set()
