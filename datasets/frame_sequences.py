"""Fixed sets of frame sequences in array files, such as the published ``mnist_test_seq.npy``."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch.utils.data import Dataset

from stvit.datasets.moving_mnist import Key, MovingMNIST, SequenceBatch, split_keys
from stvit.errors import UserError

_BLOCK = 1 << 24  # bytes read or pixels checked at a time
_CHUNK = 256  # sequences made and written at a time


class FrameSequences(Dataset[SequenceBatch]):
    """Sequences out of one array ``(T, N, H, W)``, the layout of ``mnist_test_seq.npy``; sequence i is ``[:, i]``.

    ``array``: uint8, or float in [0, 1], which is rounded to 256 grey levels; it may be memory-mapped. ``frames``:
    the first frames of each sequence to give, all by default. ``length``: the first sequences to give, all by default.
    ``name`` is used in messages: a path, say. Batches are :class:`SequenceBatch` with one channel and epoch 0.
    Raises :class:`UserError` for a wrong rank, type or size, and for floats that are NaN or outside [0, 1].
    """

    def __init__(
        self, array: np.ndarray, frames: int | None = None, length: int | None = None, name: str = "frames"
    ) -> None:
        _check_array(array, name)
        total, sequences = array.shape[:2]
        if frames is not None and not 1 <= frames <= total:
            swapped = ", or transpose it if it is (N, T, H, W)" if sequences == frames else ""
            raise UserError(f"{name} has {total} frames a sequence but {frames} are needed: ask for fewer{swapped}")
        if frames is not None and total != frames == sequences:
            raise UserError(
                f"{name} of shape {array.shape} seems to be (N, T, H, W): transpose its first two axes to (T, N, H, W)"
            )
        if length is not None and not 1 <= length <= sequences:
            raise UserError(f"{name} has {sequences} sequences but {length} are asked for: give 1 to {sequences}")
        self.array, self.name = array, name
        self.frames, self.length = frames or total, length or sequences

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Key) -> SequenceBatch:
        """One sequence, as a batch of one; ``IndexError`` past the end."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> SequenceBatch:
        """The sequences of a batch; the epoch of a key does not matter."""
        _, indices = split_keys(keys, self.length)
        chosen = self.array[: self.frames, indices].swapaxes(0, 1)
        if chosen.dtype != np.uint8:
            chosen = np.rint(chosen.astype(np.float32) * 255).astype(np.uint8)
        frames = torch.from_numpy(np.ascontiguousarray(chosen)[:, :, None])
        return SequenceBatch(frames, 0, torch.from_numpy(indices))


def _check_array(array: np.ndarray, name: str) -> None:
    if array.ndim != 4 or 0 in array.shape:
        raise UserError(f"{name} has shape {array.shape}: frame sequences are an array (T, N, H, W) of at least one")
    if array.dtype == np.uint8:
        return
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name} holds {array.dtype}: give uint8 frames, or floats in [0, 1]")
    step = max(1, _BLOCK // array[0, 0].size)
    for frame, plane in enumerate(array):
        for start in range(0, len(plane), step):
            block = plane[start : start + step]
            bad = ~((block >= 0) & (block <= 1))  # true for NaN as well
            if bad.any():
                where = start + int(np.argwhere(bad)[0][0])
                value = block[bad][0]
                raise UserError(
                    f"{name} holds {value} in frame {frame} of sequence {where}: "
                    "floats must be in [0, 1] (divide by 255, replace NaN), or give uint8"
                )


def open_frame_sequences(path: str | Path, frames: int | None = None, length: int | None = None) -> FrameSequences:
    """A ``.npy`` file of frame sequences, memory-mapped; :class:`UserError` if it is missing, damaged or unfit."""
    return FrameSequences(open_array(path), frames, length, str(path))


def open_array(path: str | Path) -> np.ndarray:
    """The array of a ``.npy`` file, of any shape, memory-mapped; :class:`UserError` if it is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: give the path of a .npy array (T, N, H, W)") from error
    except (ValueError, EOFError) as error:  # no npy file, objects inside, or shorter than its header says
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no readable .npy array, or truncated ({reason}): fetch or make it again") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive of arrays: give a .npy file with one array (T, N, H, W)")
    return array


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_sequences(dataset: MovingMNIST, path: Path) -> None:
    """All sequences of a fixed Moving MNIST set as ``.npy``, uint8 ``(T, N, H, W)``; the file appears complete.

    Written under a name of its own and renamed, so two processes that do it at once both succeed: their files have
    the same bytes. Plain writes, not a memory map: a full disk then raises ``OSError`` instead of killing the process.
    """
    height, width = dataset.spec.canvas
    shape = (dataset.spec.frames, len(dataset), height, width)
    with _appearing_complete(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for first in range(0, len(dataset), _CHUNK):
            indices = np.arange(first, min(first + _CHUNK, len(dataset)))
            for t, frames in enumerate(dataset.generate(0, indices).swapaxes(0, 1)):
                file.seek(start + (t * len(dataset) + first) * height * width)
                file.write(frames.tobytes())


@contextmanager
def _appearing_complete(path: Path) -> Iterator[IO[bytes]]:
    """A new binary file that takes its name once it is whole and on disk; nothing is left of a failed one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path} ({error.strerror}): free space or set DATA.CACHE_DIR to a folder that can be written",
        ) from error
    finally:
        with suppress(OSError):  # usually renamed and gone; a folder that cannot be used has been reported above
            temporary.unlink()
