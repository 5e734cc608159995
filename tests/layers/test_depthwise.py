"""The fast backward of depthwise convolutions gives torch's gradients."""

import pytest
import torch
import torch.nn.functional as F

from stvit.layers.depthwise import depthwise, depthwise_conv

CASES = [
    ((7, 9), (3, 3), (1, 1)),
    ((8, 9), (3, 3), (2, 2)),
    ((9, 10), (3, 3), (4, 3)),
    ((4, 7, 6), (3, 3, 3), (1, 1, 1)),
    ((5, 8, 7), (3, 3, 3), (1, 2, 2)),
    ((3, 9, 11), (3, 3, 3), (1, 8, 8)),
    ((2, 6, 5), (1, 3, 5), (2, 1, 2)),
    ((1, 1, 1), (3, 3, 3), (1, 2, 2)),
]


def torch_depthwise(x: torch.Tensor, weight: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    function = F.conv2d if weight.ndim == 4 else F.conv3d
    return function(x, weight, None, stride, [k // 2 for k in weight.shape[2:]], 1, weight.shape[0])


def make(grid: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, *grid, 6, dtype=torch.float64).movedim(-1, 1).requires_grad_()
    return x, torch.randn(6, 1, *kernel, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("grid", "kernel", "stride"), CASES)
def test_output_and_gradients_are_torchs(
    grid: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    x, weight = make(grid, kernel)
    ours, theirs = depthwise(x, weight, stride), torch_depthwise(x, weight, stride)
    assert type(ours.grad_fn).__name__ == "_DepthwiseBackward"
    torch.testing.assert_close(ours, theirs)
    seen = torch.randn_like(theirs)
    for got, want in zip(
        torch.autograd.grad(ours, (x, weight), seen), torch.autograd.grad(theirs, (x, weight), seen), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, weight = make((5, 6), (3, 3))
    assert torch.autograd.grad(depthwise(x.detach(), weight, (1, 1)).sum(), weight)[0] is not None
    assert torch.autograd.grad(depthwise(x, weight.detach(), (1, 1)).sum(), x)[0] is not None


def test_gradients_of_gradients_are_right() -> None:
    x, weight = make((4, 5), (3, 3))
    assert torch.autograd.gradgradcheck(lambda a, b: depthwise(a, b, (2, 1)), (x, weight))


def test_gradients_per_sample_by_torch_func() -> None:
    x, weight = make((4, 5), (3, 3))

    def loss(kernel: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return depthwise(sample.unsqueeze(0), kernel, (1, 1)).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight.detach(), x.detach())
    for sample, gradient in zip(x.detach(), got, strict=True):
        want = torch.autograd.grad(torch_depthwise(sample[None], weight, (1, 1)).square().sum(), weight)[0]
        torch.testing.assert_close(gradient, want)


def test_autocast_and_inference_take_torchs_own() -> None:
    x, weight = make((4, 5), (3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise(x.float(), weight.float(), (1, 1)).dtype == torch.bfloat16
    with torch.no_grad():
        assert depthwise(x, weight, (1, 1)).grad_fn is None


def test_a_bias_of_another_precision_leaves_that_of_the_output() -> None:
    layer = depthwise_conv(6, (3, 3, 3))
    layer.bias.data = layer.bias.data.double()
    assert layer(torch.randn(1, 6, 2, 3, 3)).dtype == torch.float32
