"""Measure parts of stvit against plain references, interleaved in one process. Each subject is a subcommand.

Example:
    python tools/benchmark.py sequences
    python tools/benchmark.py train --batch 16 64 --cfg configs/moving_mnist/mixvit_predictor.yaml NUM_GPUS 1
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy starts its threads

import torch
from benchmarks import data, moving_mnist, mvit, similarity, train, video

from stvit.cli import ArgumentParser, run

# What can be measured; each module says how in ``measure`` and with which options in ``add_arguments``.
SUBJECTS = {
    "data": data,
    "sequences": moving_mnist,
    "metrics": similarity,
    "mvit": mvit,
    "train": train,
    "video": video,
}


class SubjectParser(ArgumentParser):
    """The options of one subject; a mistake in them is one line too."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(description)
        self.prog = prog


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options and run one subject."""
    parser = ArgumentParser(__doc__)
    subjects = parser.add_subparsers(dest="subject", required=True, parser_class=SubjectParser)
    for name, module in SUBJECTS.items():
        subject = subjects.add_parser(name, help=module.measure.__doc__, description=module.measure.__doc__)
        module.add_arguments(subject)
        subject.set_defaults(measure=module.measure)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.measure(args)


if __name__ == "__main__":
    sys.exit(run(main))
