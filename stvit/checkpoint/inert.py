"""Stand-ins for what a checkpoint's pickle names: they record, they never run anything of the file's.

Pickle can call whatever its reader hands out, and can set the state of whatever lies on its stack. So the reader hands
out only what this module defines. Every class here has its own ``__setstate__``, which is what pickle looks for first:
that leaves a file no way to set attributes, neither of these classes nor of anything real. :func:`plain` turns the
records into tensors and plain values once nothing of the file is left to run.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Types of numbers and text whose bytes mean the same everywhere; object, record and date types are not among them.
_DTYPE_CODE = re.compile(r"\?|b1|[iu][1248]|f[248]|c(8|16)|[US]\d{1,6}")


class Inert:
    """A record on pickle's stack; a file that tries to set its state is refused."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"a {type(self).__name__} takes no state")

    def resolve(self) -> object:
        """The value that the record stands for, once the file has been read."""
        return reference(type(self).__name__)


class Placeholder(Inert):
    """A value whose class was not loaded: its name and what the file would have built it from.

    Attributes:
        name: module and class, or function, as the file spells it.
        args: positional arguments of its constructor or function; None for a class or function named but not called.
        kwargs: keyword arguments.
        state: what its ``__setstate__`` or ``__dict__`` would have received.
        items: what would have been appended to it (lists) or set in it (dicts, as pairs).
    """

    __slots__ = ("args", "items", "kwargs", "state")
    name = "unknown"
    args: tuple[object, ...] | None
    kwargs: dict[str, object]
    state: object
    items: list[object]

    def __new__(cls, *args: object, **kwargs: object) -> Placeholder:
        record = super().__new__(cls)
        record.args, record.kwargs, record.state, record.items = args, kwargs, None, []
        return record

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Everything is in ``__new__``, because pickle may call that alone."""

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, item: object) -> None:
        """Record one list item."""
        self.items.append(item)

    def extend(self, items: list[object]) -> None:
        """Record several list items."""
        self.items.extend(items)

    def __repr__(self) -> str:
        return f"<placeholder for {self.name}>"


def placeholder_class(name: str) -> type[Placeholder]:
    """A class of its own for each foreign name, because pickle asks for classes."""
    return type("Placeholder", (Placeholder,), {"__slots__": (), "name": name})


def reference(name: str) -> Placeholder:
    """The placeholder for a class or function that a file names and does not call."""
    record = placeholder_class(name)()
    record.args = None
    return record


class Namespace(Placeholder):
    """argparse.Namespace; becomes a dict."""

    __slots__ = ()
    name = "argparse.Namespace"


class NumpyDtype(Inert):
    """numpy.dtype of plain numbers or text."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        self.code = code
        self.order: Literal["<", ">", "|", "="] = "="

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "=")):
            raise pickle.UnpicklingError("a numpy.dtype with an unreadable state")
        self.order = state[1]

    def resolve(self) -> np.dtype:
        """The real dtype; raises for those that could hold anything but numbers and text."""
        if not (isinstance(self.code, str) and _DTYPE_CODE.fullmatch(self.code)):
            raise pickle.UnpicklingError(f"numpy arrays of type {self.code!r} are not read")
        return np.dtype(self.code).newbyteorder(self.order)


class NumpyArray(Inert):
    """numpy.ndarray; becomes a tensor, or a list where it holds text."""

    __slots__ = ("state",)

    def __init__(self, *shape_and_more: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def resolve(self) -> object:
        """Rebuild from (version, shape, dtype, Fortran order, bytes)."""
        match self.state:
            case (int(), tuple() as shape, NumpyDtype() as dtype, bool() | int() as fortran, bytes() as data):
                array = np.frombuffer(data, dtype.resolve()).reshape(shape, order="F" if fortran else "C")
            case _:
                raise pickle.UnpicklingError("a numpy array of objects, or without its data, is not read")
        if array.dtype.kind in "US":
            return array.tolist()
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


def _numpy_scalar(dtype: NumpyDtype, data: bytes) -> object:
    return np.frombuffer(data, dtype.resolve(), count=1)[0].item()


def _numpy_reconstruct(*_type_shape_code: object) -> NumpyArray:
    return NumpyArray()


def _dict_without_factory(_factory: object = None, items: Mapping[object, object] | None = None) -> dict:
    return dict(items or {})


def _posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


# What stands in for the inert types that published files carry outside their weights, for both readers.
INERT: dict[str, Callable[..., object]] = {
    "argparse.Namespace": Namespace,
    "builtins.dict": dict,
    "builtins.list": list,
    "collections.defaultdict": _dict_without_factory,
    "numpy.dtype": NumpyDtype,
    "numpy.ndarray": NumpyArray,
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _numpy_reconstruct for core in ("core", "_core")},
    **{f"pathlib{local}.{kind}PosixPath": _posix_path for local in ("", "._local") for kind in ("", "Pure")},
    **{f"pathlib{local}.{kind}WindowsPath": _windows_path for local in ("", "._local") for kind in ("", "Pure")},
}


class StoredDict(dict):
    """An OrderedDict; the state that torch gives to its state dicts (``_metadata``, versions of modules) is dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Nothing of it is needed."""


class StoredTensor(Inert):
    """A tensor of the restricted reader, before its data is read."""

    __slots__ = ("dtype", "offset", "shape", "storage", "stride")

    def __init__(self, storage: object, offset: object, shape: object, stride: object, dtype: object = None) -> None:
        self.storage, self.offset, self.shape, self.stride, self.dtype = storage, offset, shape, stride, dtype


def inside_its_storage(tensor: Tensor) -> Tensor:
    """Refuse what torch's older readers let through: an offset so large that its size in bytes wraps around."""
    if tensor.layout == torch.strided and not tensor.is_meta and tensor.numel():
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = tensor.storage_offset() + sum((size - 1) * stride for size, stride in steps)
        if (last + 1) * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise pickle.UnpicklingError("a tensor reaches outside its storage")
    return tensor


def plain(value: object, tensor: Callable[[StoredTensor], Tensor] | None = None) -> object:
    """Tensors without gradient, plain values, and :class:`Placeholder` where a class was not loaded.

    Args:
        value: what a reader built.
        tensor: gives the data of a :class:`StoredTensor`; the restricted reader's.

    Returns:
        The same tree. Namespaces and mappings are dicts, numpy arrays tensors, numpy scalars Python's; objects that
        occur several times still are one object.
    """
    done: dict[int, tuple[object, object]] = {}  # id -> (original, kept alive so that ids stay unique; result)

    def visit(item: object) -> object:
        if id(item) in done:
            return done[id(item)][1]
        result = build(item)
        done[id(item)] = (item, result)
        return result

    def build(item: object) -> object:
        match item:
            case Namespace(state=dict() as values):
                return visit(values)
            case Placeholder():
                done[id(item)] = (item, item)
                for name in ("args", "kwargs", "state", "items"):
                    setattr(item, name, visit(getattr(item, name)))
                return item
            case StoredTensor() if tensor is not None:
                return tensor(item)
            case Inert():
                return item.resolve()
            case Tensor():
                return inside_its_storage(item.detach())
            case dict():
                mapping: dict[object, object] = {}
                done[id(item)] = (item, mapping)
                mapping.update((visit(k), visit(v)) for k, v in item.items())
                return mapping
            case list() | set() | frozenset():
                sequence: list[object] = []
                done[id(item)] = (item, sequence)
                sequence.extend(visit(v) for v in item)
                return sequence
            case tuple():
                return tuple(visit(v) for v in item)
            case torch.device():
                return str(item)
            case None | bool() | int() | float() | complex() | str() | bytes() | bytearray() | torch.dtype():
                return item
            case type() if issubclass(item, Placeholder):
                return reference(item.name)
        return reference(getattr(item, "__qualname__", type(item).__name__))

    return visit(value)
