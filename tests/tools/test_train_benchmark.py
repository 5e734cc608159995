"""The ladder of engine settings: what it measures on the CPU, what it leaves out and why, and what it writes."""

from __future__ import annotations

import copy
import importlib
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from clip_runs import SETTINGS as CLIPS
from main_runs import TINY_PREDICTOR, TINY_SEQUENCES
from tool_calls import TOOLS, ToolCall
from torch import nn

from stvit.config import CfgNode, load_config
from stvit.engine.distributed import ALONE, World
from stvit.engine.flops import model_cost
from stvit.engine.state import new_state
from stvit.engine.steps import training_step
from stvit.errors import UserError

QUICK = ("--steps", 1, "--windows", 2, "--warm-up", 1)
SEQUENCES = {
    "MODEL": {"NAME": "mixvit_predictor_mini", "ARGS": TINY_PREDICTOR},
    "DATA": {"DATASET": "moving_mnist"},
    "MOVING_MNIST": {**TINY_SEQUENCES, "TRAIN_SEQUENCES": 12},
    "TRAIN": {"BATCH_SIZE": 4},
    "SOLVER": {"MAX_EPOCH": 3},
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "NUM_GPUS": 0,
}
MADE_BY = {"in_frames": 2, "out_frames": 2, "channels": 1, "image_size": [12, 12], **TINY_PREDICTOR}

Ladder = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def part(name: str) -> ModuleType:
    """A module beside the tool."""
    return importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def ladder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ladder:
    """Runs the tool on settings: words -> (status, stdout, stderr)."""

    def call(settings: dict[str, object], *words: object) -> tuple[int, str, str]:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings))
        return ToolCall("benchmark", capsys)("train", "--cfg", path, *words)

    return call


def test_the_rungs_of_a_predictor(ladder: Ladder, tmp_path: Path) -> None:
    file = tmp_path / "ladder.json"
    words = ("--batch", 2, 4, "--steps", 2, "--windows", 3, "--warm-up", 1, "--profile", 1, "--peak", 2)
    rungs = ("fp32", "channels-last", "cuda-graphs", "on-device")
    status, said, error = ladder(SEQUENCES, *words, "--output", file, "--rungs", *rungs)
    assert status == 0, error
    for rung in ("cuda-graphs", "on-device"):
        assert f"left out: {rung}: needs a GPU, and NUM_GPUS is 0" in said
    assert "profile of channels-last, batch 2" in said
    written = json.loads(file.read_text())
    assert list(written["left_out"]) == ["cuda-graphs", "on-device"]
    assert [(row["rung"], row["batch"]) for row in written["figures"]] == [
        ("fp32", 2), ("fp32", 4), ("channels-last", 2), ("channels-last", 4),
    ]  # fmt: skip
    macs = model_cost("mixvit_predictor_mini", **MADE_BY).total()
    assert written["forward_macs_per_sample"] == macs
    for row in written["figures"]:
        assert len(row["window_s"]) == 3
        seconds = statistics.median(row["window_s"]) / 2
        assert row["ms_per_step"] == pytest.approx(1e3 * seconds)
        assert row["samples_per_s"] == pytest.approx(row["batch"] / seconds)
        assert row["tflops"] == pytest.approx(6 * macs * row["batch"] / seconds / 1e12)
        assert row["peak_share"] == pytest.approx(row["tflops"] / 2)
        steps = 3 * (12 // row["batch"])  # three epochs
        assert row["run_minutes"] == pytest.approx(steps * statistics.fmean(row["window_s"]) / 2 / 60)
        assert 0 < row["data_wait"] < 1
        assert row["peak_memory_bytes"] is None  # is the GPU's
    assert written["profile"]["busy_seconds"] == pytest.approx(sum(w["seconds"] for w in written["profile"]["work"]))
    assert {"torch", "stvit", "cuda"} <= set(written["versions"])
    assert not (tmp_path / "data").exists()


def test_each_rung_trains_with_its_settings_and_those_below(ladder: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    train, seen = part("train"), []
    build = train.build_model

    def build_and_note(cfg: CfgNode, world: World) -> nn.Module:
        seen.append((cfg.TRAIN.PRECISION, cfg.TRAIN.CHANNELS_LAST, cfg.TRAIN.COMPILE, cfg.TRAIN.BATCH_SIZE))
        return build(cfg, world)

    monkeypatch.setattr(train, "build_model", build_and_note)
    fastest = {**SEQUENCES, "TRAIN": {"BATCH_SIZE": 4, "COMPILE": True, "CHANNELS_LAST": True}}
    words = ("--batch", 2, *QUICK, "--profile", 0, "--rungs", "fp32", "bf16", "channels-last")
    assert ladder(fastest, *words)[0] == 0
    assert seen == [("fp32", False, False, 2), ("bf16", False, False, 2), ("bf16", True, False, 2)]
    settings = {key: value for rung in train.RUNGS.values() for key, value in rung.items()}
    assert settings.pop("TRAIN.PRECISION") == "bf16"
    assert all(settings.values())  # the last rung has everything


def test_a_trainee_takes_the_steps_of_the_engine() -> None:
    trainees, cfg = part("trainee"), load_config(None, ["NUM_GPUS", "0", "SOLVER.LR_POLICY", "cosine"])
    samples = trainees.ConstantSamples((4, 6), 3, ALONE.device)
    torch.manual_seed(0)
    mine = nn.Linear(6, 3)
    other = copy.deepcopy(mine)
    pace = trainees.Pace(warm_up=2, steps=3, windows=2)
    torch.manual_seed(1)
    trainee = trainees.Trainee(lambda: mine, cfg, ALONE, samples, pace)
    (timing,) = trainees.time_in_turns([trainee], pace)
    torch.manual_seed(1)
    batch = next(samples.train_batches(0, 0))
    state = new_state(other, cfg, ALONE, pace.total, samples)
    losses = []
    for _ in range(pace.total):
        losses.append(float(training_step(state.gradients, [batch], state.optimizer, state.precision)[0]))
        state.scheduler.step()
    assert losses[-1] < losses[0]
    assert torch.equal(mine.weight, other.weight)
    assert len(timing.windows) == 2
    assert all(0 <= window.waited < window.seconds for window in timing.windows)


def test_the_time_of_a_step_and_of_the_start() -> None:
    trainees = part("trainee")
    windows = tuple(trainees.Window(seconds, waited) for seconds, waited in ((6.0, 1.0), (2.0, 0.0), (3.0, 2.0)))
    timing = trainees.Timing(trainees.Pace(5, 10, 3), windows, warm_up_seconds=9.0, peak_bytes=None)
    assert timing.step_seconds == pytest.approx(0.3)
    assert timing.mean_step_seconds == pytest.approx(11 / 30)
    assert timing.start_seconds == pytest.approx(9.0 - 5 * 0.3)
    assert timing.data_wait == pytest.approx(3 / 11)


def test_clips_are_random_ones_and_a_rival_is_trained_in_turns(
    ladder: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    monkeypatch.setitem(part("train").RIVALS, "torchvision", lambda cfg: lambda: rival)
    before, file = rival[2].weight.clone(), tmp_path / "clips.json"
    rungs = ("--rungs", "bf16", "on-device", "--rival", "torchvision")
    status, said, error = ladder(CLIPS, "--batch", 2, *QUICK, "--profile", 0, *rungs, "--output", file)
    assert status == 0, error
    assert "data: constant clips of random numbers on the device" in said
    assert "left out: on-device: the clips of all rungs are made on the device, once" in said
    alone, ours, theirs = json.loads(file.read_text())["figures"]
    assert [(row["network"], row["rung"]) for row in (alone, ours, theirs)] == [
        ("stvit", "bf16"), ("stvit", "bf16 in turns"), ("torchvision", "bf16 in turns"),
    ]  # fmt: skip
    assert alone["run_minutes"] is None  # nobody knows how many videos there are
    assert theirs["tflops"] is None
    assert not torch.equal(rival[2].weight, before)
    ratio = theirs["ms_per_step"] / ours["ms_per_step"]
    assert f"bf16 in turns, batch 2: stvit is {ratio:.2f} times as fast as torchvision" in said


def test_torchvision_is_the_rival_of_one_network_alone() -> None:
    rival_of = part("train").torchvision_network
    published = [
        "MODEL.NAME",
        "mvitv2_small_16x4",
        "DATA.DATASET",
        "kinetics",
        "DATA.NUM_FRAMES",
        "16",
        "NUM_GPUS",
        "0",
    ]
    network = rival_of(load_config(None, [*published, "MODEL.NUM_CLASSES", "7"]))()
    assert network.head[-1].out_features == 7
    for other in (["DATA.TRAIN_CROP_SIZE", "112"], ["MODEL.ARGS.width", "8"], ["MODEL.NAME", "mvitv2_base_32x3"]):
        with pytest.raises(UserError, match="trained beside mvitv2_small_16x4"):
            rival_of(load_config(None, [*published, *other]))


def test_a_rung_that_fails_does_not_cost_the_others(
    ladder: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, file = part("train"), tmp_path / "ladder.json"
    build, errors = train.build_model, {}

    def fail(cfg: CfgNode, world: World) -> nn.Module:
        if cfg.TRAIN.BATCH_SIZE in errors:
            raise errors[cfg.TRAIN.BATCH_SIZE]
        return build(cfg, world)

    monkeypatch.setattr(train, "build_model", fail)
    errors[4] = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
    words = ("--batch", 4, 2, *QUICK, "--profile", 0, "--rungs", "fp32", "--output", file)
    status, said, _ = ladder(SEQUENCES, *words)
    assert status == 0  # where memory ends is a result
    (failed,) = (line for line in said.splitlines() if "failed" in line)
    assert "the GPU's memory is full (2.50 GiB more were asked for): lower TRAIN.BATCH_SIZE 4" in failed
    written = json.loads(file.read_text())
    assert [row["batch"] for row in written["figures"]] == [2]
    assert [(row["rung"], row["batch"]) for row in written["failed"]] == [("fp32", 4)]

    errors[4] = RuntimeError("no kernel image\nmore about it")
    with pytest.raises(SystemExit, match="error: 1 of the measurements failed"):
        ladder(SEQUENCES, *words)
    written = json.loads(file.read_text())
    assert [row["batch"] for row in written["figures"]] == [2]
    assert written["failed"][0]["error"] == "RuntimeError: no kernel image"


@pytest.mark.gpu
def test_all_rungs_on_a_gpu(ladder: Ladder, tmp_path: Path) -> None:
    file = tmp_path / "ladder.json"
    status, said, error = ladder(SEQUENCES, "--batch", 2, 4, *QUICK, "--profile", 2, "--output", file, "NUM_GPUS", 1)
    assert status == 0, said + error
    written = json.loads(file.read_text())
    assert (written["left_out"], written["failed"]) == ({}, [])
    assert [row["rung"] for row in written["figures"]] == [rung for rung in part("train").RUNGS for _ in (2, 4)]
    assert all(row["peak_memory_bytes"] > 0 for row in written["figures"])
    profile = written["profile"]
    assert (profile["rung"], profile["device"], profile["steps"]) == ("on-device", "cuda", 2)
    assert {work["kind"] for work in profile["work"]} >= {MATRIX, POINTWISE, OPTIMIZER}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", 0), "--steps 0: at least 1 is needed"),
        (("--warm-up", 0), "--warm-up 0: at least 1 is needed"),
        (("--batch", 4, -1), "--batch -1: at least 1 is needed"),
        (("--profile", -1), "--profile -1: it is a number of steps"),
        (("--peak", 0), "--peak 0: it is TFLOP/s, above 0"),
        (("--rungs", "eager"), "invalid choice: 'eager'"),
        (("--batch", 4, "--rungs", "cuda-graphs"), "--rungs: none is left: cuda-graphs: needs a GPU"),
        (("--batch", 64), "--batch 64: MOVING_MNIST.TRAIN_SEQUENCES is 12, but one optimiser step takes 64"),
        (("--rival", "torchvision"), "--rival torchvision is its mvit_v2_s"),
        (("MODEL.NAM", "x"), "no setting is named 'MODEL.NAM'"),
        (("NUM_GPUS", 2), "NUM_GPUS is 2: training is measured on one GPU"),
        (("TRAIN.ENABLE", False), "TRAIN.ENABLE is False: there is no training to measure"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[object, ...], message: str, ladder: Ladder) -> None:
    status, said, error = ladder(SEQUENCES, *words)
    assert (status, said) == (2, "")
    assert message in error
    assert error.count("\n") == 1


MATRIX, POINTWISE = "matrix and convolution", "elementwise, norms, reductions"
OPTIMIZER, COPIES, ATTENTION = "optimizer and clipping", "copies and casts", "attention"


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", MATRIX),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32", MATRIX),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", MATRIX),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_nt_align8>", MATRIX),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", MATRIX),
        ("void at::native::(anonymous namespace)::conv_depthwise2d_forward_kernel<3, c10::BFloat16, int>", MATRIX),
        ("triton_tem_fused_addmm_12", MATRIX),
        ("triton_poi_fused_convolution_native_group_norm_silu_3", POINTWISE),
        ("triton_red_fused__to_copy_mse_loss_backward_5", POINTWISE),
        ("triton_per_fused_native_layer_norm_7", POINTWISE),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::silu_kernel>",
            POINTWISE,
        ),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::BFloat16>", POINTWISE),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1>", POINTWISE),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::func_wrapper_t>>", POINTWISE),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>",
            OPTIMIZER,
        ),
        ("triton_for_fused_2", OPTIMIZER),
        ("Memcpy HtoD (Pinned -> Device)", COPIES),
        ("Memset (Device)", COPIES),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float, false, true>", COPIES),
        ("void cudnn::ops::convertTensor_kernel<float, float, float, (cudnnKernelDataType_t)2>", COPIES),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>", COPIES),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<32, 128, 128, 4>>", ATTENTION),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", ATTENTION),
        ("aten::convolution_backward", MATRIX),
        ("aten::addmm", MATRIX),
        ("aten::native_group_norm_backward", POINTWISE),
        ("aten::copy_", COPIES),
        ("Optimizer.step#AdamW.step", OPTIMIZER),
        ("aten::as_strided", "other"),
        ("some_kernel_of_tomorrow", "other"),
    ],
)
def test_a_kernel_is_for_what_its_name_says(kernel: str, kind: str) -> None:
    assert part("kernel_times").kind_of(kernel) == kind


def test_the_kernels_of_a_trace() -> None:
    """Two steps on two streams; marks and what the host does are not the GPU's work."""
    times = part("kernel_times")
    trace = [
        {"cat": "kernel", "name": "a_gemm", "ts": 100.0, "dur": 30.0},
        {"cat": "kernel", "name": "triton_poi_0", "ts": 120.0, "dur": 20.0},  # 10 us beside the product
        {"cat": "gpu_user_annotation", "name": "Optimizer.step#Adam.step", "ts": 90.0, "dur": 500.0},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0.0, "dur": 300.0},
        {"cat": "kernel", "name": "a_gemm", "ts": 200.0, "dur": 10.0},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "ts": 205.0, "dur": 2.0},  # inside
        {"name": "process_name", "ph": "M"},
    ]
    totals, busy = times.kernel_totals(trace)
    assert {name: (calls, round(1e6 * seconds)) for name, (calls, seconds) in totals.items()} == {
        "a_gemm": (2, 40),
        "triton_poi_0": (1, 20),
        "Memcpy DtoD (Device -> Device)": (1, 2),
    }
    assert busy == pytest.approx(50e-6)
    work = tuple(times.Work(name, times.kind_of(name), calls / 2, s / 2) for name, (calls, s) in totals.items())
    profile = times.Profile("cuda", steps=2, step_seconds=100e-6, busy_seconds=busy / 2, work=work)
    assert profile.idle == pytest.approx(0.75)
    assert profile.by_kind() == pytest.approx({MATRIX: 20e-6, POINTWISE: 10e-6, COPIES: 1e-6})
    said = times.report(profile, top=1)
    assert re.search(r"matrix and convolution +0\.020 +20\.0%", said)
    assert re.search(r"no kernel runs +0\.075 +75\.0%", said)
    assert said.count("a_gemm") == 1
    assert "triton" not in said


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
        ("CPU", None),
    ],
)
def test_the_peak_of_a_chip(device: str, peak: float | None) -> None:
    assert part("figures").peak_tflops(device) == peak
