"""A training config stepped with one engine setting more at a time: where the speed of a step comes from."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from benchmarks import kernel_times
from benchmarks.figures import Figures, Records, columns, figures_of, line, peak_tflops
from benchmarks.trainee import ConstantSamples, Pace, Subject, Timing, Trainee, time_in_turns
from fvcore.common.config import CfgNode
from torch import nn

from stvit.config import config_to_dict, load_config
from stvit.config.checks import check
from stvit.config.reading import leaves
from stvit.engine.advice import remedy
from stvit.engine.cuda_graph import WARM_UP
from stvit.engine.distributed import World, is_launched, refuse_missing_gpus, seed_everything
from stvit.engine.flops import model_cost
from stvit.engine.optim import build_precision
from stvit.engine.provenance import code_commit, versions
from stvit.engine.run import build_model, refuse_missing_weights
from stvit.engine.steps import Diverged
from stvit.engine.tasks import build_task, model_settings
from stvit.errors import UserError

Result = TypeVar("Result")
Settings = Mapping[str, object]

# Each rung adds its setting to those of the rungs before it.
RUNGS: dict[str, Settings] = {
    "fp32": {
        "TRAIN.PRECISION": "fp32",
        "TRAIN.CHANNELS_LAST": False,
        "TRAIN.COMPILE": False,
        "TRAIN.CUDA_GRAPHS": False,
        "MOVING_MNIST.ON_DEVICE": False,
    },
    "bf16": {"TRAIN.PRECISION": "bf16"},
    "channels-last": {"TRAIN.CHANNELS_LAST": True},
    "compile": {"TRAIN.COMPILE": True},
    "cuda-graphs": {"TRAIN.CUDA_GRAPHS": True},
    "on-device": {"MOVING_MNIST.ON_DEVICE": True},
}
NEED_GPU = ("cuda-graphs", "on-device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg", metavar="FILE", required=True, help="YAML file of settings, as tools/main.py takes it")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 64, 128], metavar="N", help="TRAIN.BATCH_SIZE")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS), help="of the ladder (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="in a window, whose ends are timed (default: 20)")
    parser.add_argument("--windows", type=int, default=5, help="whose median counts (default: 5)")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before the first window (default: 10)")
    parser.add_argument(
        "--profile",
        type=int,
        default=10,
        metavar="N",
        help="steps of the highest rung to profile; 0: none (default: 10)",
    )
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of the chip in bf16 (default: by its name)")
    parser.add_argument("--rival", choices=RIVALS, help="train this library's network in turns with ours")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")
    settings = "settings that differ from the file's; after --cfg FILE"
    parser.add_argument("settings", metavar="KEY VALUE", nargs="*", help=settings)


def measure(args: argparse.Namespace) -> None:
    """Training: ms a step, memory and TFLOP/s of a config from eager fp32 up to CUDA graphs; a profile of the last."""
    refuse_numbers(args)
    with tempfile.TemporaryDirectory() as folder:
        ladder = Ladder(args, Path(folder))
        print("\n".join(ladder.heading()), flush=True)
        ladder.climb()
        if args.rival:
            ladder.race()
        if args.profile:
            ladder.profile()
    if ladder.faults:
        sys.exit(f"error: {ladder.faults} of the measurements failed; what each said is above")


def refuse_numbers(args: argparse.Namespace) -> None:
    """Raise :class:`UserError` for numbers that nothing can be measured with, and for several processes."""
    for option in ("steps", "windows", "warm_up"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} {getattr(args, option)}: at least 1 is needed")
    if args.profile < 0:
        raise UserError(f"--profile {args.profile}: it is a number of steps, or 0 for no profile")
    if min(args.batch) < 1:
        raise UserError(f"--batch {min(args.batch)}: at least 1 is needed")
    if args.peak is not None and not args.peak > 0:
        raise UserError(f"--peak {args.peak:g}: it is TFLOP/s, above 0")
    if is_launched():
        raise UserError("training is measured in one process: start it by python tools/benchmark.py, without torchrun")


class Ladder:
    """The rungs of one config on one machine."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        """Read the settings and try the data.

        Args:
            folder: for what the data set writes and nobody will read.

        Raises:
            UserError: a mistake in settings or data, or nothing that this machine can measure.
        """
        self.args, self.faults = args, 0
        self.cfg = training_config(args.cfg, args.settings, folder)
        self.world = World(torch.device("cuda", 0) if self.cfg.NUM_GPUS else torch.device("cpu"))
        name, settings = model_settings(self.cfg)
        self.cost = model_cost(name, None, **settings)
        self.peak = args.peak or peak_tflops(self.device_name)
        self.rival = RIVALS[args.rival](self.cfg) if args.rival else None
        self.made_up = self.cfg.DATA.DATASET != "moving_mnist"
        for batch in args.batch:
            changed(self.cfg, {"TRAIN.BATCH_SIZE": batch}, f"--batch {batch}")  # whatever the rung, it must be possible
        self.left_out = dict(self._left_out())
        self.rungs = [rung for rung in args.rungs if rung not in self.left_out]
        if not self.rungs:
            raise UserError(f"--rungs: none is left: {'; '.join(f'{k}: {v}' for k, v in self.left_out.items())}")
        self._subject(self._settings(self.rungs[0], args.batch[0]))  # what is wrong with the data is said at once
        self.records = Records(self._about(), self.left_out)
        self.records.write(args.output)

    @property
    def device_name(self) -> str:
        """The GPU's own name, or "CPU"."""
        return torch.cuda.get_device_name(self.world.device) if self.world.device.type == "cuda" else "CPU"

    @property
    def samples(self) -> str:
        """What the samples are called."""
        return {"moving_mnist": "sequences", "imagenet": "images"}.get(self.cfg.DATA.DATASET, "clips")

    def _left_out(self) -> Iterator[tuple[str, str]]:
        for rung in self.args.rungs:
            reason = self._hindrance(rung)
            if reason is not None:
                yield rung, reason

    def _hindrance(self, rung: str) -> str | None:
        """Why this machine cannot measure a rung of this config."""
        if rung == "on-device" and self.made_up:
            return f"the {self.samples} of all rungs are made on the device, once"
        if rung in NEED_GPU and self.world.device.type != "cuda":
            return "needs a GPU, and NUM_GPUS is 0"
        try:
            build_precision(self._settings(rung, self.args.batch[0]).TRAIN.PRECISION, self.world.device)
        except UserError as error:
            return str(error)
        return None

    def _settings(self, rung: str, batch: int) -> CfgNode:
        """The config on a rung, with all that the rungs below it add."""
        names = list(RUNGS)
        settings = {key: value for name in names[: names.index(rung) + 1] for key, value in RUNGS[name].items()}
        if self.made_up:
            del settings["MOVING_MNIST.ON_DEVICE"]
        return changed(self.cfg, {**settings, "TRAIN.BATCH_SIZE": batch}, f"rung {rung}")

    def _subject(self, cfg: CfgNode) -> Subject:
        if not self.made_up:
            return build_task(cfg, self.world)
        shape = (cfg.TRAIN.BATCH_SIZE, *self.cost.input_shape[1:])
        return ConstantSamples(shape, cfg.MODEL.NUM_CLASSES, self.world.device)

    def _about(self) -> dict[str, object]:
        return {
            "benchmark": "train",
            "config": self.args.cfg,
            "settings": config_to_dict(self.cfg),
            "parameters": self.cost.parameters[""],
            "forward_macs_per_sample": self.cost.total(),
            "samples": self.samples,
            "constant_samples": self.made_up,
            "device": self.device_name,
            "peak_tflops": self.peak,
            "versions": {**versions(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
            "commit": code_commit(),
        }

    def heading(self) -> Iterator[str]:
        """What is measured, on what, and what the columns of :func:`line` mean."""
        args, one = self.args, self.samples[:-1]
        peak = f", bf16 peak {self.peak:g} TFLOP/s" if self.peak else ""
        yield (
            f"{self.cfg.MODEL.NAME}: {self.cost.parameters[''] / 1e6:.2f} M parameters, "
            f"{self.cost.total() / 1e9:.2f} GMACs forward a {one}; {self.device_name}{peak}, torch {torch.__version__}"
        )
        if self.made_up:
            views = self.cfg.AUG.NUM_SAMPLE
            more = f"; in a run each of a batch gives AUG.NUM_SAMPLE {views} of them" if views > 1 else ""
            yield f"data: constant {self.samples} of random numbers on the device, neither loaded nor mixed{more}"
        else:
            workers = self.cfg.DATA_LOADER.NUM_WORKERS
            by = f"{workers} workers while the network computes" if workers else "the training process between steps"
            yield f"data: made by {by}, a part of every rung below on-device"
        for rung, reason in self.left_out.items():
            yield f"left out: {rung}: {reason}"
        yield (
            f"medians of {args.windows} windows of {args.steps} steps (shortest and longest beside them); wait: share "
            "of the time in which the host waits for data; GB: the most that torch reserved; TFLOP/s: six times the "
            "GMACs a step; start: what the first steps take more (less where torch's cache on disk holds compiled "
            "code); run: all steps of the config, by the windows' mean"
        )
        yield columns(self.samples)

    def climb(self) -> None:
        """Measure the rungs."""
        for rung in self.rungs:
            for batch in self.args.batch:
                cfg = self._settings(rung, batch)
                self._attempt(rung, batch, cfg, partial(self._measure, rung, cfg))

    def _measure(self, rung: str, cfg: CfgNode) -> None:
        subject, pace = self._subject(cfg), self._pace(cfg)
        trainee = Trainee(partial(self._own_network, cfg), cfg, self.world, subject, pace)
        (timing,) = time_in_turns([trainee], pace)
        epoch = subject.batches_per_epoch // cfg.TRAIN.ACCUMULATE_STEPS
        self._note("stvit", rung, cfg, timing, None if self.made_up else cfg.SOLVER.MAX_EPOCH * epoch)

    def profile(self) -> None:
        """Profile the highest rung that was measured, at the first batch size.

        After all measurements: the profiler may slow down what comes after it, and need not work twice in a process.
        """
        measured = [row for row in self.records.figures if row.rung in RUNGS and row.batch == self.args.batch[0]]
        if measured:
            row = measured[-1]
            cfg = self._settings(row.rung, row.batch)
            self._attempt(f"profile of {row.rung}", row.batch, cfg, partial(self._profile, row, cfg))

    def _profile(self, row: Figures, cfg: CfgNode) -> None:
        pace = replace(self._pace(cfg), steps=self.args.profile, windows=1)
        trainee = Trainee(partial(self._own_network, cfg), cfg, self.world, self._subject(cfg), pace)
        profile = kernel_times.profile_steps(trainee.run, pace.steps, self.world.device, row.ms_per_step / 1e3)
        self.records.profile = {"rung": row.rung, "batch": row.batch, **asdict(profile)}
        self.records.write(self.args.output)
        print(f"\nprofile of {row.rung}, batch {row.batch}, {kernel_times.report(profile)}", flush=True)

    def race(self) -> None:
        """Train the rival's network in turns with ours, eager and compiled in bf16."""
        for rung in (rung for rung in ("bf16", "compile") if rung in self.rungs):
            for batch in self.args.batch:
                cfg = changed(self._settings(rung, batch), {"TRAIN.CHANNELS_LAST": False}, f"rung {rung}")
                self._attempt(f"{rung} in turns", batch, cfg, partial(self._race, f"{rung} in turns", cfg))

    def _race(self, rung: str, cfg: CfgNode) -> None:
        pace, rival = self._pace(cfg), self.rival
        assert rival is not None
        networks: dict[str, Callable[[], nn.Module]] = {
            "stvit": partial(self._own_network, cfg),
            self.args.rival: lambda: rival().to(self.world.device),
        }
        trainees = [Trainee(build, cfg, self.world, self._subject(cfg), pace) for build in networks.values()]
        ours, theirs = timings = time_in_turns(trainees, pace)
        for network, timing in zip(networks, timings, strict=True):
            self._note(network, rung, cfg, timing, None)
        ratio = theirs.step_seconds / ours.step_seconds
        print(f"{rung}, batch {cfg.TRAIN.BATCH_SIZE}: stvit is {ratio:.2f} times as fast as {self.args.rival}")

    def _own_network(self, cfg: CfgNode) -> nn.Module:
        seed_everything(cfg.RNG_SEED, cfg.DETERMINISTIC)
        return build_model(cfg, self.world)

    def _pace(self, cfg: CfgNode) -> Pace:
        least = WARM_UP + 2 if cfg.TRAIN.CUDA_GRAPHS else 1  # the step after the warm-up of the graph records it
        return Pace(max(self.args.warm_up, least), self.args.steps, self.args.windows)

    def _note(self, network: str, rung: str, cfg: CfgNode, timing: Timing, steps: int | None) -> None:
        """Write down what a network did; ``steps`` are those of the whole run, if it has an end."""
        figures = figures_of(network, rung, cfg, timing, self.cost if network == "stvit" else None, self.peak, steps)
        self.records.figures.append(figures)
        self.records.write(self.args.output)
        print(line(figures), flush=True)

    def _attempt(self, rung: str, batch: int, cfg: CfgNode, work: Callable[[], None]) -> None:
        """Measure; if that fails say why in a line, so that one rung does not cost the others."""
        said, expected = "", True
        try:
            work()
        except (UserError, Diverged) as error:
            said, expected = str(error), False
        except Exception as error:
            said, expected = remedy(error, cfg) or "", isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not said:
                traceback.print_exc()
                said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if said:
            self.faults += not expected
            self.records.failed.append({"rung": rung, "batch": batch, "error": said})
            self.records.write(self.args.output)
            print(f"{rung:<26}{batch:>6}  failed: {' '.join(said.split())}", flush=True)
        self._free(cfg)

    def _free(self, cfg: CfgNode) -> None:
        """Give back what a measurement held, compiled code included."""
        if cfg.TRAIN.COMPILE:
            torch.compiler.reset()
        gc.collect()
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()


def training_config(file: str, settings: Sequence[str], folder: Path) -> CfgNode:
    """The settings of a run that is only stepped: what it would validate and test on is next to nothing.

    Raises:
        UserError: a mistake in the settings, or several GPUs.
    """
    cfg = load_config(file, settings)
    if not cfg.TRAIN.ENABLE:
        raise UserError("TRAIN.ENABLE is False: there is no training to measure")
    if cfg.NUM_GPUS > 1:
        raise UserError(f"NUM_GPUS is {cfg.NUM_GPUS}: training is measured on one GPU, or with 0 on the CPU")
    refuse_missing_gpus(cfg.NUM_GPUS)
    refuse_missing_weights(cfg)
    unused = {"MOVING_MNIST.VAL_SEQUENCES": 1, "MOVING_MNIST.TEST_SEQUENCES": 1, "DATA.CACHE_DIR": str(folder)}
    return changed(cfg, unused, "benchmark")


def changed(cfg: CfgNode, settings: Settings, place: str) -> CfgNode:
    """The config with other settings, checked; ``place`` says in messages where they come from."""
    other = cfg.clone()
    other.defrost()
    other.merge_from_list([item for pair in settings.items() for item in pair])
    check(other, dict.fromkeys(leaves(other), place))
    other.freeze()
    return other


def torchvision_network(cfg: CfgNode) -> Callable[[], nn.Module]:
    """Makes torchvision's mvit_v2_s with random weights.

    Raises:
        UserError: the config's network is not the same one.
    """
    size = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE)
    if cfg.MODEL.NAME != "mvitv2_small_16x4" or cfg.MODEL.ARGS or size != (16, 224):
        raise UserError(
            "--rival torchvision is its mvit_v2_s: it is trained beside mvitv2_small_16x4 without MODEL.ARGS, "
            "DATA.NUM_FRAMES 16, DATA.TRAIN_CROP_SIZE 224"
        )
    from torchvision.models.video import mvit_v2_s

    return partial(mvit_v2_s, num_classes=cfg.MODEL.NUM_CLASSES)


RIVALS: dict[str, Callable[[CfgNode], Callable[[], nn.Module]]] = {"torchvision": torchvision_network}
