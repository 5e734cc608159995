"""MixViT for images: rows and their registration."""

import dataclasses
from collections.abc import Callable
from functools import partial

from stvit.backbones.mixvit import MixViT, MixViTSpec
from stvit.preprocessing import Preprocessing, for_classifier
from stvit.registry import register_model

P1 = MixViTSpec(widths=(32, 64, 128, 256), depths=(1, 1, 2, 1), head_hidden=256, drop_path=0.1)
T = MixViTSpec(widths=(64, 128, 256, 512), depths=(1, 2, 3, 1), head_hidden=512, drop_path=0.2)
S = dataclasses.replace(T, depths=(2, 2, 5, 2), stem_width=64, drop_path=0.35)
M = MixViTSpec(
    widths=(80, 160, 320, 640), depths=(2, 2, 6, 2), stem_width=80, dim_head=40, head_hidden=640, drop_path=0.6
)
B = MixViTSpec(widths=(96, 192, 384, 768), depths=(2, 2, 6, 2), stem_width=64, head_hidden=768, drop_path=0.7)


def _sized(spec: MixViTSpec, side: int) -> MixViTSpec:
    """For squares of ``side`` pixels, whose last map is one window."""
    return dataclasses.replace(spec, input_size=(side, side), window=(side // 32, side // 32))


IMAGE_VARIANTS = {
    "mixvit_p1_224": P1,
    "mixvit_p2_224": dataclasses.replace(P1, depths=(1, 2, 3, 1)),
    "mixvit_n_224": dataclasses.replace(P1, depths=(2, 2, 5, 2)),
    "mixvit_t_224": T,
    "mixvit_s_224": S,
    "mixvit_m_224": M,
    "mixvit_b_224": B,
    "mixvit_b_256": _sized(B, 256),
    "mixvit_t_384": _sized(T, 384),
    "mixvit_s_384": _sized(S, 384),
    "mixvit_m_384": _sized(M, 384),
    "mixvit_b_384": _sized(B, 384),
}


def _squashed(spec: MixViTSpec) -> Preprocessing:
    """Of the networks for 384 pixels, which also take pixels of -1 to 1."""
    half = (0.5,) * spec.in_channels
    return for_classifier(spec, crop_fraction=0.95, crop_mode="squash", mean=half, std=half)


def _described(name: str, spec: MixViTSpec) -> Callable[[MixViTSpec], Preprocessing]:
    if name.endswith("384"):
        return _squashed
    return for_classifier if spec.widths == P1.widths else partial(for_classifier, crop_fraction=0.95)


PREPROCESSING = {name: _described(name, spec) for name, spec in IMAGE_VARIANTS.items()}

for _name, _spec in IMAGE_VARIANTS.items():
    register_model(_name, MixViT, _spec, PREPROCESSING[_name])
