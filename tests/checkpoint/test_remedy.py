"""What loading says to do about weights that do not fit."""

from __future__ import annotations

import pytest
import torch
from shrunken import SHRUNKEN, build
from torch import Tensor

import stvit
from stvit.checkpoint import load_checkpoint
from stvit.errors import UserError

IMAGES = ["mixvit_t_224", "mpvit_tiny", "mixformer_b1", "mvitv2_tiny"]


def refused(model: torch.nn.Module, weights: object) -> str:
    """The error of loading, which is one line."""
    with pytest.raises(UserError) as error:
        load_checkpoint(model, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


def weightless(name: str, **settings: object) -> dict[str, Tensor]:
    """Weights that are all zero."""
    with torch.device("meta"):
        weights = stvit.create_model(name, **settings).state_dict()
    return {key: torch.zeros(weight.shape, dtype=weight.dtype) for key, weight in weights.items()}


@pytest.mark.parametrize("name", IMAGES)
def test_other_channels_name_the_setting(name: str) -> None:
    weights = build(name, in_channels=4).state_dict()
    said = "it takes inputs of 4 channels and the model of 3: create the model with in_channels=4 (MODEL.ARGS"
    assert said in refused(build(name), weights)


def test_other_channels_of_an_image_network_name_the_setting_of_the_video_network() -> None:
    with torch.device("meta"):
        video = stvit.create_model("mixformer_b0_16f")
    said = "create the model with in_channels=4 (MODEL.ARGS"
    assert said in refused(video, weightless("mixformer_b0", in_channels=4))


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        ("mixformer_b0", "mixformer_b1", "create_model('mixformer_b0', num_classes=7) builds its"),
        ("mixformer_b0", "mpvit_tiny", "create_model('mixformer_b0', num_classes=7) builds its"),
        (
            "mixformer_b0",
            "mixformer_b1_16f",
            "create_model('mixformer_b0_16f', num_classes=7) builds its video",
        ),
        ("mixformer_b0", "mpvit_tiny_16f", "create_model('mixformer_b0_16f', num_classes=7) builds its video"),
        ("mixformer_b0_16f", "mixformer_b1", "create_model('mixformer_b0_16f', num_classes=7) builds its"),
    ],
)
def test_the_right_network_is_named(file: str, model: str, said: str) -> None:
    assert refused(build(model), weightless(file, num_classes=7)).endswith(f"{said} network")


@pytest.mark.parametrize("name", ["mixvit_t_224", "mpvit_tiny", "mixformer_b1"])
def test_a_file_without_a_head_says_how_to_load_it(name: str) -> None:
    weights = {k: v for k, v in build(name).state_dict().items() if not k.startswith(("head.", "norm."))}
    said, model = refused(build(name), weights), build(name)
    assert "features_only=True" in said
    load_checkpoint(stvit.create_model(name, features_only=True, **SHRUNKEN[name]), weights)
    if "allow_new_head=True" in said:
        load_checkpoint(model, weights, allow_new_head=True)
    assert ("allow_new_head=True" in said) == (name == "mpvit_tiny")  # the others lack more than the classifier


def test_a_bias_that_is_no_vector_is_not_taken_for_no_classes() -> None:
    model = build("mixformer_b1")
    said = refused(model, model.state_dict() | {"head.projection.bias": torch.tensor(0.0)})
    assert "head.projection.bias () instead of (5,)" in said
    assert "classes" not in said


@pytest.mark.parametrize("source", [5, None, [1], torch.nn.Linear(1, 1)])
def test_what_is_no_source_is_refused(source: object) -> None:
    assert refused(torch.nn.Linear(1, 1), source).startswith("weights come from a file, an address or a state dict")
