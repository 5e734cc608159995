"""Reading checkpoint files: what kind a file is, and its content without running any code of it."""

from __future__ import annotations

import errno
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import torch
from torch.serialization import safe_globals

from stvit.checkpoint import paddle
from stvit.checkpoint.inert import INERT, Placeholder, plain
from stvit.checkpoint.restricted import read_stream, read_zip
from stvit.errors import UserError

_HEAD = 512  # bytes that tell the kinds apart
_SAVE_AGAIN = "save model.state_dict() instead, in a program that has its classes"


def read_checkpoint(path: str | PathLike[str]) -> dict[str, object]:
    """The content of a checkpoint file, on the CPU; no code of the file is ever run.

    Reads what ``torch.save`` writes (the zip archive and the format before PyTorch 1.6), plain pickles of arrays
    (Paddle's .pdparams) and safetensors. Namespaces and mappings come as dicts, numpy arrays as tensors, numpy
    scalars as Python's; an object of any other class, wherever it stands, as an inert
    :class:`~stvit.checkpoint.inert.Placeholder`.

    Returns:
        The dict that the file holds: tensors (without gradient) and plain values.

    Raises:
        UserError: no such file, not a checkpoint, damaged, or one that only its own code could rebuild.
        OSError: the file cannot be read.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if all((path / name).is_file() for name in ("config.json", "model.safetensors")):
            raise UserError(
                f"{path} is a folder of save_pretrained: stvit.from_pretrained({str(path)!r}) builds its model"
            )
        places = (path / name for name in ("checkpoints/best.pt", "best.pt", "model.safetensors"))
        best = next((file for file in places if file.is_file()), None)
        raise UserError(f"{path} is a folder, not a checkpoint: name the file in it{f', as {best}' if best else ''}")
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    if not path.is_file():
        raise UserError(f"{path} is a device or pipe, not a checkpoint file")
    with path.open("rb") as file:
        content = _read(file, path)
    if isinstance(content, Placeholder):
        raise UserError(f"{path} is a whole pickled {content.name}, which only its own code can rebuild: {_SAVE_AGAIN}")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of weights: {_SAVE_AGAIN}")
    return content


def _read(file: BinaryIO, path: Path) -> object:
    if other := paddle.OTHER_FILES.get(path.suffix):
        raise UserError(f"{path} {other}")
    head = file.read(_HEAD)
    file.seek(0)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.fstat(file.fileno()).st_size:
        # Before pickles: the length of its header can begin with their first byte.
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_pytorch_zip(file, path)
    if head.startswith(b"\x80"):
        if path.suffix == ".pdparams" and head[1:2] > bytes([paddle.PROTOCOL]):
            raise UserError(f"{path} is a pickle of protocol {head[1]}: write it with one of Paddle's, 2 to 4")
        return _read_guarded(file, path, read_stream)
    raise UserError(f"{path} {_what_else(head, file)}")


def _what_else(head: bytes, file: BinaryIO) -> str:
    """What a file that is no checkpoint is, ready to follow its name."""
    if not head:
        return "is empty: copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the checkpoint itself: fetch it with 'git lfs pull'"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a checkpoint: open its link in a browser and save the file that it offers"
    if head.startswith(b"\x1f\x8b"):
        return "is packed with gzip: unpack it first"
    if tarfile.is_tarfile(file):
        return f"is a tar archive: unpack it first, or, if PyTorch before 0.2 wrote it, {_SAVE_AGAIN}"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is a text file, not a checkpoint: check the download"
    return "is no checkpoint that stvit reads (PyTorch, safetensors and Paddle's .pdparams files are)"


def _read_pytorch_zip(file: BinaryIO, path: Path) -> object:
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy or download it again") from error
    if "constants.pkl" in names:
        raise UserError(f"{path} is a TorchScript archive, which holds code beside its weights: {_SAVE_AGAIN}")
    if "data.pkl" not in names:
        raise UserError(f"{path} is a zip archive, but none that torch.save wrote: unpack it first if it holds one")
    return _read_guarded(file, path, read_zip)


def _read_guarded(file: BinaryIO, path: Path, restricted: Callable[[BinaryIO], object]) -> object:
    """torch's own reader of weights, and the restricted one where the file holds more than that reads."""
    try:
        return plain(_read_weights_only(file))
    except Exception:  # whatever a file can provoke; the restricted reader decides what it is
        file.seek(0)
    try:
        return restricted(file)
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: sent to a place before the start
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged or cut short ({reason}): copy or download it again") from error


def _read_weights_only(file: BinaryIO) -> object:
    file.seek(0)
    with warnings.catch_warnings(), safe_globals([(function, name) for name, function in INERT.items()]):
        warnings.simplefilter("ignore")  # about pickle protocols that torch itself does not write
        return torch.load(file, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut short ({error}): copy or download it again") from error
