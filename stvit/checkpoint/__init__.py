"""Checkpoints: read without running code, load from any known layout, save whole or not at all."""

from stvit.checkpoint.export import TARGETS, convert
from stvit.checkpoint.load import load_checkpoint
from stvit.checkpoint.model_file import model_from_checkpoint, pack_model
from stvit.checkpoint.reader import read_checkpoint
from stvit.checkpoint.report import LoadReport
from stvit.checkpoint.rng import rng_state, set_rng_state
from stvit.checkpoint.save import save_checkpoint

__all__ = [
    "TARGETS",
    "LoadReport",
    "convert",
    "load_checkpoint",
    "model_from_checkpoint",
    "pack_model",
    "read_checkpoint",
    "rng_state",
    "save_checkpoint",
    "set_rng_state",
]
