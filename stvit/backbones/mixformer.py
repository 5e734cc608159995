"""MixFormer (arXiv 2204.02557) for images and clips: one network, the length of the tuples in its spec decides.

The published code (PaddlePaddle/PaddleClas, commit 7b6c1480) pads inputs to multiples of 4 and then takes multiples of
32 alone. Here any size works: where a map has an odd side before a 2x2 downsampling, zeros are put at its right or
bottom after the batch norm, so that sides become ``ceil(side / 2)``. Where the published code runs, nothing is padded
there and the networks agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from stvit.backbones.base import Backbone, in_space, init_linear, pyramid, stage_rates
from stvit.backbones.checks import check_axes, check_counts, check_odd, check_rates, check_stages
from stvit.errors import UserError
from stvit.layers.mixing_attention import NORM_EPS, MixingAttention
from stvit.layers.mlp import MLP
from stvit.layers.nd import batch_norm, conv
from stvit.layers.partition import pad_to_windows
from stvit.layers.position import RelativePositionBias


@dataclass(frozen=True)
class MixFormerSpec:
    """A variant. Tuples over axes have two entries (H, W) for images and three (T, H, W) for clips."""

    widths: tuple[int, ...]  # of each stage
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]  # of each stage, over half of its width
    input_size: tuple[int, ...] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000  # 0: no classifier
    window: tuple[int, ...] = (7, 7)
    kernel: tuple[int, ...] = (3, 3)  # of the stem's first convolutions and of the depthwise ones
    stem_stride: tuple[int, ...] = (2, 2)  # of the stem's first convolution; the stem halves height and width once more
    mlp_ratio: float = 4.0
    head_width: int = 1280  # of the layer before the classifier
    drop_path: float = 0.0  # of the last block; grows linearly from 0


class MixFormer(Backbone[Tensor]):
    """Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` of any size to logits ``(B, num_classes)``.

    Training with one sample on a device needs :meth:`freeze_batch_norm`: the channel gates have one value a sample to
    normalise over the batch.

    Raises:
        UserError: a spec that is no network.
    """

    spec: MixFormerSpec
    _one_graph_a_size = True

    def __init__(self, spec: MixFormerSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        self.num_features, self.num_classes = spec.widths[-1], spec.num_classes
        patch = in_space(spec.stem_stride, 2)
        strides = [in_space(patch, 2**stage) for stage in range(len(spec.depths))]
        ends = [f"stages.{stage}.blocks.{depth - 1}" for stage, depth in enumerate(spec.depths)]
        self.feature_info = pyramid(ends, spec.widths, strides)
        self.patch_embed = Stem(spec)
        self.stages = nn.ModuleList(Stage(spec, stage) for stage in range(len(spec.depths)))
        self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
        self.head = MixFormerHead(self.num_features, spec.head_width, spec.num_classes)
        self.apply(init_module)

    @property
    def head_hidden_size(self) -> int:
        """See :class:`Backbone`."""
        return self.spec.head_width

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised map of the last stage ``(B, C, *grid)``."""
        return self.forward_final(self.forward_stages(x, len(self.stages))[1])

    def forward_stages(self, x: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        """See :class:`Backbone`."""
        self.check_input(x)
        maps = []
        x = self.patch_embed(x)
        for stage in self.stages[:count]:
            assert isinstance(stage, Stage)
            x = stage.downsample(x)
            for block in stage.blocks:
                x = cast(Tensor, self.run_block(block, x))
            maps.append(x)
        return maps, x

    def forward_final(self, state: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return self.norm_map(state)

    def norm_map(self, features: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """See :class:`Backbone`; takes what :meth:`forward_features` gives."""
        return self.head(x, pre_logits)

    def parameters_after(self, count: int) -> list[nn.Parameter]:
        """See :class:`Backbone`."""
        modules = [*self.stages[count:], self.norm, self.head]
        return [parameter for module in modules for parameter in module.parameters()]

    def no_weight_decay(self) -> set[str]:
        """Position tables, as in the published recipe."""
        return {name for name, _ in self.named_parameters() if name.endswith("rel_pos.table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """See :class:`Backbone`; a layer is a block or, coarse, a stage; the final norm goes with the head."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^patch_embed", "blocks": r"^stages\.(\d+)" if coarse else blocks}


class Stem(nn.Module):
    """Three convolutions, the first strided, and a 2x2 one that halves height and width: ``(B, C, *size)`` to a map.

    Height and width are padded with zeros at the right and bottom to what the strides divide, as published.
    """

    def __init__(self, spec: MixFormerSpec) -> None:
        super().__init__()
        ndim, width = len(spec.kernel), spec.widths[0] // 2
        layers: list[nn.Module] = []
        for index in range(3):
            channels, stride = (width, None) if index else (spec.in_channels, spec.stem_stride)
            layers += [conv(channels, width, spec.kernel, stride), batch_norm(ndim, width, NORM_EPS), nn.GELU()]
        self.stem = nn.Sequential(*layers)
        self.proj = halving(width, spec.widths[0], ndim)
        self.norm = nn.LayerNorm(spec.widths[0], eps=NORM_EPS)
        self.patch = (*(1,) * (ndim - 2), *in_space(spec.stem_stride, 2)[-2:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.stem(pad_to_windows(x, self.patch)))
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Stage(nn.Module):
    """Blocks of one width and, but in the first stage, what brings the map of the stage before to its size."""

    def __init__(self, spec: MixFormerSpec, index: int) -> None:
        super().__init__()
        width, rates = spec.widths[index], stage_rates(spec.drop_path, spec.depths)[index]
        self.downsample = Downsample(spec.widths[index - 1], width, len(spec.window)) if index else nn.Identity()
        self.blocks = nn.ModuleList(MixFormerBlock(spec, width, spec.heads[index], rate) for rate in rates)


class Downsample(nn.Module):
    """Batch norm and a 2x2 convolution with stride 2; odd sides get a zero at their end: ``ceil(side / 2)``."""

    def __init__(self, dim: int, dim_out: int, ndim: int) -> None:
        super().__init__()
        self.norm = batch_norm(ndim, dim, NORM_EPS)
        self.conv = halving(dim, dim_out, ndim)
        self.pairs = (*(1,) * (ndim - 2), 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_to_windows(self.norm(x), self.pairs))


class MixFormerBlock(nn.Module):
    """Mixing attention and MLP with residuals: ``(B, dim, *size)`` to the same shape.

    Maps are padded to whole windows after the first norm, in space alone. As published, padded positions take part in
    all that follows: they are keys of attention and neighbours of the convolution, and the gates' means count them.
    """

    def __init__(self, spec: MixFormerSpec, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.window = (*(1,) * (len(spec.window) - 2), *spec.window[-2:])
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mix = MixingAttention(dim, spec.window, spec.kernel, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, int(spec.mlp_ratio * dim), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(1, -1)
        tokens = tokens + self.drop_path(self._mix(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.movedim(-1, 1)

    def _mix(self, tokens: Tensor) -> Tensor:
        height, width = tokens.shape[-3:-1]
        padded = pad_to_windows(tokens.movedim(-1, 1), self.window).movedim(1, -1)
        return self.mix(padded)[..., :height, :width, :]


class MixFormerHead(nn.Module):
    """A layer with GELU on every token, the mean over tokens, the classifier (the identity for 0 classes)."""

    def __init__(self, dim: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.projection = nn.Linear(hidden, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map ``(B, dim, *grid)`` to logits, or with ``pre_logits`` to what the classifier sees."""
        x = F.gelu(self.hidden(x.flatten(2).mT)).mean(1)
        return x if pre_logits else self.projection(x)


def halving(dim: int, dim_out: int, ndim: int) -> nn.Module:
    """A 2x2 convolution with stride 2, frame by frame."""
    kernel = (*(1,) * (ndim - 2), 2, 2)
    return conv(dim, dim_out, kernel, kernel, padding=False)


def init_module(module: nn.Module) -> None:
    """As published: normal of 0.02, cut at 2, for linear layers and position tables; Paddle's default for convolutions.

    That is a normal distribution of variance ``2 / (kernel sides x input channels)``, all input channels of the layer
    also where it is depthwise. Biases are 0.
    """
    init_linear(module)
    if isinstance(module, RelativePositionBias):
        nn.init.trunc_normal_(module.table, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.in_channels)))
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def check_spec(spec: MixFormerSpec) -> None:
    """Raise :class:`UserError` for settings that contradict each other."""
    check_axes(spec, "window", "kernel", "stem_stride")
    check_odd(spec, "kernel")
    check_counts(spec)
    check_stages(spec, "widths", "heads")
    check_rates(spec, "drop_path")
    if spec.head_width < 1:
        raise UserError(f"head_width={spec.head_width}: at least 1 is needed")
