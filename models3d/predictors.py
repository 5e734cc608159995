"""Frame predictors: rows and their registration."""

from stvit.predictors.mixvit import MixViTPredictor, PredictorSpec
from stvit.preprocessing import Preprocessing
from stvit.registry import register_model

PREDICTORS = {
    # As published: 37.571 M parameters, 14.00 GMACs for 10 frames of 64 x 64.
    "mixvit_predictor": PredictorSpec(),
}


def _preprocessing(spec: PredictorSpec) -> Preprocessing:
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
