"""Which code, which libraries and which training made a result."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import stvit
from stvit.preprocessing import Preprocessing

LIBRARIES = ("stvit", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a number can depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def code_commit() -> str | None:
    """The commit of the checkout that stvit is imported from, with ``-dirty`` if it has changes; else None."""
    package = Path(stvit.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "stvit" != package:
        return None  # not a checkout, or installed inside one of something else
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "-uno")
    return f"{commit}-dirty" if commit and changes else commit


@dataclass(frozen=True)
class TrainingRecord:
    """What a checkpoint says about the training behind it; all empty for files that others wrote."""

    data: dict[str, object] | None = None  # "train" and "validation" as in Splits.identity
    precision: str | None = None  # the number format really used: fp32, bf16 or fp16
    chosen_on_test: bool = False  # the test set was its validation set
    preprocessing: Preprocessing | None = None  # of its images, with the class names


def training_record(content: Mapping[str, object]) -> TrainingRecord:
    """The record inside a checkpoint that stvit's training wrote; an empty one for those of others.

    Raises:
        UserError: it describes its images in words that this stvit does not know.
    """
    if not str(content.get("format", "")).startswith("stvit-checkpoint-"):
        return TrainingRecord()
    data, precision = content.get("data"), content.get("precision")
    described = content.get("preprocessing")
    settings = _inside(content.get("config"), "MOVING_MNIST", "VALIDATE_ON_TEST")
    return TrainingRecord(
        data={part: data.get(part) for part in ("train", "validation")} if isinstance(data, Mapping) else None,
        precision=precision if isinstance(precision, str) else None,
        chosen_on_test=settings is True or _inside(data, "validation_is_test") is True,
        preprocessing=Preprocessing.from_dict(described) if isinstance(described, dict) else None,
    )


def _inside(tree: object, *path: str) -> object:
    """An entry of nested mappings, None where there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
