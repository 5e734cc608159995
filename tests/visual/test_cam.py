"""Class activation maps are Grad-CAM's, for every family, and lie where the class comes from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from shrunken import SHRUNKEN, build, example
from torch import Tensor, nn

from stvit.errors import UserError
from stvit.registry import model_spec
from stvit.visual.cam import (
    Cam,
    MapPlace,
    animate_clip,
    draw_clip,
    draw_overlay,
    grad_cam,
    heat_colours,
    map_place,
    overlaid,
)


def one_of_each() -> list[str]:
    """The first row of every family for images, and for clips."""
    families: dict[tuple[type, int], str] = {}
    for name in SHRUNKEN:
        spec = model_spec(name)
        families.setdefault((type(spec), len(spec.input_size)), name)
    return list(families.values())


ONE_OF_EACH = one_of_each()


def only_a_corner(model: nn.Module, place: MapPlace, late: Sequence[bool]) -> None:
    """From ``place`` on the network knows of its map only one half of each axis, the later or the earlier one."""

    def mask(_: nn.Module, __: object, output: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        x = output[0] if isinstance(output, tuple) else output
        sizes = x.shape[1:-1] if place.channels_last else x.shape[2:]
        half = [slice(n // 2, None) if is_late else slice(-(n // -2)) for n, is_late in zip(sizes, late, strict=True)]
        keep = torch.zeros_like(x)
        keep[(slice(None), *half) if place.channels_last else (slice(None), slice(None), *half)] = 1
        return (x * keep, output[1]) if isinstance(output, tuple) else x * keep

    model.get_submodule(place.module).register_forward_hook(mask)


def centres(cam: Cam, place: MapPlace) -> list[NDArray[np.float64]]:
    """Where in the input the positions of a map are, for every axis."""
    return [f + s * np.arange(n) for f, s, n in zip(place.first, place.strides, cam.grid, strict=True)]


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("late", [False, True])
def test_a_network_that_sees_one_corner_is_shown_to_look_there(name: str, late: bool) -> None:
    model = build(name)
    nn.init.normal_(model.get_classifier().weight)
    x = example(model, batch=1)
    place = map_place(model, -2)  # that map has several positions per axis also in the smallest networks
    only_a_corner(model, place, (late,) * (x.ndim - 2))
    cams = [grad_cam(model, x, target=k, stage=-2) for k in range(3)]
    assert any(cam.heat.any() for cam in cams)
    for cam in cams:
        for axis, (n, positions, centre) in enumerate(zip(cam.heat.shape, cam.grid, centres(cam, place), strict=True)):
            # Enlarging linearly lets heat spill over the border, as far as the next position's centre.
            pixels, seen = np.arange(n), centre[positions // 2 :] if late else centre[: -(positions // -2)]
            step = place.strides[axis]
            elsewhere = pixels[pixels <= seen[0] - step] if late else pixels[pixels >= seen[-1] + step]
            assert not cam.heat.take(elsewhere, axis=axis).any()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_weights_are_what_a_channel_does_for_the_logit(name: str) -> None:
    """The logit's derivative by a step of one channel everywhere, over the number of positions, by differences."""
    model = build(name).double()
    x = example(model, batch=1).double()
    place, step, maps = map_place(model, -1), 1e-5, []

    def nudge(_: nn.Module, __: object, output: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        first = output[0] if isinstance(output, tuple) else output
        if first.ndim != x.ndim:  # the class token
            return output
        moved = (first if place.channels_last else first.movedim(1, -1)).clone()
        maps.append(moved[0].movedim(-1, 0).clone())
        for channel in range(moved.shape[-1]):
            moved[2 * channel, ..., channel] += step
            moved[2 * channel + 1, ..., channel] -= step
        moved = moved if place.channels_last else moved.movedim(-1, 1)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    channels = model.feature_info.channels()[-1] // (2 if place.strides != model.feature_info[-1]["strides"] else 1)
    hook = model.get_submodule(place.module).register_forward_hook(nudge)
    with torch.no_grad():
        logits = model(x.expand(2 * channels, *x.shape[1:]))[:, 3].reshape(channels, 2)
    hook.remove()
    weights = (logits[:, 0] - logits[:, 1]) / (2 * step) / maps[0][0].numel()
    heat = torch.einsum("c,c...->...", weights, maps[0]).relu()
    cam = grad_cam(model, x, target=3)
    assert cam.grid == heat.shape
    shown = heat.numpy()
    for axis, (n, places) in enumerate(zip(cam.heat.shape, centres(cam, place), strict=True)):
        enlarge = partial(np.interp, np.arange(n), places)
        shown = np.apply_along_axis(enlarge, axis, shown)
    np.testing.assert_allclose(cam.heat * shown.max(), shown, atol=1e-6 + 1e-4 * shown.max())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_position_is_shown_where_the_pixels_are_that_it_comes_from(name: str) -> None:
    """Of the two positions around the middle, of height and width together: what they see of all else evens out."""
    model = build(name)
    size = (128, 128) if len(model.spec.input_size) == 2 else (8, 96, 96)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, *size, generator=generator).requires_grad_()
    place, features = map_place(model, 1), model.forward_stages(x, 2)[0][1]
    off = np.zeros(len(size))
    for step in (-1, 0):
        position = [n // 2 + step for n in features.shape[2:]]
        energy = np.zeros(size)
        for _ in range(6):
            direction = torch.randn(features.shape[1], generator=generator)
            (gradient,) = torch.autograd.grad(features[(0, slice(None), *position)] @ direction, x, retain_graph=True)
            energy += gradient[0].square().sum(0).numpy()
        for axis, (n, first, stride) in enumerate(zip(size, place.first, place.strides, strict=True)):
            along = energy.sum(tuple(other for other in range(len(size)) if other != axis))
            off[axis] += (along @ np.arange(n) / along.sum() - (first + stride * position[axis])) / stride / 2
    assert abs(off[-2:].mean()) < 0.25
    assert (abs(off[:-2]) < 0.25).all()  # in time


@pytest.mark.parametrize("name", ["mvitv2_huge_in21k", "mvitv2_small_16x4"])
def test_the_last_map_of_a_class_token_network_is_one_that_the_class_depends_on(name: str) -> None:
    model = build(name, depths=(1, 1, 1, 2))
    assert map_place(model, -1).module == "blocks.4.norm1"
    assert map_place(model, -2).module == "blocks.2"
    cams = [grad_cam(model, example(model, batch=1), target=k) for k in range(5)]
    assert any(cam.heat.any() for cam in cams)
    assert cams[0].grid[-2:] == (2, 2)


def test_a_map_covers_what_its_positions_stand_for() -> None:
    """80 pixels are three positions of 32: the last one is cut off, and the map is not stretched over it."""
    model = build("mixformer_b1")
    cam = grad_cam(model, torch.randn(1, 3, 80, 64, generator=torch.Generator().manual_seed(0)))
    assert cam.grid == (3, 2)
    assert cam.heat.shape == (80, 64)


def test_a_model_stays_as_it_was() -> None:
    model = build("mvitv2_tiny").train().requires_grad_(False)
    first = grad_cam(model, example(model, batch=1))
    again = grad_cam(model, example(model, batch=1))
    np.testing.assert_array_equal(first.heat, again.heat)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_the_most_probable_class_is_taken_where_none_is_named() -> None:
    model, probabilities = build("mvitv2_tiny"), []
    x = example(model, batch=1)
    for k in range(5):
        probabilities.append(grad_cam(model, x, target=k).probability)
    cam = grad_cam(model, x)
    assert cam.target == int(np.argmax(probabilities))
    assert cam.probability == max(probabilities)
    assert sum(probabilities) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"target": 5}, "class 5 was asked for, and the classes go from 0 to 4"),
        ({}, {"target": -1}, "class -1 was asked for"),
        ({}, {"stage": 4}, "stage 4 was asked for, and stages go from 0 to 3"),
        ({"num_classes": 0}, {}, "no classifier"),
    ],
)
def test_what_cannot_be_shown_is_refused(changes: dict, arguments: dict, message: str) -> None:
    model = build("mvitv2_tiny", **changes)
    with pytest.raises(UserError, match=message):
        grad_cam(model, example(model, batch=1), **arguments)


def test_a_batch_is_refused() -> None:
    model = build("mvitv2_tiny")
    with pytest.raises(UserError, match="not of a batch of 2"):
        grad_cam(model, example(model))


def test_heat_gets_brighter_as_it_grows_and_none_leaves_the_picture_grey() -> None:
    brightness = heat_colours(np.linspace(0, 1, 50, dtype=np.float32)).astype(int).sum(-1)
    assert (np.diff(brightness) >= 0).all()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    plain = overlaid(pixels, np.zeros((4, 6), np.float32))
    assert (plain == plain[..., :1]).all()
    assert plain.std() > 0
    np.testing.assert_array_equal(overlaid(pixels, np.ones((4, 6), np.float32))[..., 0] > 180, True)


def test_pictures_hold_every_frame() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 24, 32, 3), dtype=np.uint8)
    heat = rng.random((10, 24, 32), dtype=np.float32)
    with Image.open(io.BytesIO(animate_clip(pixels, heat, ["title"], "warning"))) as gif:
        assert gif.n_frames == 10
    one_row, two_rows = draw_clip(pixels[:8], heat[:8], ["title"]), draw_clip(pixels, heat, ["title"])
    assert two_rows.width == one_row.width
    assert two_rows.height > 1.7 * one_row.height
    image = draw_overlay(pixels[0], heat[0], ["title"], "warning")
    red = (np.asarray(image) == (180, 20, 20)).all(-1)
    assert red.any()
    assert not (np.asarray(draw_overlay(pixels[0], heat[0], ["title"])) == (180, 20, 20)).all(-1).any()


def test_a_map_of_nothing_is_zero_and_finite() -> None:
    model = build("mvitv2_tiny")
    nn.init.zeros_(model.get_classifier().weight)
    cam = grad_cam(model, example(model, batch=1))
    assert not cam.heat.any()
