"""The still-video law, and what loading says of it, for the families of windows and convolutions."""

import pytest
import torch
from parity import relative_error
from shrunken import SHRUNKEN, build

import stvit
from stvit.errors import UserError
from stvit.inflation import inflate, inflate_into, inflate_spec
from stvit.registry import list_models, model_spec

FAMILIES = ["mixvit_t_224", "mpvit_tiny", "mixformer_b1"]
WINDOWED = ["mixvit_t_224", "mixformer_b1"]
LAW = {torch.float64: 1e-6, torch.float32: 1e-4}


@torch.no_grad()
def errors(video: torch.nn.Module, image: torch.nn.Module, frames: int, size: tuple[int, int]) -> list[float]:
    """Of the features of a still video at every output time step, and of its logits, relative to its frame's."""
    dtype = next(image.parameters()).dtype
    frame = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    still = frame[:, :, None].expand(-1, -1, frames, -1, -1)
    want, got = image.forward_features(frame), video.forward_features(still)
    assert got.shape[2] == -(-frames // video.feature_info[-1]["strides"][0])
    return [relative_error(step, want) for step in got.unbind(2)] + [relative_error(video(still), image(frame))]


@pytest.mark.parametrize("dtype", LAW, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_still_video_gives_the_image_networks_features_at_every_time_step(name, frames, dtype):
    image = build(name).to(dtype)
    assert max(errors(inflate(image, 8), image, frames, (64, 64))) < LAW[dtype]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extent", [1, 2, 3, 4])
@pytest.mark.parametrize("name", WINDOWED)
def test_the_law_holds_for_every_window_in_time_whether_it_divides_the_frames_or_not(name, extent, stride):
    image = build(name).double()
    video = inflate(image, 8, window=(extent, *image.spec.window), stem_stride=(stride, 2, 2))
    for frames in (4, 6, 7):
        assert max(errors(video, image, frames, (64, 64))) < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_the_law_holds_at_sizes_that_the_network_was_not_made_for(name):
    image = build(name).double()
    assert max(errors(inflate(image, 8), image, 6, (75, 50))) < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mean_rule_breaks_the_law(name):
    image = build(name).double()
    assert max(errors(inflate(image, 8, rule="mean"), image, 8, (64, 64))) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_loading_an_image_checkpoint_into_the_video_row_inflates_and_says_what_holds(name):
    image = build(name)
    settings = {key: value for key, value in SHRUNKEN[f"{name}_16f"].items() if key != "num_classes"}
    video = stvit.create_model(f"{name}_16f", **settings, num_classes=3)
    report = stvit.load_checkpoint(video, image.state_dict(), allow_new_head=True)
    assert report.missing == ("head.projection.weight", "head.projection.bias")
    assert report.inflated
    assert set(report.loaded) | set(report.missing) == video.state_dict().keys()
    notes = " ".join(report.notes)
    assert "still-video law holds" in notes
    assert "3 classes instead of 5" in notes
    video = stvit.create_model(f"{name}_16f", **settings, num_classes=5, kernel=(1, 3, 3))
    assert "still-video law holds" in " ".join(stvit.load_checkpoint(video, image.state_dict()).notes)


@pytest.mark.parametrize("family", ["mixvit", "mpvit", "mixformer"])
def test_the_registered_rows_are_the_inflated_rows(family):
    names = list_models(f"{family}_*_16f")
    assert names
    for name in names:
        assert inflate_spec(model_spec(name.removesuffix("_16f")), 16) == model_spec(name)


def test_weights_for_other_windows_are_resized_and_the_report_says_that_the_law_fails():
    image = build("mixvit_t_224", window=(4, 4))
    video = inflate(build("mixvit_t_224"), 8)
    notes = " ".join(stvit.load_checkpoint(video, image.state_dict()).notes)
    assert "still-video law does not hold: window 2x2 instead of 4x4" in notes
    assert max(errors(video, image, 8, (64, 64))) > 1e-4


@pytest.mark.parametrize("name", WINDOWED)
def test_tables_that_are_resized_and_grow_in_time_are_reported_as_resized(name):
    image, video = build(name, window=(3, 3)), build(f"{name}_16f")
    report = stvit.load_checkpoint(video, image.state_dict())
    assert set(report.interpolated) == {key for key in video.state_dict() if key.endswith("rel_pos.table")}
    assert not set(report.interpolated) & set(report.inflated)
    assert "tables of positions are resized" in " ".join(report.notes)
    assert not stvit.load_checkpoint(video, build(name, window=video.spec.window[1:]).state_dict()).interpolated


@pytest.mark.parametrize(("image", "video"), [("mixvit_t_224", "mixformer_b1_16f"), ("mpvit_tiny", "mvitv2_tiny_16f")])
def test_weights_of_another_kind_of_network_are_refused_by_name(image, video):
    image, video = build(image), build(video)
    kinds = f"a {type(image).__name__} and the 3D one a {type(video).__name__}"
    with pytest.raises(UserError, match=kinds):
        inflate_into(video, image)
    with pytest.raises(UserError, match=f"a {type(image).__name__} and the model is a {type(video).__name__}"):
        stvit.load_checkpoint(video, image.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models("*_16f") if not name.startswith("mvit")])
def test_the_law_holds_at_full_size(name):
    torch.manual_seed(0)
    dtype = torch.float64 if name.startswith("mixvit") else torch.float32
    image = stvit.create_model(name.removesuffix("_16f")).eval().to(dtype)
    for key, weight in image.state_dict().items():
        if key.endswith("rel_pos.table"):
            weight.normal_(std=0.2)
    side = image.spec.input_size[0]
    assert max(errors(inflate(image, 8), image, 8, (side, side))) < LAW[dtype]
