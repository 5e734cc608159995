"""How the error grows with the distance from the last frame seen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from stvit.errors import UserError

Curves = Mapping[str, Sequence[float]]  # metric -> its mean at each predicted frame, as FrameMetrics.per_frame gives
_PANELS = {"mse": "MSE (sum over a frame, lower is better)", "ssim": "SSIM (data range 1, higher is better)"}


def curves_png(methods: Mapping[str, Curves], first_frame: int, title: str = "") -> bytes:
    """MSE and SSIM per predicted frame, a curve for each method, as the bytes of a PNG file.

    Args:
        methods: the model first (drawn strong), then baselines (drawn thin and dashed).
        first_frame: the number of the first predicted frame; with ten frames of input it is 11.
        title: stands above both panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and needed here only
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not methods:
        raise UserError("there is no curve to draw")
    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    styles = ["--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 4)), (0, (2, 3))]  # told apart without colours too
    axes = figure.subplots(1, len(_PANELS))
    for axis, (metric, label) in zip(axes, _PANELS.items(), strict=True):
        for index, (name, curves) in enumerate(methods.items()):
            frames = range(first_frame, first_frame + len(curves[metric]))
            if index == 0:
                axis.plot(frames, curves[metric], color="black", linewidth=2.6, marker="o", label=name, zorder=3)
            else:
                style = styles[(index - 1) % len(styles)]
                axis.plot(frames, curves[metric], color=f"C{index - 1}", linewidth=1.5, linestyle=style, label=name)
        axis.set_title(label, fontsize=11)
        axis.set_xlabel("frame number t")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    if title:
        figure.suptitle(title, fontsize=13)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
