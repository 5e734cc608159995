"""The predictor with an axis of time: any frames in and out, its size, and its start from an image network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import stvit
from stvit.checkpoint.layouts import mixvit
from stvit.engine.flops import count_macs
from stvit.errors import UserError
from stvit.inflation_predictor import inflate_into_predictor, inflate_predictor_weights
from stvit.predictors.mixvit3d import MixFrames, MixTime, MixViT3DPredictor

SMALL = {
    "hidden_spatial": 4,
    "mixing_width": 4,
    "widths": (8, 16),
    "window": (2, 2),
    "dim_head": 4,
    "channel_heads": (2, 2),
    "in_frames": 3,
    "out_frames": 3,
    "drop_path": 0.0,
}
IMAGE = {"widths": (4, 8, 16), "depths": (1, 2, 3), "stem_width": 4, "dim_head": 4, "channel_heads": (4, 8, 16)}


def small(**changes: object) -> MixViT3DPredictor:
    torch.manual_seed(0)
    model = stvit.create_model("mixvit3d_predictor", **{**SMALL, **changes}).eval()
    assert isinstance(model, MixViT3DPredictor)
    return model


def inflatable(**changes: object) -> MixViT3DPredictor:
    """Its stages are stages 1 and 2 of an image network of ``IMAGE``."""
    return small(channel_heads=(8, 16), **changes)


def image_network(**changes: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return stvit.create_model(
        "mixvit_t_224", **{**IMAGE, "window": (3, 3), "num_classes": 5, "input_size": (32, 32), **changes}
    ).eval()


# ---- Frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "wanted"), [(1, 1), (4, 8), (5, 2), (2, 3)])
def test_any_number_of_frames_in_and_out_of_one_pass(given: int, wanted: int) -> None:
    model, passes = small(in_frames=given, out_frames=wanted), []
    model.decoder.register_forward_hook(lambda *_: passes.append(1))
    assert model(torch.rand(2, given, 1, 16, 16)).shape == (2, wanted, 1, 16, 16)
    assert passes == [1]


@pytest.mark.parametrize(("given", "wanted"), [(3, 2), (2, 5)])
def test_longer_futures_take_the_newest_frames_for_the_past(given: int, wanted: int) -> None:
    model, past = small(in_frames=given, out_frames=wanted), torch.rand(2, given, 1, 16, 16)
    with torch.no_grad():
        first = model(past)
        second = model(torch.cat([past, first], dim=1)[:, -given:])
        torch.testing.assert_close(model(past, 2 * wanted - 1), torch.cat([first, second], dim=1)[:, :-1])
        torch.testing.assert_close(model(past, 1), first[:, :1])


def test_every_past_frame_bears_on_every_future_frame() -> None:
    past = torch.rand(1, 4, 1, 16, 16, requires_grad=True)
    future = small(in_frames=4, out_frames=3)(past)
    for frame in future[0]:
        (gradient,) = torch.autograd.grad(frame.sum(), past, retain_graph=True)
        assert (gradient[0].abs().amax((1, 2, 3)) > 0).all()


def test_the_order_of_past_frames_matters() -> None:
    model, past = small(), torch.rand(1, 3, 1, 16, 16)
    assert (model(past) - model(past.flip(1))).abs().max() > 1e-3


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    model, past = small(), torch.rand(3, 3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(past), torch.cat([model(one) for one in past.split(1)]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 24)), (2, (8, 8)), (3, (40, 16))])
def test_any_channels_and_any_multiple_of_the_strides(channels: int, size: tuple[int, int]) -> None:
    """Windows of 2 do not divide the maps of 3 and 5 positions, and are masked there."""
    past = torch.rand(1, 3, channels, *size)
    assert small(channels=channels)(past).shape == past.shape


@pytest.mark.parametrize(("stages", "encoder_depth", "multiple"), [(1, 2, 4), (2, 4, 16), (3, 2, 16)])
def test_sizes_that_the_strides_do_not_divide_are_refused_with_what_would_fit(
    stages: int, encoder_depth: int, multiple: int
) -> None:
    shape = {"widths": (4, 8, 8)[:stages], "channel_heads": (2,) * stages, "encoder_depth": encoder_depth}
    model = small(**shape, down_depths=(1,) * stages, up_depths=(1,) * stages)
    assert model(torch.rand(1, 3, 1, multiple, 2 * multiple)).shape == (1, 3, 1, multiple, 2 * multiple)
    with pytest.raises(UserError, match=f"height {multiple // 2} does not work: it must be a multiple of {multiple}"):
        model(torch.rand(1, 3, 1, multiple // 2, 2 * multiple))


def test_frames_of_another_number_and_zero_future_frames_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes \(B, 3, 1, H, W\)"):
        small()(torch.rand(1, 4, 1, 16, 16))
    with pytest.raises(UserError, match="out_frames=0"):
        small()(torch.rand(1, 3, 1, 16, 16), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"down_depths": (1,)}, r"down_depths=\(1,\): one number a stage is needed, and widths has 2"),
        ({"up_depths": (1, 1, 1)}, r"up_depths=\(1, 1, 1\): one number a stage"),
        ({"widths": (), "down_depths": (), "up_depths": (), "channel_heads": ()}, r"down_depths=\(\): one number"),
        ({"up_depths": (1, 0)}, r"up_depths=\(1, 0\): must be at least 1"),
        ({"in_frames": 0}, "in_frames=0: must be at least 1"),
        ({"encoder_depth": 3}, "encoder_depth=3: must be even"),
        ({"dim_head": 3}, "dim_head must divide the width"),
        ({"channel_heads": (3, 2)}, "8 channels cannot be shared by 3 channel heads"),
        ({"drop_path": 1.0}, "drop_path=1.0: a probability"),
        ({"mixing_groups": 3}, "width 8 cannot be cut into mixing_groups=3"),
        ({"window": (2, 2, 2)}, r"window=\(2, 2, 2\): 2 values are needed"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**changes)


# ---- The network --------------------------------------------------------------------------------------------------


def test_it_costs_no_more_than_the_published_predictor() -> None:
    model = stvit.create_model("mixvit3d_predictor")
    assert sum(p.numel() for p in model.parameters()) == 12_547_673
    assert sum(count_macs(model, torch.zeros(1, 10, 1, 64, 64)).values()) < 14.0e9


def test_all_parameters_learn() -> None:
    model = small(drop_path=0.0).train()
    model(torch.rand(2, 3, 1, 16, 16)).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_skips_start_from_the_newest_frame_and_learn_any_sum_over_frames() -> None:
    mixing, x = MixFrames(4, 3, 2), torch.rand(2, 4, 3, 5, 6)
    torch.testing.assert_close(mixing(x), x[:, :, -1:].expand(-1, -1, 2, -1, -1))
    torch.nn.init.normal_(mixing.weight)
    torch.testing.assert_close(mixing(x), torch.einsum("cst,bcthw->bcshw", mixing.weight, x))


def test_mixing_over_time_keeps_places_and_groups_of_channels_apart() -> None:
    mixing = MixTime(4, 6, 3, 2, groups=2).eval()
    x = torch.rand(1, 4, 3, 5, 5, requires_grad=True)
    future = mixing(x)
    assert future.shape == (1, 6, 2, 5, 5)
    (gradient,) = torch.autograd.grad(future[0, 0, 1, 2, 3], x)  # one channel of the first group, one frame, one place
    seen = gradient[0].abs() > 0
    assert seen[:2, :, 2, 3].all()
    assert seen.sum() == 2 * 3


def test_drop_path_grows_over_the_blocks() -> None:
    model = small(drop_path=0.4, down_depths=(1, 2), up_depths=(1, 1))
    rates = [block.window.drop_path.drop_prob for stage in model.translator.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_position_tables_are_kept_from_weight_decay() -> None:
    names = small().no_weight_decay()
    assert len(names) == 8
    assert all(name.endswith("rel_pos.table") for name in names)


def test_compiles_as_one_graph_and_exports() -> None:
    model = small(widths=(8,), channel_heads=(2,), down_depths=(1,), up_depths=(1,))
    past = torch.rand(1, 3, 1, 8, 16)
    want = model(past)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(past), want)
    torch.testing.assert_close(torch.export.export(model, (past,)).module()(past), want)


@pytest.mark.slow
def test_inductor_computes_the_same() -> None:
    model, past = small(), torch.rand(2, 3, 1, 16, 16)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(past), model(past), atol=1e-5, rtol=1e-4)


# ---- From an image network ----------------------------------------------------------------------------------------


def test_most_of_the_translator_comes_from_mixvit_t() -> None:
    with torch.device("meta"):
        model, image = stvit.create_model("mixvit3d_predictor"), stvit.create_model("mixvit_t_224")
    own = dict(model.translator.named_parameters(prefix="translator"))
    weights = {key: torch.zeros(weight.shape) for key, weight in image.state_dict().items()}
    inflated = inflate_predictor_weights(weights, model.to_empty(device="cpu"))
    carried = sum(own[key].numel() for key in own if key not in inflated.new)
    assert carried / sum(parameter.numel() for parameter in own.values()) > 0.5
    assert str(inflated).endswith("7.63 M of the translator's 12.32 M parameters are the image network's (62 %)")


def test_a_block_of_the_translator_gives_a_still_clip_the_features_of_the_image_networks_block() -> None:
    """Both at the image network's window: the law of inflation, for every block, on the way down and up."""
    model, image = inflatable(window=(3, 3), out_frames=4).double(), image_network().double()
    inflated = inflate_into_predictor(model, image)
    assert not inflated.interpolated
    for stage3d, stage2d in zip(model.translator.stages, image.stages[1:], strict=True):
        for block3d, block2d in zip(stage3d.blocks, stage2d.blocks, strict=False):
            frame = torch.rand(1, block2d.conv.expand.in_channels, 12, 12, dtype=torch.float64)
            clip = frame[:, :, None].expand(-1, -1, 4, -1, -1)
            with torch.no_grad():
                features, want = block3d(clip), block2d(frame)
            for at_time in features.unbind(2):
                torch.testing.assert_close(at_time, want, atol=1e-9, rtol=1e-7)


def test_tables_for_other_windows_are_resized_and_repeated_in_time() -> None:
    model, image = inflatable(), image_network()
    inflated = inflate_into_predictor(model, image)
    assert len(inflated.interpolated) == 8
    table = model.translator.stages[1].blocks[0].grid.attn.rel_pos.table
    assert table.shape == (4, 5, 3, 3)
    assert all(torch.equal(before, after) for before, after in pairwise(table.unbind(1)))
    middle = image.stages[2].blocks[0].grid.attn.rel_pos.table[:, 2, 2]
    torch.testing.assert_close(table[:, 0, 1, 1], middle)


@pytest.mark.parametrize("published", [False, True])
def test_an_image_networks_checkpoint_is_loaded_into_the_translator(published: bool) -> None:
    model, image = inflatable(), image_network()
    weights = image.state_dict()
    wanted = inflate_predictor_weights(weights, model)
    report = stvit.load_checkpoint(model, mixvit.from_stvit(weights) if published else weights)
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weight, wanted.state_dict[key])
    assert report.interpolated == wanted.interpolated
    assert report.inflated == wanted.inflated
    assert report.new == wanted.new
    assert "stem.conv1.weight" in report.dropped
    assert "parameters are the image network's" in str(report)
    with pytest.raises(UserError, match="does not fit mixvit3d_predictor: the image network has stages"):
        stvit.load_checkpoint(model, image_network(widths=(4, 8, 32)).state_dict())


def test_blocks_that_the_image_network_lacks_stay_as_they_are() -> None:
    model = inflatable(down_depths=(1, 2), up_depths=(2, 1))
    before = model.state_dict()["translator.stages.0.blocks.2.conv.expand.weight"].clone()
    inflated = inflate_into_predictor(model, image_network())
    assert "translator.stages.0.blocks.2.conv.expand.weight" in inflated.new
    torch.testing.assert_close(model.translator.stages[0].blocks[2].conv.expand.weight, before)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"widths": (4, 8, 32)}, r"stages of \(width: channel heads\) \{4: 4, 8: 8, 32: 16\}, but the predictor's"),
        ({"dim_head": 2}, "both must have the same dim_head and mlp_ratio"),
        ({"mlp_ratio": 2.0}, "both must have the same dim_head and mlp_ratio"),
        ({"channel_heads": (2, 4, 8)}, r"has \(2, 4, 8\) channel heads, not \(4, 8, 16, 32\)"),
    ],
)
def test_image_networks_that_do_not_fit_are_refused(image: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        inflate_into_predictor(inflatable(), image_network(**image))
