"""MPViT for images: rows and their registration."""

from stvit.backbones.mpvit import MPViT, MPViTSpec
from stvit.preprocessing import for_classifier
from stvit.registry import Weights, register_model

IMAGE_VARIANTS = {
    "mpvit_tiny": MPViTSpec(widths=(64, 96, 176, 216), depths=(1, 2, 4, 1), mlp_ratio=2.0),
    "mpvit_xsmall": MPViTSpec(widths=(64, 128, 192, 256), depths=(1, 2, 4, 1)),
    "mpvit_small": MPViTSpec(widths=(64, 128, 216, 288), depths=(1, 3, 6, 3), drop_path=0.05),
    "mpvit_base": MPViTSpec(widths=(128, 224, 368, 480), depths=(1, 3, 8, 3), drop_path=0.3),
}


def _official(file: str, top1: str) -> tuple[Weights, ...]:
    return (
        Weights(
            url=f"https://dl.dropbox.com/s/{file}",
            protocol=f"ImageNet-1k from scratch, 300 epochs; top-1 {top1} %, centre crop 224 of 256",
            licence="GPL-3.0 or commercial",
        ),
    )


# Of youngwanLEE/MPViT, whose repository has the licence; digests are not published.
IMAGE_WEIGHTS = {
    "mpvit_tiny": _official("1cmquqyjmaeeg1n/mpvit_tiny.pth", "78.2"),
    "mpvit_xsmall": _official("vvpq2m474g8tvyq/mpvit_xsmall.pth", "80.9"),
    "mpvit_small": _official("y3dnmmy8h4npz7a/mpvit_small.pth", "83.0"),
    "mpvit_base": _official("la8w31m0apj2830/mpvit_base.pth", "84.3"),
}

for _name, _spec in IMAGE_VARIANTS.items():
    register_model(_name, MPViT, _spec, for_classifier, IMAGE_WEIGHTS[_name])
