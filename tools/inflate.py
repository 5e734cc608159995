r"""Give a video network the weights of an image network.

The checkpoint may have any layout that stvit.load_checkpoint reads. The rows <image network>_16f keep what the image
network computes, its classes included: with the rule centre, a still video gives its features and logits. Published
video networks (mvitv2_small_16x4 and the like) get all that has a counterpart, and a new head. The report says what is
sure and what is not. The predictor mixvit3d_predictor gets its translator's blocks from an image MixViT.

Example:
    python tools/inflate.py --checkpoint MViTv2_T_in1k.pyth --model mvitv2_tiny_16f --output mvitv2_tiny_16f.pt
    python tools/inflate.py --checkpoint MixViT_T_224.pth.tar --model mixvit3d_predictor --output predictor.pt

Writes a checkpoint of stvit's own, to train on from or to predict with; whole, or not at all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from stvit.backbones.base import Backbone
from stvit.backbones.mixvit import MixViT
from stvit.checkpoint import model_from_checkpoint, pack_model, save_checkpoint
from stvit.checkpoint.load import in_our_layout, load_into, open_checkpoint
from stvit.checkpoint.recognise import adapted_settings, registered_name
from stvit.checkpoint.save import refuse_overwriting
from stvit.checkpoint.unwrap import find_weights, running_mean
from stvit.cli import ArgumentParser, run
from stvit.errors import UserError
from stvit.inflation import Inflated, inflate_into, video_network
from stvit.inflation_predictor import inflate_into_predictor
from stvit.inflation_rules import RULES
from stvit.model import Model
from stvit.predictors.mixvit3d import MixViT3DPredictor, Predictor3DSpec
from stvit.registry import create_model, model_spec


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, inflate, write, report."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="an image network's weights, in any known layout")
    parser.add_argument("--model", required=True, help="the video network, for example mvitv2_tiny_16f, or predictor")
    parser.add_argument("--rule", choices=RULES, default="centre", help="how kernels grow in time (default: centre)")
    parser.add_argument("--output", required=True, help="the file to write; its folder must exist")
    options = parser.parse_args(argv)
    refuse_overwriting(options.checkpoint, options.output)
    torch.manual_seed(0)  # what the image network has no weights for is the same each time
    model, inflated = inflated_model(options.checkpoint, options.model, options.rule)
    save_checkpoint(options.output, pack_model(model))
    print(inflated)
    print(f"{'written':<12}  {options.output}, a checkpoint of {model.model_name}")


def inflated_model(file: str, name: str, rule: str) -> tuple[Model, Inflated]:
    """The video network or predictor ``name`` with the weights in ``file``, and what became of each.

    Raises:
        UserError: no video network, or a checkpoint that is not an image network's or not that of this one.
    """
    row, chosen = model_spec(name), next(r for r in RULES if r == rule)
    size: tuple[int, ...] = getattr(row, "input_size", ())
    if not isinstance(row, Predictor3DSpec) and len(size) != 3:
        raise UserError(f"--model {name} is no video classifier: give one, such as mvitv2_tiny_16f")
    image = image_network(file)
    # For its own row, the checkpoint's settings, such as other classes, are the video network's.
    model = video_network(image, size[0]) if name == f"{image.model_name}_16f" else create_model(name)
    try:
        if isinstance(model, MixViT3DPredictor):
            if not isinstance(image, MixViT):
                raise UserError("its translator is made of MixViT's blocks: give an image MixViT's checkpoint")
            return model, inflate_into_predictor(model, image, rule=chosen)
        assert isinstance(model, Backbone)
        return model, inflate_into(model, image, rule=chosen)
    except UserError as error:
        raise UserError(f"{file} (of {image.model_name}) cannot become {name}: {error}") from error


def image_network(file: str) -> Backbone[Any]:
    """The image network that a checkpoint of any layout is of, with its weights."""
    checkpoint, source = open_checkpoint(file)
    if str(checkpoint.get("format", "")).startswith("stvit-checkpoint-"):
        model = model_from_checkpoint(file)
    else:
        weights, _ = find_weights(checkpoint, source, ema=running_mean(checkpoint) is not None)
        found = in_our_layout(weights, checkpoint, source).weights
        if (name := registered_name(found)) is None:
            raise UserError(f"{source} is of no network of stvit that can be inflated: give an image backbone's")
        model = create_model(name, **adapted_settings(found, name))  # type: ignore[arg-type]
        load_into(model, checkpoint, source)
    if not isinstance(model, Backbone) or len(model.spec.input_size) != 2:
        title = getattr(model, "model_name", type(model).__name__)
        raise UserError(f"{source} is of {title}, which is no image network: give the image network's checkpoint")
    return model


if __name__ == "__main__":
    sys.exit(run(main))
