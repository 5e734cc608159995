"""Exit status and messages of the command lines."""

from collections.abc import Sequence

import pytest

from stvit.cli import ArgumentParser, run
from stvit.errors import UserError


@pytest.mark.parametrize(
    ("exception", "status", "message"),
    [
        (UserError("no such\nmodel"), 2, "error: no such model\n"),
        (OSError(28, "No space left on device", "x.pt"), 1, "error: [Errno 28] No space left on device: 'x.pt'\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_a_mistake_or_failure_is_one_line_and_a_status(exception, status, message, capsys):
    def main(argv: Sequence[str] | None) -> None:
        raise exception

    assert run(main) == status
    assert capsys.readouterr() == ("", message)


def test_work_done_is_status_0():
    seen = []
    assert run(seen.append, ["a"]) == 0
    assert seen == [["a"]]


def test_a_fault_of_the_program_is_not_hidden():
    def main(argv: Sequence[str] | None) -> None:
        raise KeyError("fault")

    with pytest.raises(KeyError):
        run(main)


def test_an_unknown_option_is_a_mistake_in_one_line(capsys):
    assert run(lambda argv: ArgumentParser("x").parse_args(argv), ["--nonsense"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--nonsense" in captured.err
    assert "--help" in captured.err
