"""What the published MPViT computes, from checkpoints in its layout."""

from __future__ import annotations

import dataclasses

import parity
import pytest
import torch
from torch import Tensor

import stvit
from stvit.checkpoint import convert
from stvit.checkpoint.recognise import registered_name, told_spec
from stvit.errors import UserError
from stvit.registry import model_spec

GATE = 3e-5
SMALL = {"widths": (8, 8, 8, 8), "depths": (1, 2, 1, 1), "paths": (2, 2, 1, 1)}
CASES = {"mpvit_tiny": "mpvit_tiny", "mpvit_small_tame": "mpvit_small"}  # fixture -> row


def errors(fixture: parity.Fixture, maps: list[Tensor]) -> list[float]:
    """Of the maps, which fixtures keep in part."""
    kept = [fixture.meta["subsample_strides"][f"feat{stage}"] for stage in range(4)]
    cut = [features[:, ::c, ::s, ::s] for features, (c, s) in zip(maps, kept, strict=True)]
    return [parity.relative_error(got, fixture.expected[f"feat{stage}"]) for stage, got in enumerate(cut)]


def small_file() -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """A network with two blocks in a stage, and its file: every copy of a shared tensor is the same."""
    model = stvit.create_model("mpvit_tiny", **SMALL, num_classes=5)
    return model, convert(model, "mpvit", force=True)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_maps_are_the_published_ones(name: str) -> None:
    fixture = parity.load(name)
    model = stvit.create_model(CASES[name]).eval()
    report = stvit.load_checkpoint(model, {"model": fixture.state_dict, "epoch": 299})
    assert report.layout == "mpvit"
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.dropped) >= set(fixture.meta["aliases"])  # of shared tensors, the last copy counts
    with torch.inference_mode():
        final, maps = model.forward_intermediates(fixture.x)
        found = [*errors(fixture, maps), parity.relative_error(model.forward_head(final), fixture.expected["logits"])]
    assert max(found) < GATE, found


@pytest.mark.parametrize("name", CASES)
def test_writing_their_layout_is_the_inverse_of_reading_it(name: str) -> None:
    fixture = parity.load(name)
    again = convert(fixture.state_dict, "mpvit")
    assert again.keys() == fixture.state_dict.keys()
    canonical = fixture.meta["aliases"]
    assert all(torch.equal(tensor, fixture.state_dict[canonical.get(key, key)]) for key, tensor in again.items())


def test_a_detectors_backbone_loads_without_its_classifier() -> None:
    model, theirs = small_file()
    detector = {f"backbone.bottom_up.backbone.{k}": v for k, v in theirs.items() if not k.startswith("cls_head.")}
    detector["backbone.fpn_lateral2.weight"] = torch.zeros(1)
    maps = stvit.create_model("mpvit_tiny", features_only=True, **SMALL).eval()
    report = stvit.load_checkpoint(maps, {"model": detector})
    assert "backbone.fpn_lateral2.weight" in report.dropped
    assert not report.unexpected
    x = torch.randn(1, 3, 64, 64)
    for got, want in zip(maps(x), model.eval().forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(got, want)
    with pytest.raises(UserError, match=r"it lacks 2 of \d+ weights"):
        stvit.load_checkpoint(model, detector)


def test_a_file_with_one_copy_of_shared_tensors_is_as_good() -> None:
    """Writers of safetensors keep one name of tensors that share memory, and not always the same one."""
    model, theirs = small_file()
    for kept in (0, -1):
        names: dict[int, list[str]] = {}
        for key, tensor in theirs.items():
            names.setdefault(id(tensor), []).append(key)
        thin = {copies[kept]: theirs[copies[kept]] for copies in names.values()}
        assert len(thin) == len(model.state_dict()) < len(theirs)
        again = stvit.create_model("mpvit_tiny", **model.model_args)
        assert set(stvit.load_checkpoint(again, thin).loaded) == set(model.state_dict())
        assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_what_their_code_cannot_build_is_not_written_for_it() -> None:
    clip = stvit.create_model("mpvit_tiny_16f", **SMALL)
    with pytest.raises(UserError, match="it is for images"):
        convert(clip, "mpvit")
    heads = stvit.create_model("mpvit_tiny", **SMALL, heads=(4, 2, 2))
    with pytest.raises(UserError, match=r"heads \(2, 3, 3\), not \(4, 2, 2\)"):
        convert(heads, "mpvit")
    assert "cls_head.cls.weight" in convert(heads, "mpvit", force=True)


@pytest.mark.parametrize("name", ["mpvit_tiny", "mpvit_xsmall", "mpvit_small", "mpvit_base_16f"])
def test_weights_tell_their_row(name: str) -> None:
    with torch.device("meta"):
        weights = stvit.create_model(name).state_dict()
    assert registered_name(weights) == name
    assert told_spec(weights) == dataclasses.replace(model_spec(name), drop_path=0.0)
