"""Video networks from image networks: what a still video gives, what is carried over, what is refused."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from parity import relative_error, synthetic

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.checkpoint import model_from_checkpoint, pack_model, save_checkpoint
from stvit.errors import UserError
from stvit.inflation import image_spec, inflate, inflate_into, inflate_spec, inflate_state_dict
from stvit.inflation_rules import inflate_kernel
from stvit.registry import create_model, list_models, model_spec

LAW = 1e-4
IMAGE_NAMES = [name.removesuffix("_16f") for name in list_models("mvitv2_*_16f")]
SHRUNKEN = {"depths": (1, 1, 1, 1), "input_size": (32, 32), "num_classes": 5}
SPEC = MViTSpec(**SHRUNKEN, width=16)
TOKEN = dataclasses.replace(SPEC, class_token=True, head_pooling="class_token")


def filled(model: MViT) -> MViT:
    """The network in evaluation mode with weights of the size that trained ones have."""
    shapes = {key: list(weight.shape) for key, weight in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(synthetic(key, shape)) for key, shape in shapes.items()})
    return model.eval()


def shrunken(name: str, **settings: object) -> MViT:
    """A registered image network, narrow and one block a stage."""
    model = create_model(name, **{**SHRUNKEN, "width": 8 * model_spec(name).heads, **settings})
    return filled(model)


@torch.no_grad()
def errors(video: MViT, image: MViT, frames: int, size: tuple[int, int] = (32, 32)) -> tuple[list[float], float]:
    """Relative errors of a still video against its frame: of the features at every output time step; of the logits."""
    frame = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    still = frame[:, :, None].expand(-1, -1, frames, -1, -1)
    want, got = image.forward_features(frame), video.forward_features(still)
    token, token3d = int(image.spec.class_token), int(video.spec.class_token)
    steps = got[:, token3d:].unflatten(1, (-1, want.shape[1] - token)).unbind(1)
    assert len(steps) == (frames + 1) // 2
    by_step = [relative_error(step, want[:, token:]) for step in steps]
    if token and token3d:
        by_step.append(relative_error(got[:, 0], want[:, 0]))
    return by_step, relative_error(video(still), image(frame))


# ---- the law


@pytest.mark.parametrize("frames", [2, 7, 8])
@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_a_still_video_gives_the_image_networks_features_at_every_time_step(name, frames):
    image = shrunken(name)
    features, logits = errors(inflate(image, frames), image, frames)
    assert max(features) < LAW
    assert logits < LAW


@pytest.mark.parametrize("spec", [SPEC, TOKEN], ids=["no token", "token"])
@pytest.mark.parametrize(("frames", "size"), [(5, (32, 32)), (8, (64, 48)), (1, (41, 38))])
def test_the_law_holds_at_sizes_that_the_network_was_not_made_for(spec, frames, size):
    image = filled(MViT(spec))
    features, logits = errors(inflate(image, 8), image, frames, size)
    assert max(*features, logits) < LAW


@pytest.mark.parametrize(
    "changes",
    [
        {"relative_position": False, "absolute_position": True, "residual_pooling": False},
        {"pool_unstrided_query": False, "qkv_bias": False},
        {"head_pooling": "mean"},
        {"head_pooling": "mean_then_norm"},
        {"kv_stride": (2, 2), "num_classes": 0},
        {"patch_kernel": (3, 3), "pool_kernel": (5, 5)},
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", [SPEC, TOKEN], ids=["no token", "token"])
def test_the_law_holds_for_all_that_a_row_can_say(spec, changes):
    image = filled(MViT(dataclasses.replace(spec, **changes)))
    features, logits = errors(inflate(image, 6), image, 6)
    assert max(*features, logits) < LAW


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvitv2_tiny", "mvitv2_small", "mvitv2_base", "mvitv2_large", "mvitv2_base_in21k"])
@pytest.mark.parametrize("frames", [15, 16])
def test_the_law_holds_at_full_size(name, frames):
    image = filled(create_model(name))
    features, logits = errors(inflate(image, 16), image, frames, (224, 224))
    assert max(*features, logits) < LAW


# ---- what breaks it


def test_the_mean_rule_breaks_the_law_most_where_kernels_meet_padding():
    image = filled(MViT(SPEC))
    features, logits = errors(inflate(image, 16, rule="mean"), image, 16)
    assert features[0] > 0.05
    assert features[0] > 2 * max(features[2:])  # of an even number of frames, only the first meets padding
    assert min(*features, logits) > LAW


def test_temporal_positions_may_be_anything_unless_a_class_token_sees_no_such_term():
    for spec, holds in ((SPEC, True), (TOKEN, False)):
        image = filled(MViT(spec))
        video = inflate(image, 8)
        for name, table in video.named_parameters():
            if name.endswith("rel_pos_t"):
                torch.nn.init.normal_(table, generator=torch.Generator().manual_seed(0))
        assert (max(errors(video, image, 8)[0]) < LAW) == holds


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        (SPEC, {"kv_stride": (1, 8, 8)}, "key stride 8x8 instead of 4x4"),
        (SPEC, {"class_token": True}, "the class token is new"),
        (TOKEN, {"balance_class_token": False}, "the class token is not weighed against T equal frames"),
        (SPEC, {"residual_pooling": False}, "residual_pooling False instead of True"),
        (SPEC, {"relative_position": False}, "relative positions False instead of True"),
        (SPEC, {"input_size": (8, 64, 64)}, "tables of positions are resized"),
        (SPEC, {"kv_stride": (2, 4, 4), "q_stride": (2, 2, 2)}, None),  # time has no condition besides the rule
        (SPEC, {"head_dropout": 0.5, "drop_path": 0.3}, None),
    ],
    ids=str,
)
def test_the_report_says_that_the_law_holds_exactly_where_it_does(spec, changes, reason):
    image = filled(MViT(spec))
    video = filled(MViT(dataclasses.replace(inflate_spec(spec, 8), **changes)))
    report = inflate_into(video, image)
    frame = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = video.forward_features(frame[:, :, None].expand(-1, -1, 8, -1, -1))[:, int(video.spec.class_token) :]
        want = image.forward_features(frame)[:, int(spec.class_token) :]
    error = max(relative_error(step, want) for step in got.split(want.shape[1], 1))
    assert report.law_holds == (error < LAW) == (reason is None)
    assert reason is None or any(reason in sentence for sentence in report.guarantees)


# ---- what is carried over


def test_the_centre_rule_puts_a_kernel_on_its_middle_frame_and_the_mean_rule_on_all():
    kernel = torch.randn(4, 3, 7, 7)
    centre, mean = inflate_kernel(kernel, 3, "centre"), inflate_kernel(kernel, 3, "mean")
    assert torch.equal(centre[:, :, 1], kernel)
    assert not centre[:, :, ::2].any()
    assert torch.allclose(mean, kernel[:, :, None].expand(-1, -1, 3, -1, -1) / 3)


def test_gradients_reach_the_frames_that_start_at_zero():
    video = inflate(filled(MViT(SPEC)), 8)
    video(torch.randn(1, 3, 8, 32, 32)).square().sum().backward()
    assert video.patch_embed.proj.weight.grad[:, :, ::2].abs().min(2).values.max() > 0


def test_neither_network_changes_with_the_other():
    image = filled(MViT(SPEC))
    before = {key: weight.clone() for key, weight in image.state_dict().items()}
    video = inflate(image, 8)
    with torch.no_grad():
        for weight in video.parameters():
            weight.add_(1)
    assert all(torch.equal(weight, before[key]) for key, weight in image.state_dict().items())


def test_a_published_video_network_gets_all_that_has_a_counterpart():
    """Key stride 8 and a class token: the tables of one block are resized, the token and the head are its own."""
    with torch.device("meta"):
        skeleton = create_model("mvitv2_small_16x4").state_dict()
        image = create_model("mvitv2_small").state_dict()
    base = {key: torch.empty(weight.shape) for key, weight in skeleton.items()}
    weights = {key: torch.empty(weight.shape) for key, weight in image.items()}
    torch.nn.init.normal_(weights["blocks.3.attn.rel_pos_h"])
    specs = model_spec("mvitv2_small"), model_spec("mvitv2_small_16x4")
    done = inflate_state_dict(weights, *specs, base=base)
    assert {key: weight.shape for key, weight in done.state_dict.items()} == {k: w.shape for k, w in skeleton.items()}
    assert done.interpolated == ("blocks.3.attn.rel_pos_h", "blocks.3.attn.rel_pos_w")
    table = weights["blocks.3.attn.rel_pos_h"]
    resized = F.interpolate(table.T[None], size=27, mode="linear", align_corners=False)[0].T
    assert table.shape[0] == 55
    assert torch.allclose(done.state_dict["blocks.3.attn.rel_pos_h"], resized)
    fresh = {"cls_token", "head.projection.weight", "head.projection.bias"}
    assert set(done.new) == fresh | {f"blocks.{i}.attn.rel_pos_t" for i in range(16)}
    assert all(done.state_dict[key] is base[key] for key in fresh)
    assert not any(done.state_dict[f"blocks.{i}.attn.rel_pos_t"].any() for i in range(16))
    assert set(done.left_out) == {"head.projection.weight", "head.projection.bias"}
    assert all(done.state_dict[key] is weights[key] for key in done.copied)
    assert not done.law_holds
    text = str(done)
    for reason in (
        "key stride 8x8 instead of 4x4",
        "class token is new",
        "400 classes instead of 1000",
        "mean and std",
    ):
        assert reason in text


def test_where_the_width_doubles_elsewhere_those_layers_are_new():
    with torch.device("meta"):
        image, video = create_model("mvitv2_large").state_dict(), create_model("mvitv2_large_40x3").state_dict()
    done = inflate_state_dict(image, model_spec("mvitv2_large"), model_spec("mvitv2_large_40x3"), base=video)
    blocks = {key.split(".")[1] for key in done.new if key.startswith("blocks") and "rel_pos_t" not in key}
    assert blocks == {"1", "2", "7", "8", "43", "44"}
    assert "the width doubles in other layers, which are new" in str(done)


@pytest.mark.parametrize("name", IMAGE_NAMES)
@pytest.mark.parametrize("video", ["16f", "published"])
def test_weights_tell_which_image_network_they_are_of(name, video):
    published = {"small": "small_16x4", "base": "base_32x3", "large": "large_40x3"}
    size = name.split("_")[1]
    if video == "published" and size not in published:
        pytest.skip("there is no published video network of this size")
    spec = model_spec(name)
    with torch.device("meta"):
        weights = create_model(name).state_dict()
    told = image_spec(weights, model_spec(f"mvitv2_{published[size]}" if video == "published" else f"{name}_16f"))
    free = {"drop_path": 0.0, "head_dropout": 0.0, "input_size": spec.input_size}  # no weight tells these
    assert dataclasses.replace(told, **free) == dataclasses.replace(spec, **free)


# ---- the network that comes out


def test_the_registered_rows_are_the_inflated_rows():
    for name in IMAGE_NAMES:
        assert inflate_spec(model_spec(name), 16) == model_spec(f"{name}_16f")


def test_the_video_network_is_described_so_that_a_checkpoint_rebuilds_it(tmp_path):
    image = shrunken("mvitv2_base_in21k")
    image.preprocessing = dataclasses.replace(image.preprocessing, mean=(0.1, 0.2, 0.3), labels=tuple("abcde"))
    video = inflate(image, 6)
    assert video.model_name == "mvitv2_base_in21k_16f"
    assert video.preprocessing.frames == 6
    assert video.preprocessing.input_size == (32, 32)
    assert (video.preprocessing.mean, video.preprocessing.labels) == ((0.1, 0.2, 0.3), tuple("abcde"))
    save_checkpoint(tmp_path / "video.pt", pack_model(video))
    again = model_from_checkpoint(tmp_path / "video.pt")
    clip = torch.randn(1, 3, 6, 32, 32)
    assert (again.spec, again.preprocessing) == (video.spec, video.preprocessing)
    assert torch.equal(again(clip), video(clip))


def test_dtype_mode_new_head_and_settings_are_kept():
    image = shrunken("mvitv2_tiny").double().train()
    image.reset_classifier(3)
    image.double()
    video = inflate(image, 8, drop_path=0.4)
    assert video.training
    assert video.spec.drop_path == 0.4
    assert {weight.dtype for weight in video.parameters()} == {torch.float64}
    assert torch.equal(video.head.projection.weight, image.head.projection.weight)
    assert not inflate(image.eval(), 8).training


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 1}, "frames=1: the patches of a video network span 2 frames"),
        ({"frames": 8, "rule": "center"}, "no inflation rule 'center': choose centre or mean (did you mean 'centre'?)"),
        ({"frames": 8, "drop_paths": 0.1}, "no setting 'drop_paths' (did you mean 'drop_path'"),
        ({"frames": 8, "width": 32}, "with width 8 instead of 32: inflate into the same"),
    ],
)
def test_an_impossible_request_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        inflate(shrunken("mvitv2_tiny"), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_video_network_and_a_predictor_are_refused():
    video = inflate(filled(MViT(SPEC)), 8)
    with pytest.raises(UserError, match=r"input size \(8, 32, 32\) sees video already"):
        inflate(video, 8)
    with pytest.raises(UserError, match="a MixViTPredictor cannot be inflated: give an image network"):
        inflate(create_model("mixvit_predictor_mini"), 8)
    with pytest.raises(UserError, match="from a 2D row into a 3D row, not from 3D into 3D"):
        inflate_state_dict(video.state_dict(), video.spec, video.spec)


def test_weights_that_are_not_whole_or_not_the_rows_are_refused():
    weights, spec3d = filled(MViT(SPEC)).state_dict(), inflate_spec(SPEC, 8)
    lacking = {key: weight for key, weight in weights.items() if "norm_q" not in key}
    with pytest.raises(UserError, match=r"lack 8 of \d+ \(blocks.0.attn.norm_q.weight, .*: give a whole state dict"):
        inflate_state_dict(lacking, SPEC, spec3d)
    with pytest.raises(UserError, match=r"norm.bias is \(64,\), its row says \(128,\)"):
        inflate_state_dict({**weights, "norm.bias": torch.zeros(64)}, SPEC, spec3d)
    with pytest.raises(UserError, match=r"no counterpart of head\.projection\.weight: give base="):
        inflate_state_dict(weights, SPEC, dataclasses.replace(spec3d, num_classes=9))
