"""The predictor that stvit ships, under the name ``builtin``: weights that need neither training nor a download.

``moving_mnist/`` holds what :func:`stvit.hub.save_pretrained` writes, with the weights in half precision, and is made
by ``tools/ship_predictor.py``. Its ``config.json`` also has what a checkpoint of a training run says of its training,
and ``results``, the figures of the model card. Its ``SHA256SUMS`` (for ``sha256sum -c``) is compared at each load:
against damage, since who can change the weights can change their digest as well.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from stvit.errors import UserError

NAME = "builtin"
FOLDER = Path(__file__).parent / "moving_mnist"
DIGESTS = "SHA256SUMS"


def is_builtin(source: object) -> bool:
    """Whether a source of weights is the shipped predictor rather than a file: the text ``builtin`` alone.

    A file or folder of this name in the working directory is ``./builtin``, or a ``pathlib.Path``.
    """
    return isinstance(source, str) and source == NAME


def read_builtin() -> dict[str, object]:
    """The shipped checkpoint, as :func:`stvit.checkpoint.read_checkpoint` gives that of a training run.

    The weights are float32, with values that were rounded to half precision.

    Raises:
        UserError: a file is missing, or is not the one that was shipped.
        OSError: a file cannot be read.
    """
    from safetensors.torch import load  # only loading needs it

    content: dict[str, object] = json.loads(_checked("config.json"))
    weights = load(_checked("model.safetensors"))
    return content | {"state_dict": {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}}


def _checked(name: str) -> bytes:
    """The content of a shipped file, which has the digest that is listed for it."""
    path = FOLDER / name
    try:
        lines = (FOLDER / DIGESTS).read_text(encoding="utf-8", errors="replace").splitlines()
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}, a part of {NAME}, is missing: reinstall stvit") from error
    found = hashlib.sha256(content).hexdigest()
    listed = next((line.split()[0] for line in lines if line.split()[1:] == [name]), "none")
    if found != listed:
        raise UserError(
            f"{path}, a part of {NAME}, is damaged or was changed: its SHA-256 begins with {found[:12]}, the one in "
            f"{DIGESTS} with {listed[:12]}; reinstall stvit"
        )
    return content
