"""MViTv2's published numbers, and what a spec may and may not say."""

import dataclasses
import warnings
from collections import Counter

import pytest
import torch
from shrunken import SHRUNKEN, build, example

import stvit
from stvit.backbones.mvit import MultiScaleBlock, block_specs, max_pool_skip
from stvit.engine.flops import count_macs
from stvit.errors import UserError

# name: parameters in millions, entries of the state dict, GMACs at the nominal size
PUBLISHED = {
    "mvitv2_tiny": (24.173, 242, 4.704),
    "mvitv2_small": (34.870, 380, 6.998),
    "mvitv2_base": (51.473, 564, 10.159),
    "mvitv2_large": (217.993, 1116, 43.869),
    "mvitv2_base_in21k": (65.444, 565, 10.232),
    "mvitv2_large_in21k": (234.583, 1117, 42.172),
    "mvitv2_huge_in21k": (694.804, 1853, 120.667),
    "mvitv2_huge": (666.880, 1852, 119.922),
    "mvitv2_small_16x4": (34.538, 397, 64.457),
    "mvitv2_base_32x3": (51.230, 589, 225.170),
    "mvitv2_large_40x3": (213.390, 1165, 2828.101),
}


def on_meta(name: str, **overrides: object) -> torch.nn.Module:
    with torch.device("meta"):
        return stvit.create_model(name, **overrides)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    model = on_meta(name)
    parameters, keys, _ = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.0006)
    assert len(model.state_dict()) == keys


def test_another_size_has_other_tables() -> None:
    model = on_meta("mvitv2_tiny", input_size=(256, 256))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(24.185, abs=0.0006)
    model = on_meta("mvitv2_large_40x3", input_size=(16, 224, 224))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(213.220, abs=0.0006)


def published_macs(name: str) -> float:
    model = stvit.create_model(name)
    model.set_attention("published")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about Python numbers
        return sum(count_macs(model, torch.zeros(1, 3, *model.spec.input_size)).values()) / 1e9


@pytest.mark.parametrize("name", ["mvitv2_tiny", "mvitv2_base_in21k"])
def test_multiply_accumulates_are_the_published_ones(name: str) -> None:
    assert published_macs(name) == pytest.approx(PUBLISHED[name][2], rel=1e-3)


LARGE_ROWS = [name for name in PUBLISHED if name not in ("mvitv2_tiny", "mvitv2_base_in21k", "mvitv2_large_40x3")]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_ROWS)
def test_multiply_accumulates_of_large_rows_are_the_published_ones(name: str) -> None:
    assert published_macs(name) == pytest.approx(PUBLISHED[name][2], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "spatial", "temporal"),
    [
        ("mvitv2_tiny", {111: 1, 55: 3, 27: 5, 13: 1}, None),
        ("mvitv2_base", {111: 2, 55: 4, 27: 16, 13: 2}, None),
        ("mvitv2_large", {111: 2, 55: 7, 27: 36, 13: 3}, None),
        ("mvitv2_small_16x4", {111: 1, 55: 2, 27: 12, 13: 1}, 15),
        ("mvitv2_base_32x3", {111: 2, 55: 3, 27: 17, 13: 2}, 31),
        ("mvitv2_large_40x3", {155: 2, 77: 6, 37: 37, 17: 3}, 39),
    ],
)
def test_position_tables_are_as_long_as_published(name: str, spatial: dict[int, int], temporal: int | None) -> None:
    shapes = {k: v.shape[0] for k, v in on_meta(name).state_dict().items() if "rel_pos" in k}
    for axis in "hw":
        assert Counter(rows for key, rows in shapes.items() if key.endswith(axis)) == spatial
    assert {rows for key, rows in shapes.items() if key.endswith("_t")} == ({temporal} if temporal else set())


@pytest.mark.parametrize("name", [name for name in SHRUNKEN if name.startswith("mvit")])
def test_fused_attention_equals_the_published_arithmetic(name: str) -> None:
    model = build(name).double()
    for size in (model.spec.input_size, tuple(n + 9 for n in model.spec.input_size)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        model.set_attention("published")
        published = model(x)
        for way in ("auto", "fused"):
            model.set_attention(way)
            torch.testing.assert_close(model(x), published, atol=1e-12, rtol=1e-10)


def test_a_way_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="'fusd' is none of auto, fused, published"):
        build("mvitv2_tiny").set_attention("fusd")


def test_width_grows_in_the_attention_or_in_the_mlp_before_it() -> None:
    inside = block_specs(on_meta("mvitv2_large_in21k").spec, (56, 56))
    before = block_specs(on_meta("mvitv2_large").spec, (56, 56))
    assert [(b.attention.dim, b.attention.dim_out, b.dim_out) for b in inside[1:3]] == [
        (144, 144, 144),
        (144, 288, 288),
    ]
    assert [(b.attention.dim, b.attention.dim_out, b.dim_out) for b in before[1:3]] == [
        (144, 144, 288),
        (288, 288, 288),
    ]
    assert [b.attention.heads for b in before[1:3]] == [2, 4]


def test_drop_path_grows_linearly_and_drops_whole_samples() -> None:
    rates = [b.drop_path for b in block_specs(on_meta("mvitv2_tiny").spec, (56, 56))]
    assert rates == pytest.approx([0.1 * i / 9 for i in range(10)])
    block = block_specs(stvit.create_model("mvitv2_base_in21k", **{**SHRUNKEN["mvitv2_tiny"]}).spec, (16, 16))[0]
    torch.manual_seed(0)
    block = MultiScaleBlock(dataclasses.replace(block, drop_path=0.5))
    x, cls = torch.randn(64, 4, 4, 8), torch.randn(64, 1, 8)
    y, y_cls = block.train()(x, cls)
    unchanged = (y == x).flatten(1).all(1)
    assert 4 < unchanged.sum() < 32  # a quarter is expected: both branches of a sample are dropped
    assert torch.equal(unchanged, (y_cls == cls).flatten(1).all(1))  # the class token goes with its patches
    block.eval()
    assert not (block(x, cls)[0] == x).flatten(1).all(1).any()


def test_what_survives_drop_path_is_scaled_up() -> None:
    """With one branch silenced, a sample has the other one in full over its survival rate, or not at all."""
    spec = block_specs(stvit.create_model("mvitv2_tiny", **SHRUNKEN["mvitv2_tiny"]).spec, (16, 16))[0]
    torch.manual_seed(0)
    block = MultiScaleBlock(dataclasses.replace(spec, drop_path=0.75))
    for parameter in block.mlp.fc2.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(64, 4, 4, 8)
    branch = block.eval()(x, None)[0] - x
    kept = block.train()(x, None)[0] - x
    ratios = (kept / branch).flatten(1).median(1).values
    torch.testing.assert_close(ratios, ratios.round(), atol=1e-2, rtol=0)
    assert set(ratios.round().int().tolist()) == {0, 4}
    assert ratios.mean().item() == pytest.approx(1.0, abs=0.7)


def test_all_layer_norms_have_the_published_epsilon() -> None:
    norms = [m for m in on_meta("mvitv2_tiny").modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 10 * (2 + 3) + 1
    assert {norm.eps for norm in norms} == {1e-6}


def test_the_skip_is_pooled_without_mixing_frames() -> None:
    x = torch.randn(2, 3, 7, 9, 4)
    pooled = max_pool_skip(x, (1, 2, 2))
    want = torch.nn.functional.max_pool3d(x.movedim(-1, 1), (1, 3, 3), (1, 2, 2), (0, 1, 1)).movedim(1, -1)
    assert torch.equal(pooled, want)
    assert max_pool_skip(x, (1, 1, 1)) is x
    assert max_pool_skip(x, (2, 2, 2)).shape == (2, 2, 4, 5, 4)


def test_pooling_of_the_head() -> None:
    settings = {**SHRUNKEN["mvitv2_small_16x4"]}
    for pooling in ("class_token", "mean", "mean_then_norm"):
        model = build("mvitv2_small_16x4", head_pooling=pooling)
        x = example(model)
        tokens = model.forward_features(x)
        got = model.forward_head(tokens, pre_logits=True)
        want = {
            "class_token": lambda t: t[:, 0],
            "mean": lambda t: t[:, 1:].mean(1),
            "mean_then_norm": lambda t: model.norm(t[:, 1:].mean(1)),  # noqa: B023
        }[pooling](tokens)
        torch.testing.assert_close(got, want)
    assert settings["head_dropout"] == 0.0


def test_absolute_positions_of_the_first_mvit_are_added_and_resized() -> None:
    first = {"relative_position": False, "absolute_position": True, "residual_pooling": False}
    model = build("mvitv2_small_16x4", **first, pool_unstrided_query=False, widen_in_attention=False)
    keys = model.state_dict()
    assert not [key for key in keys if "rel_pos" in key]
    assert keys["pos_embed_spatial"].shape == (1, 16 * 16, 8)
    assert keys["pos_embed_temporal"].shape == (1, 2, 8)
    assert "blocks.0.attn.pool_q.weight" not in keys
    assert "blocks.1.attn.pool_q.weight" in keys
    x = example(model)
    before = model(x)
    with torch.no_grad():
        model.pos_embed_temporal.mul_(2)
    assert not torch.equal(model(x), before)
    assert model(torch.randn(1, 3, 6, 48, 80)).shape == (1, 5)


def test_frames_differ_by_their_place_in_time() -> None:
    """Relative positions in time count: the same frames in another order give other logits."""
    model = build("mvitv2_tiny_16f")
    x = example(model)
    assert (model(x) - model(x.flip(2))).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (1, 0, 1, 1)}, "depths=(1, 0, 1, 1)"),
        ({"depths": ()}, "depths=()"),
        ({"input_size": (224,)}, "input_size=(224,)"),
        ({"input_size": (16, 224, 224)}, "patch_kernel=(7, 7) has 2"),
        ({"input_size": (2, 224)}, "smaller than one patch"),
        ({"pool_kernel": (2, 3)}, "pool_kernel=(2, 3): kernels have odd sides"),
        ({"q_stride": (0, 1)}, "q_stride=(0, 1)"),
        ({"q_stride": (3, 3)}, "q_stride=(3, 3): 1 or even numbers"),
        ({"width": 97, "heads": 2}, "width=97 cannot be divided among heads=2"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"head_pooling": "max"}, "head_pooling='max': choose from"),
        ({"head_pooling": "class_token"}, "needs class_token=True"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"depths": 3}, "depths=3: a list is needed"),
        ({"depths": (1, 2, "5", 2)}, "depths='5': a whole number is needed"),
    ],
)
def test_a_spec_that_is_no_network_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        stvit.create_model("mvitv2_tiny", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_largest_network_needs_less_than_five_gibibytes() -> None:
    """One 40 x 312 x 312 clip; the published code takes 13.7 GB. Minutes."""
    import resource

    model = stvit.create_model("mvitv2_large_40x3").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 312, 312)).isfinite().all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 5 * 2**20  # KiB, of the whole process
