"""Networks of clips beside each other: time, parameters and multiply-accumulates."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.timing import median_seconds
from torch import nn

import stvit
from stvit.engine.flops import input_shape, model_cost

BESIDE = "mvitv2_small_16x4"
ONE_OF_EACH = ["mvitv2_tiny_16f", "mixvit_t_224_16f", "mpvit_tiny_16f", "mixformer_b1_16f"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="alternations")
    parser.add_argument("--models", nargs="+", default=ONE_OF_EACH, metavar="NAME", help="rows of clips")


def measure(args: argparse.Namespace) -> None:
    """Video: clips per second of one network of each family beside mvitv2_small_16x4, one thread, float32."""
    names = list(dict.fromkeys([BESIDE, *args.models]))
    costs = {name: model_cost(name) for name in names}
    contestants: dict[str, Callable[[], object]] = {}
    for name in names:
        model = stvit.create_model(name).eval()
        x = torch.randn(input_shape(model.preprocessing, None, name))
        contestants[name] = partial(infer, model, x)
    seconds = median_seconds(contestants, args.rounds)
    print(f"inference, batch 1, float32, {torch.get_num_threads()} thread, CPU time, medians of {args.rounds} in turns")
    print(f"{'':26}{'input':>18}{'params M':>10}{'GMACs':>9}{'clips/s':>9}{'GMAC/s':>8}  times {BESIDE}")
    for name, cost in costs.items():
        shape, gmacs = "x".join(map(str, cost.input_shape[1:])), cost.total() / 1e9
        print(
            f"{name:26}{shape:>18}{cost.parameters[''] / 1e6:>10.2f}{gmacs:>9.2f}{1 / seconds[name]:>9.3f}"
            f"{gmacs / seconds[name]:>8.1f}  {seconds[BESIDE] / seconds[name]:.2f}"
        )


def infer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(x)
