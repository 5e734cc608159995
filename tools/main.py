"""Train and evaluate a model.

example:
  python tools/main.py --cfg configs/moving_mnist/demo.yaml OUTPUT_DIR output/mine SOLVER.MAX_EPOCH 2

Every setting stands with its default in stvit/config/defaults.py. A run that was stopped or killed goes on from its
last checkpoint when the same command is given again. To evaluate only:
  python tools/main.py --cfg FILE TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH CHECKPOINT OUTPUT_DIR FOLDER

To try settings and data first, with an estimate of memory and time, and nothing written to OUTPUT_DIR:
  python tools/main.py --cfg FILE --dry-run [KEY VALUE ...]

NUM_GPUS 4 trains with four processes, one a GPU, that share each TRAIN.BATCH_SIZE samples; so do
  torchrun --nproc_per_node 4 tools/main.py --cfg FILE NUM_GPUS 4
and, with NUM_GPUS 0, as many processes on the CPU.

exit status: 0 the work was done; 1 the machine failed or training diverged; 2 a mistake in settings or files;
130 or 143 stopped by SIGINT or SIGTERM, with everything up to there kept
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stvit import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; raises what :func:`stvit.cli.run` turns into an exit status."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--cfg", metavar="FILE", required=True, help="YAML file of settings; see configs/")
    parser.add_argument("--dry-run", action="store_true", help="try a few batches, and say how long the run will take")
    parser.add_argument("settings", metavar="KEY VALUE", nargs="*", help="settings that differ from the file's")
    options = parser.parse_intermixed_args(argv)  # an option may stand among the settings

    from stvit.config import load_config  # after the options, so that --help does not wait for torch
    from stvit.engine.distributed import is_launched, refuse_missing_gpus
    from stvit.engine.dry_run import dry_run
    from stvit.engine.launch import launch, speak_once
    from stvit.engine.run import run
    from stvit.engine.signals import Stopped
    from stvit.engine.steps import Diverged

    try:
        with speak_once():
            cfg = load_config(options.cfg, options.settings)
            if options.dry_run:
                return dry_run(cfg)
            if cfg.NUM_GPUS > 1 and not is_launched():
                refuse_missing_gpus(cfg.NUM_GPUS)
                words = sys.argv[1:] if argv is None else argv
                sys.exit(launch([sys.executable, __file__, *words], cfg.NUM_GPUS))
            run(cfg)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except Diverged as diverged:
        print(f"error: {diverged}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(cli.run(main))
