"""Loading MViTv2: other variants, classes, input sizes and dimensions than the network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stvit
from stvit.backbones.mvit import MViT, MViTSpec
from stvit.checkpoint import load_checkpoint, model_from_checkpoint, pack_model, save_checkpoint
from stvit.checkpoint.layouts import mmpretrain, timm_mvit
from stvit.errors import UserError
from stvit.model import Model

SMALL = {"depths": (1, 1, 1, 1), "width": 16, "num_classes": 5, "drop_path": 0.0}


def image(**settings: object) -> Model:
    return varied(stvit.create_model("mvitv2_tiny", **{**SMALL, "input_size": (64, 64), **settings}))


def clip(name: str = "mvitv2_tiny_16f", **settings: object) -> Model:
    return varied(stvit.create_model(name, **{**SMALL, "input_size": (4, 64, 64), **settings}))


def varied(model: Model) -> Model:
    """Weights that differ from zero and from those of the next model."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def weightless(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = stvit.create_model(name).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("to", "layout"),
    [(dict, "stvit"), (timm_mvit.from_stvit, "timm"), (mmpretrain.from_stvit, "mmpretrain")],
)
def test_another_variant_is_refused_with_both_names(to, layout: str) -> None:
    model = stvit.create_model("mvitv2_tiny")
    before = copy_of(model)
    said = rf"\(layout {layout}, of mvitv2_small\) does not fit mvitv2_tiny: .*\d+ have no place in the model"
    with pytest.raises(UserError, match=said) as error:
        load_checkpoint(model, to(weightless("mvitv2_small")))
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("create_model('mvitv2_small') builds its network")
    assert len(str(error.value)) < 260
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_official_file_of_another_variant_is_refused_with_both_names() -> None:
    model = stvit.create_model("mvitv2_tiny")
    with pytest.raises(
        UserError, match=r"\(layout slowfast/mvit, of mvitv2_base_in21k\) does not fit mvitv2_tiny: "
    ) as error:
        load_checkpoint(model, {"model_state": weightless("mvitv2_base_in21k"), "cfg": "MVIT: {}"})
    assert "classes" not in str(error.value)  # a new head would not help


def test_an_image_file_of_another_variant_is_refused_by_a_video_network_with_both_names() -> None:
    model = stvit.create_model("mvitv2_tiny_16f")
    with pytest.raises(UserError, match=r"\(layout stvit, of mvitv2_small\) does not fit mvitv2_tiny_16f: .*") as error:
        load_checkpoint(model, weightless("mvitv2_small"))
    assert "\n" not in str(error.value)


def test_a_variant_that_differs_in_the_stride_of_its_keys_alone_is_refused() -> None:
    """Sizes of weights do not tell them apart, but for tables of positions, which could be resized."""
    source, model = clip("mvitv2_base_32x3"), clip("mvitv2_base_in21k_16f")
    before = copy_of(model)
    said = r"does not fit mvitv2_base_in21k_16f: its keys stride by 8 in the first stage and the model's by 4"
    with pytest.raises(UserError, match=said):
        load_checkpoint(model, source.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_number_of_classes_is_named_with_the_way_out_and_taken_by_request() -> None:
    source, model = image(num_classes=7), image()
    said = (
        "the given state dict (layout stvit) does not fit mvitv2_tiny: it has 7 classes and the model 5: "
        "load_checkpoint(model, ..., allow_new_head=True) (TRAIN.NEW_HEAD True) keeps a fresh head, num_classes=7 "
        "(MODEL.NUM_CLASSES 7) builds the file's"
    )
    with pytest.raises(UserError) as error:
        load_checkpoint(model, source.state_dict())
    assert str(error.value) == said
    head = model.head.projection.weight.clone()
    for checkpoint in (source.state_dict(), pack_model(source)):
        report = load_checkpoint(model, checkpoint, allow_new_head=True)
        assert report.missing == ("head.projection.weight", "head.projection.bias")
        assert torch.equal(model.head.projection.weight, head)
        assert torch.equal(model.norm.weight, source.norm.weight)


def test_a_network_without_a_head_drops_the_files() -> None:
    source, model = image(), image(num_classes=0)
    report = load_checkpoint(model, source.state_dict())
    assert report.dropped == ("head.projection.weight", "head.projection.bias")
    assert report.missing == report.unexpected == ()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), source.forward_head(source.forward_features(x), pre_logits=True))


def test_feature_maps_are_those_of_the_file(tmp_path) -> None:
    source = image()
    maps = image(features_only=True, out_indices=[1, 3])
    report = load_checkpoint(maps, timm_mvit.from_stvit(source.state_dict()))
    assert report.layout == "timm"
    assert report.dropped == ("head.projection.weight", "head.projection.bias")
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        want = source.forward_intermediates(x, [1, 3], intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(maps.eval()(x), want, strict=True))
        save_checkpoint(tmp_path / "maps.pt", pack_model(maps))
        again = model_from_checkpoint(tmp_path / "maps.pt")
        assert all(torch.equal(a, b) for a, b in zip(again(x), want, strict=True))


def test_a_model_whose_head_was_replaced_is_saved_as_it_is(tmp_path) -> None:
    model = image()
    model.reset_classifier(9)
    save_checkpoint(tmp_path / "model.pt", pack_model(model))
    again = model_from_checkpoint(tmp_path / "model.pt")
    assert again.num_classes == 9
    load_checkpoint(model, tmp_path / "model.pt")


def test_tables_of_another_input_size_are_resized_linearly() -> None:
    source, model = image(), image(input_size=(128, 128))
    report = load_checkpoint(model, source.state_dict())
    assert "blocks.0.attn.rel_pos_h" in report.interpolated
    assert all(".attn.rel_pos_" in key for key in report.interpolated)
    assert set(report.interpolated) < set(report.loaded)
    table, want = source.blocks[0].attn.rel_pos_h, model.blocks[0].attn.rel_pos_h
    assert (len(table), len(want)) == (31, 63)
    resized = F.interpolate(table.T[None], size=63, mode="linear")[0].T
    assert torch.equal(want, resized)
    assert load_checkpoint(model, pack_model(source)).interpolated == report.interpolated  # by own files, too
    x = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), source(x), rtol=1e-4, atol=1e-5)  # which it resizes at run time


def test_absolute_positions_of_another_input_size_are_resized_in_space_and_time() -> None:
    spec = {
        "depths": (1, 1), "width": 16, "num_classes": 5, "patch_kernel": (3, 7, 7), "patch_stride": (2, 4, 4),
        "pool_kernel": (3, 3, 3), "q_stride": (1, 2, 2), "kv_stride": (1, 8, 8), "class_token": True,
        "head_pooling": "class_token", "relative_position": False, "absolute_position": True,
    }  # fmt: skip
    source = varied(MViT(MViTSpec(**spec, input_size=(4, 64, 64))))
    model = varied(MViT(MViTSpec(**spec, input_size=(8, 64, 32))))
    with pytest.raises(UserError, match="pos_embed_spatial"):  # a square does not tell how to become a rectangle
        load_checkpoint(model, {**source.state_dict(), "pos_embed_spatial": torch.zeros(1, 255, 16)})
    model = varied(MViT(MViTSpec(**spec, input_size=(8, 96, 96))))
    report = load_checkpoint(model, source.state_dict())
    assert report.interpolated == ("pos_embed_spatial", "pos_embed_temporal")
    plane = source.pos_embed_spatial.mT.reshape(1, 16, 16, 16)
    resized = F.interpolate(plane, size=(24, 24), mode="bilinear").flatten(2).mT
    assert torch.equal(model.pos_embed_spatial, resized)
    x = torch.randn(1, 3, 8, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), source.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["blocks.0.attn.rel_pos_h", "blocks.0.attn.qkv.weight"])
def test_other_widths_are_never_resized(key: str) -> None:
    source, model = image().state_dict(), image()
    with pytest.raises(UserError, match=rf"1 have other sizes \({key} "):
        load_checkpoint(model, {**source, key: source[key][:, :-1]})


def test_an_image_checkpoint_is_inflated_into_a_video_network() -> None:
    source, model = image(), clip()
    report = load_checkpoint(model, {"model_state": source.state_dict()})
    assert report.layout == "slowfast/mvit"
    assert {"patch_embed.proj.weight", "blocks.0.attn.pool_q.weight"} < set(report.inflated)
    assert report.new == tuple(f"blocks.{i}.attn.rel_pos_t" for i in range(4))
    assert set(report.loaded) == set(model.state_dict()) - set(report.new)
    assert not set(report.inflated) & set(report.new)
    assert report.missing == report.interpolated == report.unexpected == ()
    assert "law holds" in report.notes[0]
    assert f"notes         {report.notes[0]}" in str(report)
    frame = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            model(frame[:, :, None].expand(-1, -1, 4, -1, -1)), source(frame), rtol=1e-4, atol=1e-5
        )


def test_own_image_checkpoints_and_other_layouts_inflate_alike() -> None:
    source, models = image(), (clip(), clip())
    load_checkpoint(models[0], pack_model(source))
    assert load_checkpoint(models[1], timm_mvit.from_stvit(source.state_dict())).layout == "timm"
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


def test_a_published_video_network_starts_from_an_image_checkpoint_and_the_report_says_how_far() -> None:
    source, model = image(), clip("mvitv2_small_16x4")
    token = model.cls_token.clone()
    report = load_checkpoint(model, source.state_dict())
    assert (report.missing, report.new[-1]) == ((), "cls_token")
    assert torch.equal(model.cls_token, token)
    assert any("key stride" in note for note in report.notes)
    with pytest.raises(UserError, match="it has 7 classes and the model 5"):
        load_checkpoint(model, image(num_classes=7).state_dict())
    report = load_checkpoint(model, image(num_classes=7).state_dict(), allow_new_head=True)
    assert report.missing == ("head.projection.weight", "head.projection.bias")
    assert "new head          2  head.projection.weight, head.projection.bias" in str(report)


@pytest.mark.parametrize("build", [image, clip])
def test_class_names_go_with_the_head_of_an_own_checkpoint(build: Callable[[], Model], tmp_path: Path) -> None:
    source, labels = image(), tuple("abcde")
    source.preprocessing = replace(source.preprocessing, labels=labels, mean=(0.0, 0.0, 0.0))
    packed, model = pack_model(source), build()
    mean = model.preprocessing.mean
    load_checkpoint(model, packed)
    assert (model.preprocessing.labels, model.preprocessing.mean) == (labels, mean)
    model.save_pretrained(tmp_path)
    assert stvit.from_pretrained(tmp_path).preprocessing.labels == labels


def test_class_names_stay_where_the_head_is_new_or_they_are_known() -> None:
    source, other, named = image(), image(num_classes=3), image()
    source.preprocessing = replace(source.preprocessing, labels=tuple("abcde"))
    load_checkpoint(other, pack_model(source), allow_new_head=True)
    assert other.preprocessing.labels is None
    named.preprocessing = replace(named.preprocessing, labels=tuple("vwxyz"))
    load_checkpoint(named, pack_model(source))
    assert named.preprocessing.labels == tuple("vwxyz")


def test_a_video_checkpoint_does_not_go_into_an_image_network() -> None:
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight \(16, 3, 3, 7, 7\) instead of \(16, 3, 7, 7\)"):
        load_checkpoint(image(), clip().state_dict())


@pytest.mark.parametrize("stride", [3, 5, 6, 12, 32])
def test_a_network_of_any_key_stride_loads_its_own_checkpoint(stride: int, tmp_path: Path) -> None:
    settings = {"depths": (1, 1, 1, 1), "width": 8, "num_classes": 5, "input_size": (64, 64)}
    model = stvit.create_model("mvitv2_tiny", **settings, kv_stride=(stride, stride))
    save_checkpoint(tmp_path / "own.pt", pack_model(model))
    assert model_from_checkpoint(tmp_path / "own.pt").spec == model.spec
