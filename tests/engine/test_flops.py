"""Multiply-accumulates counted without computing are those that fvcore counts on a computed pass."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from shrunken import SHRUNKEN, build, example
from torch import Tensor, nn

import stvit
from stvit.engine.flops import cost, count_macs, input_shape, model_cost
from stvit.errors import UserError
from stvit.registry import model_spec

PRODUCTS = ("linear", "matmul", "einsum")  # which of them a product is called depends on how it is written


def joined(counts: Counter[str]) -> dict[str, int]:
    """Counts by operator, all matrix products together."""
    together = sum(counts[kind] for kind in PRODUCTS)
    return {"products": together, **{kind: n for kind, n in counts.items() if kind not in PRODUCTS}}


def one_of_each(names: Iterable[str]) -> list[str]:
    """The first row of every family for images, and for clips."""
    families = {}
    for name in names:
        families.setdefault((type(model_spec(name)), name.endswith(("_16f", "_16x4"))), name)
    return list(families.values())


@pytest.mark.parametrize("name", one_of_each(SHRUNKEN))
def test_every_family_costs_what_fvcore_counts(name: str) -> None:
    model = build(name)
    x = example(model, batch=1)
    if hasattr(model, "set_attention"):
        model.set_attention("published")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about Python numbers
        computed = count_macs(model, x)
    assert joined(cost(model, x).macs[""]) == joined(computed)


@pytest.mark.parametrize("name", ["mvitv2_small_16x4", "mixvit_t_224"])
def test_a_network_without_values_costs_the_same(name: str) -> None:
    model = build(name)
    if hasattr(model, "set_attention"):
        model.set_attention("published")
    assert model_cost(name, **SHRUNKEN[name]) == cost(model, example(model, batch=1))


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(3, 5), (2, 7, 3), {"linear": 2 * 7 * 3 * 5}),
        (nn.Linear(3, 5, bias=False), (7, 3), {"linear": 7 * 3 * 5}),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (1, 4, 9, 9), {"conv": 6 * 2 * 9 * 16}),
        (nn.Conv3d(1, 2, (3, 1, 1), padding=(1, 0, 0)), (2, 1, 4, 5, 6), {"conv": 2 * 2 * 3 * 4 * 5 * 6}),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), {"conv": 4 * 6 * 4 * 25}),
        (nn.LayerNorm(6), (2, 6), {"layer_norm": 60}),
        (nn.LayerNorm(6, elementwise_affine=False), (2, 6), {"layer_norm": 48}),
        (nn.BatchNorm2d(3), (1, 3, 4, 4), {"batch_norm": 96}),
        (nn.GELU(), (5, 5), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_each_layer_costs_its_products(layer: nn.Module, shape: tuple[int, ...], macs: dict[str, int]) -> None:
    assert cost(layer, torch.zeros(shape)).macs.get("", {}) == macs


def test_fused_attention_costs_its_two_products() -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, q[..., :5, :], q[..., :5, :])

    assert cost(Attention(), torch.zeros(2, 3, 7, 8)).total() == 2 * (2 * 3 * 7 * 5 * 8)


def test_a_module_costs_what_it_calls_each_time_it_is_called() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU(), shared), nn.Linear(4, 2))
    counted = cost(model, torch.zeros(1, 4))
    assert {name: counted.total(name) for name in ("", "0", "0.0", "1")} == {"": 40, "0": 32, "0.0": 32, "1": 8}
    assert counted.parameters == {"": 30, "0": 20, "0.0": 20, "0.1": 0, "1": 10}


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    cost(model, torch.zeros(1, 4))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_input_size_is_run_through_the_network_of_the_nominal_one() -> None:
    row = SHRUNKEN["mvitv2_tiny"]
    nominal, larger = model_cost("mvitv2_tiny", **row), model_cost("mvitv2_tiny", (128,), **row)
    assert larger.input_shape == (1, 3, 128, 128)
    assert larger.total() > nominal.total()
    assert larger.parameters == nominal.parameters
    remade = model_cost("mvitv2_tiny", (128,), **{**row, "input_size": (128, 128)})
    assert remade.parameters[""] > nominal.parameters[""]  # its position tables are longer


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("mvitv2_tiny", None, (1, 3, 224, 224)),
        ("mvitv2_tiny", (64, 96), (1, 3, 64, 96)),
        ("mvitv2_small_16x4", (112,), (1, 3, 16, 112, 112)),
        ("mvitv2_small_16x4", (8, 64, 96), (1, 3, 8, 64, 96)),
        ("mixvit_predictor", (128,), (1, 10, 1, 128, 128)),
    ],
)
def test_an_input_has_the_axes_of_its_network(name: str, size: tuple[int, ...] | None, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        described = stvit.create_model(name).preprocessing
    assert input_shape(described, size, name) == shape


@pytest.mark.parametrize(("name", "size"), [("mvitv2_tiny", (8, 64, 64)), ("mvitv2_tiny", (8, 64, 64, 3))])
def test_a_size_of_other_axes_is_refused(name: str, size: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"the input size .* does not fit mvitv2_tiny, which takes images"):
        model_cost(name, size)
