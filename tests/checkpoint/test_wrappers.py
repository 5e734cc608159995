"""One file for every way in which training programs wrap weights."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stvit.checkpoint import load_checkpoint, read_checkpoint
from stvit.checkpoint.unwrap import find_weights
from stvit.errors import UserError


def network() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def optimizer_state() -> dict[str, object]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1, 5, 5)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    return {**state, "state": defaultdict(dict, state["state"])}


def wrapped(kind: str, weights: dict[str, Tensor]) -> dict[str, object]:
    """What a training program of that kind passes to torch.save."""
    args = argparse.Namespace(model="mixvit_t_224", lr=3e-3, aug_repeats=0.0, mean=None)
    training = {"epoch": 3, "optimizer": optimizer_state()}
    compiled = {"conv._orig_mod." + k.removeprefix("conv.") if "conv" in k else k: v for k, v in weights.items()}
    other = {key: value + 1 for key, value in weights.items()}
    lightning = {"pytorch-lightning_version": "1.9.0", "epoch": 3}
    return {
        "bare": weights,
        "timm": {**training, "arch": "mixvit_t_224", "state_dict": weights, "version": 2, "args": args}
        | {"amp_scaler": {"scale": 65536.0}, "metric": np.float64(82.4)},
        "timm, with average": {**training, "state_dict": other, "state_dict_ema": weights},
        "torchvision, with average": {"model": other, "model_ema": prefixed(weights, "module."), "args": args},
        "MixViT predictor, latest.pth": {**training, "state_dict": weights, "scheduler": {"total_steps": 125000}},
        "SlowFast": {"model_state": weights, "optimizer_state": training["optimizer"], "epoch": 3, "cfg": "MVIT: {}"},
        "mmpretrain": {"meta": {"mmengine_version": "0.10"}, "state_dict": weights, "message_hub": np.arange(3)},
        "torchvision": {"model": weights, "args": args, "lr_scheduler": {}},
        "BasicSR": {"params": weights},
        "OpenSTL on Lightning": {**lightning, "state_dict": prefixed(weights, "model.")},
        "Lightning with a loss of its own": {
            **lightning, "state_dict": prefixed(weights, "model.") | {"criterion.weight": torch.ones(3)}
        },
        "DDP": {"state_dict": prefixed(weights, "module.")},
        "compiled": prefixed(weights, "_orig_mod."),
        "compiled inside DDP": {"model": prefixed(weights, "module._orig_mod.")},
        "DDP inside Lightning": {"state_dict": prefixed(weights, "model.module.")},
        "DDP around a compiled part": prefixed(compiled, "module."),
        "wrapper in wrapper": {"model": {"state_dict": weights, "step": 3}},
    }[kind]  # fmt: skip


KINDS = (
    *("bare", "timm", "MixViT predictor, latest.pth", "SlowFast", "mmpretrain", "torchvision", "BasicSR"),
    *("OpenSTL on Lightning", "Lightning with a loss of its own", "DDP", "compiled", "compiled inside DDP"),
    *("DDP inside Lightning", "DDP around a compiled part", "wrapper in wrapper"),
)


def assert_same(model: nn.Module, weights: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_found_in_every_wrapper(tmp_path: Path, kind: str, legacy: bool) -> None:
    weights, model = network().state_dict(), network()
    torch.save(wrapped(kind, weights), tmp_path / "latest.pth", _use_new_zipfile_serialization=not legacy)
    report = load_checkpoint(model, tmp_path / "latest.pth")
    assert_same(model, weights)
    assert report.loaded == tuple(weights)
    assert report.dropped == (("criterion.weight",) if "loss" in kind else ())


@pytest.mark.parametrize("kind", ["timm, with average", "torchvision, with average"])
def test_the_average_is_loaded_unless_it_is_declined(tmp_path: Path, kind: str) -> None:
    weights, model = network().state_dict(), network()
    torch.save(wrapped(kind, weights), tmp_path / "a.pth")
    for ema in (None, True):
        assert load_checkpoint(model, tmp_path / "a.pth", ema=ema).weights == "running mean"
        assert_same(model, weights)
    assert load_checkpoint(model, tmp_path / "a.pth", ema=False).weights == "as trained"
    assert torch.equal(model.state_dict()["conv.weight"], weights["conv.weight"] + 1)


def test_an_average_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="holds no moving average of its weights; its entries are state_dict"):
        load_checkpoint(network(), {"state_dict": network().state_dict()}, ema=True)


def test_an_entry_for_an_average_that_was_not_kept_is_passed_over() -> None:
    weights, model = network().state_dict(), network()
    assert load_checkpoint(model, {"state_dict": weights, "ema": None}).weights == "as trained"
    assert_same(model, weights)


def test_safetensors_with_a_prefix(tmp_path: Path) -> None:
    weights, model = network().state_dict(), network()
    safetensors.torch.save_file(prefixed(weights, "module."), tmp_path / "a.safetensors")
    load_checkpoint(model, tmp_path / "a.safetensors")
    assert_same(model, weights)


def test_a_prefix_that_belongs_to_the_model_stays() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

    weights, model = Outer().state_dict(), Outer()
    load_checkpoint(model, prefixed(weights, "module."))
    assert_same(model, weights)


def test_a_model_that_is_wrapped_itself_takes_plain_weights() -> None:
    weights, model = network().state_dict(), nn.DataParallel(network())
    load_checkpoint(torch.compile(model, backend="eager"), weights)
    assert_same(model.module, weights)


def test_a_file_without_weights_is_refused_by_its_entries(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth holds no weights; its entries are epoch, optimizer"):
        load_checkpoint(network(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="the given state dict holds no weights; its entries are none"):
        load_checkpoint(network(), {})


def test_a_pickled_module_inside_a_wrapper_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"weights of .*a\.pth are a whole pickled torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(network(), tmp_path / "a.pth")


def test_weights_of_a_foreign_tensor_class_are_refused_by_their_name(tmp_path: Path) -> None:
    tensor = torch.ones(2).as_subclass(type("Twisted", (Tensor,), {"__module__": __name__}))
    globals()["Twisted"] = type(tensor)
    torch.save({"conv.weight": tensor, "conv.bias": torch.ones(2)}, tmp_path / "a.pth")
    del globals()["Twisted"]
    with pytest.raises(UserError, match=r"a\.pth stores conv\.weight as a torch\._tensor\._rebuild_from_type_v2"):
        load_checkpoint(network(), tmp_path / "a.pth")


@pytest.mark.parametrize("tensor", [torch.ones(2).to_sparse(), torch.ones(2, device="meta")])
def test_tensors_without_plain_numbers_are_refused(tensor: Tensor) -> None:
    with pytest.raises(UserError, match="stores w as a quantised, sparse or meta tensor"):
        find_weights({"w": tensor, "b": torch.ones(1)}, "x.pth")


def test_a_dict_that_contains_itself_has_no_weights(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth holds no weights"):
        find_weights(read_checkpoint(tmp_path / "a.pth"), "a.pth")
