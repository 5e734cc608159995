"""Which code and which libraries made a result."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import stvit

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


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
