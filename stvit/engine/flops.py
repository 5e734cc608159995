"""Multiply-accumulates of a model: by fvcore on a real pass, or by the same rules without computing anything.

Convolutions, linear layers and attention products are counted, and norms as fvcore counts them (layer and group norms
five a value, batch norms two); element-wise operators are not.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from stvit.errors import UserError
from stvit.layers.wavelet import UndecimatedWavelet
from stvit.preprocessing import Preprocessing
from stvit.registry import create_model


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates of one forward pass, by module name; ``""`` is the whole network."""

    input_shape: tuple[int, ...]
    parameters: dict[str, int]
    macs: dict[str, Counter[str]]  # operator -> multiply-accumulates; a module includes what it calls
    wavelet_macs: int  # of the wavelet stem, a part of the whole that published figures leave out

    def total(self, module: str = "") -> int:
        """Multiply-accumulates of a module; the papers' "FLOPs". Of a list of modules, the sum of what it holds."""
        if module in self.macs:
            return sum(self.macs[module].values())
        return sum(self.total(name) for name in self.parameters if name and name.rpartition(".")[0] == module)

    @property
    def without_wavelet(self) -> int:
        """All multiply-accumulates but the wavelet stem's, as published figures are."""
        return self.total() - self.wavelet_macs


def model_cost(name: str, size: Sequence[int] | None = None, /, **overrides: object) -> Cost:
    """Count a registered network without its weights and without computing, so that any size fits into any memory.

    Where a network has several arithmetics (MViT's ``set_attention``), the published one is counted.

    Args:
        name: one of :func:`stvit.list_models`.
        size: of the input: ``(side,)``, ``(H, W)`` or, of clips and frame sequences, ``(frames, H, W)``; None: the
            nominal one. The network stays the one made for its nominal size; ``overrides`` may change that.
        overrides: as :func:`stvit.create_model` takes them.

    Raises:
        UserError: an unknown name or setting, or an input that the network does not take.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # shapes without values

    with torch.device("meta"):
        model = create_model(name, **overrides).eval()  # type: ignore[arg-type]
    if set_attention := getattr(model, "set_attention", None):
        set_attention("published")
    shape = input_shape(model.preprocessing, size, name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        # Not on "meta" itself: networks ask where a tensor is, and take that for a device they could compute on.
        return cost(model.to_empty(device="cpu"), torch.empty(shape))


def input_shape(described: Preprocessing, size: Sequence[int] | None, name: str) -> tuple[int, ...]:
    """What the network is given: ``(1, C, H, W)``, of clips ``(1, C, T, H, W)``, of predictors ``(1, T, C, H, W)``."""
    size = tuple(size or described.input_size)
    size = size * 2 if len(size) == 1 else size
    if described.frames is not None and len(size) == 2:
        size = (described.frames, *size)
    axes = 2 if described.frames is None else 3
    if min(size) < 1:
        raise UserError(f"the input size {' '.join(map(str, size))} cannot be: each number is at least 1")
    if len(size) != axes:
        takes = "images: give a side, or height and width" if axes == 2 else "clips: give frames, height and width"
        raise UserError(f"the input size {' '.join(map(str, size))} does not fit {name}, which takes {takes}")
    if described.task == "prediction":
        if size[0] != described.frames:
            raise UserError(
                f"{name} takes {described.frames} past frames, not {size[0]}: the setting in_frames={size[0]} "
                f"(--set in_frames={size[0]}) makes one that does"
            )
        return 1, size[0], described.channels, *size[1:]
    return 1, described.channels, *size


def cost(model: nn.Module, *inputs: Tensor) -> Cost:
    """Count one forward pass while it runs, in evaluation mode.

    What runs is counted: of MViT that is another form of attention, which costs otherwise than the published one and
    than what :func:`count_macs` says, unless ``set_attention("published")`` was called before.
    """
    training = model.training
    counting = _Counting()
    hooks = [hook for name, module in model.named_modules() for hook in counting.follow(name, module)]
    try:
        with torch.no_grad(), counting:
            model.eval()(*inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    macs = dict(counting.by_module)
    modules = dict(model.named_modules())
    parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    wavelets = [name for name, module in modules.items() if isinstance(module, UndecimatedWavelet)]
    wavelet_macs = sum(sum(macs.get(name, Counter()).values()) for name in wavelets)
    return Cost(tuple(inputs[0].shape), parameters, macs, wavelet_macs)


class _Counting(TorchDispatchMode):
    """Sees every operator with the shapes of its tensors, and adds its cost to all modules that are being called."""

    def __init__(self) -> None:
        super().__init__()
        self.by_module: dict[str, Counter[str]] = defaultdict(Counter)
        self._calls: list[str] = []

    def follow(self, name: str, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        """Notice when a module is called, and when it is done."""

        def leave(*_: object) -> None:
            self._calls.pop()

        return module.register_forward_pre_hook(lambda *_: self._calls.append(name)), module.register_forward_hook(
            leave
        )

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        operator = func.overloadpacket.__name__
        kind, count = ("matmul", _attended) if "scaled_dot_product" in operator else _RULES.get(operator, _NOTHING)
        if macs := count(args, out):
            for module in set(self._calls):
                self.by_module[module][kind] += macs
        return out


Arguments = tuple[object, ...]


def _shape(value: object) -> Sequence[int]:
    if isinstance(value, tuple | list):  # of several results the first
        value = value[0]
    assert isinstance(value, Tensor)
    return value.shape


def _product(first: int) -> Callable[[Arguments, object], int]:
    """Of a product of matrices or batches of them, whose left factor is argument ``first``."""
    return lambda args, out: math.prod(_shape(args[first])) * _shape(args[first + 1])[-1]


def _convolved(args: Arguments, out: object) -> int:
    transposed = args[6]
    positions = _shape(args[0] if transposed else out)[2:]
    return _shape(out)[0] * math.prod(_shape(args[1])) * math.prod(positions)


def _attended(args: Arguments, out: object) -> int:
    query, key, value = (_shape(v) for v in args[:3])
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]


def _per_value(weight: int, plain: int, affine: int) -> Callable[[Arguments, object], int]:
    """So many for every value of the input, with or without the weight that is argument ``weight``."""
    return lambda args, out: math.prod(_shape(args[0])) * (plain if args[weight] is None else affine)


_NOTHING: tuple[str, Callable[[Arguments, object], int]] = ("", lambda args, out: 0)
# torch's operator -> fvcore's name for it, and fvcore's rule. "linear" are products with one matrix.
_RULES: dict[str, tuple[str, Callable[[Arguments, object], int]]] = {
    "convolution": ("conv", _convolved),
    "mm": ("linear", _product(0)),
    "addmm": ("linear", _product(1)),
    "bmm": ("matmul", _product(0)),
    "baddbmm": ("matmul", _product(1)),
    "native_layer_norm": ("layer_norm", _per_value(2, 4, 5)),
    "native_group_norm": ("group_norm", _per_value(1, 4, 5)),
    "native_batch_norm": ("batch_norm", _per_value(1, 1, 2)),
    "_adaptive_avg_pool2d": ("adaptive_avg_pool2d", lambda args, out: math.prod(_shape(args[0]))),
    "upsample_nearest2d": ("upsample_nearest2d", lambda args, out: math.prod(_shape(out))),
    "upsample_bilinear2d": ("upsample_bilinear2d", lambda args, out: 4 * math.prod(_shape(out))),
}


def count_macs(model: nn.Module, *inputs: Tensor) -> Counter[str]:
    """Multiply-accumulates of one forward pass by operator, counted by fvcore on a traced and computed pass.

    fvcore gives fused attention zero and takes norms of up to five axes: two handles mend that.
    """
    from fvcore.nn import FlopCountAnalysis  # only counting needs it

    training = model.training
    analysis = FlopCountAnalysis(model.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("aten::layer_norm", _layer_norm_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            counts = analysis.by_operator()
    finally:
        logger.setLevel(level)
        model.train(training)
    return Counter({name: int(value) for name, value in counts.items() if value})


def _attention_macs(inputs: Sequence[object], outputs: Sequence[object]) -> Counter[str]:
    query, key, value = (v.type().sizes() for v in inputs[:3])  # type: ignore[attr-defined]
    return Counter({"matmul": math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]})


def _layer_norm_macs(inputs: Sequence[object], outputs: Sequence[object]) -> Counter[str]:
    """As fvcore counts norms with weight and bias: five a value."""
    return Counter({"layer_norm": 5 * math.prod(inputs[0].type().sizes())})  # type: ignore[attr-defined]
