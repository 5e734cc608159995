"""MPViT's published numbers, and what a spec may and may not say."""

import copy
import math

import pytest
import torch
from shrunken import build, example
from torch import nn

import stvit
from stvit.backbones.mpvit import Block
from stvit.engine.flops import model_cost
from stvit.errors import UserError

# name: parameters, tensors that differ in the published file, channels of the maps
PUBLISHED = {
    "mpvit_tiny": (5_843_736, 551, [96, 176, 216, 216]),
    "mpvit_xsmall": (10_573_448, 551, [128, 192, 256, 256]),
    "mpvit_small": (22_892_400, 731, [128, 216, 288, 288]),
    "mpvit_base": (74_845_976, 803, [224, 368, 480, 480]),
}


def on_meta(name: str, **overrides: object) -> nn.Module:
    with torch.device("meta"):
        return stvit.create_model(name, **overrides)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_maps_are_the_published_ones(name: str) -> None:
    model = on_meta(name)
    parameters, tensors, channels = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == [4, 8, 16, 32]


def test_multiply_accumulates_are_the_published_ones() -> None:
    # The published count rounds products of its einsum to four digits, and has 10,584 for the pooling.
    assert model_cost("mpvit_tiny").total() == pytest.approx(1_654_163_812, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_only_the_stem_strides_in_time(stride: int) -> None:
    model = build("mpvit_tiny_16f", stem_stride=(stride, 2, 2))
    for frames in (1, 4, 5):
        maps = model.forward_intermediates(torch.randn(1, 3, frames, 33, 64), intermediates_only=True)
        assert [m.shape[2] for m in maps] == [math.ceil(frames / stride)] * 4
        assert [tuple(m.shape[3:]) for m in maps] == [(9, 16), (5, 8), (3, 4), (2, 2)]
    assert [info["strides"][0] for info in model.feature_info] == [stride] * 4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 4, 5, 8, 16])
def test_a_still_clip_gives_the_features_of_its_frame(frames: int, stride: int) -> None:
    image = build("mpvit_tiny")
    clip = stvit.inflate(image, frames=16, stem_stride=(stride, 2, 2))
    x = torch.randn(1, 3, 40, 72)
    with torch.no_grad():
        want, maps = image.forward_intermediates(x)
        got, clip_maps = clip.forward_intermediates(x.unsqueeze(2).expand(-1, -1, frames, -1, -1))
        torch.testing.assert_close(clip.forward_head(got), image.forward_head(want), atol=1e-5, rtol=1e-4)
    for flat, deep in zip(maps, clip_maps, strict=True):
        assert ((deep - flat.unsqueeze(2)).abs().max() / flat.abs().max()) < 1e-4


def test_blocks_of_a_path_share_their_encodings_of_positions() -> None:
    """The gradient of the one kernel is the sum over its blocks."""
    model = build("mpvit_tiny", depths=(1, 2, 1, 1))
    names = [name for name, _ in model.named_parameters() if name.startswith("stages.1.paths.0.") and "crpe" in name]
    assert len(names) == 6  # three kernels, three biases
    calls = []
    model.stages[1].paths[0].crpe.register_forward_hook(lambda *_: calls.append(1))
    model(example(model))
    assert len(calls) == 2


def test_drop_path_grows_linearly_and_is_the_same_in_all_paths() -> None:
    model = on_meta("mpvit_base")
    for path in range(3):
        rates = [
            block.drop_path.drop_prob
            for stage in model.stages
            for block in stage.paths[min(path, len(stage.paths) - 1)].blocks
        ]
        assert rates == pytest.approx([0.3 * i / 14 for i in range(15)])


def test_initial_weights_are_the_published_ones() -> None:
    torch.manual_seed(0)
    model = stvit.create_model("mpvit_tiny")
    stage = model.stages[2]  # 176 channels
    spread = {
        model.stem[0].conv: math.sqrt(2 / (9 * 32)),
        stage.patch_embed[0].depthwise: math.sqrt(2 / (9 * 176)),  # by all outputs
        stage.patch_embed[0].pointwise.conv: math.sqrt(2 / 176),
        stage.local.depthwise: math.sqrt(2 / 9),  # by the outputs of a group
        stage.local.conv2.conv: math.sqrt(2 / 176),
        stage.aggregate.conv: math.sqrt(2 / 216),
        stage.paths[0].blocks[0].attn.qkv: 0.02,
        stage.paths[0].cpe.conv: 1 / math.sqrt(3 * 9),  # torch's default: uniform within 1 / 3
        model.head.projection: 0.02,
    }
    for layer, std in spread.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1), layer
    assert not stage.paths[0].blocks[0].attn.qkv.bias.any()
    assert stage.paths[0].cpe.conv.bias.any()


def test_norms_have_the_published_epsilons() -> None:
    modules = list(on_meta("mpvit_tiny").modules())
    assert {m.eps for m in modules if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}


def test_attention_drops_with_its_sample() -> None:
    torch.manual_seed(0)
    model = build("mpvit_tiny")
    path = model.stages[0].paths[0]
    block = Block(8, 8, 2.0, drop_path=0.5).train()
    x = torch.randn(64, 8, 4, 4)
    unchanged = (block(x, path.cpe, path.crpe) == path.cpe(x)).flatten(1).all(1)
    assert 4 < unchanged.sum() < 32  # a quarter is expected: both branches of a sample are dropped


def test_batch_norms_can_be_synchronised_or_frozen() -> None:
    model = build("mpvit_tiny")
    x = example(model)
    want = model(x)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not [m for m in synced.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(synced(x), want)
    model.freeze_batch_norm()
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.testing.assert_close(model(x), want)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_other_numbers_of_heads_and_kernels_work() -> None:
    model = build("mpvit_tiny", heads=(1, 3), position_kernels=(3, 9))
    assert model(example(model)).shape == (2, 5)
    crpe = model.stages[0].paths[0].crpe
    assert [tuple(conv.weight.shape) for conv in crpe.convs] == [(2, 1, 3, 3), (6, 1, 9, 9)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 8}, "heads=8: a list is needed"),
        ({"heads": (4, 4)}, "heads=(4, 4): a number of at least 1 is needed for each of position_kernels=(3, 5, 7)"),
        ({"heads": (0, 4, 4)}, "heads=(0, 4, 4)"),
        ({"heads": (2, 2, 3)}, "cannot be divided among heads=(2, 2, 3), 7 in all"),
        ({"position_kernels": (2, 5, 7)}, "position_kernels=(2, 5, 7): kernels have odd sides"),
        ({"kernel": (3, 4)}, "kernel=(3, 4)"),
        ({"input_size": (16, 224, 224)}, "kernel=(3, 3) has 2"),
        ({"stem_stride": (2,)}, "stem_stride=(2,)"),
        ({"widths": (64, 96, 176)}, "widths=(64, 96, 176): 4 numbers"),
        ({"widths": (9, 9, 9, 9), "heads": (1, 1, 1)}, "the first must be even"),
        ({"paths": (2, 3, 0, 3)}, "paths=(2, 3, 0, 3)"),
        ({"depths": (1, 2, 0, 1)}, "depths=(1, 2, 0, 1)"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
    ],
)
def test_a_spec_that_is_no_network_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        stvit.create_model("mpvit_tiny", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
