"""Files of Paddle's, read without Paddle: what Paddle 3.3.1 wrote, and files made as it makes them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import parity
import pytest
import torch

from stvit.backbones.mixformer import MixFormer, MixFormerSpec
from stvit.checkpoint import load_checkpoint, read_checkpoint
from stvit.checkpoint.layouts import mixformer
from stvit.checkpoint.paddle import NAME_TABLE, SLICED, save_paddle
from stvit.errors import UserError

WRITTEN_BY_PADDLE = parity.FIXTURES / "mixformer_tiny.pdparams"
TINY = MixFormerSpec(
    widths=(16,),
    depths=(1,),
    heads=(1,),
    input_size=(32, 32),
    num_classes=3,
    window=(3, 3),
    mlp_ratio=1.0,
    head_width=4,
)


class Calls:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.parts = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def named(name: str, array: np.ndarray) -> Calls:
    """A tensor as Paddle pickles it outside a state dict."""
    return Calls(tuple, (name, array))


def test_a_file_that_paddle_wrote_loads_whole_into_the_network() -> None:
    model = MixFormer(TINY)
    report = load_checkpoint(model, WRITTEN_BY_PADDLE)
    assert report.layout == "paddleclas"
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.dropped) == {NAME_TABLE, "layers.0.blocks.0.attn.relative_position_index"}
    assert report.missing == report.unexpected == report.interpolated == ()
    theirs = mixformer.to_torch_style(model.state_dict())
    for key, tensor in theirs.items():  # the arrays were made from their names in the torch-style layout
        if tensor.is_floating_point():
            want = torch.from_numpy(np.asarray(parity.synthetic(key, list(tensor.shape)), np.float32))
            torch.testing.assert_close(tensor, want, atol=0, rtol=0)


def test_what_is_written_holds_what_paddle_wrote(tmp_path: Path) -> None:
    model = MixFormer(TINY)
    load_checkpoint(model, WRITTEN_BY_PADDLE)
    save_paddle(tmp_path / "again.pdparams", mixformer.from_stvit(model.state_dict()))
    ours, theirs = (read_checkpoint(path) for path in (tmp_path / "again.pdparams", WRITTEN_BY_PADDLE))
    assert ours.keys() == theirs.keys()
    assert ours.pop(NAME_TABLE).keys() == ours.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    arrays = pickle.loads((tmp_path / "again.pdparams").read_bytes())  # as paddle.load does
    assert all(type(arrays[key]) is np.ndarray for key in ours)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_pairs_and_bfloat16_become_tensors(tmp_path: Path, protocol: int) -> None:
    numbers, path = np.arange(6, dtype=np.float32).reshape(2, 3), tmp_path / "a.pdparams"
    half = torch.tensor([1.0, -2.5], dtype=torch.bfloat16)
    content = {
        "plain": numbers,
        "columns": np.asfortranarray(numbers),
        "pair": named("linear_0.w_0", numbers),
        "half": half.view(torch.uint16).numpy(),
        "epoch": 3,
        NAME_TABLE: {"plain": "linear_0.w_0"},
    }
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    got = read_checkpoint(path)
    for key in ("plain", "columns", "pair"):
        assert torch.equal(got[key], torch.from_numpy(numbers))
    assert torch.equal(got["half"], half)
    assert (got["epoch"], got[NAME_TABLE]) == (3, {"plain": "linear_0.w_0"})


def test_save_paddle_keeps_bfloat16(tmp_path: Path) -> None:
    half = torch.tensor([[1.0, -2.5]], dtype=torch.bfloat16)
    save_paddle(tmp_path / "a.pdparams", {"half": half})
    assert pickle.loads((tmp_path / "a.pdparams").read_bytes())["half"].dtype == np.uint16
    assert torch.equal(read_checkpoint(tmp_path / "a.pdparams")["half"], half)


def test_a_bfloat16_network_loads_from_the_file_that_it_was_written_to(tmp_path: Path) -> None:
    model, again = MixFormer(TINY).bfloat16(), MixFormer(TINY).bfloat16()
    save_paddle(tmp_path / "a.pdparams", mixformer.from_stvit(model.state_dict()))
    load_checkpoint(again, tmp_path / "a.pdparams")
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def sliced(**changes: object) -> dict[str, object]:
    """An array of 2x3 as Paddle cuts those that protocol 2 cannot hold."""
    numbers = np.arange(6, dtype=np.float32)
    table = {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}
    content: dict[str, object] = {"w@@.0": numbers[:4], "w@@.1": numbers[4:], "b": np.ones(1, np.float32)}
    return {**content, SLICED: {"w": {**table, **changes}}}


def test_slices_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(sliced(), protocol=2))
    got = read_checkpoint(tmp_path / "a.pdparams")
    assert got.keys() == {"w", "b"}
    assert torch.equal(got["w"], torch.arange(6.0).reshape(2, 3))


TWICE = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    "content",
    [
        sliced(slices=["w@@.0"]),
        sliced(slices=["w@@.0", "w@@.0"]),
        sliced(slices=["w@@.0", "w@@.2"]),
        sliced(slices=["w@@.0", ["w@@.1"]]),
        sliced(slices=[]),
        sliced(slices="w@@.0"),
        sliced(OriginShape=(3, 3)),
        sliced(OriginShape=(-2, -3)),
        sliced(OriginShape=(2.0, 3)),
        sliced(OriginShape=None),
        {**sliced(), "w@@.1": np.zeros(2, np.int64)},
        {**sliced(), "w@@.1": np.zeros((2, 1), np.float32)},
        {**sliced(), "w@@.1": "text"},
        {"a": TWICE, "b": TWICE, SLICED: {"w": {"OriginShape": (6,), "slices": ["a", "b"]}}},
        {SLICED: ["w"]},
        {SLICED: {"w": 3}},
    ],
)
def test_slices_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, content: dict[str, object]) -> None:
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match="is damaged or cut short") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["a weight", "an array of a pair", "the name table", "a slice", "the whole file"])
def test_nothing_of_a_paddle_file_is_run(tmp_path: Path, place: str, protocol: int) -> None:
    marker, path, model = tmp_path / "marker", tmp_path / "a.pdparams", MixFormer(TINY)
    evil = Calls(os.system, f"touch {marker}")
    weights: dict[str, object] = {k: v.numpy() for k, v in mixformer.from_stvit(model.state_dict()).items()}
    content = {
        "a weight": {**weights, "norm.bias": evil},
        "an array of a pair": {**weights, "norm.bias": Calls(tuple, ("norm.bias", evil))},
        "the name table": {**weights, NAME_TABLE: evil},
        "a slice": {**weights, "a": evil, SLICED: {"norm.bias": {"OriginShape": (16,), "slices": ["a"]}}},
        "the whole file": evil,
    }[place]
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    pickle.loads(path.read_bytes())
    assert marker.exists(), "this attack would not work on an unsuspecting reader"
    marker.unlink()
    with pytest.raises(UserError) as caught:
        load_checkpoint(model, path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("keys", [("0.weight", "0._mean"), ("backbone.conv1.weight", NAME_TABLE)])
def test_weights_of_another_of_paddles_networks_are_named_so(tmp_path: Path, keys: tuple[str, str]) -> None:
    path = tmp_path / "ResNet50.pdparams"
    path.write_bytes(pickle.dumps({keys[0]: np.ones(1, np.float32), keys[1]: np.ones(1, np.float32)}, protocol=4))
    with pytest.raises(UserError, match="of another of Paddle's networks than MixFormer"):
        load_checkpoint(MixFormer(TINY), path)


@pytest.mark.parametrize("suffix", [".pdopt", ".pdmodel", ".pdiparams"])
def test_paddles_other_files_say_which_one_to_take(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"best{suffix}"
    path.write_bytes(bytes(64))
    with pytest.raises(UserError, match=r"take the \.pdparams file"):
        read_checkpoint(path)


def test_a_pickle_of_a_newer_protocol_than_paddles_says_which_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"a": np.ones(1, np.float32)}, protocol=5))
    with pytest.raises(UserError, match=r"a\.pdparams is a pickle of protocol 5: .* 2 to 4$"):
        read_checkpoint(path)
