"""Multiply-accumulates of a model, counted by fvcore."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def count_macs(model: nn.Module, *inputs: Tensor) -> Counter[str]:
    """Multiply-accumulates of one forward pass by operator; ``sum(counts.values())`` is the papers' "FLOPs".

    Convolutions, linear layers and attention products are counted, and norms as fvcore counts them; element-wise
    operators are not. fvcore gives fused attention zero and takes norms of up to five axes: two handles mend that.
    """
    from fvcore.nn import FlopCountAnalysis  # only counting needs it

    training = model.training
    analysis = FlopCountAnalysis(model.eval(), inputs)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("aten::layer_norm", _layer_norm_macs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            counts = analysis.by_operator()
    finally:
        logger.setLevel(level)
        model.train(training)
    return Counter({name: int(value) for name, value in counts.items() if value})


def _attention_macs(inputs: Sequence[object], outputs: Sequence[object]) -> Counter[str]:
    query, key, value = (v.type().sizes() for v in inputs[:3])  # type: ignore[attr-defined]
    return Counter({"matmul": math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]})


def _layer_norm_macs(inputs: Sequence[object], outputs: Sequence[object]) -> Counter[str]:
    """As fvcore counts norms with weight and bias: five a value."""
    return Counter({"layer_norm": 5 * math.prod(inputs[0].type().sizes())})  # type: ignore[attr-defined]
