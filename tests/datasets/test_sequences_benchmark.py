"""The benchmark of sequences measures what it says: the same pixels as the published loop, and a ratio."""

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "sequences", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_it_compares_bit_exact_generators_and_prints_the_ratio():
    result = run("--batch", "8", "--rounds", "2")
    assert result.returncode == 0, result.stderr
    assert "given the same draws: True" in result.stdout
    assert result.stdout.count("stvit is") == 2


def test_missing_digits_are_one_line_and_status_2(tmp_path: Path):
    result = run("--digits", "mnist", "--root", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr
