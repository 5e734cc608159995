r"""Count a network's parameters and multiply-accumulates, by operator and by module.

Nothing is computed and no weights are made, so that the largest networks are counted on any machine in seconds. The
rules are fvcore's: convolutions, matrix products (fused attention too) and norms, one multiply-accumulate each, at
batch 1 in evaluation mode. MViT's attention is counted as published, not as it runs (docs/mvit.md).

Example:
    python tools/flops.py --model mvitv2_tiny
    python tools/flops.py --model mvitv2_tiny --input-size 224 320 --depth 1
    python tools/flops.py --model mvitv2_small_16x4 --input-size 32 224 224 --set num_classes=10

One number is the side of a square, two are height and width, three are frames, height and width. The network stays the
one for its nominal size; --set input_size=[256,256] makes another (MViT's position tables then differ).

The table of all networks beside the published figures, in Markdown, takes some four minutes of one CPU core; a pattern
chooses some:

Example:
    python tools/flops.py --all
    python tools/flops.py --all 'mixvit_*_384'
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml

from stvit.cli import ArgumentParser, run
from stvit.engine.flops import Cost, model_cost
from stvit.errors import UserError
from stvit.published import PUBLISHED, Published
from stvit.registry import list_models

HEADINGS = ("model", "input", "params M", "GMACs", "wavelet", "published", "its code counts", "difference")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, count, print."""
    parser = ArgumentParser(__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--model", help="a registered name")
    chosen.add_argument(
        "--all", nargs="?", const="*", metavar="PATTERN", help="the table of all (4 minutes), or of some"
    )
    parser.add_argument("--input-size", type=int, nargs="+", metavar="N", help="side | H W | frames H W")
    parser.add_argument("--depth", type=int, default=2, help="how deep modules are listed, at least 1 (default: 2)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, such as num_classes=10")
    options = parser.parse_args(argv)
    if options.depth < 1:
        raise UserError(f"--depth {options.depth}: at least 1 is needed, which lists the network's own parts")
    if options.all is None:
        cost = model_cost(options.model, options.input_size, **parsed(options.set))
        print(report(options.model, cost, options.depth))
        return
    if options.input_size or options.set:
        raise UserError("--all counts every network at its nominal size: leave out --input-size and --set")
    names = list_models(options.all)
    if not names:
        raise UserError(f"--all {options.all}: no model has such a name; stvit.list_models() names them all")
    print(line(HEADINGS), line(["---"] * 2 + ["---:"] * 3 + ["---"] * 3), sep="\n")
    for name in names:
        print(line(row(name, model_cost(name))), flush=True)


def parsed(settings: Sequence[str]) -> dict[str, object]:
    """KEY=VALUE words; values as in YAML."""
    pairs = [word.partition("=") for word in settings]
    for word, (key, equals, _) in zip(settings, pairs, strict=True):
        if not equals or not key:
            raise UserError(f"the setting {word!r} is not of the form KEY=VALUE")
    try:
        return {key: yaml.safe_load(value) for key, _, value in pairs}
    except yaml.YAMLError as error:
        raise UserError(f"the settings {' '.join(settings)} cannot be read as YAML values") from error


def report(name: str, cost: Cost, depth: int) -> str:
    """Totals, then what each operator and each module takes of them."""
    total = cost.total()
    lines = [
        f"{name}, input {' x '.join(map(str, cost.input_shape))}",
        f"{cost.parameters['']:,} parameters, {total / 1e9:.4f} GMACs",
    ]
    if cost.wavelet_macs:
        lines[-1] += f", {cost.without_wavelet / 1e9:.4f} without the wavelet stem, as published figures are"
    lines += ["", f"{'operator':<44}{'GMACs':>22}"]
    for operator, macs in cost.macs[""].most_common():
        lines.append(f"{operator:<44}{macs / 1e9:>14.4f}{macs / total:>8.1%}")
    lines += ["", f"{'module':<30}{'parameters':>14}{'GMACs':>22}"]
    for module, parameters in cost.parameters.items():
        level = module.count(".") + 1 if module else 0
        macs = cost.total(module)
        if 0 < level <= depth and (parameters or macs):
            shown = "  " * (level - 1) + module
            share = f"{macs / 1e9:>14.4f}{macs / total:>8.1%}" if macs else ""
            lines.append(f"{shown:<30}{parameters:>14,}{share}".rstrip())
    return "\n".join(lines)


def row(name: str, cost: Cost) -> list[str]:
    """The cells of one network."""
    published = PUBLISHED.get(name)
    parameters, gmacs = cost.parameters[""] / 1e6, cost.without_wavelet / 1e9
    size = "x".join(str(n) for n in cost.input_shape[1:])
    wavelet = f"{cost.wavelet_macs / 1e9:.4f}" if cost.wavelet_macs else ""
    cells = [name, size, f"{parameters:.3f}", f"{gmacs:.3f}", wavelet]
    if published is None:
        return [*cells, "", "", ""]
    printed = f"{published.parameters or '-'} / {published.gmacs}"
    counted = f"{published.counted[0]:.3f} / {published.counted[1]:.3f}"
    return [*cells, printed, counted, difference(parameters, gmacs, published)]


def difference(parameters: float, gmacs: float, published: Published) -> str:
    """Where ours rounds to another figure than the printed one; in bold where it is not the published code's.

    The third decimal, the last of the published code's counts, may differ by one.
    """
    gmacs += published.lookup
    differing = []
    for what, ours, printed, counted in (
        ("params", parameters, published.parameters, published.counted[0]),
        ("GMACs", gmacs, published.gmacs, published.counted[1]),
    ):
        if abs(ours - counted) > max(0.001, 1e-4 * counted):
            differing.append(f"**{what} {ours / counted - 1:+.2%} of its code**")
        if printed is not None and f"{ours:.{len(printed.partition('.')[2])}f}" != printed:
            differing.append(f"{what} {ours / float(printed) - 1:+.1%}")
    text = ", ".join(differing) + (f" ({published.note})" if differing and published.note else "")
    if not published.lookup:
        return text
    return f"{text}{'; ' if text else ''}{published.lookup:.3f} G more in its code, to look up tables"


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(run(main))
