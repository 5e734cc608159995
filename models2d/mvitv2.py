"""MViTv2 for images: rows and their registration."""

import dataclasses

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.preprocessing import Preprocessing
from stvit.registry import register_model

TINY = MViTSpec(depths=(1, 2, 5, 2))
SMALL = MViTSpec(depths=(1, 2, 11, 2))
BASE = MViTSpec(depths=(2, 3, 16, 3), drop_path=0.3)
LARGE = MViTSpec(depths=(2, 6, 36, 4), width=144, heads=2, drop_path=0.5)
HUGE = MViTSpec(depths=(4, 8, 60, 8), width=192, heads=3, drop_path=0.5)  # drop path not published


def _in21k(spec: MViTSpec) -> MViTSpec:
    """The form trained on ImageNet-21k (winter 2021): a class token, and 19,168 classes."""
    return dataclasses.replace(spec, num_classes=19168, class_token=True, head_pooling="class_token")


IMAGE_VARIANTS = {
    "mvitv2_tiny": TINY,
    "mvitv2_small": SMALL,
    "mvitv2_base": BASE,
    "mvitv2_large": dataclasses.replace(LARGE, widen_in_attention=False),  # alone of all variants
    "mvitv2_huge": HUGE,
    "mvitv2_base_in21k": _in21k(BASE),
    "mvitv2_large_in21k": _in21k(LARGE),
    "mvitv2_huge_in21k": _in21k(HUGE),
}


def _preprocessing(spec: MViTSpec) -> Preprocessing:
    height, width = spec.input_size
    return Preprocessing(task="classification", input_size=(height, width), channels=spec.in_channels)


for _name, _spec in IMAGE_VARIANTS.items():
    register_model(_name, MViT, _spec, _preprocessing)
