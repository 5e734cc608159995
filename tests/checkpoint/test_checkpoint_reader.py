"""Which files are read, what comes out of them, and what is said about the others."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from stvit.checkpoint import read_checkpoint, reader
from stvit.checkpoint.inert import Placeholder
from stvit.errors import UserError

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(params=FORMATS)
def options(request: pytest.FixtureRequest) -> dict[str, bool]:
    """How to make torch.save write each of its formats."""
    return FORMATS[request.param]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of another framework that is gone again when the file is read; call ``vanish`` before."""
    module = types.ModuleType("framework")
    exec(
        "class Config(dict):\n    pass\n"
        "class Slots:\n    def __init__(self, lr): self.lr = lr\n"
        "class Hooks(list):\n    pass\n"
        "def schedule(): pass\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "framework", module)
    module.vanish = lambda: monkeypatch.delitem(sys.modules, "framework")
    return module


def test_tensors_of_every_type_and_shape_survive(tmp_path: Path, options: dict[str, bool], foreign) -> None:
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8, torch.bool]
    tensors = {str(t): torch.arange(6).reshape(2, 3).to(t) for t in dtypes}
    tensors |= {"transposed": torch.randn(3, 4).T, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    tensors |= {"slice": torch.arange(10.0)[3:7], "complex": torch.randn(2, dtype=torch.complex64)}
    torch.save({"state_dict": tensors, "config": foreign.Config(lr=1.0)}, tmp_path / "a.pth", **options)
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")["state_dict"]
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor), key


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.float8_e4m3fn])
def test_newer_number_types_survive_beside_foreign_objects(tmp_path: Path, dtype: torch.dtype, foreign) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    torch.save({"state_dict": {"w": tensor[1:]}, "config": foreign.Config()}, tmp_path / "a.pth")
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")["state_dict"]["w"]
    assert read.dtype == dtype
    assert torch.equal(read.view(torch.uint8), tensor[1:].contiguous().view(torch.uint8))


@pytest.mark.parametrize("beside", ["nothing foreign", "a foreign object"])
def test_inert_types_become_plain_values(tmp_path: Path, options: dict[str, bool], beside: str, foreign) -> None:
    torch.save(
        {
            "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), inner=argparse.Namespace(a=1)),
            "state": defaultdict(dict, {0: {"step": 1}}),
            "ordered": OrderedDict(a=1),
            "metric": np.float64(81.5),
            "count": np.int64(7),
            "flag": np.bool_(True),
            "array": np.arange(6, dtype=np.float32).reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
            "big_endian": np.arange(3, dtype=">i4"),
            "names": np.array(["cat", "dog"]),
            "size": torch.Size([2, 3]),
            "path": pathlib.PurePosixPath("/data/set"),
            "dtype": torch.bfloat16,
            "set": {3},
            "bytes": b"\x00\xff",
            "parameter": nn.Parameter(torch.ones(2)),
            "nothing": None,
            "foreign": foreign.Config() if beside == "a foreign object" else 0,
        },
        tmp_path / "a.pth",
        **options,
    )
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")
    assert read["args"] == {"lr": 1e-3, "betas": (0.9, 0.95), "inner": {"a": 1}}
    assert type(read["state"]) is dict
    assert read["state"] == {0: {"step": 1}}
    assert type(read["ordered"]) is dict
    assert (read["metric"], read["count"], read["flag"]) == (81.5, 7, True)
    assert [type(read[k]) for k in ("metric", "count", "flag")] == [float, int, bool]
    assert torch.equal(read["array"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(read["fortran"], torch.arange(6).reshape(2, 3))
    assert read["big_endian"].tolist() == [0, 1, 2]
    assert read["names"] == ["cat", "dog"]
    assert read["size"] == (2, 3)
    assert read["path"] == "/data/set"
    assert read["dtype"] is torch.bfloat16
    assert read["set"] == [3]
    assert read["bytes"] == b"\x00\xff"
    assert type(read["parameter"]) is torch.Tensor
    assert not read["parameter"].requires_grad


@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("foreign_too", [False, True])
def test_numpy_scalars_of_numpy_1_and_2_are_read(tmp_path: Path, core: bytes, foreign_too: bool, foreign) -> None:
    """Whichever numpy reads: the scalars' module is named as numpy 1 and as numpy 2 name it."""
    data = pickle.dumps({"metric": np.float64(3.5), "c": foreign.Config() if foreign_too else 0}, protocol=2)
    named = re.sub(rb"numpy\._?core\.multiarray", core, data)
    assert core in named
    (tmp_path / "a.pth").write_bytes(named)
    foreign.vanish()
    assert read_checkpoint(tmp_path / "a.pth")["metric"] == 3.5


def test_a_numpy_scalar_in_an_archive_is_read(tmp_path: Path) -> None:
    torch.save({"metric": np.float64(3.5)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["metric"] == 3.5


def test_foreign_objects_become_placeholders_that_say_what_they_were(
    tmp_path: Path, options: dict[str, bool], foreign
) -> None:
    hooks = foreign.Hooks([foreign.Slots(0.1)])
    torch.save({"cfg": foreign.Config(lr=2), "hooks": hooks, "fn": foreign.schedule}, tmp_path / "a.pth", **options)
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")
    cfg, hooks, function = read["cfg"], read["hooks"], read["fn"]
    assert isinstance(cfg, Placeholder)
    assert (cfg.name, cfg.items) == ("framework.Config", [("lr", 2)])
    assert (hooks.name, hooks.items[0].name, hooks.items[0].state) == (
        "framework.Hooks",
        "framework.Slots",
        {"lr": 0.1},
    )
    assert (function.name, function.args) == ("framework.schedule", None)
    assert "framework" not in sys.modules


def test_tied_tensors_stay_tied(tmp_path: Path, options: dict[str, bool], foreign) -> None:
    base = torch.arange(6.0)
    torch.save({"a": base, "b": base[2:], "cfg": foreign.Config()}, tmp_path / "a.pth", **options)
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")
    read["a"][2] = 40
    assert read["b"][0] == 40


def test_structures_that_contain_themselves_are_read(tmp_path: Path, foreign) -> None:
    loop: dict[str, object] = {"cfg": foreign.Config()}
    loop["self"], loop["list"] = loop, [loop]
    torch.save(loop, tmp_path / "a.pth")
    foreign.vanish()
    read = read_checkpoint(tmp_path / "a.pth")
    assert read["self"] is read
    assert read["list"][0] is read


def test_plain_pickles_of_arrays_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": np.ones((2, 3), np.float32)}, protocol=4))
    assert torch.equal(read_checkpoint(tmp_path / "a.pdparams")["w"], torch.ones(2, 3))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file({"w": torch.arange(3.0)}, tmp_path / name)
    assert torch.equal(read_checkpoint(str(tmp_path / name))["w"], torch.arange(3.0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\n  <HTML lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        (b"404: Not Found\n", "is a text file"),
        (b"\x1f\x8b\x08\x00", "is packed with gzip"),
        (b"\x93NUMPY\x01\x00v\x00", "is no checkpoint that stvit reads"),
        (b"\x80\x02}q", "is damaged or cut short"),
        (b"\x80", "is damaged or cut short"),
        (b"PK\x03\x04 and no more", "is damaged or cut short"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage", "is damaged or cut short"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth " + said) as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, not a checkpoint: name the file in it$"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"there is no checkpoint .*missing\.pth"):
        read_checkpoint(tmp_path / "missing.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path, weights = tmp_path / "whole", {"w": torch.randn(100), "b": torch.randn(7)}
    if kind == "safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, **FORMATS[kind])
    data = path.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 25)):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut short|is empty|is no checkpoint|is a text file"):
            read_checkpoint(tmp_path / "cut")


def test_other_zip_archives_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    with pytest.raises(UserError, match=r"is a zip archive, but none that torch\.save wrote"):
        read_checkpoint(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # that TorchScript is on its way out
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(UserError, match=r"is a TorchScript archive.*save model\.state_dict\(\) instead"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_whole_pickled_module_is_refused_by_its_class(tmp_path: Path, options: dict[str, bool]) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt", **options)
    with pytest.raises(UserError, match=r"is a whole pickled torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_list_of_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds a list, not a dict of weights"):
        read_checkpoint(tmp_path / "a.pt")


def test_inert_types_need_no_other_reader_than_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the restricted reader was asked")

    monkeypatch.setattr(reader, "read_zip", refuse)
    state = defaultdict(dict, {0: {"exp_avg": torch.ones(1)}})
    torch.save({"args": argparse.Namespace(lr=1.0), "metric": np.float64(2), "state": state}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert (read["args"], read["metric"], read["state"][0]["exp_avg"].item()) == ({"lr": 1.0}, 2.0, 1.0)


def test_a_safetensors_header_of_any_length_is_no_pickle(tmp_path: Path) -> None:
    """Its length comes first, and every 32nd begins with the byte that pickles begin with."""
    first_bytes = set()
    for extra in range(0, 256, 8):
        name = "x" * (extra + 1)
        path = tmp_path / f"{extra}.safetensors"
        safetensors.torch.save_file({name: torch.ones(1)}, path)
        first_bytes.add(path.read_bytes()[0])
        assert read_checkpoint(path)[name].item() == 1.0
    assert 0x80 in first_bytes
