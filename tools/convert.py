r"""Convert a checkpoint into another library's layout, or into stvit's own.

Targets are the layouts that --to lists below; mvit is facebookresearch/mvit's, and mixvit and mpvit are those of the
authors' own code. The checkpoint may have any of them. Where the target would compute something else with the same
weights, the reason is given and nothing is written, unless --force.

Example:
    python tools/convert.py --checkpoint MViTv2_T_in1k.pyth --to timm --output mvitv2_tiny.safetensors

Writes what the target's own files hold: {"model_state": ...} for mvit and slowfast, {"meta": {}, "state_dict": ...} for
mmpretrain and mmaction2, {"state_dict": ...} for mixvit and openstl-mixvit, {"model": ...} for mpvit, a bare state dict
for torchvision, timm and paddleclas-torch, a .pdparams file for paddleclas, a checkpoint with its model's name for
stvit; and bare tensors wherever the output's name ends in .safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stvit.checkpoint import TARGETS, convert, load_checkpoint, pack_model, save_checkpoint
from stvit.checkpoint.export import wrapped
from stvit.checkpoint.paddle import save_paddle
from stvit.checkpoint.recognise import adapted_settings, registered_name
from stvit.checkpoint.save import refuse_overwriting, save_safetensors
from stvit.cli import ArgumentParser, run
from stvit.errors import UserError
from stvit.registry import create_model


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, convert, write."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="file or address, in any layout that stvit reads")
    parser.add_argument("--to", required=True, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--output", required=True, type=Path, help="the file to write")
    parser.add_argument("--model", help="the network's registered name (default: as the checkpoint or its shapes tell)")
    parser.add_argument("--force", action="store_true", help="also where the target computes something else")
    options = parser.parse_args(argv)
    refuse_overwriting(options.checkpoint, options.output)
    weights = convert(options.checkpoint, options.to, model=options.model, force=options.force)
    if options.output.suffix == ".safetensors":
        save_safetensors(options.output, weights)
    elif options.to == "paddleclas":
        save_paddle(options.output, weights)
    elif options.to == "stvit":
        save_checkpoint(options.output, own_checkpoint(weights, options.model))
    else:
        save_checkpoint(options.output, wrapped(weights, options.to))
    print(f"{options.output}: {len(weights)} tensors for {options.to}")


def own_checkpoint(weights: Mapping[str, Tensor], name: str | None) -> dict[str, object]:
    """A checkpoint of stvit's own, which carries its model's name and preprocessing.

    Raises:
        UserError: neither the name nor the shapes tell which model the weights are of.
    """
    name = name or registered_name(weights)
    if name is None:
        raise UserError("the shapes of the weights are those of no registered network: name theirs with --model")
    settings = adapted_settings(weights, name)
    if _are_of_maps_alone(weights, name, settings):
        settings["features_only"] = True
    model = create_model(name, **settings)  # type: ignore[arg-type]
    load_checkpoint(model, weights)
    return pack_model(model)


def _are_of_maps_alone(weights: Mapping[str, Tensor], name: str, settings: dict[str, object]) -> bool:
    """Whether weights are those of a dense model's backbone, without what leads from its maps to a classifier."""
    if settings.get("num_classes") != 0:
        return False
    with torch.device("meta"):
        network = create_model(name, **settings)  # type: ignore[arg-type]
    return not network.state_dict().keys() <= weights.keys()


if __name__ == "__main__":
    sys.exit(run(main))
