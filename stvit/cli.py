"""What all command lines share: options with an example, one line for a mistake, and the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from stvit.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """Keeps the line breaks of its description, and reports a mistake in one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a tool and return its exit status, for ``sys.exit(run(main))``.

    What ``main`` returns, or 0 if that is None, as most do when the work is done; 2 for a user's mistake, 1 if a file
    or the machine failed, 130 if interrupted. A mistake or failure prints ``error: ...`` in one line on stderr. Any
    other exception is a fault of the program, and is raised.

    Args:
        main: takes the command line's words, or None for those of the process.
        argv: handed to ``main``.
    """
    try:
        return main(argv) or 0
    except UserError as error:
        return _fail(error, 2)
    except OSError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(error: Exception | str, status: int) -> int:
    print("error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
    return status
