"""stvit: vision transformers for images, for video, and for the frames that come next."""

import stvit.models2d
import stvit.models3d  # noqa: F401  (registers the models)
from stvit.checkpoint import LoadReport, load_checkpoint
from stvit.engine.class_prediction import ClassPrediction
from stvit.engine.classify_clips import ClipPrediction
from stvit.engine.predict import Prediction, predict
from stvit.engine.predict_frames import FramePrediction
from stvit.errors import UserError
from stvit.hub import from_pretrained
from stvit.inflation import inflate
from stvit.preprocessing import Preprocessing
from stvit.registry import create_model, list_models

__version__ = "0.1.0"

__all__ = [
    "ClassPrediction",
    "ClipPrediction",
    "FramePrediction",
    "LoadReport",
    "Prediction",
    "Preprocessing",
    "UserError",
    "create_model",
    "from_pretrained",
    "inflate",
    "list_models",
    "load_checkpoint",
    "predict",
]
