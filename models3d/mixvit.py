"""MixViT for video: the image networks inflated to 16 frames, which the stem makes 8."""

from stvit.backbones.mixvit import MixViT
from stvit.inflation import inflate_spec
from stvit.models2d.mixvit import IMAGE_VARIANTS, PREPROCESSING
from stvit.preprocessing import tested_on_clips
from stvit.registry import register_model

# A still clip gives the features of its frame, once the image network's weights are loaded.
INFLATED_VARIANTS = {f"{name}_16f": inflate_spec(spec, 16) for name, spec in IMAGE_VARIANTS.items()}

for _name, _spec in INFLATED_VARIANTS.items():
    register_model(_name, MixViT, _spec, tested_on_clips(PREPROCESSING[_name.removesuffix("_16f")]))
