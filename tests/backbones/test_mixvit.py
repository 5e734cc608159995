"""MixViT: its published cost, maps that windows do not divide, dense maps, position tables of other windows."""

import math
import re

import pytest
import torch
from parity import relative_error
from shrunken import MIXVIT, build

import stvit
from stvit.backbones.mixvit import MixViT, MixViTSpec
from stvit.checkpoint import convert, model_from_checkpoint, pack_model, save_checkpoint
from stvit.checkpoint.recognise import registered_name
from stvit.errors import UserError
from stvit.inflation import inflate
from stvit.layers.attention import ChannelAttention
from stvit.layers.mixvit_block import GroupAttentionBlock
from stvit.published import PUBLISHED

NAMES = stvit.list_models("mixvit_*_[0-9][0-9][0-9]")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_ones_and_tell_the_name(name: str) -> None:
    with torch.device("meta"):
        model = stvit.create_model(name)
    parameters, _ = PUBLISHED[name].counted
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == parameters
    assert registered_name(model.state_dict()) == name


# ---- any size


def attended_alone(block: GroupAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """What the block computes, group by group, with nothing but the tokens that there are."""
    out = x.clone()
    size, window = x.shape[2:], block.window
    steps = [math.ceil(n / w) for n, w in zip(size, window, strict=True)]
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
        divisors = steps if block.grid else window
        group = tuple(p % d if block.grid else p // d for p, d in zip(place, divisors, strict=True))
        groups.setdefault(group, []).append(tuple(place))
    table = block.attn.rel_pos.table
    for places in groups.values():
        tokens = torch.stack([x[(0, slice(None), *place)] for place in places])
        inside = [
            tuple(p // s if block.grid else p % w for p, s, w in zip(place, steps, window, strict=True))
            for place in places
        ]
        bias = torch.stack(
            [
                torch.stack(
                    [
                        table[(slice(None), *(k - q + w - 1 for k, q, w in zip(b, a, window, strict=True)))]
                        for b in inside
                    ]
                )
                for a in inside
            ]
        )
        q, k, v = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, block.attn.heads, -1)).permute(1, 2, 0, 3)
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias.permute(2, 0, 1)).softmax(-1)
        tokens = tokens + block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
        tokens = tokens + block.mlp(block.norm2(tokens))
        for place, token in zip(places, tokens, strict=True):
            out[(0, slice(None), *place)] = token
    return out


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize(
    ("window", "size"), [((3, 3), (3, 6)), ((3, 3), (4, 7)), ((4, 4), (2, 9)), ((2, 3, 3), (3, 4, 5))]
)
def test_tokens_see_those_of_their_group_on_the_map_and_no_padding(window, size, grid) -> None:
    torch.manual_seed(0)
    block = GroupAttentionBlock(
        8, window, grid=grid, dim_head=4, mlp_ratio=2.0, act=torch.nn.GELU, norm_eps=1e-5, drop_path=0.0
    ).double()
    torch.nn.init.normal_(block.attn.rel_pos.table)
    x = torch.randn(1, 8, *size).double()
    torch.testing.assert_close(block(x), attended_alone(block, x))


def test_a_larger_image_is_computed_as_published_where_windows_divide_it() -> None:
    """Of 2 x 2 windows, 128 x 64 pixels are whole windows in every stage: nothing is padded."""
    model = build("mixvit_t_224")
    x = torch.randn(1, 3, 128, 64)
    padded = []
    for module in model.modules():
        if isinstance(module, GroupAttentionBlock):
            module.attn.register_forward_pre_hook(lambda _, inputs: padded.append(inputs[1] is not None))
    model(x)
    assert len(padded) == 8
    assert not any(padded)
    model(x[..., :60])
    assert any(padded)


def test_channel_attention_of_clips_averages_over_frames() -> None:
    attention = ChannelAttention(8, 2).double()
    frame = torch.randn(2, 6, 8).double()
    clip = frame.repeat(1, 5, 1)
    torch.testing.assert_close(attention(clip, frames=5), attention(frame).repeat(1, 5, 1))
    assert not torch.allclose(attention(clip), attention(frame).repeat(1, 5, 1))


def test_channel_logits_of_half_precision_are_summed_in_float32() -> None:
    """Sums over 50,000 tokens: in half precision they would lose all digits, or overflow."""
    attention = ChannelAttention(8, 2)
    x = torch.randn(1, 50_000, 8) + 2
    exact = attention.double()(x.double())
    attention.float()
    with torch.autocast("cpu", torch.bfloat16):
        got = attention(x)
    assert relative_error(got, exact) < 0.05


# ---- dense


def test_normalised_maps_stay_beside_the_stages() -> None:
    plain = build("mixvit_t_224")
    dense = stvit.create_model(
        "mixvit_t_224", features_only=True, map_norm=True, **MIXVIT | {"input_size": (64, 64), "window": (2, 2)}
    ).eval()
    report = stvit.load_checkpoint(dense, plain.state_dict())
    assert {key.split(".")[0] for key in report.new} == {"map_norms"}
    x = torch.randn(2, 3, 64, 64)
    for got, raw in zip(dense(x), plain.forward_intermediates(x, intermediates_only=True), strict=True):
        want = torch.nn.functional.layer_norm(raw.movedim(1, -1), raw.shape[1:2], eps=1e-6).movedim(-1, 1)
        torch.testing.assert_close(got, want)


def test_norms_of_maps_that_nobody_reads_take_no_gradient() -> None:
    settings = MIXVIT | {"input_size": (64, 64), "window": (2, 2), "map_norm": True}
    maps = stvit.create_model("mixvit_t_224", features_only=True, out_indices=(1, 3), **settings).train()
    sum(m.square().sum() for m in maps(torch.randn(2, 3, 64, 64))).backward()
    for key, parameter in maps.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
    trained = {key.split(".")[2] for key, p in maps.named_parameters() if "map_norms" in key and p.requires_grad}
    assert trained == {"1", "3"}
    assert not any(p.requires_grad for p in build("mixvit_t_224", map_norm=True).map_norms.parameters())


def test_frozen_batch_norms_learn_their_weights_and_keep_their_statistics() -> None:
    maps = stvit.create_model("mixvit_t_224", features_only=True, **MIXVIT | {"input_size": (64, 64), "window": (2, 2)})
    maps.freeze_batch_norm()
    maps.train()
    before = {key: buffer.clone() for key, buffer in maps.named_buffers()}
    sum(m.square().sum() for m in maps(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(buffer, before[key]) for key, buffer in maps.named_buffers())
    assert maps.network.stem.norm1.weight.grad.abs().sum() > 0
    maps.freeze_batch_norm(False)
    maps(torch.randn(2, 3, 64, 64))
    assert not torch.equal(maps.network.stem.norm1.running_mean, before["network.stem.norm1.running_mean"])


def test_norms_of_maps_without_a_network_that_has_them_say_what_to_do() -> None:
    dense = build("mixvit_t_224", map_norm=True)
    theirs = convert(dense.state_dict(), "mixvit", model=dense)
    with pytest.raises(UserError, match=r"norm for every map \(norm0.*create the model with map_norm=True"):
        stvit.load_checkpoint(build("mixvit_t_224"), theirs)


# ---- other windows


def test_tables_of_other_windows_are_resized_as_timm_does(tmp_path) -> None:
    from timm.layers import resize_rel_pos_bias_table

    small, large = build("mixvit_t_224", window=(7, 7)), build("mixvit_t_224", window=(12, 12))
    report = stvit.load_checkpoint(large, small.state_dict())
    assert len(report.interpolated) == 8
    assert all(key.endswith("rel_pos.table") for key in report.interpolated)
    for key in report.interpolated:
        got = large.state_dict()[key]
        want = resize_rel_pos_bias_table(small.state_dict()[key], (12, 12), got.shape)
        assert torch.equal(got, want.reshape(got.shape))
    save_checkpoint(tmp_path / "small.pt", pack_model(small))
    stvit.load_checkpoint(large, tmp_path / "small.pt")


def test_a_clip_network_takes_a_table_of_other_extent_in_time() -> None:
    four, two = (inflate(build("mixvit_t_224"), 8, window=(extent, 2, 2)) for extent in (4, 2))
    key = "stages.0.blocks.0.grid.attn.rel_pos.table"
    report = stvit.load_checkpoint(two, four.state_dict())
    assert key in report.interpolated
    torch.testing.assert_close(two.state_dict()[key], four.state_dict()[key][:, 2:5])  # the same at every distance


# ---- checkpoints and what is refused


def test_its_own_checkpoint_rebuilds_it(tmp_path) -> None:
    model = build("mixvit_t_224_16f")
    save_checkpoint(tmp_path / "clip.pt", pack_model(model))
    again = model_from_checkpoint(tmp_path / "clip.pt").eval()
    assert (again.spec, again.preprocessing) == (model.spec, model.preprocessing)
    clip = torch.randn(1, 3, 4, 64, 64)
    assert torch.equal(again(clip), model(clip))


def test_stored_filters_of_another_wavelet_are_refused() -> None:
    model = build("mixvit_t_224")
    theirs = convert(model.state_dict(), "mixvit", model=model)
    with pytest.raises(UserError, match="create it with 'haar'"):
        stvit.load_checkpoint(build("mixvit_t_224", wavelet="db2"), theirs)
    theirs["stem.dwt_l2.w_l"] = torch.tensor([[0.5, 0.5]])
    with pytest.raises(UserError, match="not the haar filter"):
        stvit.load_checkpoint(model, theirs)
    clip = build("mixvit_t_224_16f")
    with pytest.raises(UserError, match="it is for images"):
        convert(clip.state_dict(), "mixvit", model=clip)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (64, 128, 256)}, "widths=(64, 128, 256): 4 numbers of at least 1 are needed, one a stage"),
        ({"channel_heads": (4, 8, 16, 30)}, "width 512 cannot be shared by 30 channel heads"),
        ({"dim_head": 48}, "width 64 cannot be cut into window heads of dim_head=48"),
        ({"window": (7, 7, 7)}, "input_size=(224, 224) has 2 axes and window=(7, 7, 7) has 3"),
        ({"input_size": (3, 224, 224)}, "images have (H, W), without their channels"),
        ({"num_classes": -1}, "num_classes=-1: at least 0 is needed"),
        ({"in_channels": 0}, "in_channels=0: at least 1 is needed"),
        ({"kernel": (2, 2)}, "kernels have odd sides"),
        ({"drop_path": 1.0}, "drop_path=1.0: a rate"),
        ({"head_hidden": 0}, "head_hidden=0"),
        ({"depths": (1, 0, 1, 1)}, "depths=(1, 0, 1, 1): every stage needs at least one block"),
        ({"wavelet": "harr"}, "did you mean 'haar'"),
    ],
)
def test_an_impossible_row_is_refused_in_one_line(changes, message) -> None:
    spec = {"widths": (64, 128, 256, 512), "depths": (1, 1, 1, 1)} | changes
    with torch.device("meta"), pytest.raises(UserError, match=re.escape(message)) as caught:
        MixViT(MixViTSpec(**spec))
    assert "\n" not in str(caught.value)
