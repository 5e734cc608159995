"""Lists of tiny videos whose classes are colours, and the settings of a run on them that takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from videos import write_video

SIZE, FRAMES = 32, 4
CLASSES = ("apple", "berry", "curry")
_COLOURS = np.array([[200, 40, 40], [40, 40, 200], [190, 180, 30]])
COUNTS = {"train": 4, "val": 2, "test": 3}  # videos of each class

SETTINGS = {
    "MODEL": {
        "NAME": "mvitv2_small_16x4",
        "NUM_CLASSES": len(CLASSES),
        "ARGS": {"depths": [1, 1, 1, 1], "width": 8, "drop_path": 0.1},
    },
    "DATA": {
        "DATASET": "kinetics",
        "NUM_FRAMES": FRAMES,
        "SAMPLING_RATE": 2,
        "TRAIN_CROP_SIZE": SIZE,
        "TEST_CROP_SIZE": SIZE,
    },
    "TRAIN": {"BATCH_SIZE": 4},
    "TEST": {"BATCH_SIZE": 4, "NUM_ENSEMBLE_VIEWS": 2, "NUM_SPATIAL_CROPS": 3},
    "SOLVER": {"OPTIMIZING_METHOD": "adamw", "LR_POLICY": "cosine", "BASE_LR": 1e-3, "MAX_EPOCH": 2},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
    "LOG_PERIOD": 2,
}


def make_lists(root: Path, counts: Mapping[str, int] = COUNTS, names: bool = True) -> Path:
    """Videos of 32x24 pixels and of different lengths, stripes that move, and ``train.csv`` and so on beside them."""
    generator = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        lines = []
        for label, colour in enumerate(_COLOURS):
            for k in range(count):
                moving = np.arange(32)[None, :] + 2 * np.arange(9 + 2 * k)[:, None]
                stripes = 30 * (moving // (3 + k) % 2)[:, None, :, None]
                pixels = colour + stripes + generator.normal(0, 10, (9 + 2 * k, 24, 32, 3))
                file = write_video(root / f"{part}_{label}_{k}.mp4", pixels.clip(0, 255).astype(np.uint8))
                lines.append(f"{file.name} {CLASSES[label] if names else label}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root
