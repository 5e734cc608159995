"""MixFormer for images: rows and their registration. No weights were published."""

from stvit.backbones.mixformer import MixFormer, MixFormerSpec
from stvit.preprocessing import for_classifier
from stvit.registry import register_model


def _row(width: int, depths: tuple[int, ...], heads: int, drop_path: float) -> MixFormerSpec:
    """Widths and heads of the first stage, which double with every stage."""
    stages = range(len(depths))
    return MixFormerSpec(
        widths=tuple(width * 2**stage for stage in stages),
        depths=depths,
        heads=tuple(heads * 2**stage for stage in stages),
        drop_path=drop_path,
    )


IMAGE_VARIANTS = {
    "mixformer_b0": _row(24, (1, 2, 6, 6), heads=3, drop_path=0.0),
    "mixformer_b1": _row(32, (1, 2, 6, 6), heads=2, drop_path=0.0),
    "mixformer_b2": _row(32, (2, 2, 8, 8), heads=2, drop_path=0.05),
    "mixformer_b3": _row(48, (2, 2, 8, 6), heads=3, drop_path=0.1),
    "mixformer_b4": _row(64, (2, 2, 8, 8), heads=4, drop_path=0.2),
    "mixformer_b5": _row(96, (1, 2, 8, 6), heads=6, drop_path=0.3),
    "mixformer_b6": _row(96, (2, 4, 16, 12), heads=6, drop_path=0.5),
}

for _name, _spec in IMAGE_VARIANTS.items():
    register_model(_name, MixFormer, _spec, for_classifier)
