r"""Make the predictor that stvit ships, as ``builtin``, from a finished training run on Moving MNIST.

The best checkpoint's weights are rounded to half precision, and the network with the rounded weights is measured once,
on the run's own test set. The folder then holds model.safetensors, config.json, README.md (the model card) and
SHA256SUMS; all of them are written, or none.

Example:
    python tools/main.py --cfg configs/moving_mnist/builtin.yaml DATA.PATH_TO_DATA_DIR FOLDER_WITH_MNIST
    python tools/ship_predictor.py --run output/builtin --output output/shipped --note "2 threads"

Without --output it replaces what this checkout ships. A run that is not finished, that chose its checkpoint on the test
set or whose network takes more than 12 MB is refused.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode
from safetensors.torch import load, save
from torch import Tensor, nn

from stvit.builtin import DIGESTS
from stvit.checkpoint import model_from_checkpoint, read_checkpoint
from stvit.checkpoint.load import load_into
from stvit.cli import ArgumentParser, run
from stvit.config import config_to_dict, default_config, load_config
from stvit.config.reading import leaves
from stvit.engine.distributed import join_world
from stvit.engine.evaluate import finite
from stvit.engine.evaluate_frames import PROTOCOL, evaluate_frames, label
from stvit.engine.flops import cost, input_shape
from stvit.engine.inference import described_input
from stvit.engine.provenance import code_commit, training_record, versions
from stvit.engine.signals import StopRequest
from stvit.engine.state import number_of_processes
from stvit.engine.tasks import MovingMNISTPrediction
from stvit.errors import UserError
from stvit.hub import CARD, CONFIG, WEIGHTS
from stvit.visual.files import replace_files
from stvit.visual.report import results_table

SHIPPED = Path(__file__).parents[1] / "stvit" / "builtin" / "moving_mnist"
LARGEST = 12e6  # bytes of model.safetensors
METRICS = ("mse", "mae", "ssim", "ssim_range2", "psnr", "psnr_uint8_wrapped")
# What a training checkpoint says of its network and its training; config.json repeats it.
RECORD = ("format", "model", "preprocessing", "epoch", "best", "data", "precision", "versions")
# Folders and files of the machine that trained: only their names are kept, and of those of weights shown in the card.
FOLDERS = ("DATA.PATH_TO_DATA_DIR", "DATA.CACHE_DIR", "OUTPUT_DIR")
PLACES = (*FOLDERS, "TRAIN.CHECKPOINT_FILE_PATH", "MODEL.INIT")
LICENCES = {
    "mnist": "MNIST is Yann LeCun's and Corinna Cortes's, made from NIST's databases, and available under the terms of "
    "the Creative Commons Attribution-Share Alike 3.0 licence (CC BY-SA 3.0). No image of it is in these files.",
    "sklearn": 'The digits are those of scikit-learn, from "Optical Recognition of Handwritten Digits" (E. Alpaydin, '
    "C. Kaynak; UCI Machine Learning Repository), CC BY 4.0. No image of them is in these files.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure, write."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="OUTPUT_DIR of the training run")
    parser.add_argument("--output", type=Path, default=SHIPPED, help="folder to write (default: this checkout's)")
    parser.add_argument("--data", type=Path, help="the folder with the MNIST files (default: where the run had it)")
    parser.add_argument("--note", default="", help="for the card: what the run was trained on, and what else ran there")
    options = parser.parse_args(argv)
    if options.output.is_file():
        raise UserError(f"--output {options.output} is a file; give a folder")
    trained = finished_run(options.run, options.note)
    model = model_from_checkpoint(trained.best_file)
    weights = rounded(model, str(trained.best_file))
    load_into(model, load(weights), "the rounded weights")
    results, text = measured(model, settings(options.run, options.data), trained)
    description = {"library_name": "stvit", **trained.record, "results": results}
    files = {
        WEIGHTS: weights,
        CONFIG: (json.dumps(finite(description), indent=2, allow_nan=False) + "\n").encode(),
        CARD: card(description, len(weights)).encode(),
    }
    files[DIGESTS] = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in files).encode()
    replace_files({options.output / name: content for name, content in files.items()})
    print(text)
    print("\n".join(str(options.output / name) for name in files))


# ---- The run ------------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What a finished run left."""

    best_file: Path
    record: dict[str, Any]  # entries of config.json: RECORD, config and training


def finished_run(folder: Path, note: str) -> Trained:
    """The best checkpoint of a run and what is said of its training.

    Raises:
        UserError: no run, one that is not at its end, of another task, or chosen on the test set.
    """
    best_file, last_file = (folder / "checkpoints" / name for name in ("best.pt", "last.pt"))
    for file in (last_file, folder / "config.yaml"):
        if not file.is_file():
            raise UserError(f"--run {folder} is no folder of a training run: {file} is missing")
    last = dict(read_checkpoint(last_file))
    cfg = CfgNode(last["config"])
    if cfg.DATA.DATASET != "moving_mnist":
        raise UserError(f"--run {folder} was trained on DATA.DATASET {cfg.DATA.DATASET}: give a run on moving_mnist")
    if last["epoch"] < cfg.SOLVER.MAX_EPOCH:
        raise UserError(
            f"--run {folder} has done {last['epoch']} of {cfg.SOLVER.MAX_EPOCH} epochs: give its command again first"
        )
    if not best_file.is_file():
        raise UserError(f"--run {folder} is finished, but {best_file} is missing: give its command again")
    best = dict(read_checkpoint(best_file))
    if training_record(best).chosen_on_test:
        raise UserError(
            f"--run {folder} chose its checkpoint on the test set: train with MOVING_MNIST.VALIDATE_ON_TEST False"
        )
    training = {
        "seconds": last["seconds"],
        "device": f"{cfg.NUM_GPUS} GPU{'s' * (cfg.NUM_GPUS != 1)}" if cfg.NUM_GPUS else "CPU",
        "processes": number_of_processes(last),
        "note": note,
    }
    for key in PLACES:
        group, _, name = key.rpartition(".")
        node = cfg[group] if group else cfg
        node[name] = Path(node[name]).name
    return Trained(
        best_file, {**{key: best[key] for key in RECORD}, "config": config_to_dict(cfg), "training": training}
    )


def settings(folder: Path, data: Path | None) -> CfgNode:
    """The run's settings, to evaluate by on this machine."""
    words = {
        "TRAIN.ENABLE": False,
        "TEST.ENABLE": True,
        "TEST.BASELINES": True,
        "NUM_GPUS": int(torch.cuda.is_available()),
        **({"DATA.PATH_TO_DATA_DIR": data} if data else {}),
    }
    return load_config(str(folder / "config.yaml"), [str(word) for item in words.items() for word in item])


# ---- Weights and figures ------------------------------------------------------------------------------------------


def rounded(model: nn.Module, name: str) -> bytes:
    """The content of model.safetensors: a network's weights and statistics as float16, counts as they are.

    Raises:
        UserError: values beyond float16's, or a file above LARGEST.
    """
    weights: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        weights[key] = value.half().contiguous() if value.is_floating_point() else value
        if not bool(weights[key].isfinite().all()):
            raise UserError(f"{name} holds values in {key} that half precision does not have: train a network without")
    content = save(weights, metadata={"format": "pt"})
    if len(content) > LARGEST:
        raise UserError(
            f"{name} takes {len(content) / 1e6:.1f} MB in half precision, and stvit ships at most {LARGEST / 1e6:.0f}: "
            "train a smaller MODEL.NAME"
        )
    return content


def measured(model: nn.Module, cfg: CfgNode, trained: Trained) -> tuple[dict[str, object], str]:
    """``results`` of config.json, and the table for the screen; one pass over the test set."""
    world = join_world(cfg)
    task = MovingMNISTPrediction(cfg, world)
    model = model.eval().to(world.device)
    outcome = evaluate_frames(cfg, model, task, StopRequest(), training_record(trained.record))
    methods: Any = outcome.results["methods"]
    counted = cost(model, torch.zeros(input_shape(described_input(model), None, cfg.MODEL.NAME), device=world.device))
    results = {
        "test_set": task.describe_test_set(),
        "test_data": task.identity["test"],
        "methods": {name: parts["mean"] for name, parts in methods.items()},
        "protocol": PROTOCOL,
        "notes": outcome.results["notes"],
        "parameters": counted.parameters[""],
        "gmacs": counted.without_wavelet / 1e9,
        "commit": code_commit(),
        "versions": versions(),
        "device": str(world.device) if world.device.type == "cpu" else torch.cuda.get_device_name(world.device),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return results, outcome.text


# ---- The model card -----------------------------------------------------------------------------------------------


def card(described: Mapping[str, Any], size: int) -> str:
    """The content of README.md."""
    results, training, config = described["results"], described["training"], leaves(CfgNode(described["config"]))
    name, takes = described["model"]["name"], described["preprocessing"]
    height, width = takes["input_size"]
    table = results_table(
        {label(method): values for method, values in results["methods"].items()}, METRICS, markdown=True
    )
    epochs, sequences = config["SOLVER.MAX_EPOCH"], config["MOVING_MNIST.TRAIN_SEQUENCES"]
    processes = training["processes"]
    where = f"{training['device']}, {processes} process{'es' * (processes != 1)}"
    note = f" ({training['note']})" if training["note"] else ""
    data = {part: identity(described["data"][part]) for part in ("train", "validation")}
    return f"""---
library_name: stvit
license: apache-2.0
tags:
- pytorch_model_hub_mixin
- model_hub_mixin
---

# `builtin`: a small predictor of moving digits

`{name}` of stvit: {takes["frames"]} grey frames of {height}x{width} pixels in, the next {takes["out_frames"]} out.
It comes with stvit:

```python
result = stvit.predict("docs/bouncing_digit.gif", "builtin")
```

## Figures

Test set: {results["test_set"]}.
Measured once, with the weights as they are in this folder, rounded to half precision. The methods below the network are
extrapolations that need no learning.

{table}

MSE and MAE are sums over a frame. What the last column says is no measure of quality: older tables call it PSNR, and
its squares are taken modulo 256. `results.protocol` in `config.json` says how each is computed.

| parameters | GMACs a sequence | model.safetensors | training |
| ---: | ---: | ---: | ---: |
| {results["parameters"] / 1e6:.3f} M | {results["gmacs"]:.3f} | {size / 1e6:.2f} MB | {training["seconds"]:.0f} s |

## Training

{epochs} epochs of {sequences} new sequences each, by `tools/main.py` of stvit {described["versions"]["stvit"]} with
torch {described["versions"]["torch"]}. Epoch {described["epoch"]} is the best on the validation set (MSE
{described["best"]:.1f} before rounding). The seconds are wall time; trained on: {where}{note}.
RNG_SEED {config["RNG_SEED"]}, numbers in {described["precision"]}. Settings that differ from stvit's defaults
(`config.json` has all):

```yaml
{chosen(config)}
```

- training: {data["train"]}
- validation: {data["validation"]}
- test: {identity(results["test_data"])}

Measured {results["date"][:10]} with torch {results["versions"]["torch"]} on {results["device"]}.

## What it is for

To try prediction and stvit's tools without training, and as a start for one's own training
(`TRAIN.CHECKPOINT_FILE_PATH builtin`). It knows white digits on black that move as those of Moving MNIST do, and
nothing else: other pictures and speeds are predicted badly. `stvit.predict` resizes what it is given to
{height}x{width} pixels. The figures are those of a small and briefly trained network, no benchmark of the method.

## Licences

The weights: Apache-2.0, as stvit. {LICENCES[str(config["MOVING_MNIST.DIGITS"])]}
"""


def chosen(config: Mapping[str, object]) -> str:
    """The settings that are not the defaults and shape the network or its training, a line each."""
    defaults = leaves(default_config())
    left_out = (*FOLDERS, "TEST.", "LOG_PERIOD", "RNG_SEED")
    named = {key: value for key, value in config.items() if not key.startswith(left_out)}
    return "\n".join(f"{key}: {value}" for key, value in named.items() if value != defaults.get(key))


def identity(data: Mapping[str, Any]) -> str:
    """Which sequences a set has, in a line."""
    if data["kind"] == "published file":
        return f"the published {data['file']} (SHA-256 {data['sha256']})"
    made = f"{data['length']} sequences, seed {data['seed']}, of the {data['digit_images']} images of {data['digits']} "
    made += f"(SHA-256 {data['digits_sha256']})"
    return f"{made}, together {data['file']} (SHA-256 {data['sha256']})" if "file" in data else made


if __name__ == "__main__":
    sys.exit(run(main))
