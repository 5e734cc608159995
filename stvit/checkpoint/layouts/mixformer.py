"""MixFormer of PaddleClas, in Paddle's arrays and in a torch-style form of them.

Paddle stores the statistics of batch norms as ``_mean`` and ``_variance``, without a count of batches, and the weights
of linear layers as (in, out). The torch-style form has PyTorch's names and shapes for these and is the same otherwise.
Both hold the index of the position tables, which stvit computes. Tables follow Swin.

What stands before the names (``module.``, ``backbone.``) is found by itself, and what a dense model has besides the
backbone is left out.

With equal weights the networks compute the same where PaddleClas's runs: it takes inputs whose sides, rounded up to
multiples of 4, are multiples of 32.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from stvit.backbones.mixformer import MixFormerSpec
from stvit.checkpoint.layouts.renames import inverse, rename
from stvit.checkpoint.layouts.swin_tables import square_window
from stvit.checkpoint.paddle import NAME_TABLE
from stvit.layers.position import relative_index, table_from_swin, table_to_swin

NAME = "paddleclas"

RENAMES = (
    ("dwconv3x3.0.", "depthwise."),
    ("dwconv3x3.1.", "depthwise_norm."),
    ("channel_interaction.", "channel_gate."),
    ("spatial_interaction.", "spatial_gate."),
    ("relative_position_bias_table", "rel_pos.table"),
    ("reduction.", "conv."),
)
ENDS = (("last_proj.", "head.hidden."), ("head.", "head.projection."))  # the longer of ours first, read backwards
STATISTICS = (("_mean", "running_mean"), ("_variance", "running_var"))
HEAD_WIDTH = 1280
INDEX = "relative_position_index"
BATCHES = "num_batches_tracked"
_MARK = "layers.0.blocks.0.attn.dwconv3x3.0.weight"


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the names are those of PaddleClas's MixFormer, whatever model it is in."""
    return _prefix(state_dict) is not None


def in_a_file_of_paddles(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether weights are in Paddle's arrays, of MixFormer or another network; ``entries`` as in :func:`matches`."""
    return NAME_TABLE in entries or _is_paddle(state_dict)


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """The indices of position tables, which stvit computes, and what is not the backbone's."""
    prefix = _prefix(state_dict) or ""
    return tuple(key for key in state_dict if not key.startswith(prefix) or key.endswith(INDEX))


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their state dict, of either form, in our names and layouts.

    Raises:
        UserError: position tables of windows that are not square.
    """
    prefix = _prefix(state_dict) or ""
    paddle, skipped, converted = _is_paddle(state_dict), set(unused(state_dict)), {}
    for key, value in state_dict.items():
        if key in skipped:
            continue
        new = _renamed(key.removeprefix(prefix))
        if key.endswith("relative_position_bias_table"):
            value = table_from_swin(value, square_window(value))
        elif paddle and _is_linear(key, value):
            value = value.T.contiguous()
        converted[new] = value
    for key in [key for key in converted if key.endswith("running_mean")]:
        converted.setdefault(key.replace("running_mean", BATCHES), torch.tensor(0))
    return converted


def to_torch_style(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict in their names, PyTorch's where those differ for one layer, and in PyTorch's shapes."""
    converted = {}
    for key, value in state_dict.items():
        new = _restored(key)
        if new.endswith("relative_position_bias_table"):
            sides = [(side + 1) // 2 for side in value.shape[1:]]
            converted[new.replace("bias_table", "index")] = relative_index(sides).T.contiguous()  # query - key
            value = table_to_swin(value)
        converted[new] = value
    return converted


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as Paddle's files hold it: the inverse of :func:`to_stvit` but for the counts of batches."""
    return {
        _with_leaf(key, inverse(STATISTICS)): value.T.contiguous() if _is_linear(key, value) else value
        for key, value in to_torch_style(state_dict).items()
        if not key.endswith(BATCHES)
    }


def differences(spec: MixFormerSpec) -> Iterator[str]:
    """Why PaddleClas would not build the network of a row, or not run it at its size."""
    doubling = tuple(spec.widths[0] * 2**stage for stage in range(len(spec.widths)))
    if spec.widths != doubling:
        yield f"its widths double with every stage, {doubling} instead of {spec.widths}"
    if spec.head_width != HEAD_WIDTH:
        yield f"its layer before the classifier has {HEAD_WIDTH} channels, not {spec.head_width}"
    if spec.stem_stride[-2:] != (2, 2):
        yield f"its stem strides by 2, not by {spec.stem_stride}"
    if any(-(-side // 4) % 8 for side in spec.input_size[-2:]):
        yield f"it takes sizes of multiples of 32, or up to 3 less, not {spec.input_size}"


def _renamed(key: str) -> str:
    if stage := re.match(r"layers\.(\d+)\.(downsample\.)?", key):  # theirs end a stage with it, ours begin one
        number = int(stage[1]) + bool(stage[2])
        body = rename(key[stage.end() :].replace(".attn.", ".mix."), RENAMES)
        key = f"stages.{number}.{stage[2] or ''}{body}"
    else:
        key = rename(key, ENDS)
    return _with_leaf(key, STATISTICS)


def _restored(key: str) -> str:
    if stage := re.match(r"stages\.(\d+)\.(downsample\.)?", key):
        number = int(stage[1]) - bool(stage[2])
        body = rename(key[stage.end() :], inverse(RENAMES)).replace(".mix.", ".attn.")
        return f"layers.{number}.{stage[2] or ''}{body}"
    return rename(key, inverse(ENDS))


def _with_leaf(key: str, pairs: Collection[tuple[str, str]]) -> str:
    head, _, leaf = key.rpartition(".")
    return f"{head}.{dict(pairs).get(leaf, leaf)}" if head else key


def _prefix(state_dict: Mapping[str, Tensor]) -> str | None:
    """What stands before the backbone's names, often nothing; None for other networks."""
    found = (key.removesuffix(_MARK) for key in state_dict if f".{key}".endswith(f".{_MARK}"))
    return next((prefix for prefix in found if f"{prefix}patch_embed.stem.0.weight" in state_dict), None)


def _is_paddle(state_dict: Mapping[str, Tensor]) -> bool:
    return any(key.endswith("._mean") for key in state_dict)


def _is_linear(key: str, value: Tensor) -> bool:
    return value.ndim == 2 and key.endswith(".weight")
