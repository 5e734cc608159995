"""Numbers of the published MixViT, from checkpoints in its layouts."""

import pytest
import torch
from parity import load, relative_error

import stvit
from stvit.checkpoint import convert

DENSE = "mixvit_t_224_dense_f64"


def strided(features: torch.Tensor, index: int) -> torch.Tensor:
    """A map as the fixtures keep it."""
    return features[:, ::8] if index == 3 else features[:, ::7, ::5, ::5]


@pytest.mark.parametrize(
    "name", ["mixvit_p1_224", "mixvit_t_224", pytest.param("mixvit_t_384", marks=pytest.mark.slow)]
)
def test_logits_and_maps_are_the_published_ones_in_float64(name: str) -> None:
    fixture = load(f"{name}_f64")
    model = stvit.create_model(name).double().eval()
    report = stvit.load_checkpoint(model, fixture.state_dict)
    assert report.layout == "mixvit"
    assert report.dropped == ("stem.dwt_l2.w_l", "stem.dwt_l2.w_h")
    with torch.no_grad():
        final, maps = model.forward_intermediates(fixture.x.double())
        errors = [relative_error(model.forward_head(final), fixture.expected["logits"])]
    errors += [relative_error(strided(maps[i], i), fixture.expected[f"feat{i}"]) for i in range(4)]
    assert max(errors) < 1e-6, errors


def test_float32_is_as_close_as_float32_allows() -> None:
    fixture = load("mixvit_t_224_f64")
    model = stvit.create_model("mixvit_t_224", checkpoint=fixture.state_dict).eval()
    with torch.no_grad():
        error = relative_error(model(fixture.x), fixture.expected["logits"])
    assert error < 10 * fixture.meta["noise"]["logits"]


def test_a_detectors_backbone_gives_the_published_normalised_maps() -> None:
    fixture = load(DENSE)
    maps = stvit.create_model("mixvit_t_224", features_only=True, map_norm=True).double().eval()
    detector = {f"backbone.{key}": value for key, value in fixture.state_dict.items()}
    detector["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    report = stvit.load_checkpoint(maps, {"state_dict": detector})
    assert "neck.lateral_convs.0.conv.weight" in report.dropped
    at_once = stvit.create_model("mixvit_t_224", features_only=True, map_norm=True, checkpoint={"state_dict": detector})
    assert torch.equal(at_once.network.map_norms[3].weight, maps.network.map_norms[3].weight.float())
    with torch.no_grad():
        got = maps(fixture.x.double())
    for i in range(4):
        assert relative_error(strided(got[i], i), fixture.expected[f"norm{i}"]) < 1e-6


@pytest.mark.parametrize("name", ["mixvit_t_224_f64", DENSE])
def test_writing_their_layout_is_the_inverse_of_reading_it(name: str) -> None:
    theirs = load(name).state_dict
    again = convert(convert(theirs, "stvit"), "mixvit")
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], theirs[key]) for key in theirs)
