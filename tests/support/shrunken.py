"""Every registered backbone small enough for a test: one block a stage, narrow, the smallest legal size.

A new family adds rows to ``SHRUNKEN``; the suites in tests/backbones run over all of them.
"""

import torch

import stvit

MVIT = {"depths": (1, 1, 1, 1), "width": 8, "num_classes": 5, "drop_path": 0.0}
IMAGE = {**MVIT, "input_size": (64, 64)}
CLIP = {**MVIT, "input_size": (4, 64, 64), "head_dropout": 0.0}

SHRUNKEN = {
    "mvitv2_tiny": IMAGE,
    "mvitv2_large": {**IMAGE, "heads": 2},
    "mvitv2_huge_in21k": {**IMAGE, "width": 12},
    "mvitv2_small_16x4": CLIP,
    "mvitv2_tiny_16f": CLIP,
    "mvitv2_base_in21k_16f": CLIP,
}


def build(name: str, **more: object) -> torch.nn.Module:
    """The shrunken row with seeded weights, evaluation mode; position tables large enough to count."""
    torch.manual_seed(0)
    model = stvit.create_model(name, **{**SHRUNKEN[name], **more}).eval()
    for key, parameter in model.named_parameters():
        if "rel_pos" in key or "cls_token" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def example(model: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    """A batch of the nominal size."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *model.spec.input_size, generator=generator)
