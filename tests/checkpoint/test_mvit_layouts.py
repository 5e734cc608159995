"""The layouts of MViTv2: each is told by its names, and goes into stvit's and back without a change."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

import stvit
from stvit.backbones.mvit import MViT, MViTSpec
from stvit.checkpoint import load_checkpoint
from stvit.checkpoint.layouts import LAYOUTS, detect, mmaction2, mmpretrain, mvit, timm_mvit, torchvision_mvit
from stvit.checkpoint.recognise import registered_name
from stvit.checkpoint.recognise.mvit import key_strides, mvit_spec
from stvit.errors import UserError
from stvit.registry import model_spec

ROWS = stvit.list_models("mvitv2_*")
MVIT_LAYOUTS = (mvit, torchvision_mvit, timm_mvit, mmpretrain, mmaction2)
SMALL = {"depths": (1, 1, 2, 1), "width": 16, "num_classes": 5}
V1 = MViTSpec(
    depths=(1, 2, 2, 1), input_size=(4, 64, 64), width=16, num_classes=5, widen_in_attention=False,
    patch_kernel=(3, 7, 7), patch_stride=(2, 4, 4), pool_kernel=(3, 3, 3), q_stride=(1, 2, 2), kv_stride=(1, 8, 8),
    class_token=True, head_pooling="class_token", relative_position=False, absolute_position=True,
    residual_pooling=False, pool_unstrided_query=False,
)  # fmt: skip


@cache
def shapes(name: str, **settings: object) -> dict[str, Tensor]:
    """A state dict without values."""
    with torch.device("meta"):
        return stvit.create_model(name, **settings).state_dict()


def small(name: str, **settings: object) -> dict[str, Tensor]:
    """A state dict of a shrunken network, every tensor different from zero."""
    size = {2: (32, 32), 3: (4, 32, 32)}[len(model_spec(name).input_size)]
    state = stvit.create_model(name, **{**SMALL, "input_size": size, **settings}).state_dict()
    return {key: torch.randn_like(value) for key, value in state.items()}


@pytest.mark.parametrize("layout", MVIT_LAYOUTS, ids=lambda layout: layout.NAME)
@pytest.mark.parametrize("row", ROWS)
def test_names_of_every_row_survive_there_and_back(row: str, layout: ModuleType) -> None:
    ours = shapes(row)
    back = layout.to_stvit(layout.from_stvit(ours), model_spec(row))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in ours.items()}


@pytest.mark.parametrize("layout", MVIT_LAYOUTS, ids=lambda layout: layout.NAME)
@pytest.mark.parametrize(
    "row", ["mvitv2_tiny", "mvitv2_large", "mvitv2_base_in21k", "mvitv2_small_16x4", "mvitv2_tiny_16f"]
)
def test_values_survive_there_and_back(row: str, layout: ModuleType) -> None:
    ours = small(row)
    theirs = layout.from_stvit(ours)
    back = layout.to_stvit(theirs)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], value) for key, value in ours.items())
    again = layout.from_stvit(back)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.items())


def test_slowfasts_image_mode_keeps_an_axis_of_time_in_the_poolings() -> None:
    ours = small("mvitv2_tiny")
    theirs = mvit.to_slowfast(ours)
    assert theirs["blocks.0.attn.pool_q.weight"].shape == (16, 1, 1, 3, 3)
    back = mvit.to_stvit(theirs)
    assert all(torch.equal(back[key], value) for key, value in ours.items())
    clips = small("mvitv2_small_16x4")
    assert all(value is clips[key] for key, value in mvit.to_slowfast(clips).items())


def test_torchvisions_first_mvit_has_absolute_positions_without_leading_axes() -> None:
    ours = {key: torch.randn_like(value) for key, value in MViT(V1).state_dict().items()}
    theirs = torchvision_mvit.from_stvit(ours)
    assert {k: tuple(v.shape) for k, v in theirs.items() if k.startswith("pos_encoding")} == {
        "pos_encoding.class_token": (16,),
        "pos_encoding.spatial_pos": (256, 16),
        "pos_encoding.temporal_pos": (2, 16),
        "pos_encoding.class_pos": (16,),
    }
    model = MViT(V1)
    assert load_checkpoint(model, theirs).layout == "torchvision"
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("row", "to", "layout"),
    [
        ("mvitv2_tiny", mvit.to_slowfast, "slowfast/mvit"),
        ("mvitv2_tiny", timm_mvit.from_stvit, "timm"),
        ("mvitv2_large", timm_mvit.from_stvit, "timm"),
        ("mvitv2_tiny", mmpretrain.from_stvit, "mmpretrain"),
        ("mvitv2_small_16x4", torchvision_mvit.from_stvit, "torchvision"),
        ("mvitv2_small_16x4", mmaction2.from_stvit, "mmaction2"),
    ],
)
def test_each_layout_is_recognised_and_loads(row: str, to, layout: str) -> None:
    ours = small(row)
    theirs = to(ours)
    assert [found.NAME for found in LAYOUTS if found.matches(theirs)] == [layout]
    size = (4, 32, 32)[-len(model_spec(row).input_size) :]
    model = stvit.create_model(row, **SMALL, input_size=size)
    report = load_checkpoint(model, {"meta": {}, "state_dict": theirs})
    assert report.layout == layout
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def test_an_official_file_is_told_by_its_wrapper() -> None:
    ours = small("mvitv2_tiny")
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32))
    official = {"epoch": 300, "model_state": ours, "optimizer_state": {}, "cfg": "MVIT:\n  DEPTH: 10\n"}
    report = load_checkpoint(model, official)
    assert (report.layout, report.converted) == ("slowfast/mvit", ())
    assert load_checkpoint(model, {"state_dict": ours}).layout == "stvit"


def test_only_what_a_layout_changes_counts_as_converted() -> None:
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32))
    report = load_checkpoint(model, mvit.to_slowfast(small("mvitv2_tiny")))
    assert len(report.converted) == 3 * 5
    assert all(".attn.pool_" in key for key in report.converted)


def test_a_class_token_that_mmaction2_stores_without_using_it_is_dropped() -> None:
    ours = small("mvitv2_tiny_16f")
    theirs = mmaction2.from_stvit(ours)
    assert theirs["backbone.cls_token"].abs().sum() == 0
    theirs["backbone.cls_token"] = torch.randn(1, 1, 16)  # as mmaction2 initialises it
    model = stvit.create_model("mvitv2_tiny_16f", **SMALL, input_size=(4, 32, 32))
    report = load_checkpoint(model, theirs)
    assert report.dropped == ("backbone.cls_token",)
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def test_openmmlabs_norms_between_stages_are_refused_with_the_reason() -> None:
    theirs = mmpretrain.from_stvit(small("mvitv2_tiny")) | {"backbone.norm1.weight": torch.ones(32)}
    model = stvit.create_model("mvitv2_tiny", **SMALL, input_size=(32, 32))
    with pytest.raises(
        UserError, match=r"\(layout mmpretrain\): .*several out_scales, whose backbone\.norm1\.\*"
    ) as error:
        load_checkpoint(model, theirs)
    assert "\n" not in str(error.value)


def test_a_network_of_the_other_librarys_own_takes_its_names_as_they_are() -> None:
    theirs = timm_mvit.from_stvit(small("mvitv2_tiny"))
    module = torch.nn.Module()
    for key, value in theirs.items():
        parent = module
        for part in key.split(".")[:-1]:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.register_parameter(key.rsplit(".", 1)[-1], torch.nn.Parameter(torch.zeros_like(value)))
    assert load_checkpoint(module, theirs).layout == "stvit"
    assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_recognised_by_the_shapes_of_its_weights(row: str) -> None:
    weights = shapes(row)
    told, stated = mvit_spec(weights), model_spec(row)
    untold = {"drop_path", "head_dropout", "balance_class_token"}
    assert {k: v for k, v in dataclasses.asdict(told).items() if k not in untold} == {
        k: v for k, v in dataclasses.asdict(stated).items() if k not in untold
    }
    assert registered_name(weights) == row


def test_a_row_is_recognised_with_other_classes_and_input_size() -> None:
    weights = shapes("mvitv2_large", num_classes=7, input_size=(384, 384))
    assert registered_name(weights) == "mvitv2_large"
    assert registered_name(small("mvitv2_tiny")) is None
    assert mvit_spec({"patch_embed.proj.weight": torch.ones(4, 3, 7, 7)}) is None


@pytest.mark.parametrize("size", [(16, 200, 232), (8, 250, 250), (5, 97, 97)])
@pytest.mark.parametrize("stride", [4, 8])
def test_the_stride_of_keys_is_told_at_sizes_that_do_not_divide(size: tuple[int, int, int], stride: int) -> None:
    weights = shapes("mvitv2_small_16x4", input_size=size, kv_stride=(1, stride, stride))
    assert stride in key_strides(weights)
    assert (12 - stride) not in key_strides(weights)


def test_absolute_positions_tell_their_row_too() -> None:
    with torch.device("meta"):
        told = mvit_spec(MViT(V1).state_dict())
    assert told == V1


def test_weights_of_other_networks_have_no_layout_of_mvit() -> None:
    assert detect({"blocks.0.norm1.weight": torch.ones(1), "head.weight": torch.ones(1)}) is None
    assert detect(small("mvitv2_tiny")) is None
