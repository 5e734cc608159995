"""Numbers of the published MixFormer, from checkpoints in PaddleClas's layout and in its torch-style form."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest
import torch
from shrunken import SHRUNKEN, build
from tool_calls import ToolCall

import stvit
from stvit.backbones.base import FeatureMaps
from stvit.checkpoint import convert, load_checkpoint, model_from_checkpoint
from stvit.checkpoint.paddle import save_paddle
from stvit.checkpoint.recognise import registered_name

GATE = 1e-5
CASES = {"mixformer_b0": "mixformer_b0", "mixformer_b1_256x320": "mixformer_b1"}  # fixture -> row


def errors(model: torch.nn.Module, fixture: parity.Fixture) -> dict[str, float]:
    with torch.inference_mode():
        final, maps = model.forward_intermediates(fixture.x)
        got = {"logits": model.forward_head(final)}
    for name, (channels, side) in fixture.meta["subsample_strides"].items():
        got[name] = maps[int(name[-1])][:, ::channels, ::side, ::side]
    assert got.keys() == fixture.expected.keys()
    return {key: parity.relative_error(got[key], want) for key, want in fixture.expected.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_published_network_gives_the_published_features_and_logits(name: str) -> None:
    fixture = parity.load(name)
    model = stvit.create_model(CASES[name]).eval()
    report = load_checkpoint(model, fixture.state_dict)
    assert report.layout == "paddleclas"
    assert set(report.loaded) == set(model.state_dict())
    assert all(key.endswith("relative_position_index") for key in report.dropped)
    found = errors(model, fixture)
    assert max(found.values()) < GATE, found


def test_both_forms_of_the_layout_are_written_as_they_are_read(tmp_path: Path) -> None:
    theirs = parity.load("mixformer_b0").state_dict
    arrays = convert(theirs, "paddleclas")
    assert arrays["last_proj.weight"].shape == (192, 1280)
    assert "patch_embed.stem.1._mean" in arrays
    save_paddle(tmp_path / "b0.pdparams", arrays)
    again = convert(tmp_path / "b0.pdparams", "paddleclas-torch")
    assert {key for key in again if not key.endswith("num_batches_tracked")} == theirs.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in theirs.items())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("to", ["paddleclas", "paddleclas-torch"])
def test_what_stands_before_the_names_is_found(to: str, prefix: str) -> None:
    model, again = build("mixformer_b1"), stvit.create_model("mixformer_b1", **SHRUNKEN["mixformer_b1"])
    theirs = {f"{prefix}{key}": tensor for key, tensor in convert(model, to, force=True).items()}
    theirs["decode_head.weight"] = torch.zeros(1)
    if "backbone" not in prefix:
        theirs = {key: tensor for key, tensor in theirs.items() if key.startswith(prefix)}
    report = load_checkpoint(again, theirs)
    assert report.layout == "paddleclas"
    assert ("decode_head.weight" in report.dropped) == ("decode_head.weight" in theirs)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def dense(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its weights without head and final norm, as files of dense models have them."""
    return {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(("head.", "norm."))}


def test_a_dense_networks_file_is_recognised_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = dense(stvit.create_model("mixformer_b0"))
    assert registered_name(weights) == "mixformer_b0"
    again = convert(convert(weights, "paddleclas"), "stvit")
    assert all(torch.equal(again[key], tensor) for key, tensor in weights.items())
    torch.save(weights, tmp_path / "dense.pth")
    words = ("--checkpoint", tmp_path / "dense.pth", "--to", "stvit", "--output", tmp_path / "own.pt")
    assert ToolCall("convert", capsys)(*words)[0] == 0
    maps = model_from_checkpoint(tmp_path / "own.pt")
    assert isinstance(maps, FeatureMaps)
    assert all(torch.equal(maps.network.state_dict()[key], tensor) for key, tensor in weights.items())


def test_paddleclas_has_no_video_networks() -> None:
    with torch.device("meta"):
        clip = stvit.create_model("mixformer_b0_16f")
    with pytest.raises(stvit.errors.UserError, match="it is for images, and PaddleClas has no video networks"):
        convert({key: torch.zeros(tensor.shape) for key, tensor in clip.state_dict().items()}, "paddleclas")
