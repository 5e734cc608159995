"""MViTv2 for video: the published networks, and the image networks inflated to 16 frames."""

import dataclasses
from functools import partial

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.inflation import inflate_spec
from stvit.models2d.mvitv2 import BASE, IMAGE_VARIANTS, IMAGE_WEIGHTS, LARGE, SMALL
from stvit.preprocessing import Preprocessing, for_classifier, tested_on_clips
from stvit.registry import Weights, register_model


def _published(image: MViTSpec, input_size: tuple[int, int, int], drop_path: float) -> MViTSpec:
    """A Kinetics-400 network: every second frame begins a patch; keys and values stride by 8 at first."""
    return dataclasses.replace(
        image,
        input_size=input_size,
        num_classes=400,
        patch_kernel=(3, 7, 7),
        patch_stride=(2, 4, 4),
        pool_kernel=(3, 3, 3),
        q_stride=(1, 2, 2),
        kv_stride=(1, 8, 8),
        class_token=True,
        head_pooling="class_token",
        drop_path=drop_path,
        head_dropout=0.5,
    )


# The names say frames x spacing: 16 frames, every 4th of the video.
VIDEO_VARIANTS = {
    "mvitv2_small_16x4": _published(SMALL, (16, 224, 224), 0.2),
    "mvitv2_base_32x3": _published(BASE, (32, 224, 224), 0.3),
    "mvitv2_large_40x3": _published(LARGE, (40, 312, 312), 0.75),
}


# A still clip gives the features of its frame, once the image network's weights are loaded.
INFLATED_VARIANTS = {f"{name}_16f": inflate_spec(spec, 16) for name, spec in IMAGE_VARIANTS.items()}

_ZOO = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/mvitv2/pysf_video_models"


def _official(file: str, protocol: str) -> Weights:
    return Weights(url=f"{_ZOO}/{file}", protocol=f"Kinetics-400, {protocol}", licence="Apache-2.0", tag="k400")


# Of SlowFast, whose repository has the licence; digests are not published. torchvision's file names hold 8 digits.
VIDEO_WEIGHTS = {
    "mvitv2_small_16x4": (
        _official("MViTv2_S_16x4_k400_f302660347.pyth", "from scratch; top-1 81.0 %, top-5 94.6 %, 5 clips x 1 crop"),
        Weights(
            url="https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth",
            protocol="Kinetics-400, torchvision's port; top-1 80.757 %, top-5 94.665 %, 5 clips x 1 crop",
            licence="BSD-3-Clause",
            sha256="ae3be167",
            tag="k400_torchvision",
        ),
    ),
    "mvitv2_base_32x3": (
        _official("MViTv2_B_32x3_k400_f304025456.pyth", "from scratch; top-1 82.9 %, top-5 95.7 %, 5 clips x 1 crop"),
    ),
    "mvitv2_large_40x3": (
        _official("MViTv2_L_40x3_k400_f306903192.pyth", "at 312x312; top-1 86.1 %, top-5 97.0 %, 5 clips x 3 crops"),
    ),
}

KINETICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}

# What differs from Preprocessing's defaults in how SlowFast's test files choose and prepare clips; all of its networks
# see frames that were resized bilinearly. The large network was tested on the whole longer side, by three crops.
TEST_PROTOCOLS: dict[str, dict[str, object]] = {
    "mvitv2_small_16x4": {**KINETICS, "sampling_rate": 4, "test_views": 5},
    "mvitv2_base_32x3": {**KINETICS, "sampling_rate": 3, "test_views": 5},
    "mvitv2_large_40x3": {"sampling_rate": 3, "test_views": 5, "test_crops": 3, "crop_fraction": 1.0},
}


def _published_preprocessing(name: str, spec: MViTSpec) -> Preprocessing:
    return for_classifier(spec, interpolation="bilinear", **TEST_PROTOCOLS[name])


for _name, _spec in VIDEO_VARIANTS.items():
    register_model(_name, MViT, _spec, partial(_published_preprocessing, _name), VIDEO_WEIGHTS[_name])
for _name, _spec in INFLATED_VARIANTS.items():
    # The image network's weights, which loading inflates.
    _weights = IMAGE_WEIGHTS.get(_name.removesuffix("_16f"), ())
    register_model(_name, MViT, _spec, tested_on_clips(for_classifier), _weights)
