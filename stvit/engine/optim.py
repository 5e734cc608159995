"""Optimisers, learning-rate schedules per step, number formats, and the running mean of the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from stvit.errors import UserError
from stvit.model import Model

# Range of Adam's beta1 in a one-cycle run: high while the learning rate is low (torch's defaults).
ONECYCLE_BETA1 = (0.85, 0.95)


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """Adam or AdamW; biases, norms and the names of ``model.no_weight_decay()`` do not decay."""
    spared = model.no_weight_decay() if isinstance(model, Model) else ()
    groups = param_groups_weight_decay(model, cfg.SOLVER.WEIGHT_DECAY, no_weight_decay_list=spared)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.SOLVER.OPTIMIZING_METHOD]
    first, second = cfg.SOLVER.BETAS
    return kind(groups, lr=cfg.SOLVER.BASE_LR, betas=(first, second))


def build_scheduler(optimizer: torch.optim.Optimizer, cfg: CfgNode, steps_per_epoch: int) -> LRScheduler:
    """The learning rate as a function of the optimiser step; call ``step()`` after each.

    ``onecycle``: Smith & Topin (arXiv:1708.07120) as in torch, cosine up and down, beta1 mirrored;
    ``cosine``: see :func:`cosine_lr`.

    Raises:
        UserError: a one-cycle run so short that its rise is a single step.
    """
    total = cfg.SOLVER.MAX_EPOCH * steps_per_epoch
    if cfg.SOLVER.LR_POLICY == "onecycle":
        if cfg.SOLVER.ONECYCLE_PCT_START * total == 1:  # torch divides by this minus one
            raise UserError(f"a run of {total} steps rises in one (SOLVER.ONECYCLE_PCT_START); make it longer")
        low, high = ONECYCLE_BETA1
        return OneCycleLR(
            optimizer,
            max_lr=cfg.SOLVER.BASE_LR,
            total_steps=total,
            pct_start=cfg.SOLVER.ONECYCLE_PCT_START,
            div_factor=cfg.SOLVER.ONECYCLE_DIV,
            final_div_factor=cfg.SOLVER.ONECYCLE_FINAL_DIV,
            base_momentum=low,
            max_momentum=high,
        )
    warmup = round(cfg.SOLVER.WARMUP_EPOCHS * steps_per_epoch)
    start, peak, end = cfg.SOLVER.WARMUP_START_LR, cfg.SOLVER.BASE_LR, cfg.SOLVER.COSINE_END_LR
    return LambdaLR(optimizer, lambda step: cosine_lr(step, total, warmup, start, peak, end) / peak)


def cosine_lr(step: int, total: int, warmup: int, start: float, peak: float, end: float) -> float:
    """``warmup`` steps on a line above ``start``, ``peak`` at step ``warmup``, then half a cosine down to ``end``.

    The first step is one stride above ``start``; the last of the run, ``total - 1``, has exactly ``end``.
    """
    if step < warmup:
        return start + (peak - start) * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Precision:
    """The number format of the network's forward pass; losses, gradients and weights stay float32."""

    name: str  # fp32, bf16 or fp16
    device: torch.device
    scaler: torch.amp.GradScaler  # passes everything through unless the format is fp16

    def autocast(self) -> AbstractContextManager[object]:
        """Around the forward pass."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name != "fp32")


def build_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 where the GPU computes in it and fp32 otherwise.

    Raises:
        UserError: bf16 on a GPU that has none.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        name = "bf16" if has_bf16 else "fp32"
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise UserError("TRAIN.PRECISION is 'bf16', but this GPU does not compute in it; use fp16 or fp32")
    return Precision(name, device, torch.amp.GradScaler(device.type, enabled=name == "fp16"))


def build_ema(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """A running mean of weights and buffers; short runs start from a smaller decay, 1 - step^(-2/3)."""
    return ModelEmaV3(model, decay=decay, use_warmup=True) if decay else None


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to a joint L2 norm of ``limit`` (0: leave them); returns the norm before, ``()``."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
