"""Where the time of some steps goes, by kernel on a GPU and by operator on the CPU, and by what they are for."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from stvit.errors import UserError

OTHER = "other"  # on the CPU also what moves no numbers
# What a kernel or operator is for, by its name; the first rule that fits counts. The Triton kernels that the compiler
# writes come first, because they are named after all operators that were fused into them.
RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("copies and casts", r"^(memcpy|memset)"),
        (OTHER, r"^aten::(empty|as_strided|view|expand|(un)?squeeze|slice|narrow|select|permute|transpose|detach|t$)"),
        ("matrix and convolution", r"^triton_(tem|mm|convolution)"),
        ("optimizer and clipping", r"^triton_for"),
        ("elementwise, norms, reductions", r"^triton_|cpp_fused"),
        ("optimizer and clipping", r"multi_tensor_apply|foreach|optimizer|adam|total_norm|clip_grad"),
        ("attention", r"flash|fmha|sdpa|scaled_dot_product|attention"),
        ("elementwise, norms, reductions", r"batch_?norm|group_?norm|layer_?norm|\bbn_(fw|bw)|moments"),
        ("copies and casts", r"nchwtonhwc|nhwctonchw|converttensor|copy|transpose|catarray|aten::(cat|fill_|zero_)\b"),
        (
            "matrix and convolution",
            r"gemm|gemv|xmma|cutlass|nvjet|cublas|splitk|\bdot_kernel|aten::(add|b|badd)?mm\b|mkldnn_linear"
            r"|conv|wgrad|dgrad|fprop|winograd",
        ),
        ("elementwise, norms, reductions", r"elementwise|reduce|softmax|index|shuffle|pool|::"),
    )
)


def kind_of(name: str) -> str:
    """What a kernel or operator of this name is for: a kind of RULES, or OTHER."""
    return next((kind for kind, pattern in RULES if pattern.search(name)), OTHER)


@dataclass(frozen=True)
class Work:
    """A kernel or operator in the profiled steps."""

    name: str
    kind: str
    calls: float  # a step
    seconds: float  # a step


@dataclass(frozen=True)
class Profile:
    """Where the time of steps went, all figures of one step."""

    device: str  # cuda or cpu
    steps: int
    step_seconds: float  # as measured without the profiler
    busy_seconds: float  # in which at least one kernel ran; on the CPU, the time of all operators
    work: tuple[Work, ...]  # the longest first

    def by_kind(self) -> dict[str, float]:
        """Seconds of each kind, the longest first."""
        sums: Counter[str] = Counter()
        for item in self.work:
            sums[item.kind] += item.seconds  # type: ignore[assignment]
        return dict(sums.most_common())

    @property
    def idle(self) -> float:
        """The share of a step in which no kernel runs; the profiler slows the host, so its own gaps say nothing."""
        return max(0.0, 1 - self.busy_seconds / self.step_seconds)


def profile_steps(run: Callable[[int], object], steps: int, device: torch.device, step_seconds: float) -> Profile:
    """Run so many steps under torch's profiler.

    Once in a process: on a GPU a second session can crash where CUDA graphs were recorded, or see nothing.

    Raises:
        UserError: it sees nothing of what the GPU does.
    """
    activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        run(steps)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    if device.type == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(trace))
            totals, busy = kernel_totals(json.loads(trace.read_text())["traceEvents"])
        if not totals:
            raise UserError("torch's profiler saw no kernel: it may be forbidden on this GPU; --profile 0 does without")
    else:
        averages = profiler.key_averages()
        totals = {event.key: (event.count, event.self_cpu_time_total / 1e6) for event in averages}
        busy = sum(seconds for _, seconds in totals.values())
    work = (Work(name, kind_of(name), calls / steps, seconds / steps) for name, (calls, seconds) in totals.items())
    longest = sorted(work, key=lambda item: item.seconds, reverse=True)
    return Profile(device.type, steps, step_seconds, busy / steps, tuple(longest))


# Of a trace, what a GPU does; other things on its time line are marks that cover several of these.
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def kernel_totals(events: Iterable[Mapping[str, object]]) -> tuple[dict[str, tuple[int, float]], float]:
    """Calls and seconds of each kernel of a Chrome trace, and the seconds in which at least one of them ran."""
    calls: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    spans = []
    for event in events:
        if event.get("cat") in _ON_GPU:
            name, start, length = str(event["name"]), float(str(event["ts"])), float(str(event["dur"]))
            calls[name] += 1
            seconds[name] += length / 1e6
            spans.append((start, start + length))
    return {name: (calls[name], seconds[name]) for name in calls}, covered(spans) / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def report(profile: Profile, top: int = 15) -> str:
    """The profile in lines: by kind, then the longest kernels."""
    on_gpu = profile.device == "cuda"
    whole = profile.step_seconds if on_gpu else profile.busy_seconds
    rows = [(kind, seconds) for kind, seconds in profile.by_kind().items()]
    if on_gpu:
        rows.append(("no kernel runs", profile.idle * profile.step_seconds))
    under = "of the measured step" if on_gpu else "of the operators' time; gaps between them cannot be told"
    lines = [f"{profile.steps} steps; ms a step and share {under}:"]
    lines += [f"  {kind:32}{1e3 * seconds:10.3f}{seconds / whole:7.1%}" for kind, seconds in rows]
    for item in profile.work[:top]:
        share = f"{1e3 * item.seconds:10.3f}{item.seconds / whole:7.1%}{item.calls:9.1f} x"
        lines.append(f"  {item.kind:32}{share}  {item.name[:90]}")
    return "\n".join(lines) + "\n"
