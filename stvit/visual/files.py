"""Writing pictures so that a failure leaves the earlier ones as they were."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def replace_files(files: Mapping[Path, bytes]) -> None:
    """Write several files, or none: each is written beside its place, and renamed only when all are on the disk.

    Folders are made where they are missing.

    Raises:
        OSError: what the system said; no file was changed, unless a rename failed after all writes had worked.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            written.append((temporary, path))
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in written:
            os.replace(temporary, path)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
