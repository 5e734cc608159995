"""Every registered backbone small enough for a test: one block a stage, narrow, the smallest legal size.

A new family adds rows to ``SHRUNKEN``; the suites in tests/backbones run over all of them.
"""

import torch

import stvit

MVIT = {"depths": (1, 1, 1, 1), "width": 8, "num_classes": 5, "drop_path": 0.0}
IMAGE = {**MVIT, "input_size": (64, 64)}
CLIP = {**MVIT, "input_size": (4, 64, 64), "head_dropout": 0.0}

MIXVIT = {
    **{"widths": (8, 16, 16, 32), "depths": (1, 1, 1, 1), "stem_width": 8, "dim_head": 8},
    **{"channel_heads": (2, 2, 4, 4), "head_hidden": 16, "num_classes": 5, "drop_path": 0.0},
}

MPVIT = {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "paths": (2, 1, 1, 1), "num_classes": 5, "drop_path": 0.0}

MIXFORMER = {
    **{"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "head_width": 24},
    **{"num_classes": 5, "drop_path": 0.0},
}

SHRUNKEN = {
    "mvitv2_tiny": IMAGE,
    "mvitv2_large": {**IMAGE, "heads": 2},
    "mvitv2_huge_in21k": {**IMAGE, "width": 12},
    "mvitv2_small_16x4": CLIP,
    "mvitv2_tiny_16f": CLIP,
    "mvitv2_base_in21k_16f": CLIP,
    "mixvit_t_224": {**MIXVIT, "input_size": (64, 64), "window": (2, 2)},
    "mixvit_t_224_16f": {**MIXVIT, "input_size": (4, 64, 64), "window": (2, 2, 2)},
    "mpvit_tiny": {**MPVIT, "input_size": (64, 64)},
    "mpvit_tiny_16f": {**MPVIT, "input_size": (4, 64, 64)},
    "mixformer_b1": {**MIXFORMER, "input_size": (64, 64)},
    "mixformer_b1_16f": {**MIXFORMER, "input_size": (6, 64, 64), "window": (2, 7, 7)},
}


def build(name: str, **more: object) -> torch.nn.Module:
    """The shrunken row with seeded weights, evaluation mode; position tables large enough to count."""
    torch.manual_seed(0)
    model = stvit.create_model(name, **{**SHRUNKEN[name], **more}).eval()
    for key, parameter in model.named_parameters():
        if "rel_pos" in key or "cls_token" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            torch.nn.init.normal_(buffer, std=0.1)
        elif key.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.8, 1.2)
    return model


def example(model: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    """A batch of the nominal size."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *model.spec.input_size, generator=generator)
