"""The MixViT block: convolution, window, channel and grid attention in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from einops import rearrange
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from stvit.layers.attention import ChannelAttention, GroupAttention
from stvit.layers.conv import MBConv
from stvit.layers.partition import crop, key_mask, merge, pad_to_windows, partition
from stvit.layers.position import ConvPositionEncoding


class GroupAttentionBlock(nn.Module):
    """Pre-norm attention and MLP inside windows, or inside grids: ``(B, C, *size)`` to the same shape.

    Normalisation and MLP act on single tokens, so the map is cut once for both halves. A map that the window does not
    divide is padded at the ends of its axes for the cut, and the tokens on the map do not see the others.
    """

    def __init__(
        self,
        dim: int,
        window: Sequence[int],
        *,
        grid: bool,
        dim_head: int,
        mlp_ratio: float,
        act: Callable[[], nn.Module],
        norm_eps: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.grid = tuple(window), grid
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = GroupAttention(dim, window, dim_head)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), act_layer=act)  # type: ignore[arg-type]
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        mask = key_mask(size, self.window, grid=self.grid, device=x.device)
        x = pad_to_windows(x, self.window)
        tokens = partition(x, self.window, grid=self.grid)  # (B, groups, N, C): whole images are dropped, not groups
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), mask))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return crop(merge(tokens, self.window, x.shape[2:], grid=self.grid), size)


class ChannelAttentionBlock(nn.Module):
    """Position encoding and channel attention, position encoding and MLP: ``(B, C, *size)`` to the same shape.

    The MLP's activation is the exact GELU in every published MixViT, whatever its neighbours use.
    """

    def __init__(
        self, dim: int, kernel: Sequence[int], *, heads: int, mlp_ratio: float, drop_path: float, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.cpe1 = ConvPositionEncoding(dim, kernel)
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = ChannelAttention(dim, heads)
        self.cpe2 = ConvPositionEncoding(dim, kernel)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), act_layer=nn.GELU)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe1(x)
        tokens = rearrange(x, "b c ... -> b (...) c")
        frames = x.shape[2] if x.ndim == 5 else 1
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), frames))
        x = self.cpe2(tokens.transpose(1, 2).reshape(x.shape))
        tokens = rearrange(x, "b c ... -> b (...) c")
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape)


class MixViTBlock(nn.Module):
    """MBConv, window attention, channel attention, grid attention: ``(B, in, *size) -> (B, out, *size / stride)``.

    Args:
        in_dim, out_dim: channels.
        window: sides of windows and grids; its length, like the kernel's, is the number of grid axes.
        kernel: depthwise kernel of MBConv and position encoding.
        stride: of the MBConv.
        dim_head: channels of a window or grid head.
        channel_heads: heads of the channel attention.
        mlp_ratio, channel_mlp_ratio: hidden over outer width, in the window and grid halves and in the channel half.
        act: activation of MBConv and of the window and grid MLPs (the image networks use the tanh form of GELU).
        norm_eps: layer norms of the window and grid halves.
        batch_norm_eps: batch norms of the MBConv.
        drop_path: the same probability for all seven residual branches.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        window: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        dim_head: int = 32,
        channel_heads: int,
        mlp_ratio: float = 4.0,
        channel_mlp_ratio: float = 4.0,
        act: Callable[[], nn.Module] = nn.GELU,
        norm_eps: float = 1e-6,
        batch_norm_eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = MBConv(in_dim, out_dim, kernel, stride, act=act, norm_eps=batch_norm_eps, drop_path=drop_path)
        self.window, self.grid = (
            GroupAttentionBlock(
                out_dim,
                window,
                grid=grid,
                dim_head=dim_head,
                mlp_ratio=mlp_ratio,
                act=act,
                norm_eps=norm_eps,
                drop_path=drop_path,
            )
            for grid in (False, True)
        )
        self.channel = ChannelAttentionBlock(
            out_dim, kernel, heads=channel_heads, mlp_ratio=channel_mlp_ratio, drop_path=drop_path
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.grid(self.channel(self.window(self.conv(x))))
