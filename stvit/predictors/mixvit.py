"""Frame prediction by encoder, translator, decoder, as MixViT publishes it (SimVP's frame with MixViT blocks).

Each frame is encoded alone; the translator sees all past frames at once, as channels, and turns them into the
features of all future frames; each of those is decoded alone, with a skip from the past frame of the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from itertools import pairwise
from typing import ClassVar, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from stvit.errors import UserError, nearest
from stvit.layers.conv import ConvNormAct
from stvit.layers.mixvit_block import MixViTBlock
from stvit.layers.wavelet import BANDS, UndecimatedWavelet
from stvit.model import Model


@dataclass(frozen=True)
class PredictorSpec:
    """The numbers of one predictor; the defaults are the published network."""

    in_frames: int = 10  # past frames; one pass predicts as many
    out_frames: int = 10  # future frames that forward() returns unless told otherwise
    channels: int = 1  # of a frame
    hidden_spatial: int = 64  # width of encoder and decoder
    hidden_translator: int = 512  # width inside the translator
    encoder_depth: int = 4  # convolutions in encoder and in decoder; every second one halves or doubles the size
    translator_depth: int = 2  # blocks
    block: str = "mixvit"  # a name in TRANSLATOR_BLOCKS
    window: tuple[int, int] = (8, 8)  # of window and grid attention, at the translator's resolution
    dim_head: int = 32  # of window and grid attention
    channel_heads: int = 32
    mlp_ratio: float = 4.0  # in the window and grid halves
    channel_mlp_ratio: float = 8.0
    wavelet: str = "haar"  # any discrete wavelet of PyWavelets
    drop_path: float = 0.1  # of the last block
    first_drop_path: float = 0.01  # of the first block; the published code keeps 0.01 there even at rate zero
    image_size: tuple[int, int] = (64, 64)  # nominal (H, W); any multiple of ``size_multiple`` works

    @property
    def downsampling(self) -> int:
        """Input side over the translator's side."""
        return 2 ** (self.encoder_depth // 2)

    @property
    def size_multiple(self) -> tuple[int, int]:
        """What height and width must be multiples of."""
        return self.window[0] * self.downsampling, self.window[1] * self.downsampling


class FrameSpec(Protocol):
    """What the rows of all encoder-translator-decoder predictors have in common."""

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]

    @property
    def in_frames(self) -> int: ...
    @property
    def out_frames(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def hidden_spatial(self) -> int: ...
    @property
    def encoder_depth(self) -> int: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def size_multiple(self) -> tuple[int, int]: ...


BlockFactory = Callable[[int, float, PredictorSpec], nn.Module]


def _mixvit_block(dim: int, drop_path: float, spec: PredictorSpec) -> nn.Module:
    return MixViTBlock(
        dim,
        dim,
        window=spec.window,
        kernel=(3, 3),
        dim_head=spec.dim_head,
        channel_heads=spec.channel_heads,
        mlp_ratio=spec.mlp_ratio,
        channel_mlp_ratio=spec.channel_mlp_ratio,
        drop_path=drop_path,
    )


#: What a translator can be made of: name -> (width, drop path, spec) -> module on (B, width, H, W).
TRANSLATOR_BLOCKS: dict[str, BlockFactory] = {"mixvit": _mixvit_block}


class Encoder(nn.Module):
    """``(N, in, H, W)`` -> latent ``(N, C, H / 2^k, W / 2^k)`` and the skip, ``(N, C, H, W)`` after the first unit."""

    def __init__(self, in_dim: int, dim: int, depth: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(ConvNormAct(dim if i else in_dim, dim, stride=1 + i % 2) for i in range(depth))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = x = self.stages[0](x)
        for stage in list(self.stages)[1:]:
            x = stage(x)
        return x, skip


class Decoder(nn.Module):
    """Latent and skip -> frames ``(N, out, H, W)``; the skip is added before the last unit."""

    def __init__(self, dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(ConvNormAct(dim, dim, upsample=i % 2 == 0) for i in range(depth))
        self.readout = nn.Conv2d(dim, out_dim, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        for stage in list(self.stages)[:-1]:
            x = stage(x)
        return self.readout(self.stages[-1](x + skip))


class Translator(nn.Module):
    """Past features to future features, ``(B, T C, H, W)`` both: time is part of the channels.

    Block i works at its input width and a 1x1 projection takes it to the next one: outer, inner, ..., inner, outer.
    """

    def __init__(self, spec: PredictorSpec) -> None:
        super().__init__()
        if spec.block not in TRANSLATOR_BLOCKS:
            raise UserError(f"no translator block is named {spec.block!r}{nearest(spec.block, TRANSLATOR_BLOCKS)}")
        factory, depth, outer = (
            TRANSLATOR_BLOCKS[spec.block],
            spec.translator_depth,
            spec.in_frames * spec.hidden_spatial,
        )
        widths = [outer, *[spec.hidden_translator] * (depth - 1), outer]
        self.blocks = nn.ModuleList(
            factory(width, rate, spec) for width, rate in zip(widths, drop_path_rates(spec), strict=False)
        )
        self.projections = nn.ModuleList(nn.Conv2d(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for block, projection in zip(self.blocks, self.projections, strict=True):
            x = projection(block(x))
        return x


def drop_path_rates(spec: PredictorSpec) -> list[float]:
    """Linear from ``first_drop_path`` to ``drop_path``; the last block has exactly the latter."""
    rates = np.linspace(spec.first_drop_path, spec.drop_path, spec.translator_depth).tolist()
    return [*rates[:-1], spec.drop_path]


class MixViTPredictor(Model):
    """Future frames from past frames: ``(B, T, C, H, W)`` in [0, 1] -> ``(B, out_frames, C, H, W)``, unbounded.

    Source: the video prediction network of MixViT; its frame is SimVP (arXiv 2206.05099).
    """

    def __init__(self, spec: PredictorSpec) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        bands = len(BANDS) * spec.channels
        self.wavelet = UndecimatedWavelet(spec.wavelet)
        self.norm = nn.BatchNorm2d(bands)
        self.act = nn.ReLU()
        self.encoder = Encoder(bands, spec.hidden_spatial, spec.encoder_depth)
        self.translator = Translator(spec)
        self.decoder = Decoder(spec.hidden_spatial, spec.channels, spec.encoder_depth)

    def forward(self, frames: Tensor, out_frames: int | None = None) -> Tensor:
        """Predict ``out_frames`` (by default the spec's).

        One pass predicts ``in_frames``. Fewer are cut off; for more, whole predictions are fed back as the past.

        Raises:
            UserError: frames of another number, channel count or a size that the windows do not divide.
        """
        check_frames(self.spec, frames)
        wanted = self.spec.out_frames if out_frames is None else out_frames
        if wanted < 1:
            raise UserError(f"out_frames={wanted}: at least one frame must be asked for")
        passes = []
        for _ in range(-(-wanted // self.spec.in_frames)):
            frames = self._pass(frames)
            passes.append(frames)
        return torch.cat(passes, dim=1)[:, :wanted]

    def _pass(self, frames: Tensor) -> Tensor:
        batch, time = frames.shape[:2]
        x = rearrange(frames, "b t c h w -> (b t) c h w")
        latent, skip = self.encoder(self.act(self.norm(self.wavelet(x))))
        future = self.translator(rearrange(latent, "(b t) c h w -> b (t c) h w", b=batch))
        out = self.decoder(rearrange(future, "b (t c) h w -> (b t) c h w", t=time), skip)
        return rearrange(out, "(b t) c h w -> b t c h w", b=batch)

    def no_weight_decay(self) -> set[str]:
        """The position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("rel_pos.table")}


def check_spec(spec: FrameSpec) -> None:
    """Raise UserError for numbers that cannot make a network."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if not isinstance(v, str)]
        if field.name.endswith("drop_path"):
            if not 0 <= value < 1:
                raise UserError(f"{field.name}={value}: a probability from 0 to below 1 is needed")
        elif any(number < 1 for number in numbers):
            raise UserError(f"{field.name}={value}: must be at least 1")
    if spec.encoder_depth < 2 or spec.encoder_depth % 2:
        raise UserError(
            f"encoder_depth={spec.encoder_depth}: must be even, as every second convolution changes the size"
        )
    if spec.hidden_spatial % 2:
        raise UserError(f"hidden_spatial={spec.hidden_spatial}: must be even, for two normalisation groups")


def check_frames(spec: FrameSpec, frames: Tensor) -> None:
    """Raise UserError, naming what would work, unless frames fit the network."""
    expected = f"(B, {spec.in_frames}, {spec.channels}, H, W)"
    if frames.ndim != 5 or tuple(frames.shape[1:3]) != (spec.in_frames, spec.channels):
        raise UserError(f"past frames of shape {tuple(frames.shape)} do not fit the network, which takes {expected}")
    if not frames.is_floating_point():
        raise UserError(f"past frames are {frames.dtype}: give floating point values in [0, 1], for bytes frames / 255")
    for side, size, multiple in zip(("height", "width"), frames.shape[-2:], spec.size_multiple, strict=True):
        if size % multiple or size == 0:
            below = size // multiple * multiple
            works = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise UserError(f"frame {side} {size} does not work: it must be a multiple of {multiple}, such as {works}")
