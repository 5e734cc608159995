"""What every network of stvit carries besides its weights."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

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

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write weights, settings and a model card to a folder; see :func:`stvit.hub.save_pretrained`."""
        from stvit.hub import save_pretrained  # not needed to build a model

        return save_pretrained(self, folder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Share the same on the Hugging Face Hub; see :func:`stvit.hub.push_to_hub`."""
        from stvit.hub import push_to_hub

        return push_to_hub(self, repo_id, private=private, token=token)
