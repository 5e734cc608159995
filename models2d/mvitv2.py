"""MViTv2 for images: rows and their registration."""

import dataclasses

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.preprocessing import Preprocessing
from stvit.registry import Weights, register_model

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


_ZOO = "https://dl.fbaipublicfiles.com/mvit/mvitv2_models"
_IN1K = "ImageNet-1k from scratch, 300 epochs; top-1 {} %, centre crop 224 of 256"
_IN21K = "ImageNet-21k, 19,168 classes{}"


def _official(name: str, protocol: str) -> tuple[Weights, ...]:
    return (Weights(url=f"{_ZOO}/MViTv2_{name}.pyth", protocol=protocol, licence="Apache-2.0"),)


# Of facebookresearch/mvit, whose repository has the licence; digests are not published. There is no 1,000-class huge.
IMAGE_WEIGHTS = {
    "mvitv2_tiny": _official("T_in1k", _IN1K.format("82.3")),
    "mvitv2_small": _official("S_in1k", _IN1K.format("83.6")),
    "mvitv2_base": _official("B_in1k", _IN1K.format("84.4")),
    "mvitv2_large": _official("L_in1k", _IN1K.format("85.3")),
    "mvitv2_base_in21k": _official("B_in21k", _IN21K.format("; no accuracy published")),
    "mvitv2_large_in21k": _official("L_in21k", _IN21K.format("; 87.5 % on ImageNet-1k after fine-tuning")),
    "mvitv2_huge_in21k": _official("H_in21k", _IN21K.format("; 88.0 % on ImageNet-1k after fine-tuning")),
}


def _preprocessing(spec: MViTSpec) -> Preprocessing:
    height, width = spec.input_size
    return Preprocessing(task="classification", input_size=(height, width), channels=spec.in_channels)


for _name, _spec in IMAGE_VARIANTS.items():
    register_model(_name, MViT, _spec, _preprocessing, IMAGE_WEIGHTS.get(_name, ()))
