"""Frame predictors: rows and their registration."""

from stvit.predictors.mixvit import FrameSpec, MixViTPredictor, PredictorSpec
from stvit.predictors.mixvit3d import MixViT3DPredictor, Predictor3DSpec
from stvit.preprocessing import Preprocessing
from stvit.registry import register_model

PREDICTORS = {
    # As published: 37.571 M parameters, 14.00 GMACs for 10 frames of 64 x 64.
    "mixvit_predictor": PredictorSpec(),
    # The one that stvit ships: 1.38 M parameters, small enough to be trained in an hour or two on two CPU cores.
    "mixvit_predictor_tiny": PredictorSpec(
        hidden_spatial=12,
        hidden_translator=120,
        dim_head=24,
        channel_heads=6,
        channel_mlp_ratio=4.0,
        drop_path=0.0,
        first_drop_path=0.0,
    ),
    # The demo's: 1.1 M parameters, for 48 x 48 frames (any multiple of 24) and minutes of training on two CPU cores.
    "mixvit_predictor_mini": PredictorSpec(
        hidden_spatial=8,
        hidden_translator=128,
        window=(6, 6),
        dim_head=16,
        channel_heads=8,
        channel_mlp_ratio=4.0,
        drop_path=0.0,
        first_drop_path=0.0,
        image_size=(48, 48),
    ),
}

PREDICTORS_3D = {
    # 12.55 M parameters, 13.30 GMACs for 10 frames of 64 x 64; its blocks are those of mixvit_t_224's stages 1 and 2.
    "mixvit3d_predictor": Predictor3DSpec(),
    # The demo's and the study's, for 48 x 48 frames (any multiple of 8): 0.51 M parameters.
    "mixvit3d_predictor_mini": Predictor3DSpec(
        hidden_spatial=8,
        encoder_depth=4,
        mixing_width=32,
        mixing_groups=1,
        widths=(48,),
        down_depths=(1,),
        up_depths=(1,),
        window=(3, 3),
        dim_head=24,
        channel_heads=(8,),
        drop_path=0.0,
        image_size=(48, 48),
    ),
}


def _preprocessing(spec: FrameSpec) -> Preprocessing:
    return Preprocessing(
        task="prediction",
        input_size=spec.image_size,
        channels=spec.channels,
        mean=(0.0,) * spec.channels,
        std=(1.0,) * spec.channels,
        interpolation="bilinear",
        crop_fraction=1.0,
        frames=spec.in_frames,
        out_frames=spec.out_frames,
    )


for _name, _spec in PREDICTORS.items():
    register_model(_name, MixViTPredictor, _spec, _preprocessing)

for _name, _spec_3d in PREDICTORS_3D.items():
    register_model(_name, MixViT3DPredictor, _spec_3d, _preprocessing)
