"""Command-line tools called in the test's own process, which saves the seconds of importing torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from stvit.cli import run

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    """The module of ``tools/NAME.py``, fresh."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ToolCall:
    """Calls a tool with words, as a shell would: words -> (status, stdout, stderr)."""

    def __init__(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.module = load_tool(name)
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        status = run(self.module.main, [str(word) for word in words])
        return status, *self._capsys.readouterr()
