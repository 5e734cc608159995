"""MixViT for images and clips: wavelet stem, then blocks of convolution and of window, channel and grid attention.

The length of the tuples in the spec decides between grids ``(H, W)`` and ``(T, H, W)``. In clips the wavelet transform
stays within frames; convolutions, windows and grids extend over time, and channel attention sees all frames at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import Tensor, nn

from stvit.backbones.base import Backbone, FeatureInfo, in_space, pyramid, stage_rates
from stvit.backbones.checks import check_axes, check_counts, check_odd, check_rates, check_stages
from stvit.errors import UserError
from stvit.layers.mixvit_block import MixViTBlock
from stvit.layers.nd import batch_norm, conv, pad_same
from stvit.layers.wavelet import BANDS, UndecimatedWavelet

NORM_EPS, BATCH_NORM_EPS, MAP_NORM_EPS = 1e-5, 1e-3, 1e-6
tanh_gelu = partial(nn.GELU, approximate="tanh")


@dataclass(frozen=True)
class MixViTSpec:
    """A variant. Tuples over axes have two entries (H, W) for images and three (T, H, W) for clips."""

    widths: tuple[int, ...]  # of each stage
    depths: tuple[int, ...]  # blocks of each stage; the first one halves the grid
    stem_width: int = 32
    input_size: tuple[int, ...] = (224, 224)  # (H, W) or (frames, H, W); other sizes work at run time
    in_channels: int = 3
    num_classes: int = 1000  # 0: no classifier
    window: tuple[int, ...] = (7, 7)  # sides of windows and grids, in every stage
    dim_head: int = 32  # of window and grid attention
    channel_heads: tuple[int, ...] = (4, 8, 16, 32)  # of the channel attention of each stage
    head_hidden: int = 512  # values that the classifier sees
    mlp_ratio: float = 4.0
    stem_kernel: tuple[int, ...] = (3, 3)  # of both convolutions
    stem_stride: tuple[int, ...] = (2, 2)  # of the first one
    kernel: tuple[int, ...] = (3, 3)  # of the blocks' depthwise convolutions
    wavelet: str = "haar"  # any discrete wavelet of PyWavelets
    map_norm: bool = False  # give normalised maps to a dense head; what goes on to the next stage is not normalised
    drop_path: float = 0.2  # of the last block; grows linearly from 0


class MixViT(Backbone[Tensor]):
    """Images ``(B, C, H, W)`` or clips ``(B, C, T, H, W)`` of any size to logits ``(B, num_classes)``.

    A map whose sides the window does not divide is padded for attention, and nothing on the map sees the padding; at
    sizes that are multiples of 32 windows (224 and 448 for windows of 7) this is the published network.

    Raises:
        UserError: a spec that is no network.
    """

    spec: MixViTSpec
    _one_graph_a_size = True

    def __init__(self, spec: MixViTSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        self.num_features, self.num_classes = spec.widths[-1], spec.num_classes
        self.feature_info = stage_infos(spec)
        self.stem = Stem(spec)
        rates = stage_rates(spec.drop_path, spec.depths)
        inputs = (spec.stem_width, *spec.widths)
        self.stages = nn.ModuleList(
            Stage(spec, stage, inputs[stage], rates[stage]) for stage in range(len(spec.depths))
        )
        self.map_norms = nn.ModuleList(
            nn.LayerNorm(width, eps=MAP_NORM_EPS) for width in (spec.widths if spec.map_norm else ())
        )
        self.map_norms.requires_grad_(not spec.num_classes)  # a classifier does not read them
        self.head = Head(self.num_features, spec.head_hidden, spec.num_classes)

    @property
    def head_hidden_size(self) -> int:
        """See :class:`Backbone`; a hidden layer stands before the classifier."""
        return self.spec.head_hidden

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of the last stage ``(B, num_features, *grid)``; its norm belongs to the head."""
        return self.forward_stages(x, len(self.stages))[1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """See :class:`Backbone`; takes what :meth:`forward_features` gives."""
        return self.head(x, pre_logits)

    def forward_stages(self, x: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
        """See :class:`Backbone`."""
        self.check_input(x)
        x, maps = self.stem(x), []
        for stage in self.stages[:count]:
            for block in cast(Stage, stage).blocks:
                x = cast(Tensor, self.run_block(block, x))
            maps.append(x)
        return maps, x

    def map_for_dense(self, index: int, features: Tensor) -> Tensor:
        """See :class:`Backbone`; normalised with ``map_norm``."""
        if not self.spec.map_norm:
            return features
        return self.map_norms[index](features.movedim(1, -1)).movedim(-1, 1)

    def parameters_of_map(self, index: int) -> list[nn.Parameter]:
        """See :class:`Backbone`."""
        return list(self.map_norms[index].parameters()) if self.spec.map_norm else []

    def forward_final(self, state: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        return state

    def norm_map(self, features: Tensor) -> Tensor:
        """Nothing: the norm of the head acts on the mean over the map."""
        return features

    def parameters_after(self, count: int) -> list[nn.Parameter]:
        """See :class:`Backbone`."""
        modules = [*self.stages[count:], *self.map_norms[count:], self.head]
        return [parameter for module in modules for parameter in module.parameters()]

    def may_be_fresh(self) -> set[str]:
        """See :class:`Backbone`."""
        return {name for name, _ in self.named_parameters() if name.startswith("map_norms.")}

    def init_classifier(self, layer: nn.Module) -> None:
        """As torch does, like everything but the stem and the position tables."""

    def no_weight_decay(self) -> set[str]:
        """The position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("rel_pos.table")}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """See :class:`Backbone`; a layer is a block, or coarse a stage."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^map_norms", (99999,))]}


class Stem(nn.Module):
    """Wavelet bands of each frame and two convolutions, one strided: ``(B, C, *size)`` to ``(B, width, *grid)``."""

    def __init__(self, spec: MixViTSpec) -> None:
        super().__init__()
        bands, width, ndim = len(BANDS) * spec.in_channels, spec.stem_width, len(spec.input_size)
        self.kernel, self.stride = spec.stem_kernel, spec.stem_stride
        self.wavelet = UndecimatedWavelet(spec.wavelet)
        self.norm1 = batch_norm(ndim, bands, BATCH_NORM_EPS)
        self.conv1 = conv(bands, width, self.kernel, self.stride, padding=False)
        self.norm2 = batch_norm(ndim, width, BATCH_NORM_EPS)
        self.conv2 = conv(width, width, self.kernel)
        self.norm3 = batch_norm(ndim, width, BATCH_NORM_EPS)
        self.act = tanh_gelu()
        for layer in (self.conv1, self.conv2):  # as EfficientNet's
            nn.init.kaiming_normal_(cast(Tensor, layer.weight), mode="fan_out")
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.wavelet(x)))
        x = self.act(self.norm2(self.conv1(pad_same(x, self.kernel, self.stride))))
        return self.act(self.norm3(self.conv2(x)))


class Stage(nn.Module):
    """Blocks of one width; the first halves height and width of ``(B, in, *grid)``."""

    def __init__(self, spec: MixViTSpec, index: int, in_dim: int, rates: list[float]) -> None:
        super().__init__()
        dim, stride = spec.widths[index], (1, 2, 2)[-len(spec.input_size) :]
        self.blocks = nn.ModuleList(
            MixViTBlock(
                dim if i else in_dim,
                dim,
                window=spec.window,
                kernel=spec.kernel,
                stride=None if i else stride,
                dim_head=spec.dim_head,
                channel_heads=spec.channel_heads[index],
                mlp_ratio=spec.mlp_ratio,
                channel_mlp_ratio=spec.mlp_ratio,
                act=tanh_gelu,
                norm_eps=NORM_EPS,
                batch_norm_eps=BATCH_NORM_EPS,
                drop_path=rate,
            )
            for i, rate in enumerate(rates)
        )


class Head(nn.Module):
    """Mean over the map, norm, hidden layer with tanh, classifier: ``(B, C, *grid)`` to ``(B, num_classes)``."""

    def __init__(self, dim: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pre_logits = nn.Linear(dim, hidden)
        self.projection = nn.Linear(hidden, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pre_logits(self.norm(x.flatten(2).mean(-1))).tanh()
        return x if pre_logits else self.projection(x)


def stage_infos(spec: MixViTSpec) -> FeatureInfo:
    """Channels and strides of the map after every stage."""
    names = [f"stages.{stage}.blocks.{depth - 1}" for stage, depth in enumerate(spec.depths)]
    strides = [in_space(spec.stem_stride, 2 ** (stage + 1)) for stage in range(len(spec.depths))]
    return pyramid(names, spec.widths, strides)


def check_spec(spec: MixViTSpec) -> None:
    """Raise :class:`UserError` for settings that contradict each other."""
    check_axes(spec, "window", "stem_kernel", "stem_stride", "kernel")
    check_odd(spec, "stem_kernel", "kernel")
    check_counts(spec)
    check_stages(spec, "widths", "channel_heads")
    check_rates(spec, "drop_path")
    for width, heads in zip(spec.widths, spec.channel_heads, strict=True):
        if width % spec.dim_head:
            raise UserError(f"width {width} cannot be cut into window heads of dim_head={spec.dim_head}")
        if width % heads:
            raise UserError(f"width {width} cannot be shared by {heads} channel heads (channel_heads)")
    if min(spec.stem_width, spec.head_hidden, spec.dim_head) < 1:
        raise UserError(
            f"stem_width={spec.stem_width}, head_hidden={spec.head_hidden}, dim_head={spec.dim_head}: "
            "at least 1 is needed"
        )
