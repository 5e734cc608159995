"""OUTPUT_DIR: whether a run can keep its files there, asked before any work, and made when training begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fvcore.common.config import CfgNode

from stvit.errors import UserError

# What a run leaves in OUTPUT_DIR that another one would overwrite.
RUN_FILES = ("checkpoints/last.pt", "checkpoints/best.pt", "metrics.jsonl", "results.json")


def refuse_unfit_output(cfg: CfgNode) -> None:
    """Try whether OUTPUT_DIR can be written, before any work goes into what could not be kept; nothing is left there.

    Raises:
        UserError: a file is in its way, or it holds a run already and TRAIN.AUTO_RESUME is False.
        OSError: it cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    try:
        place = folder / "checkpoints" if cfg.TRAIN.ENABLE else folder
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise UserError(f"OUTPUT_DIR {folder} cannot be a folder: {place} is a file; choose another OUTPUT_DIR")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error
    if cfg.TRAIN.ENABLE and not cfg.TRAIN.AUTO_RESUME:
        for name in RUN_FILES:
            if (folder / name).exists():
                raise UserError(
                    f"OUTPUT_DIR {folder} holds a run already ({folder / name}): "
                    "choose another folder, or continue that run with TRAIN.AUTO_RESUME True"
                )


def make_output(folder: Path) -> None:
    """Make OUTPUT_DIR and its folder of checkpoints, for a run that begins to train.

    Raises:
        OSError: it cannot be written.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> OSError:
    """What to say when OUTPUT_DIR cannot be written; without the number that the system gives it."""
    return OSError(f"OUTPUT_DIR {folder} cannot be written ({error.strerror}): choose another OUTPUT_DIR")
