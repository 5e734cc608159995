"""MixFormer: sizes as published, any input, clips that keep the image network's features."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

import stvit
from stvit.backbones.mixformer import Downsample, MixFormer, MixFormerSpec
from stvit.engine.flops import count_macs
from stvit.errors import UserError

# name -> millions of parameters: all, without the last norm and the head, inflated to 16 frames
PARAMETERS = {
    "mixformer_b0": (5.099, 3.570, 5.372),
    "mixformer_b1": (7.888, 6.277, 8.098),
    "mixformer_b2": (9.895, 8.284, 10.171),
    "mixformer_b3": (16.748, 14.973, 17.106),
    "mixformer_b4": (34.798, 32.859, 35.367),
    "mixformer_b5": (61.692, 59.425, 62.442),
    "mixformer_b6": (119.505, 117.238, 120.919),
}
SMALL = {
    **{"widths": (16, 32, 32, 48), "depths": (1, 2, 1, 1), "heads": (2, 2, 4, 2), "head_width": 24},
    **{"input_size": (64, 64), "num_classes": 5, "drop_path": 0.0},
}


def small(**more: object) -> MixFormer:
    """A small image network whose every weight and statistic counts."""
    torch.manual_seed(0)
    model = stvit.create_model("mixformer_b1", **{**SMALL, **more}).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_var", "norm.weight", "norm1.weight", "norm2.weight", ".1.weight")):
            nn.init.uniform_(tensor, 0.8, 1.2)
        elif key.endswith(("bias", "running_mean", "rel_pos.table")):
            nn.init.normal_(tensor, std=0.3)
        elif tensor.ndim > 1:
            nn.init.normal_(tensor, std=math.prod(tensor.shape[1:]) ** -0.5)
    return model


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        image, clip = stvit.create_model(name), stvit.create_model(f"{name}_16f")
    whole = millions(image)
    image.norm = image.head = nn.Identity()
    assert (whole, millions(image), millions(clip)) == pytest.approx(PARAMETERS[name], abs=6e-4)


def test_multiply_accumulates_are_the_published_ones() -> None:
    model = stvit.create_model("mixformer_b0")
    assert sum(count_macs(model, torch.zeros(1, 3, 224, 224)).values()) == 411_153_986


@pytest.mark.parametrize("window_frames", [1, 2, 4])
def test_a_still_clip_of_any_length_gives_the_image_features_at_every_step(window_frames: int) -> None:
    image, x = small(depths=(1, 1, 1, 1)), torch.randn(1, 3, 30, 43)
    with torch.no_grad():
        want_final, want = image.forward_intermediates(x)
        want_logits = image(x)
    for stride, frames in ((1, 1), (1, 3), (1, 5), (1, 6), (1, 8), (2, 5)):
        clip = stvit.inflate(image, 8, window=(window_frames, 7, 7), stem_stride=(stride, 2, 2))
        with torch.no_grad():
            final, maps = clip.forward_intermediates(repeat(x, "b c h w -> b c t h w", t=frames))
            torch.testing.assert_close(clip.forward_head(final), want_logits)
        for got, expected in zip((*maps, final), (*want, want_final), strict=True):
            assert got.shape[2] == -(-frames // stride)
            error = (got - expected.unsqueeze(2)).abs().max() / expected.abs().max()
            assert error < 1e-5, (frames, stride)


def test_frames_of_a_moving_clip_see_each_other() -> None:
    clip = stvit.inflate(small(), 8, stem_stride=(1, 2, 2))
    x = torch.randn(1, 3, 8, 32, 32)
    changed = x.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        (before,), (after,) = (clip.forward_intermediates(v, [3], intermediates_only=True) for v in (x, changed))
    assert ((before - after).abs().amax((0, 1, 3, 4)) > 1e-6).all()


def test_inputs_are_padded_with_zeros_to_multiples_of_four() -> None:
    model, x = small(), torch.randn(2, 3, 61, 30)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(F.pad(x, [0, 2, 0, 3])))


@pytest.mark.parametrize("size", [(1, 1), (33, 97), (200, 228), (36, 64)])
def test_odd_maps_are_halved_rounding_up(size: tuple[int, int]) -> None:
    model = small()
    with torch.no_grad():
        final, maps = model.forward_intermediates(torch.randn(1, 3, *size))
        assert model.forward_head(final).isfinite().all()
    for stage, features in enumerate(maps):
        assert features.shape[2:] == tuple(-(-side // 2 ** (2 + stage)) for side in size)


def test_an_odd_map_is_padded_behind_the_batch_norm() -> None:
    layer, x = Downsample(16, 32, ndim=2).eval(), torch.randn(2, 16, 5, 6)
    nn.init.normal_(layer.norm.bias)
    want = layer.conv(torch.cat([layer.norm(x), torch.zeros(2, 16, 1, 6)], dim=2))
    torch.testing.assert_close(layer(x), want)


def test_one_image_trains_with_frozen_batch_norms_alone() -> None:
    model, x = small().train(), torch.randn(1, 3, 32, 32)
    with pytest.raises(UserError, match=r"model\.freeze_batch_norm\(\)") as caught:
        model(x)
    assert "\n" not in str(caught.value)
    model.freeze_batch_norm()
    model(x).sum().backward()
    assert model.get_parameter("stages.0.blocks.0.mix.channel_gate.1.weight").grad is not None


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    weights = stvit.create_model("mixformer_b1").state_dict()

    def deviation(key: str) -> Tensor:
        return weights[key].std()

    expected = {
        "stages.3.blocks.0.mlp.fc1.weight": 0.02,
        "stages.3.blocks.0.mix.rel_pos.table": 0.02,
        "stages.3.blocks.0.mix.depthwise.weight": math.sqrt(2 / (9 * 256)),  # all 256 channels, though each sees one
        "stages.3.blocks.0.mix.projection.weight": math.sqrt(2 / 256),
        "stages.3.downsample.conv.weight": math.sqrt(2 / (4 * 128)),
        "head.projection.weight": 0.02,
    }
    for key, value in expected.items():
        torch.testing.assert_close(deviation(key), torch.tensor(value), rtol=0.15, atol=0)
    biases = [value for key, value in weights.items() if key.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_blocks_are_dropped_more_often_with_depth() -> None:
    with torch.device("meta"):
        model = stvit.create_model("mixformer_b4")
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.2, 20))


def test_position_tables_do_not_decay() -> None:
    skipped = small().no_weight_decay()
    assert len(skipped) == 5
    assert all(name.endswith(".mix.rel_pos.table") for name in skipped)


def test_images_are_resized_to_256_and_cropped_to_224() -> None:
    with torch.device("meta"):
        preprocessing = stvit.create_model("mixformer_b6").preprocessing
    assert (preprocessing.input_size, preprocessing.crop_fraction) == ((224, 224), 224 / 256)
    assert preprocessing.interpolation == "bicubic"


def test_clips_have_windows_of_four_frames_after_a_stem_that_halves_them() -> None:
    with torch.device("meta"):
        clip = stvit.create_model("mixformer_b2_16f")
    assert clip.spec.window == (4, 7, 7)
    assert clip.spec.stem_stride == (2, 2, 2)
    assert [info["strides"] for info in clip.feature_info] == [(2, 4, 4), (2, 8, 8), (2, 16, 16), (2, 32, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (7, 7, 7)}, r"window=\(7, 7, 7\) has 3"),
        ({"kernel": (2, 3)}, r"kernel=\(2, 3\): kernels have odd sides"),
        ({"widths": (32, 64, 128)}, r"widths=\(32, 64, 128\): 4 numbers"),
        ({"heads": (3, 4, 8, 16)}, "a width of 32 cannot be mixed with 3 heads"),
        ({"widths": (8, 64, 128, 256)}, "a width of 8 cannot be mixed"),
        ({"head_width": 0}, "head_width=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
    ],
)
def test_rows_that_are_no_network_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stvit.create_model("mixformer_b1", **settings)


def test_a_network_of_one_stage_is_one() -> None:
    spec = MixFormerSpec(widths=(16,), depths=(1,), heads=(1,), input_size=(32, 32), num_classes=2, head_width=4)
    assert MixFormer(spec)(torch.randn(2, 3, 32, 32)).shape == (2, 2)
