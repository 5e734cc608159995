"""MPViT (arXiv 2112.11010) for images and clips: one network, the length of the tuples in its spec decides.

Each stage embeds its map by convolutions of growing reach and sends every embedding through transformer blocks of its
own; a convolutional path keeps what is local, and a 1x1 convolution brings all paths together. Any input size works:
every stride-2 convolution gives ``ceil(side / 2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from stvit.backbones.base import Backbone, in_space, init_linear, pyramid, stage_rates
from stvit.backbones.checks import check_axes, check_counts, check_odd, check_rates, check_stages
from stvit.errors import UserError
from stvit.layers.depthwise import depthwise_conv
from stvit.layers.factorised_attention import ConvRelativePosition, FactorisedAttention
from stvit.layers.mlp import MLP
from stvit.layers.nd import batch_norm, conv
from stvit.layers.position import ConvPositionEncoding

LAYER_NORM_EPS, BATCH_NORM_EPS = 1e-6, 1e-5
_WITH_THE_LAYER_BEFORE = 99999  # timm's mark in group_matcher

Run = Callable[..., Tensor]  # calls a block, with its activations checkpointed or not


@dataclass(frozen=True)
class MPViTSpec:
    """A variant. Tuples over axes have two entries (H, W) for images and three (T, H, W) for clips."""

    widths: tuple[int, ...]  # of the paths of each stage; its map has the width of the next stage
    depths: tuple[int, ...]  # blocks of each path, a stage each
    paths: tuple[int, ...] = (2, 3, 3, 3)  # transformer paths of each stage
    input_size: tuple[int, ...] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000  # 0: no classifier
    heads: tuple[int, ...] = (2, 3, 3)  # how many heads of every stage have each of position_kernels
    position_kernels: tuple[int, ...] = (3, 5, 7)  # sides in space, of attention's relative positions; in time: kernel
    kernel: tuple[int, ...] = (3, 3)  # of all other convolutions
    stem_stride: tuple[int, ...] = (2, 2)  # of the stem's first convolution; the stem halves height and width once more
    mlp_ratio: float = 4.0
    drop_path: float = 0.0  # of the last block; grows linearly from 0


class MPViT(Backbone[Tensor]):
    """Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` of any size to logits ``(B, num_classes)``.

    Raises:
        UserError: a spec that is no network.
    """

    def __init__(self, spec: MPViTSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        stages = range(len(spec.depths))
        widths = [*spec.widths[1:], spec.widths[-1]]  # of the maps
        patch = in_space(spec.stem_stride, 2)
        self.feature_info = pyramid(
            [f"stages.{stage}" for stage in stages], widths, [in_space(patch, 2**stage) for stage in stages]
        )
        self.num_features, self.num_classes = widths[-1], spec.num_classes
        self.stem = Stem(spec)
        self.stages = nn.ModuleList(Stage(spec, stage) for stage in stages)
        self.head = Head(self.num_features, spec.num_classes)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of the last stage ``(B, C, *grid)``; there is no final norm."""
        return self.forward_stages(x, len(self.stages))[1]

    def forward_stages(self, x: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        """See :class:`Backbone`."""
        self.check_input(x)
        # From here on, channels lie beside each other in memory: maps are tokens without a copy.
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        maps = []
        x = self.stem(x)
        for stage in self.stages[:count]:
            x = stage(x, self.run_block)
            maps.append(x)
        return maps, x

    def forward_final(self, state: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return state

    def norm_map(self, features: Tensor) -> Tensor:
        """See :class:`Backbone`; the identity, as there is no final norm."""
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """See :class:`Backbone`; takes what :meth:`forward_features` gives."""
        x = x.mean(tuple(range(2, x.ndim)))
        return x if pre_logits else self.head(x)

    def parameters_after(self, count: int) -> list[nn.Parameter]:
        """See :class:`Backbone`."""
        modules = [*self.stages[count:], self.head]
        return [parameter for module in modules for parameter in module.parameters()]

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """See :class:`Backbone`; a layer is one block of all paths of a stage or, coarse, a stage."""
        blocks = [
            (r"^stages\.(\d+)\.paths\.\d+\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.aggregate", (_WITH_THE_LAYER_BEFORE,)),
            (r"^stages\.(\d+)\.", (0,)),  # what the first blocks need
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else blocks}


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, with ``act``, Hardswish: ``(B, in, *grid)`` to ``(B, out, *grid)``."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: Sequence[int], stride: Sequence[int] | None = None, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = conv(in_dim, out_dim, kernel, stride, bias=False)
        _init_conv(self.conv, out_dim)
        self.norm = batch_norm(len(kernel), out_dim, BATCH_NORM_EPS)
        self.act = nn.Hardswish() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Stem(nn.Sequential):
    """Two convolutions of stride 2, the second one in space alone: ``(B, C, *size)`` to ``(B, width, *grid)``."""

    def __init__(self, spec: MPViTSpec) -> None:
        width, one = spec.widths[0], (1,) * len(spec.kernel)
        super().__init__(
            ConvNorm(spec.in_channels, width // 2, spec.kernel, spec.stem_stride),
            ConvNorm(width // 2, width, spec.kernel, in_space(one, 2)),
        )


class PatchEmbed(nn.Module):
    """Depthwise separable convolution, batch norm, Hardswish: ``(B, C, *grid)`` to ``(B, C, *grid / stride)``."""

    def __init__(self, dim: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.depthwise = depthwise_conv(dim, kernel, stride, bias=False)
        _init_conv(self.depthwise, dim)
        self.pointwise = ConvNorm(dim, dim, (1,) * len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Stage(nn.Module):
    """Patch embeddings, a path for each beside a local one, and their aggregation: ``(B, C, *grid)`` to a new width.

    Embedding j takes embedding j - 1: their kernels together reach 3, 5 and 7 positions.
    """

    def __init__(self, spec: MPViTSpec, stage: int) -> None:
        super().__init__()
        width, paths, one = spec.widths[stage], spec.paths[stage], (1,) * len(spec.kernel)
        first = in_space(one, 2) if stage else one
        self.patch_embed = nn.ModuleList(
            PatchEmbed(width, spec.kernel, one if path else first) for path in range(paths)
        )
        self.local = LocalPath(width, spec.kernel)
        self.paths = nn.ModuleList(Path(spec, stage) for _ in range(paths))
        self.aggregate = Aggregate((paths + 1) * width, [*spec.widths[1:], spec.widths[-1]][stage], one)

    def forward(self, x: Tensor, run: Run) -> Tensor:
        embedded = []
        for embed in self.patch_embed:
            x = run(embed, x)
            embedded.append(x)
        local = run(self.local, embedded[0])
        return run(self.aggregate, local, *(path(x, run) for path, x in zip(self.paths, embedded, strict=True)))


class LocalPath(nn.Module):
    """A residual block of 1x1, depthwise and 1x1 convolutions, all of the same width: ``(B, C, *grid)`` to the same."""

    def __init__(self, dim: int, kernel: Sequence[int]) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        self.conv1 = ConvNorm(dim, dim, one)
        self.depthwise = depthwise_conv(dim, kernel, bias=False)
        _init_conv(self.depthwise, 1)  # here, and not in the patch embeddings, counted by its group
        self.norm = batch_norm(len(kernel), dim, BATCH_NORM_EPS)
        self.act = nn.Hardswish()
        self.conv2 = ConvNorm(dim, dim, one, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm(self.depthwise(self.conv1(x)))))


class Aggregate(ConvNorm):
    """The maps of all paths, brought together by a 1x1 convolution: each ``(B, C, *grid)``, to ``(B, out, *grid)``."""

    def forward(self, *maps: Tensor) -> Tensor:
        return super().forward(torch.cat(maps, dim=1))


class Path(nn.Module):
    """Transformer blocks that share their encodings of positions: ``(B, C, *grid)`` to the same shape."""

    def __init__(self, spec: MPViTSpec, stage: int) -> None:
        super().__init__()
        width = spec.widths[stage]
        kernels = [(*spec.kernel[:-2], side, side) for side in spec.position_kernels]
        self.cpe = ConvPositionEncoding(width, spec.kernel)
        self.crpe = ConvRelativePosition(width, spec.heads, kernels)
        self.blocks = nn.ModuleList(
            Block(width, sum(spec.heads), spec.mlp_ratio, rate)
            for rate in stage_rates(spec.drop_path, spec.depths)[stage]
        )

    def forward(self, x: Tensor, run: Run) -> Tensor:
        for block in self.blocks:
            x = run(block, x, self.cpe, self.crpe)
        return x


class Block(nn.Module):
    """Position encoding, factorised attention and MLP with residuals: ``(B, C, *grid)`` to the same shape."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = FactorisedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, int(mlp_ratio * dim), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cpe: nn.Module, crpe: nn.Module) -> Tensor:
        grid = x.shape[2:]
        tokens = cpe(x).flatten(2).mT
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid, crpe))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.unflatten(1, grid).movedim(-1, 1)  # in this order, channels stay last for batches of one too


class Head(nn.Module):
    """The classifier; the identity for 0 classes."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


def _init_conv(layer: nn.Module, outputs: int) -> None:
    """Normal of variance 2 / (taps x outputs), as published."""
    weight = layer.get_parameter("weight")
    nn.init.normal_(weight, std=math.sqrt(2 / (math.prod(weight.shape[2:]) * outputs)))


def check_spec(spec: MPViTSpec) -> None:
    """Raise :class:`UserError` for settings that contradict each other."""
    check_axes(spec, "kernel", "stem_stride")
    check_odd(spec, "kernel", "position_kernels")
    check_counts(spec)
    check_stages(spec, "widths", "paths")
    check_rates(spec, "drop_path")
    kernels = spec.position_kernels
    if not kernels or len(spec.heads) != len(kernels) or min(*spec.heads, *kernels) < 1:
        raise UserError(f"heads={spec.heads}: a number of at least 1 is needed for each of position_kernels={kernels}")
    if any(width % sum(spec.heads) for width in spec.widths):
        raise UserError(f"widths={spec.widths} cannot be divided among heads={spec.heads}, {sum(spec.heads)} in all")
    if spec.widths[0] % 2:
        raise UserError(f"widths={spec.widths}: the first must be even, the stem begins with half of it")
