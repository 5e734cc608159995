"""MViTv2 for video: the published networks, and the image networks inflated to 16 frames."""

import dataclasses

from stvit.backbones.mvit import MViT, MViTSpec
from stvit.models2d.mvitv2 import BASE, IMAGE_VARIANTS, LARGE, SMALL
from stvit.preprocessing import Preprocessing
from stvit.registry import register_model


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


def _inflated(image: MViTSpec) -> MViTSpec:
    """An image network with time as a third axis, such that a still clip gives the features of its frame."""
    return dataclasses.replace(
        image,
        input_size=(16, *image.input_size),
        patch_kernel=(3, *image.patch_kernel),
        patch_stride=(2, *image.patch_stride),
        pool_kernel=(3, *image.pool_kernel),
        q_stride=(1, *image.q_stride),
        kv_stride=(1, *image.kv_stride),
        balance_class_token=image.class_token,
    )


INFLATED_VARIANTS = {f"{name}_16f": _inflated(spec) for name, spec in IMAGE_VARIANTS.items()}

KINETICS = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


def _kinetics_preprocessing(spec: MViTSpec) -> Preprocessing:
    frames, height, width = spec.input_size
    return Preprocessing(
        task="classification",
        input_size=(height, width),
        channels=spec.in_channels,
        interpolation="bilinear",
        frames=frames,
        **KINETICS,  # type: ignore[arg-type]
    )


def _image_preprocessing(spec: MViTSpec) -> Preprocessing:
    """ImageNet's mean and deviation: those of the image weights, and of the published large network."""
    frames, height, width = spec.input_size
    return Preprocessing(task="classification", input_size=(height, width), channels=spec.in_channels, frames=frames)


for _name, _spec in VIDEO_VARIANTS.items():
    _large = _name == "mvitv2_large_40x3"
    register_model(_name, MViT, _spec, _image_preprocessing if _large else _kinetics_preprocessing)
for _name, _spec in INFLATED_VARIANTS.items():
    register_model(_name, MViT, _spec, _image_preprocessing)
