"""Train and evaluate: ``python tools/main.py --cfg FILE [KEY VALUE ...]``."""

from __future__ import annotations

import argparse
import sys

from stvit.config import load_config
from stvit.engine.run import run
from stvit.engine.signals import Stopped
from stvit.engine.steps import Diverged
from stvit.errors import UserError

EPILOG = """\
example:
  python tools/main.py --cfg configs/moving_mnist/demo.yaml OUTPUT_DIR output/mine SOLVER.MAX_EPOCH 2

Every setting and its default stands in stvit/config/defaults.py. A run that was stopped or killed goes on from its
last checkpoint when the same command is given again. To evaluate only:
  python tools/main.py --cfg FILE TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH CHECKPOINT OUTPUT_DIR FOLDER

exit status: 0 the work was done, 1 a failure of the machine or training that diverged, 2 a mistake in settings or
files, 130 or 143 stopped by SIGINT or SIGTERM (everything up to there is kept)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Train and evaluate a model.", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", metavar="FILE", required=True, help="YAML file of settings, see configs/")
    parser.add_argument("settings", metavar="KEY VALUE", nargs=argparse.REMAINDER, help="settings that differ from it")
    options = parser.parse_args(arguments)
    try:
        run(load_config(options.cfg, options.settings))
    except Stopped as stopped:
        return _say(str(stopped), stopped.status)
    except UserError as error:
        return _say(f"error: {error}", 2)
    except (Diverged, OSError) as error:
        return _say(f"error: {getattr(error, 'strerror', None) or error}", 1)
    return 0


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
