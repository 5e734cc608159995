"""MixFormer for video: the image networks inflated to 16 frames, which the stem makes 8."""

from stvit.backbones.mixformer import MixFormer
from stvit.inflation import inflate_spec
from stvit.models2d.mixformer import IMAGE_VARIANTS
from stvit.preprocessing import for_classifier, tested_on_clips
from stvit.registry import register_model

# A still clip gives the features of its frame, once the image network's weights are loaded.
INFLATED_VARIANTS = {f"{name}_16f": inflate_spec(spec, 16) for name, spec in IMAGE_VARIANTS.items()}

for _name, _spec in INFLATED_VARIANTS.items():
    register_model(_name, MixFormer, _spec, tested_on_clips(for_classifier))
