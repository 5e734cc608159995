"""Depthwise convolution with a backward pass that is fast on CPUs.

torch's own backward of a depthwise convolution over three axes takes 10 to 20 times as long as the forward on a CPU.
The gradient of the input is a convolution again, which is as fast as the forward, and the gradient of the weight is one
sum over positions for each of its taps. Both together take a third of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvit.layers.nd import conv, convolve


def depthwise_conv(
    dim: int, kernel: Sequence[int], stride: Sequence[int] | None = None, bias: bool = True
) -> nn.Module:
    """A convolution of each channel by itself, padded by ``k // 2``; over three axes with the fast backward."""
    if len(kernel) == 2:
        return conv(dim, dim, kernel, stride, groups=dim, bias=bias)
    return DepthwiseConv3d(dim, kernel, stride or (1,) * 3, bias)


class DepthwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with as many groups as channels, whose gradients take a third of the time on a CPU.

    Kernels have odd sides; ``(B, C, T, H, W)``.
    """

    def __init__(self, dim: int, kernel: Sequence[int], stride: Sequence[int], bias: bool) -> None:
        padding = tuple(k // 2 for k in kernel)
        super().__init__(dim, dim, tuple(kernel), tuple(stride), padding, groups=dim, bias=bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if not _wants_fast_backward(x, self.weight):
            return super().forward(x)
        x = _Depthwise.apply(x, self.weight, tuple(self.stride))
        return x if self.bias is None else x + self.bias.to(x.dtype)[:, None, None, None]


def depthwise(x: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """Each channel of ``(B, C, *grid)`` with its own kernel ``(C, 1, *kernel)``, odd sides, padded by ``k // 2``.

    The fast backward is taken on the CPU in float32 and float64, outside autocast and recorded graphs.
    """
    if _wants_fast_backward(x, weight):
        return _Depthwise.apply(x, weight, tuple(stride))
    return _convolution(x, weight, stride)


def _wants_fast_backward(x: Tensor, weight: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _convolution(x: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    return convolve(x, weight, None, stride, [k // 2 for k in weight.shape[2:]], groups=weight.shape[0])


class _Depthwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> Tensor:
        return _convolution(x, weight, stride)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor, tuple[int, ...]], output: Tensor
    ) -> None:
        x, weight, ctx.stride = inputs  # type: ignore[attr-defined]
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride, (wants_x, wants_weight, _) = ctx.stride, ctx.needs_input_grad  # type: ignore[attr-defined]
        if torch.is_grad_enabled():  # for gradients of gradients, which torch's own backward has
            return *_native_backward(grad, x, weight, stride, (wants_x, wants_weight)), None
        return (
            input_gradient(grad, weight, stride, x.shape) if wants_x else None,
            weight_gradient(grad, x, weight.shape, stride) if wants_weight else None,
            None,
        )


def _native_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    padding, ndim = [k // 2 for k in weight.shape[2:]], len(stride)
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, [1] * ndim, False, [0] * ndim, weight.shape[0], [*wanted, False]
    )
    return of_x, of_weight


def input_gradient(grad: Tensor, weight: Tensor, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The gradient of ``x (B, C, *grid)``: the flipped kernel over the outputs' gradients, put where windows stand."""
    if any(s > 1 for s in stride):
        spread = grad.new_zeros((shape[0], *shape[2:], shape[1])).movedim(-1, 1)  # channels-last
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = grad
        grad = spread
    return _convolution(grad, weight.flip(tuple(range(2, weight.ndim))), (1,) * len(stride))


def weight_gradient(grad: Tensor, x: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """The gradient of the kernel ``(C, 1, *kernel)``: a sum over positions of inputs times gradients for each tap."""
    kernel, grid = shape[2:], grad.shape[2:]
    padded = F.pad(x.movedim(1, -1), [0, 0, *(k // 2 for k in reversed(kernel) for _ in range(2))])
    grad = grad.movedim(1, -1)
    product = torch.empty_like(grad, memory_format=torch.contiguous_format)  # one for all taps: new pages cost time
    sums = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        window = tuple(slice(t, t + (n - 1) * s + 1, s) for t, n, s in zip(tap, grid, stride, strict=True))
        torch.mul(padded[(slice(None), *window)], grad, out=product)
        sums.append(product.sum(tuple(range(grad.ndim - 1))))
    return torch.stack(sums, dim=-1).reshape(tuple(shape))
