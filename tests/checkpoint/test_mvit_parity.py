"""What the published implementations of MViTv2 compute, from their own checkpoints, in their own layouts."""

from __future__ import annotations

import re

import parity
import pytest
import torch
from torch import Tensor, nn

import stvit
from stvit.checkpoint import LoadReport, load_checkpoint

GATE = 3e-5
# fixture -> row, settings, the layout that the report names
CASES = {
    "mvit2d_tiny": ("mvitv2_tiny", {}, "stvit"),  # a bare state dict in official names is one of ours
    "mvit2d_tiny_256": ("mvitv2_tiny", {"input_size": (256, 256)}, "stvit"),
    "mvit2d_base_in21k": ("mvitv2_base_in21k", {}, "stvit"),
    "slowfast2d_tiny": ("mvitv2_tiny", {}, "slowfast/mvit"),  # poolings with an axis of time
    "slowfast3d_small_16x4": ("mvitv2_small_16x4", {}, "stvit"),
    "slowfast3d_small_16x4_run_8x200x232": ("mvitv2_small_16x4", {}, "stvit"),  # tables interpolated at run time
    "torchvision_mvit_v2_s": ("mvitv2_small_16x4", {}, "torchvision"),
    "mmpretrain_mvitv2_tiny": ("mvitv2_tiny", {}, "mmpretrain"),
    "mmaction2_mvitv2_small": ("mvitv2_small_16x4", {}, "mmaction2"),
}


def empty_model(name: str, **settings: object) -> nn.Module:
    """A model whose weights are whatever lies in memory, in evaluation mode: loading has to replace all of them."""
    with torch.device("meta"):
        model = stvit.create_model(name, **settings)
    return model.to_empty(device="cpu").eval()


def run(fixture: parity.Fixture, model: nn.Module) -> dict[str, Tensor]:
    """Logits, and the maps after each stage as the fixture's notes subsample them."""
    maps: list[Tensor] = []
    hooks = [
        model.get_submodule(info["module"]).register_forward_hook(lambda _module, _args, out: maps.append(out[0]))
        for info in model.feature_info
    ]
    with torch.inference_mode():
        outputs = {"logits": model(fixture.x)}
    for hook in hooks:
        hook.remove()
    for stage, features in enumerate(maps):
        features = features.movedim(-1, 1)
        want = fixture.expected[f"feat{stage}"]
        features = features.unsqueeze(2) if features.ndim < want.ndim else features  # images as clips of one frame
        steps = re.search(rf"feat{stage}:.*?then \[:, (.*?)\]", fixture.meta["notes"])[1].split(", ")
        outputs[f"feat{stage}"] = features[(slice(None), *(slice(None, None, int(step[2:])) for step in steps))]
    return outputs


def loaded_whole(report: LoadReport, model: nn.Module) -> bool:
    return set(report.loaded) == set(model.state_dict()) and not (
        report.missing or report.unexpected or report.dropped or report.interpolated or report.inflated
    )


@pytest.mark.parametrize("name", CASES)
def test_a_published_checkpoint_gives_the_published_features_and_logits(name: str) -> None:
    row, settings, layout = CASES[name]
    fixture, model = parity.load(name), empty_model(row, **settings)
    report = load_checkpoint(model, fixture.state_dict)
    assert report.layout == layout
    assert loaded_whole(report, model)
    got = run(fixture, model)
    assert got.keys() == fixture.expected.keys()
    errors = {key: parity.relative_error(got[key], want) for key, want in fixture.expected.items()}
    assert max(errors.values()) < GATE, errors
