"""What every backbone does, whatever its family: timm's protocol, gradients, compilation and export."""

import copy
import re
from pathlib import Path

import pytest
import torch
from shrunken import SHRUNKEN, build, example

import stvit
from stvit.backbones.base import FeatureMaps
from stvit.errors import UserError

# torch 2.6 makes sizes of constant results symbolic and then fails.
COMPILES = pytest.mark.skipif(torch.__version__ < (2, 7), reason="torch.compile of 2.6 cannot hold indices constant")
EVERY = pytest.mark.parametrize("name", SHRUNKEN)


def slow_but(*quick: str) -> pytest.MarkDecorator:
    """All rows; those besides the named ones by hand only: graphs take seconds each, and rows of a family one form."""
    return pytest.mark.parametrize(
        "name", [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SHRUNKEN]
    )


ONE_A_FAMILY = slow_but(
    *("mvitv2_tiny", "mvitv2_base_in21k_16f", "mixvit_t_224_16f", "mpvit_tiny_16f", "mixformer_b1_16f"),
)


@EVERY
def test_logits_are_the_head_on_the_features(name: str) -> None:
    model = build(name)
    x = example(model)
    logits = model(x)
    assert logits.shape == (2, 5)
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), logits)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), logits)


@EVERY
def test_evaluation_gives_logits_and_not_probabilities(name: str) -> None:
    logits = build(name)(example(build(name)))
    assert (logits < 0).any()


@EVERY
def test_maps_are_what_feature_info_says(name: str) -> None:
    model = build(name)
    x = example(model)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert len(maps) == len(model.feature_info) == 4
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    for features, info in zip(maps, model.feature_info, strict=True):
        sizes = tuple(-(-size // step) for size, step in zip(x.shape[2:], info["strides"], strict=True))
        assert features.shape == (2, info["num_chs"], *sizes)
        assert info["reduction"] == info["strides"][-2]
        assert dict(model.named_modules())[info["module"]]
    normed = model.forward_intermediates(x, 1, norm=True, intermediates_only=True)
    assert len(normed) == 1
    tokens = normed[0].flatten(2).mT
    final = final if final.ndim == 3 else final.flatten(2).mT  # some give tokens, others a map
    torch.testing.assert_close(tokens, final[:, -tokens.shape[1] :])
    with pytest.raises(UserError, match="output_fmt='NHWC'"):
        model.forward_intermediates(x, output_fmt="NHWC")


@EVERY
def test_features_only_gives_the_same_maps_without_a_classifier(name: str) -> None:
    model = build(name)
    x = example(model)
    settings = {k: v for k, v in SHRUNKEN[name].items() if k != "num_classes"}
    maps = stvit.create_model(name, features_only=True, out_indices=[1, -1], **settings).eval()
    assert isinstance(maps, FeatureMaps)
    stvit.load_checkpoint(maps, model.state_dict())
    chosen = maps(x)
    assert maps.feature_info.channels() == [f.shape[1] for f in chosen]
    for got, want in zip(chosen, model.forward_intermediates(x, [1, 3], intermediates_only=True), strict=True):
        torch.testing.assert_close(got, want)


@EVERY
def test_what_maps_do_not_need_is_not_run_and_takes_no_gradient(name: str) -> None:
    settings = {k: v for k, v in SHRUNKEN[name].items() if k != "num_classes"}
    maps = stvit.create_model(name, features_only=True, out_indices=[0, 2], **settings)
    sum(m.sum() for m in maps(example(build(name)))).backward()
    for key, parameter in maps.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key
    frozen = {key for key, parameter in maps.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"network.{key}" for key in maps.unneeded()}
    last = maps.network.feature_info[3]["module"]
    assert any(key.startswith(f"network.{last}.") for key in frozen)


@EVERY
def test_a_new_classifier_has_new_classes_and_travels(name: str, tmp_path: Path) -> None:
    model = build(name)
    before = model.forward_head(model.forward_features(example(model)), pre_logits=True)
    model.reset_classifier(3)
    assert model.num_classes == model.get_classifier().out_features == 3
    assert model(example(model)).shape == (2, 3)
    again = stvit.from_pretrained(model.save_pretrained(tmp_path / "kept")).eval()
    torch.testing.assert_close(again(example(model)), model(example(model)))
    assert again.spec == model.spec
    model.reset_classifier(0)
    torch.testing.assert_close(model(example(model)), before)


@EVERY
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(name).train()
    model(example(model)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@EVERY
def test_checkpointed_activations_change_no_gradient_and_keep_less(name: str) -> None:
    gradients, kept, buffers = {}, {}, {}
    for enable in (False, True):
        model = build(name).train()
        model.set_grad_checkpointing(enable)
        count = 0

        def add(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(add, lambda tensor: tensor):
            loss = model(example(model)).square().sum()
        kept[enable] = count
        gradients[enable] = torch.autograd.grad(loss, list(model.parameters()))
        buffers[enable] = dict(model.named_buffers())
    for plain, checkpointed in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(plain, checkpointed)
    assert kept[True] < kept[False] / 2
    for key, buffer in buffers[False].items():  # running statistics count the batch once
        torch.testing.assert_close(buffers[True][key], buffer)


@EVERY
def test_layers_for_layer_wise_rates_take_every_parameter_once_and_rise_with_depth(name: str) -> None:
    from timm.models import group_parameters

    model = build(name)
    groups = group_parameters(model, model.group_matcher())
    named = [parameter for members in groups.values() for parameter in members]
    assert sorted(named) == sorted(key for key, _ in model.named_parameters())
    layer = {parameter: number for number, members in groups.items() for parameter in members}
    stages = [info["module"] for info in model.feature_info]
    order = [layer[next(k for k in layer if k.startswith(f"{stage}."))] for stage in stages]
    assert order == sorted(set(order))
    assert layer[next(iter(dict(model.named_parameters())))] < order[0] <= order[-1] <= layer["head.projection.weight"]


@EVERY
def test_other_sizes_than_the_nominal_one_work(name: str) -> None:
    model = build(name)
    sizes = [(33, 97), (64, 128)] if len(model.spec.input_size) == 2 else [(1, 33, 40), (5, 64, 97)]
    for size in sizes:
        logits = model(torch.randn(1, 3, *size))
        assert logits.shape == (1, 5)
        assert logits.isfinite().all()


@EVERY
def test_samples_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = build(name)
    x = example(model, batch=3)
    torch.testing.assert_close(model(x), torch.cat([model(sample[None]) for sample in x]), atol=1e-5, rtol=1e-5)


@EVERY
def test_wrong_axes_and_channels_are_one_line(name: str) -> None:
    model = build(name)
    for shape in ((2, 3, 64), (2, 1, *model.spec.input_size)):
        with pytest.raises(UserError, match=re.escape(f"{name} takes (B, C, ")) as caught:
            model(torch.zeros(shape))
        assert str(tuple(shape)) in str(caught.value)
        assert "\n" not in str(caught.value)
    for wrong in (torch.zeros(1, 3, *model.spec.input_size, dtype=torch.uint8), [0.0]):
        with pytest.raises(UserError, match=f"{name} takes a tensor of floats"):
            model(wrong)
    with pytest.raises(UserError, match="global_pool='avg'"):
        model.reset_classifier(5, "avg")


@EVERY
def test_half_precision_autocast_stays_close(name: str) -> None:
    model = build(name)
    x = example(model)
    exact = copy.deepcopy(model).double()(x.double())
    scale = exact.abs().max()
    for dtype, bound in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
        with torch.autocast("cpu", dtype):
            got = model(x)
        assert (got.double() - exact).abs().max() / scale < bound, dtype


@COMPILES
@slow_but("mvitv2_tiny", "mpvit_tiny_16f", "mixformer_b1")
def test_one_graph_compiles_and_computes_the_same(name: str) -> None:
    torch.compiler.reset()
    model = build(name)
    x = example(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@COMPILES
@slow_but("mvitv2_tiny")
def test_a_compiled_model_takes_a_second_size(name: str) -> None:
    torch.compiler.reset()
    model = build(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    larger = torch.randn(2, 3, *(n + 8 for n in model.spec.input_size))
    with torch.no_grad():
        for x in (example(model), larger):
            torch.testing.assert_close(compiled(x), model(x))


@COMPILES
@slow_but("mpvit_tiny")
def test_one_graph_compiles_for_training(name: str) -> None:
    torch.compiler.reset()
    model = build(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = example(model)
    plain = torch.autograd.grad(model.train()(x).square().sum(), list(model.parameters()))
    traced = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
    for a, b in zip(plain, traced, strict=True):
        torch.testing.assert_close(a, b)


@ONE_A_FAMILY
def test_torch_export_computes_the_same(name: str) -> None:
    model = build(name)
    x = example(model)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x + 0.1), model(x + 0.1))


@slow_but("mvitv2_tiny", "mixvit_t_224")
def test_onnxruntime_computes_the_same(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build(name)
    x = example(model)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {session.get_inputs()[0].name: (x + 0.1).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x + 0.1).detach(), atol=1e-5, rtol=1e-4)


@COMPILES
@pytest.mark.slow
@EVERY
def test_inductor_computes_the_same_and_trains(name: str) -> None:
    torch.compiler.reset()
    model = build(name)
    x = example(model)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-4)
    plain = torch.autograd.grad(model.train()(x).square().sum(), list(model.parameters()))
    fused = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
    total = torch.sqrt(sum(p.square().sum() for p in plain))
    assert torch.sqrt(sum((a - b).square().sum() for a, b in zip(plain, fused, strict=True))) < 1e-4 * total


def test_out_indices_need_features_only() -> None:
    with pytest.raises(UserError, match="features_only=True"):
        stvit.create_model("mvitv2_tiny", out_indices=[0])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        *(([4], "stage 4"), (5, "5 stages"), (0, "0 stages"), ([], "no stage"), ([-5], "stage -5")),
        *((("a",), "give each number from 0 to 3 once"), ([1, 1], "give each number from 0 to 3 once")),
    ],
)
def test_a_stage_that_is_not_there_is_named(indices: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("mvitv2_tiny").forward_intermediates(torch.zeros(1, 3, 64, 64), indices)
