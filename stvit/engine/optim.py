"""Optimisers, learning-rate schedules per step, number formats, and the running mean of the weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from stvit.config.derived import learning_rates
from stvit.errors import UserError
from stvit.model import Model

# Range of Adam's beta1 in a one-cycle run: high while the learning rate is low (torch's defaults).
ONECYCLE_BETA1 = (0.85, 0.95)


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW with the learning rates and weight decays of :func:`parameter_groups`.

    On a GPU one kernel of Adam updates many weights at once, and the host never waits for it ("fused"). SGD's leaves
    its momentum unset where fp16 skips the first step, and is not used.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(model, cfg)
    rate = learning_rates(cfg).base
    if solver.OPTIMIZING_METHOD == "sgd":
        return torch.optim.SGD(
            groups, lr=rate, momentum=solver.MOMENTUM, dampening=solver.DAMPENING, nesterov=solver.NESTEROV
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZING_METHOD]
    first, second = solver.BETAS
    fused = all(p.is_cuda for p in model.parameters()) or None
    return kind(groups, lr=rate, betas=(first, second), fused=fused)


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, object]]:
    """Parameters that share a weight decay and, with SOLVER.LAYER_DECAY, a learning rate.

    Weights of one axis and biases do not decay (SOLVER.ZERO_WD_1D_PARAM), nor do the names of the model's
    ``no_weight_decay()`` (SOLVER.ZERO_WD_POS_CLS). A layer ``n`` below the head learns at LAYER_DECAY to the power of
    ``n`` times the base rate (Clark et al., arXiv:2003.10555); the layers are those of ``model.group_matcher()``. The
    first group always has the base rate.

    Raises:
        UserError: SOLVER.LAYER_DECAY for a model that does not say which layers it has.
    """
    solver = cfg.SOLVER
    spared = model.no_weight_decay() if isinstance(model, Model) and solver.ZERO_WD_POS_CLS else set()
    if solver.LAYER_DECAY < 1:
        if not hasattr(model, "group_matcher"):
            raise UserError(
                f"SOLVER.LAYER_DECAY is {solver.LAYER_DECAY}, but {type(model).__name__} does not say which layers it "
                "has (group_matcher): set it to 1"
            )
        groups = param_groups_layer_decay(
            model,
            solver.WEIGHT_DECAY,
            no_weight_decay_list=spared,
            weight_decay_exclude_1d=solver.ZERO_WD_1D_PARAM,
            layer_decay=solver.LAYER_DECAY,
        )
        rate = learning_rates(cfg).base
        for group in groups:
            group["lr"] = rate * group.pop("lr_scale")
        return sorted(groups, key=lambda group: -group["lr"])
    if solver.ZERO_WD_1D_PARAM:
        return param_groups_weight_decay(model, solver.WEIGHT_DECAY, no_weight_decay_list=spared)
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (stays if name in spared else decays).append(parameter)
    both = ((decays, solver.WEIGHT_DECAY), (stays, 0.0))
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in both if parameters]


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
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total,
            pct_start=cfg.SOLVER.ONECYCLE_PCT_START,
            div_factor=cfg.SOLVER.ONECYCLE_DIV,
            final_div_factor=cfg.SOLVER.ONECYCLE_FINAL_DIV,
            base_momentum=low,
            max_momentum=high,
        )
    warmup = round(cfg.SOLVER.WARMUP_EPOCHS * steps_per_epoch)
    peak, start, end = learning_rates(cfg)
    after = cfg.SOLVER.COSINE_AFTER_WARMUP
    return LambdaLR(optimizer, lambda step: cosine_lr(step, total, warmup, start, peak, end, after) / peak)


def cosine_lr(
    step: int, total: int, warmup: int, start: float, peak: float, end: float, after_warmup: bool = True
) -> float:
    """``warmup`` steps on a line above ``start``, then half a cosine from ``peak`` down to ``end``.

    The first step is one stride above ``start``; the last of the run, ``total - 1``, has exactly ``end``. The cosine
    begins at step ``warmup``, or with ``after_warmup`` False at step 0: the line then leads to where it is by
    ``warmup``, and ``peak`` is not reached.
    """
    begin = warmup if after_warmup else 0
    progress = (max(step, warmup) - begin) / max(1, total - 1 - begin)
    cosine = end + (peak - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return start + (cosine - start) * (step + 1) / (warmup + 1) if step < warmup else cosine


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
