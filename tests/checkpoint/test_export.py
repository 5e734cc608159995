"""Exported weights run in the other libraries with the same outputs, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import timm
import torch
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torch import Tensor, nn
from torchvision.models.video import mvit_v2_s
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

import stvit
from stvit.checkpoint import convert, load_checkpoint, pack_model
from stvit.checkpoint.export import wrapped
from stvit.errors import UserError
from stvit.registry import model_spec

SMALL = {"depths": (1, 1, 2, 1), "width": 16, "num_classes": 5}
MVIT_TARGETS = ["mvit", "slowfast", "torchvision", "timm", "mmpretrain", "mmaction2"]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of the size of trained ones, so that every table and token counts; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = (
            0.2 if "rel_pos" in name or "token" in name else 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        )
        parameter.data = scale * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()


def relative_error(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.inference_mode():
        want, got = model(x), other(x)
    return float((want - got).abs().max() / want.abs().max())


def weightless(name: str, **settings: object) -> dict[str, Tensor]:
    """A whole state dict that takes no memory."""
    with torch.device("meta"):
        state = stvit.create_model(name, **settings).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


def small_timm(depths: tuple[int, ...] = (1, 1, 2, 1), **settings: object) -> MultiScaleVit:
    return MultiScaleVit(MultiScaleVitCfg(depths=depths, embed_dim=16, **settings), img_size=64, num_classes=5).eval()


def small_torchvision() -> TorchvisionMViT:
    """The network that stvit builds with SMALL for clips of 4x64x64."""
    widths, strides, keys = (16, 32, 64, 64, 128), (1, 2, 2, 1, 2), (8, 4, 2, 2, 1)
    blocks = [
        MSBlockConfig(
            num_heads=width // 16,
            input_channels=widths[max(i - 1, 0)],
            output_channels=width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, strides[i], strides[i]],
            stride_kv=[1, keys[i], keys[i]],
        )
        for i, width in enumerate(widths)
    ]
    return TorchvisionMViT(
        (64, 64), 4, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True,
        proj_after_attn=True, num_classes=5,
    ).eval()  # fmt: skip


def test_timms_tiny_network_runs_exported_weights() -> None:
    model = randomised(stvit.create_model("mvitv2_tiny"))
    other = timm.create_model("mvitv2_tiny").eval()
    other.load_state_dict(convert(model.state_dict(), to="timm"))
    assert relative_error(model, other, torch.randn(1, 3, 224, 224)) < 3e-5


@pytest.mark.parametrize("widen_in_attention", [True, False])
def test_timms_networks_of_both_kinds_run_exported_weights(widen_in_attention: bool) -> None:
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64), widen_in_attention=widen_in_attention)
    other = small_timm(expand_attn=widen_in_attention)
    other.load_state_dict(convert(randomised(model).state_dict(), to="timm"))
    assert relative_error(model, other, torch.randn(2, 3, 64, 64)) < 3e-5


def test_weights_of_timms_network_run_here() -> None:
    other = randomised(small_timm())
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64)).eval()
    assert load_checkpoint(model, other.state_dict()).layout == "timm"
    assert relative_error(other, model, torch.randn(2, 3, 64, 64)) < 3e-5


def test_timms_class_token_networks_do_compute_something_else() -> None:
    """Why they are refused; should this fail, timm has mended it."""
    settings = {"class_token": True, "head_pooling": "class_token"}
    model = randomised(stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64), **settings))
    with pytest.raises(UserError, match="adds the query to the class token too"):
        convert(model.state_dict(), to="timm")
    other = small_timm(use_cls_token=True)
    other.load_state_dict(convert(model.state_dict(), to="timm", force=True))
    assert relative_error(model, other, torch.randn(2, 3, 64, 64)) > 1e-2


def test_torchvisions_first_mvit_runs_here() -> None:
    """Absolute positions in space and time, and one for the class token; no relative ones, no residual pooling."""
    widths, strides, keys = (16, 32, 64, 64, 128), (1, 2, 2, 1, 2), (8, 4, 2, 2, 1)
    blocks = [
        MSBlockConfig(
            num_heads=width // 16,
            input_channels=width,
            output_channels=widths[min(i + 1, 4)],
            kernel_q=[3, 3, 3] if strides[i] > 1 else [],
            kernel_kv=[3, 3, 3],
            stride_q=[1, strides[i], strides[i]] if strides[i] > 1 else [],
            stride_kv=[1, keys[i], keys[i]],
        )
        for i, width in enumerate(widths)
    ]
    other = TorchvisionMViT(
        (64, 96), 4, blocks, residual_pool=False, residual_with_cls_embed=False, rel_pos_embed=False,
        proj_after_attn=False, num_classes=5,
    )  # fmt: skip
    for key, parameter in other.named_parameters():
        if "pos_encoding" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    first = {"relative_position": False, "absolute_position": True, "residual_pooling": False}
    model = stvit.create_model(
        "mvitv2_small_16x4", **SMALL, **first, input_size=(4, 64, 96), pool_unstrided_query=False,
        widen_in_attention=False,
    )  # fmt: skip
    load_checkpoint(model, other.state_dict())
    assert relative_error(other.eval(), model.eval(), torch.randn(2, 3, 4, 64, 96)) < 3e-5


def test_torchvisions_network_runs_exported_weights() -> None:
    model = randomised(stvit.create_model("mvitv2_small_16x4", **SMALL, input_size=(4, 64, 64)))
    other = small_torchvision()
    other.load_state_dict(convert(model.state_dict(), to="torchvision", force=True))
    assert relative_error(model, other, torch.randn(2, 3, 4, 64, 64)) < 3e-5


@pytest.mark.slow
def test_torchvisions_published_network_runs_exported_weights() -> None:
    model, other = randomised(stvit.create_model("mvitv2_small_16x4")), mvit_v2_s().eval()
    other.load_state_dict(convert(model.state_dict(), to="torchvision"))
    assert relative_error(model, other, torch.randn(1, 3, 16, 224, 224)) < 3e-5


def test_torchvisions_names_and_shapes_are_those_of_its_published_network() -> None:
    with torch.device("meta"):
        expected = {key: value.shape for key, value in mvit_v2_s().state_dict().items()}
    exported = convert(weightless("mvitv2_small_16x4"), to="torchvision")
    assert {key: value.shape for key, value in exported.items()} == expected


@pytest.mark.parametrize(
    ("row", "theirs"),
    [("mvitv2_small", "mvitv2_small"), ("mvitv2_base", "mvitv2_base"), ("mvitv2_large", "mvitv2_large")]
    + [(f"mvitv2_{size}_in21k", f"mvitv2_{size}_cls") for size in ("base", "large", "huge")],
)
def test_timms_names_and_shapes_are_those_of_its_networks(row: str, theirs: str) -> None:
    classes = model_spec(row).num_classes
    with torch.device("meta"):
        expected = {k: v.shape for k, v in timm.create_model(theirs, num_classes=classes).state_dict().items()}
    exported = convert(weightless(row), to="timm", force="in21k" in row)
    assert {key: value.shape for key, value in exported.items()} == expected


# What each library computes as stvit does; everything else is refused.
RUNS = {
    "mvitv2_tiny": {"mvit", "slowfast", "timm", "mmpretrain"},
    "mvitv2_large": {"mvit", "slowfast", "timm", "mmpretrain"},
    "mvitv2_base_in21k": {"mvit", "slowfast"},
    "mvitv2_small_16x4": {"slowfast", "torchvision", "mmaction2"},
    "mvitv2_base_32x3": {"slowfast", "mmaction2"},
    "mvitv2_tiny_16f": {"slowfast"},
    "mvitv2_base_in21k_16f": set(),
}


@pytest.mark.parametrize("to", MVIT_TARGETS)
@pytest.mark.parametrize("row", RUNS)
def test_a_target_takes_what_it_computes_alike_and_refuses_the_rest(row: str, to: str) -> None:
    weights = weightless(row, num_classes=7)
    if to in RUNS[row]:
        assert len(convert(weights, to=to)) >= len(weights)
    else:
        with pytest.raises(UserError, match=rf"cannot be used by {to}: .*; force=True") as error:
            convert(weights, to=to)
        assert "\n" not in str(error.value)
        assert len(convert(weights, to=to, force=True)) >= len(weights)


@pytest.mark.parametrize(
    ("row", "settings", "to", "said"),
    [
        ("mvitv2_tiny_16f", {}, "timm", "it has no video networks"),
        ("mvitv2_tiny", {"input_size": (240, 240)}, "timm", "input sides must be multiples of 32, not 240"),
        ("mvitv2_tiny", {"input_size": (240, 240)}, "mvit", "it resizes no position table"),
        ("mvitv2_tiny", {"input_size": (192, 256)}, "slowfast", "for square inputs, not for 192x256"),
        ("mvitv2_small_16x4", {"input_size": (8, 224, 224)}, "torchvision", r"this has input_size \(8, 224, 224\)"),
        ("mvitv2_small_16x4", {"kv_stride": (1, 4, 4)}, "torchvision", r"this has kv_stride \(1, 4, 4\)"),
        ("mvitv2_base_in21k_16f", {}, "slowfast", "no balance_class_token"),
        ("mvitv2_tiny_16f", {}, "mmaction2", "its head reads the class token, not the 'mean'"),
    ],
)
def test_the_reason_of_a_refusal_is_named(row: str, settings: dict[str, object], to: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        convert(weightless(row, num_classes=7, **settings), to=to)


def test_other_input_sizes_that_divide_are_taken() -> None:
    assert convert(weightless("mvitv2_tiny", input_size=(256, 256)), to="timm")


def test_settings_that_shapes_do_not_tell_come_from_the_checkpoint_or_the_caller() -> None:
    with torch.device("meta"):
        meta = stvit.create_model("mvitv2_small_16x4", head_pooling="mean_then_norm")
    weights = weightless("mvitv2_small_16x4")
    assert convert(weights, to="torchvision")  # nothing tells
    with pytest.raises(UserError, match="this has head_pooling mean_then_norm"):
        convert(weights, to="torchvision", model=meta)
    packed = pack_model(meta) | {"state_dict": weights}
    with pytest.raises(UserError, match="this has head_pooling mean_then_norm"):
        convert(packed, to="torchvision")
    assert convert(packed, to="slowfast")  # its MVIT.USE_MEAN_POOLING


def test_weights_of_another_network_than_the_named_one_are_refused_with_both_names() -> None:
    with pytest.raises(UserError, match=r"is of mvitv2_small, not of mvitv2_tiny: they differ in depths$"):
        convert(weightless("mvitv2_small"), to="timm", model="mvitv2_tiny")


def test_what_is_no_target_or_no_mvit_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is no layout 'tim' \(did you mean 'timm'"):
        convert(weightless("mvitv2_tiny"), to="tim")
    with pytest.raises(UserError, match=r"choose from openstl-mixvit, stvit$"):
        convert(stvit.create_model("mixvit_predictor_mini"), to="keras")
    with pytest.raises(UserError, match="holds no whole network that layout timm is for: choose from stvit"):
        convert(nn.Linear(2, 2).state_dict(), to="timm")


def test_what_is_suggested_is_what_can_hold_the_network() -> None:
    weights = weightless("mixvit_t_224")
    with pytest.raises(UserError, match=r"no layout 'mixviit' \(did you mean 'mixvit'\?\): choose from mixvit, stvit$"):
        convert(weights, to="mixviit")
    with pytest.raises(UserError, match=r"a MixViT, which is not what layout timm is for: choose from mixvit, stvit$"):
        convert(weights, to="timm")
    for name, to in {"mixvit_t_224": "mixvit", "mpvit_tiny": "mpvit", "mixformer_b0": "paddleclas"}.items():
        with pytest.raises(UserError, match=r"it is for images, and .* has no video networks") as error:
            convert(weightless(f"{name}_16f"), to=to)
        assert "force" not in str(error.value)


def test_a_network_is_taken_with_its_weights_and_its_settings() -> None:
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(64, 64))
    converted, expected = convert(nn.DataParallel(model), to="timm"), convert(model.state_dict(), "timm", model=model)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in converted.items())
    mean = stvit.create_model("mvitv2_small_16x4", **SMALL, input_size=(4, 64, 64), head_pooling="mean_then_norm")
    with pytest.raises(UserError, match=r"this has .*head_pooling mean_then_norm"):
        convert(mean, to="torchvision")


@pytest.mark.parametrize("source", MVIT_TARGETS)
def test_any_layout_goes_into_stvits(source: str) -> None:
    row = "mvitv2_small_16x4" if source in ("slowfast", "torchvision", "mmaction2") else "mvitv2_tiny"
    size = (4, 64, 64) if row == "mvitv2_small_16x4" else (64, 64)
    ours = randomised(stvit.create_model(row, **SMALL, input_size=size)).state_dict()
    file = wrapped(convert(ours, to=source, force=True), source)
    back = convert(file, to="stvit")
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], value) for key, value in ours.items())


@pytest.mark.parametrize(
    ("to", "entries"),
    [
        ("mvit", {"model_state"}),
        ("slowfast", {"model_state"}),
        ("mmpretrain", {"meta", "state_dict"}),
        ("mmaction2", {"meta", "state_dict"}),
    ],
)
def test_files_are_wrapped_as_the_target_wraps_them(to: str, entries: set[str]) -> None:
    assert wrapped({}, to).keys() == entries


def test_the_predictor_goes_back_into_its_published_layout() -> None:
    small = {"hidden_spatial": 8, "hidden_translator": 32, "encoder_depth": 2, "translator_depth": 1}
    small |= {"window": (4, 4), "dim_head": 8, "channel_heads": 4, "in_frames": 4}
    model = stvit.create_model("mixvit_predictor", **small)
    theirs = convert(model.state_dict(), to="openstl-mixvit")
    again: Mapping[str, Tensor] = convert(theirs, to="stvit")
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    other = pack_model(stvit.create_model("mixvit_predictor", **small, wavelet="db2"))
    with pytest.raises(UserError, match="stores filters of the wavelet 'haar', and this has 'db2'"):
        convert(other, to="openstl-mixvit")
