"""Writing checkpoints: whole or not at all, and readable without running code."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch
from torch import Tensor, nn

from stvit.errors import UserError

_STALE = 3600.0  # seconds after which an unfinished file of another machine counts as left behind


def save_checkpoint(path: str | PathLike[str], payload: Mapping[str, object]) -> None:
    """Write a checkpoint so that ``path`` is at every moment the old file or the new one, also when killed.

    The new file is written beside the old one, forced to the disk and renamed over it. Unfinished files of killed
    processes are removed.

    Args:
        path: where to; the folder must exist.
        payload: tensors and plain values (dict, list, tuple, str, int, float, bool, None), so that
            ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        UserError: there is no such folder, or ``path`` is one.
        TypeError: a value that is neither tensor nor plain; the message says where it stands.
        OSError: the disk is full or the folder cannot be written. The previous file is untouched.
    """
    _save(Path(path), _checked_bytes(payload, ""), lambda file: torch.save(dict(payload), file))


def save_safetensors(path: str | PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file, with :func:`save_checkpoint`'s care and errors.

    Tensors that share memory, which the format does not allow, are written apart.
    """
    from safetensors.torch import save

    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        plain[key] = tensor.detach().clone() if storage in storages else tensor.detach().contiguous()
        storages.add(storage)
    _save(Path(path), _checked_bytes(plain, ""), lambda file: file.write(save(plain, metadata={"format": "pt"})))


def save_bytes(path: str | PathLike[str], data: bytes) -> None:
    """Write a file that is made already, with :func:`save_checkpoint`'s care and errors."""
    _save(Path(path), len(data), lambda file: file.write(data))


def refuse_overwriting(source: str, output: str | PathLike[str]) -> None:
    """Refuse to write a result over the checkpoint that it is made from; addresses and missing files pass.

    Raises:
        UserError: both are the same file, also by a link.
    """
    read, written = Path(source).expanduser(), Path(output)
    if read.exists() and written.exists() and read.samefile(written):
        raise UserError(f"--output {output} is the file of --checkpoint, which is not overwritten: give another name")


def _save(path: Path, needed: int, write: Callable[[IO[bytes]], object]) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it for the checkpoint")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the checkpoint {path.name}: create it first")
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        _remove_left_behind(path)
        _write(temporary, write)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, _failure(path, needed, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class _Watched:
    """A file that remembers why writing failed; torch's writer reports only that it did."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all of ``data``."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand everything to the system."""
        self.file.flush()


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with path.open("xb") as file:
        watched = _Watched(file)
        try:
            write(cast(IO[bytes], watched))
            file.flush()
        except RuntimeError:
            if watched.error is None:
                raise
            raise watched.error from None
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power failure, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it; the file itself is in place
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_behind(path: Path) -> None:
    """Unfinished files for the same checkpoint whose writer is gone."""
    for file in path.parent.glob(f".{path.name}.*.tmp"):
        host, _, pid = file.name.removeprefix(f".{path.name}.").removesuffix(".tmp").rpartition(".")
        with contextlib.suppress(FileNotFoundError):
            here = host == socket.gethostname() and pid.isdecimal()
            if (here and not _runs(int(pid))) or time.time() - file.stat().st_mtime > _STALE:
                file.unlink()


def _runs(pid: int) -> bool:
    """Whether another process has this number; a file with our own was left by a namesake before us."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _checked_bytes(value: object, place: str) -> int:
    """Bytes that the tensors take; raises where a value is not plain.

    Types are compared exactly: numpy.float64 is a float by inheritance, and still needs numpy's code to be read.
    """
    kind = type(value)
    if kind in (Tensor, nn.Parameter):
        assert isinstance(value, Tensor)
        return value.numel() * value.element_size()
    if kind in (dict, OrderedDict):
        assert isinstance(value, dict)
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"checkpoint{place} has the key {key!r}: only str and int can be saved")
        return sum(_checked_bytes(v, f"{place}[{k!r}]") for k, v in value.items())
    if kind in (list, tuple):
        assert isinstance(value, list | tuple)
        return sum(_checked_bytes(v, f"{place}[{i}]") for i, v in enumerate(value))
    if kind in (str, int, float, bool, type(None)):
        return 0
    raise TypeError(f"checkpoint{place} is a {kind.__module__}.{kind.__qualname__}: save tensors and plain values only")


def _failure(path: Path, needed: int, error: OSError) -> str:
    free = ""
    with contextlib.suppress(OSError):
        free = f", the disk has {shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    kept = "; the previous one is untouched" if path.exists() else ""
    return f"cannot write checkpoint {path}: {error.strerror} (it needs {needed / 1e6:.1f} MB{free}){kept}"
