"""Files that try to run code, to change the reader, or to exhaust the machine, and files full of garbage."""

from __future__ import annotations

import argparse
import builtins
import collections
import copyreg
import importlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stvit.checkpoint import load_checkpoint, read_checkpoint
from stvit.checkpoint.inert import INERT
from stvit.errors import UserError

EVIL_MODULES = {  # TOUCH creates the marker
    "evil_on_import": "TOUCH\nclass Config:\n    pass\n",
    "evil_on_state": "class Config:\n    def __setstate__(self, state):\n        TOUCH\n",
    "evil_on_new": "class Config:\n    def __new__(cls, *a):\n        TOUCH\n        return object.__new__(cls)\n",
    "evil_on_set": "class Config(dict):\n    def __setitem__(self, key, value):\n        TOUCH\n",
}
ATTACKS = (
    *("os.system", "eval", "exec", "subprocess", "open", "load inside", "in arguments", "in a state"),
    *("import a module", "reconstructor", *EVIL_MODULES),
)
FORMATS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "zip, protocol 4": {"pickle_protocol": 4},
}


class Calls:
    """Pickles as a call of ``function(*args)``, optionally with a state for the result."""

    def __init__(self, function: Callable[..., object], *args: object, state: object = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that every attack would create; the modules of the attacks can be imported."""
    marker = tmp_path / "marker"
    for name, text in EVIL_MODULES.items():
        (tmp_path / f"{name}.py").write_text(text.replace("TOUCH", f"open({str(marker)!r}, 'w').close()"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    forget_modules()


def forget_modules() -> None:
    for name in EVIL_MODULES:
        sys.modules.pop(name, None)


def attack(name: str, marker: Path) -> object:
    """An object whose ordinary unpickling creates the marker."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = Calls(os.system, f"touch {marker}")
    if name in EVIL_MODULES:
        config = importlib.import_module(name).Config()
        config.lr = 1.0
        if isinstance(config, dict):
            dict.__setitem__(config, "a", 1)
        return config
    inside = io.BytesIO()
    torch.save(shell, inside)
    state_class = importlib.import_module("evil_on_state").Config
    return {
        "os.system": shell,
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "subprocess": Calls(subprocess.check_call, ["touch", str(marker)]),
        "open": Calls(open, str(marker), "w"),
        "load inside": Calls(torch.storage._load_from_bytes, inside.getvalue()),
        "in arguments": Calls(collections.OrderedDict, [("a", shell)]),
        "in a state": Calls(argparse.Namespace, state={"a": shell}),
        "import a module": Calls(importlib.import_module, "evil_on_import"),
        "reconstructor": Calls(copyreg._reconstructor, state_class, object, None, state={"a": 1}),
    }[name]


@pytest.mark.parametrize("place", ["optimizer", "weights", "whole file"])
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_of_a_file_is_run(
    marker: Path, tmp_path: Path, name: str, options: dict, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = attack(name, marker)
    weights: dict[str, object] = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    content: object = {"optimizer": {"state": [evil]}, "state_dict": weights, "last": evil}
    if place == "weights":
        content = {"state_dict": weights | {"evil": evil}}
    elif place == "whole file":
        content = evil
    path, model = tmp_path / "a.pth", torch.nn.Linear(2, 1)
    torch.save(content, path, **options)

    forget_modules()
    marker.unlink(missing_ok=True)
    torch.load(path, weights_only=False)
    assert marker.exists(), "this attack would not work on an unsuspecting reader"

    forget_modules()
    marker.unlink()
    if place == "optimizer" or (place == "weights" and name.startswith("in ")):  # a dict is no weight: left out
        load_checkpoint(model, path)
        assert torch.equal(model.weight, torch.ones(1, 2))
    else:
        with pytest.raises(UserError):
            load_checkpoint(model, path)
    assert not marker.exists()
    assert not set(EVIL_MODULES) & set(sys.modules)


def pickled(*operations: bytes) -> bytes:
    return b"\x80\x02" + b"".join(operations) + b"."


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


REACHABLE = sorted(
    {*INERT, "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
    | {"torch.FloatStorage", "torch.float32", "torch.Size", "builtins.set", "_codecs.encode", "some.where.Else"}
)


@pytest.mark.parametrize("name", REACHABLE)
@pytest.mark.parametrize("state", ["attributes", "slots"])
def test_a_file_cannot_change_the_classes_and_functions_that_read_it(tmp_path: Path, name: str, state: str) -> None:
    values = {"__init__": 1, "__call__": 1, "__defaults__": (), "__kwdefaults__": {}, "function": 1, "name": "changed"}
    written = pickle.dumps(values if state == "attributes" else (None, values), protocol=2)[2:-1]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickled(named(name), written, b"b"))  # b: give the state to what was named

    def known() -> list[object]:
        functions = [f for f in INERT.values() if not isinstance(f, type)]
        classes = [*(f for f in INERT.values() if isinstance(f, type)), argparse.Namespace, collections.OrderedDict]
        settings = [(f.__defaults__, f.__kwdefaults__, dict(vars(f))) for f in functions]
        return [*settings, *(dict(vars(c)) for c in classes)]

    before = known()
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert known() == before


def test_dotted_names_reach_nothing(tmp_path: Path, marker: Path) -> None:
    name, module = b"_rebuild_tensor_v2.__globals__.__getitem__", b"torch._utils"
    stack_global = b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04}X\x01\x00\x00\x00a" + stack_global + b"X\x08\x00\x00\x00builtins\x85Rs.")
    held = read_checkpoint(path)["a"]
    assert (held.name, held.args) == ("torch._utils._rebuild_tensor_v2.__globals__.__getitem__", ("builtins",))


def write_zip(path: Path, data: bytes, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/version", "3\n")
        for name, content in records.items():
            archive.writestr(f"a/{name}", content)


def tensor_pickle(numel: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A dict with one float32 tensor, and with a foreign object so that torch's own reader gives up."""

    def dump(value: object) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"(" + dump("storage") + named("torch.FloatStorage") + dump("0") + dump("cpu") + dump(numel) + b"tQ"
    arguments = b"(" + storage + dump(offset) + dump(shape) + dump(stride) + dump(False) + dump({}) + b"t"
    foreign = dump("x") + named("foreign.Config") + b")Rs"
    return pickled(b"}", foreign, dump("w"), named("torch._utils._rebuild_tensor_v2"), arguments, b"Rs")


def test_the_assembled_tensor_is_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.pth", tensor_pickle(4, 1, (3,), (1,)), {"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_checkpoint(tmp_path / "a.pth")["w"].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("numel", "offset", "shape", "stride"),
    [
        (4, 2, (3,), (1,)),
        (4, 0, (3,), (2,)),
        (4, -1, (2,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (-2,), (1,)),
        (4, 0, (2, 2), (1,)),
        (5, 0, (5,), (1,)),
        (0, 0, (1,), (1,)),
        (1 << 62, 0, (1,), (1,)),
        (-4, 0, (1,), (1,)),
        (4, 1 << 62, (1,), (1,)),
        (4, 0, (1 << 62, 1 << 62), (1, 1)),
        (4, 0, (2.0,), (1,)),
        (4, 0, (True,), (1,)),
    ],
)
def test_tensors_that_reach_outside_their_data_are_refused(
    tmp_path: Path, numel: int, offset: int, shape: tuple, stride: tuple
) -> None:
    write_zip(
        tmp_path / "a.pth", tensor_pickle(numel, offset, shape, stride), {"data/0": struct.pack("<4f", 1, 2, 3, 4)}
    )
    with pytest.raises(UserError, match="is damaged or cut short"):
        read_checkpoint(tmp_path / "a.pth")


def test_packed_records_are_not_unpacked(tmp_path: Path) -> None:
    zeros = bytes(1 << 24)
    write_zip(tmp_path / "a.pth", tensor_pickle(1 << 22, 0, (1 << 22,), (1,)), {"data/0": zeros}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.pth").stat().st_size < 1 << 16
    with pytest.raises(UserError, match="is compressed"):
        read_checkpoint(tmp_path / "a.pth")


def test_depth_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickled(b"]" * 200_000, b"a" * 199_999))
    with pytest.raises(UserError, match="is damaged or cut short"):
        read_checkpoint(tmp_path / "a.pkl")


@pytest.mark.parametrize("code", ["O8", "V8", "M8", "O", "f16", "f8,O", "i4)(O", 3])
def test_numpy_data_that_is_no_number_is_refused(tmp_path: Path, code: object) -> None:
    dtype = named("numpy.dtype") + pickle.dumps((code, False, True), protocol=2)[2:-1] + b"R"
    data = pickle.dumps(bytes(16), protocol=3)[2:-1]
    scalar = named("numpy.core.multiarray.scalar") + b"(" + dtype + data + b"tR"
    (tmp_path / "a.pkl").write_bytes(pickled(b"}", pickle.dumps("a", protocol=2)[2:-1], scalar, b"s"))
    with pytest.raises(UserError, match="is damaged or cut short"):
        read_checkpoint(tmp_path / "a.pkl")


def test_source_code_in_old_module_files_is_not_compared_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where torch's reader would write a patch
    torch.save(torch.nn.Linear(1, 1), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    assert b"class Linear" in data
    (tmp_path / "a.pth").write_bytes(data.replace(b"class Linear", b"class LINEAR"))
    with pytest.raises(UserError, match="is a whole pickled"):
        read_checkpoint(tmp_path / "a.pth")
    assert os.listdir(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_garbled_files_are_read_or_refused_in_one_line(tmp_path: Path, options: dict) -> None:
    chance, path = random.Random(0), tmp_path / "a.pth"
    torch.save({"cfg": argparse.Namespace(a=pytest.Config), "w": torch.randn(9)}, path, **options)
    whole = path.read_bytes()
    refused, lines = 0, set[str]()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except UserError as error:
            refused += 1
            lines |= {str(error)} if "\n" in str(error) else set()
    assert refused > 100
    assert not lines


def test_reading_starts_no_process_connection_or_code(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "evil": [Calls(os.system, "true"), Calls(builtins.eval, "1")]}, tmp_path / "a.pth")
    read_checkpoint(tmp_path / "a.pth")  # lets torch import what it imports at its first load
    forbidden = ("os.system", "os.exec", "os.posix_spawn", "os.remove", "subprocess.", "socket.", "exec", "compile")
    watching, seen = [True], list[str]()
    sys.addaudithook(lambda event, _: seen.append(event) if watching and event.startswith(forbidden) else None)
    read_checkpoint(tmp_path / "a.pth")
    exec("pass")  # the hook does see such things
    watching.clear()
    assert seen == ["compile", "exec"]
