"""A reader of PyTorch files that can meet any class and runs none: for files that carry foreign objects.

``torch.load(weights_only=True)`` refuses a whole file for one foreign object beside the weights, such as the config
of the framework that trained it. This reader hands pickle nothing but the records of :mod:`stvit.checkpoint.inert`,
so that such objects come out as placeholders, and builds the tensors itself, from the raw numbers, with bounds checked.
Formats: the zip archive of PyTorch 1.6 and later, the stream of pickles before it, and a plain pickle.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import BinaryIO, TypeGuard

import torch
from torch import Tensor
from torch.serialization import MAGIC_NUMBER

from stvit.checkpoint import paddle
from stvit.checkpoint.inert import (
    INERT,
    Inert,
    Placeholder,
    StoredDict,
    StoredTensor,
    inside_its_storage,
    placeholder_class,
    plain,
)

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


class StorageType(Inert):
    """The type of a storage, such as torch.FloatStorage."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class Storage(Inert):
    """A run of ``numel`` numbers in the file, ``offset`` numbers into the record ``key``."""

    __slots__ = ("dtype", "key", "numel", "offset")

    def __init__(self, kind: object, key: object, numel: object, offset: object = 0) -> None:
        if not (isinstance(kind, StorageType) and isinstance(key, str) and _is_size(numel) and _is_size(offset)):
            raise pickle.UnpicklingError("a storage with unreadable type, key or size")
        self.dtype, self.key, self.numel, self.offset = kind.dtype, key, numel, offset


class Allowed(Inert):
    """A function of ours that a file may call; wrapped, because pickle could set attributes of the function itself."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __call__(self, *args: object) -> object:
        return self.function(*args)


class Dtype(Inert):
    """A torch.dtype that a file names."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def resolve(self) -> torch.dtype:
        """torch.dtype is inert."""
        return self.dtype


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> StoredTensor:
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> StoredTensor:
    return StoredTensor(storage, offset, shape, stride, dtype)


def _rebuild_parameter(data: object, *_grad_hooks_and_state: object) -> object:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickle protocol 2 spells bytes; other codecs than its own are none of a checkpoint's business."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes spelled with the codec {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[str, Callable[..., object]] = {
    **INERT,
    "collections.OrderedDict": StoredDict,
    "collections.Counter": StoredDict,
    "builtins.set": set,
    "builtins.tuple": tuple,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "_codecs.encode": _encode,
    "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(str(part) for part in parts),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Python's own unpickler, which gets no real class or function to work with."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.classes: dict[str, type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> object:
        """A record for everything that the file names; nothing is imported."""
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # protocol 2 spells Python 2's names
        known = _ALLOWED.get(full)
        if isinstance(known, type) and issubclass(known, Inert):
            return known
        if known is not None:
            return Allowed(known)
        if module.split(".")[0] == "torch" and name in _STORAGE_DTYPES:
            return StorageType(_STORAGE_DTYPES[name])
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return Dtype(dtype)
        return self.classes.setdefault(full, placeholder_class(full))

    def persistent_load(self, pid: object) -> object:
        """PyTorch's marks for a storage, and (before 1.6) for a pickled module's class with its source code."""
        match pid:
            case ("storage", kind, key, _, numel):
                return Storage(kind, key, numel)
            case ("storage", kind, key, _, numel, None):
                return Storage(kind, key, numel)
            case ("storage", kind, key, _, _, (_, offset, numel)):
                return Storage(kind, key, numel, offset)
            case ("module", container, *_source):
                return container
        raise pickle.UnpicklingError("an unknown persistent id")


class _Tensors:
    """Gives the tensors of one file; tensors that share a storage there share memory here."""

    def __init__(self, read_record: Callable[[str], bytearray]) -> None:
        self.read_record = read_record
        self.records: dict[str, bytearray] = {}

    def __call__(self, stored: StoredTensor) -> Tensor:
        storage, shape, stride = stored.storage, stored.shape, stored.stride
        if not (
            isinstance(storage, Storage)
            and _is_size(stored.offset)
            and isinstance(shape, tuple)
            and isinstance(stride, tuple)
            and len(shape) == len(stride)
            and all(map(_is_size, shape + stride))
        ):
            raise pickle.UnpicklingError("a tensor with unreadable storage, shape or strides")
        if storage.key not in self.records:
            self.records[storage.key] = self.read_record(storage.key)
        record = self.records[storage.key]
        start, stop = (n * storage.dtype.itemsize for n in (storage.offset, storage.offset + storage.numel))
        if stop > len(record):
            raise pickle.UnpicklingError(f"storage {storage.key} is shorter than the file says")
        dtype = stored.dtype.dtype if isinstance(stored.dtype, Dtype) else storage.dtype
        if start == stop:
            return torch.empty(shape, dtype=dtype) if 0 in shape else _out_of_bounds(storage.key)
        flat = torch.frombuffer(memoryview(record)[start:stop], dtype=dtype)
        return inside_its_storage(torch.as_strided(flat, shape, stride, stored.offset))


def _out_of_bounds(key: str) -> Tensor:
    raise pickle.UnpicklingError(f"a tensor reaches outside storage {key}")


def read_zip(file: BinaryIO) -> object:
    """The content of a zip archive that torch.save wrote, as :func:`stvit.checkpoint.inert.plain` gives it."""
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
        folder = pickled.removesuffix("data.pkl")

        def record(name: str) -> bytes:
            if archive.getinfo(folder + name).compress_type != zipfile.ZIP_STORED:  # a bomb: PyTorch never packs
                raise pickle.UnpicklingError(f"record {name} is compressed")
            return archive.read(folder + name)

        if folder + "byteorder" in archive.namelist() and record("byteorder").decode("ascii") != sys.byteorder:
            raise pickle.UnpicklingError("the numbers are in another machine's byte order")
        value = RestrictedUnpickler(io.BytesIO(record("data.pkl"))).load()
        return plain(value, _Tensors(lambda key: bytearray(record(f"data/{key}"))))


def read_stream(file: BinaryIO) -> object:
    """The content of a file of PyTorch before 1.6, or of a plain pickle, such as Paddle's."""
    first = RestrictedUnpickler(file).load()
    if first != MAGIC_NUMBER:
        return paddle.assembled(plain(first))
    for _ in ("protocol version", "system"):
        RestrictedUnpickler(file).load()
    unpickler = _StorageCollector(file)
    value = unpickler.load()
    keys = RestrictedUnpickler(file).load()
    if not (isinstance(keys, list) and all(key in unpickler.item_sizes for key in keys)):
        raise pickle.UnpicklingError("an unreadable list of storages")
    records = {}
    for key in keys:
        nbytes = struct.unpack("<q", file.read(8))[0] * unpickler.item_sizes[key]
        if not 0 <= nbytes <= os.fstat(file.fileno()).st_size:
            raise pickle.UnpicklingError(f"storage {key} is larger than the file")
        records[key] = bytearray(file.read(nbytes))
    return plain(value, _Tensors(records.__getitem__))


class _StorageCollector(RestrictedUnpickler):
    """Remembers the width of each storage's numbers, which the old format does not repeat beside the data."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.item_sizes: dict[str, int] = {}

    def persistent_load(self, pid: object) -> object:
        value = super().persistent_load(pid)
        if isinstance(value, Storage):
            self.item_sizes[value.key] = value.dtype.itemsize
        return value
