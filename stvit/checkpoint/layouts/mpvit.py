"""The official MPViT (youngwanLEE/MPViT): bare, or inside the detection and segmentation models built on it.

Its blocks share position encodings, which its files repeat under the name of every block: ``mpvit_tiny`` stores 873
tensors of which 551 are different ones. Loading such a file there, the last copy in order wins; so it does here, and a
file with only some of the copies (writers of safetensors keep one) is as good.

The prefix that a dense model puts before the names is found by itself (detectron2: ``backbone.bottom_up.backbone.``,
mmsegmentation: ``backbone.``), and what such a file holds besides the backbone is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from stvit.backbones.mpvit import MPViTSpec
from stvit.checkpoint.layouts.renames import inverse, rename

NAME = "mpvit"

PLACES = (
    ("patch_embed_stages.{i}.patch_embeds.{j}.patch_conv.", "stages.{i}.patch_embed.{j}."),
    ("mhca_stages.{i}.mhca_blks.{j}.", "stages.{i}.paths.{j}."),
    ("mhca_stages.{i}.InvRes.", "stages.{i}.local."),
    ("mhca_stages.{i}.aggregate.", "stages.{i}.aggregate."),
    ("cls_head.cls.", "head.projection."),
)
PARTS = (
    ("patch_embed.{i}.dwconv.", "patch_embed.{i}.depthwise."),
    ("patch_embed.{i}.pwconv.", "patch_embed.{i}.pointwise.conv."),
    ("patch_embed.{i}.bn.", "patch_embed.{i}.pointwise.norm."),
    ("local.dwconv.", "local.depthwise."),
    ("local.norm.", "local.norm."),  # the one batch norm that is not called bn
    ("cpe.proj.", "cpe.conv."),
    ("crpe.conv_list.", "crpe.convs."),
    ("MHCA_layers.{i}.factoratt_crpe.", "blocks.{i}.attn."),
    ("MHCA_layers.{i}.", "blocks.{i}."),
    ("bn.", "norm."),  # of stem, aggregation and the local path's 1x1 convolutions
)
_MARK = "mhca_stages.0.aggregate.conv.weight"
_SHARED = re.compile(
    r"(?P<path>mhca_stages\.\d+\.mhca_blks\.\d+\.)(MHCA_layers\.(?P<block>\d+)\.)?(?P<attention>factoratt_crpe\.)?"
    r"(?P<name>cpe\.proj\.|crpe\.conv_list\.).*"
)


def matches(state_dict: Mapping[str, Tensor], entries: Collection[str] = ()) -> bool:
    """Whether the keys are those of an MPViT, whatever model it is in."""
    return _prefix(state_dict) is not None


def unused(state_dict: Mapping[str, Tensor], spec: object = None) -> tuple[str, ...]:
    """All copies of shared tensors but the last, and what is not the backbone's."""
    used = set(_canonical(state_dict).values())
    return tuple(key for key in state_dict if key not in used)


def differences(spec: MPViTSpec) -> Iterator[str]:
    """Why their code would not build the network of a row."""
    for name in ("heads", "position_kernels", "kernel", "stem_stride"):
        ours, theirs = getattr(spec, name), MPViTSpec.__dataclass_fields__[name].default
        if ours != theirs:
            yield f"it has {name} {theirs}, not {ours}"
    if spec.mlp_ratio % 1:
        yield f"it takes whole numbers for mlp_ratio, not {spec.mlp_ratio}"


def to_stvit(state_dict: Mapping[str, Tensor], spec: object = None) -> dict[str, Tensor]:
    """Their tensors under our names, one of every shared one."""
    return {rename(rename(name, PLACES), PARTS): state_dict[key] for name, key in _canonical(state_dict).items()}


def from_stvit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names, shared ones under all of them: the inverse of :func:`to_stvit`."""
    converted = {}
    for key, value in state_dict.items():
        name = rename(rename(key, inverse(PARTS)), inverse(PLACES))
        converted[name] = value
        if shared := _SHARED.fullmatch(name):
            converted.update(dict.fromkeys(_copies(key, name, shared["path"], state_dict), value))
    return converted


def _copies(key: str, name: str, path: str, ours: Mapping[str, Tensor]) -> Iterator[str]:
    """Where else a tensor of the path ``path`` stands: once for the encoding of a block, and again in its attention."""
    blocks = key.partition(".c")[0] + ".blocks."
    rest = name.removeprefix(path)
    for block in sorted({int(k.removeprefix(blocks).partition(".")[0]) for k in ours if k.startswith(blocks)}):
        yield f"{path}MHCA_layers.{block}.{rest}"
        if rest.startswith("crpe."):
            yield f"{path}MHCA_layers.{block}.factoratt_crpe.{rest}"


def _prefix(state_dict: Mapping[str, Tensor]) -> str | None:
    """What stands before the backbone's names, often nothing."""
    return next((key.removesuffix(_MARK) for key in state_dict if key.endswith(_MARK)), None)


def _canonical(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without prefix, shared ones as the path has them, to the names in the file of the copies that count."""
    prefix = _prefix(state_dict) or ""
    ranks: dict[str, tuple[int, bool]] = {}
    chosen: dict[str, str] = {}
    for key in state_dict:
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            continue
        if shared := _SHARED.fullmatch(name):
            rank = (int(shared["block"] or -1), shared["attention"] is not None)
            name = shared["path"] + name[shared.start("name") :]
            if rank < ranks.get(name, rank):
                continue
            ranks[name] = rank
        chosen[name] = key
    return chosen
