"""Frame prediction with time as an axis: 3D MixViT blocks between an encoder and a decoder of single frames.

The published predictor (:mod:`stvit.predictors.mixvit`) makes time a part of the channels. Here a block sees clips
``(B, C, T, H, W)``, so that it is the block of the image network grown by an axis and can start from its weights. The
translator begins with a learned mixing over time, by which every future frame draws on all past ones, in any number on
both sides; a pyramid of blocks then works on the future frames together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from stvit.backbones.base import hold_size
from stvit.backbones.mixvit import BATCH_NORM_EPS, NORM_EPS, tanh_gelu
from stvit.errors import UserError
from stvit.layers.mixvit_block import MixViTBlock
from stvit.layers.wavelet import BANDS, UndecimatedWavelet
from stvit.model import Model
from stvit.predictors.mixvit import Decoder, Encoder, check_frames, check_spec


@dataclass(frozen=True)
class Predictor3DSpec:
    """The numbers of one predictor; the defaults fit the weights of ``mixvit_t_224``, whose stages 1 and 2 they are."""

    in_frames: int = 10  # past frames
    out_frames: int = 10  # future frames of one pass
    channels: int = 1  # of a frame
    hidden_spatial: int = 64  # width of encoder and decoder
    encoder_depth: int = 2  # convolutions in encoder and in decoder; every second one halves or doubles the size
    mixing_width: int = 64  # after the mixing over time; of the image network's stage before the first one here
    mixing_groups: int = 2  # of channels, in the mixing over time inside the stages
    widths: tuple[int, ...] = (128, 256)  # of the translator's stages, each at half the size of the one before
    down_depths: tuple[int, ...] = (1, 1)  # blocks of each stage on the way down; the first one halves the size
    up_depths: tuple[int, ...] = (1, 1)  # and on the way up
    window: tuple[int, int] = (4, 4)  # of window and grid attention, which span all frames; masked at other sizes
    dim_head: int = 32  # of window and grid attention
    channel_heads: tuple[int, ...] = (8, 16)  # of each stage
    mlp_ratio: float = 4.0
    wavelet: str = "haar"  # any discrete wavelet of PyWavelets
    drop_path: float = 0.1  # of the last block; it rises from zero
    image_size: tuple[int, int] = (64, 64)  # nominal (H, W); any multiple of ``size_multiple`` works

    @property
    def size_multiple(self) -> tuple[int, int]:
        """What height and width must be multiples of."""
        down = 2 ** (self.encoder_depth // 2 + len(self.widths))
        return down, down


class MixFrames(nn.Module):
    """Each channel of each new frame as a learned sum over the given frames: ``(B, C, T, *size) -> (B, C, S, *size)``.

    At first every new frame is the newest given one.

    Args:
        dim: channels C; each has sums of its own.
        in_frames, out_frames: T and S.
    """

    def __init__(self, dim: int, in_frames: int, out_frames: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, out_frames, in_frames))
        self.bias = nn.Parameter(torch.zeros(dim, out_frames, 1))
        nn.init.ones_(self.weight[:, :, -1])

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.weight @ x.flatten(3) + self.bias
        return mixed.unflatten(3, x.shape[3:])


class MixTime(nn.Module):
    """All frames and all channels of a group, position by position: ``(B, in, T, H, W) -> (B, out, S, H, W)``.

    Every frame and channel that comes out is a learned sum over all that go in; in groups, over those of its group.
    """

    def __init__(self, in_dim: int, out_dim: int, in_frames: int, out_frames: int, groups: int = 1) -> None:
        super().__init__()
        self.out_frames = out_frames
        self.norm = nn.BatchNorm3d(in_dim, eps=BATCH_NORM_EPS)
        self.mix = nn.Conv2d(in_dim * in_frames, out_dim * out_frames, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x).flatten(1, 2)).unflatten(1, (-1, self.out_frames))


class PastToFuture(nn.Module):
    """Maps of the past to maps of the future, position by position: ``(B, in, T, H, W) -> (B, out, S, H, W)``."""

    def __init__(self, in_dim: int, out_dim: int, in_frames: int, out_frames: int) -> None:
        super().__init__()
        self.mix = MixTime(in_dim, out_dim, in_frames, out_frames)
        self.act = tanh_gelu()
        self.project = nn.Conv3d(out_dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.act(self.mix(x)))


class Upsample(nn.Module):
    """Twice the height and width, frame by frame: ``(B, in, T, H, W) -> (B, out, T, 2 H, 2 W)``."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv3d(in_dim, 4 * out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.expand(x), "b (c p q) t h w -> b c t (h p) (w q)", p=2, q=2)


class Stage(nn.Module):
    """What the translator has at one resolution."""

    def __init__(self, spec: Predictor3DSpec, index: int, rates: Sequence[float]) -> None:
        super().__init__()
        above, dim = (spec.mixing_width, *spec.widths)[index : index + 2]

        def block(number: int) -> MixViTBlock:
            return MixViTBlock(
                dim if number else above,
                dim,
                window=(spec.out_frames, *spec.window),
                kernel=(3, 3, 3),
                stride=(1, 1, 1) if number else (1, 2, 2),
                dim_head=spec.dim_head,
                channel_heads=spec.channel_heads[index],
                mlp_ratio=spec.mlp_ratio,
                channel_mlp_ratio=spec.mlp_ratio,
                act=tanh_gelu,
                norm_eps=NORM_EPS,
                batch_norm_eps=BATCH_NORM_EPS,
                drop_path=rates[number],
            )

        self.down_depth = spec.down_depths[index]
        self.blocks = nn.ModuleList(map(block, range(len(rates))))
        self.mix = MixTime(dim, dim, spec.out_frames, spec.out_frames, spec.mixing_groups)
        self.up = Upsample(dim, above)

    def go_down(self, x: Tensor) -> Tensor:
        """``(B, above, S, 2 H, 2 W) -> (B, C, S, H, W)``."""
        for block in list(self.blocks)[: self.down_depth]:
            x = block(x)
        return x + self.mix(x)

    def go_up(self, x: Tensor) -> Tensor:
        """The way back."""
        for block in list(self.blocks)[self.down_depth :]:
            x = block(x)
        return self.up(x)


class Translator3D(nn.Module):
    """Past latents to future latents: ``(B, C, T, H, W) -> (B, C, S, H, W)``."""

    def __init__(self, spec: Predictor3DSpec) -> None:
        super().__init__()
        depths = [down + up for down, up in zip(spec.down_depths, spec.up_depths, strict=True)]
        rates = np.linspace(0.0, spec.drop_path, sum(depths)).tolist()
        starts = np.cumsum([0, *depths]).tolist()
        self.to_future = PastToFuture(spec.hidden_spatial, spec.mixing_width, spec.in_frames, spec.out_frames)
        self.stages = nn.ModuleList(
            Stage(spec, i, rates[start : start + depth])
            for i, (start, depth) in enumerate(zip(starts, depths, strict=False))
        )
        self.project = nn.Conv3d(spec.mixing_width, spec.hidden_spatial, 1)

    def forward(self, x: Tensor) -> Tensor:
        stages, levels = [cast(Stage, stage) for stage in self.stages], [self.to_future(x)]
        for stage in stages:
            levels.append(stage.go_down(levels[-1]))
        x = levels.pop()
        for stage, level in zip(reversed(stages), reversed(levels), strict=True):
            x = level + stage.go_up(x)
        return self.project(x)


class MixViT3DPredictor(Model):
    """Future frames from past frames: ``(B, T, C, H, W)`` in [0, 1] -> ``(B, out_frames, C, H, W)``, unbounded.

    Encoder and decoder are those of :class:`stvit.predictors.mixvit.MixViTPredictor`; a future frame's skip is mixed
    from those of all past frames.
    """

    def __init__(self, spec: Predictor3DSpec) -> None:
        super().__init__()
        check_3d_spec(spec)
        self.spec = spec
        bands = len(BANDS) * spec.channels
        self.wavelet = UndecimatedWavelet(spec.wavelet)
        self.norm = nn.BatchNorm2d(bands)
        self.act = nn.ReLU()
        self.encoder = Encoder(bands, spec.hidden_spatial, spec.encoder_depth)
        self.translator = Translator3D(spec)
        self.skip = MixFrames(spec.hidden_spatial, spec.in_frames, spec.out_frames)
        self.decoder = Decoder(spec.hidden_spatial, spec.channels, spec.encoder_depth)

    def forward(self, frames: Tensor, out_frames: int | None = None) -> Tensor:
        """Predict ``out_frames`` (by default the spec's).

        One pass predicts the spec's number. Fewer are cut off; for more, the newest ``in_frames`` of all frames, given
        and predicted, are the past of the next pass.

        Raises:
            UserError: frames of another number, channel count or a size that the windows do not divide.
        """
        check_frames(self.spec, frames)
        if torch.compiler.is_compiling():
            hold_size(frames)
        wanted = self.spec.out_frames if out_frames is None else out_frames
        if wanted < 1:
            raise UserError(f"out_frames={wanted}: at least one frame must be asked for")
        known = frames
        for _ in range(-(-wanted // self.spec.out_frames)):
            known = torch.cat([known, self._pass(known[:, -self.spec.in_frames :])], dim=1)
        return known[:, self.spec.in_frames :][:, :wanted]

    def _pass(self, frames: Tensor) -> Tensor:
        batch = len(frames)
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        latent, skip = (
            rearrange(maps, "(b t) c h w -> b c t h w", b=batch)
            for maps in self.encoder(self.act(self.norm(self.wavelet(x))))
        )
        future, skip = (
            rearrange(maps, "b c t h w -> (b t) c h w") for maps in (self.translator(latent), self.skip(skip))
        )
        return rearrange(self.decoder(future, skip), "(b t) c h w -> b t c h w", b=batch)

    def no_weight_decay(self) -> set[str]:
        """The position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("rel_pos.table")}


def check_3d_spec(spec: Predictor3DSpec) -> None:
    """Raise UserError for numbers that cannot make a network."""
    check_spec(spec)
    stages = len(spec.widths)
    for name in ("down_depths", "up_depths", "channel_heads"):
        if len(getattr(spec, name)) != stages or not stages:
            raise UserError(f"{name}={getattr(spec, name)}: one number a stage is needed, and widths has {stages}")
    for width in spec.widths:
        if width % spec.mixing_groups:
            raise UserError(f"width {width} cannot be cut into mixing_groups={spec.mixing_groups}")
