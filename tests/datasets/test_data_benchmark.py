"""The data benchmark measures what it says: the same pixels as the published loop, and a ratio."""

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


def test_it_compares_bit_exact_generators_and_prints_the_ratio():
    command = [sys.executable, str(TOOL), "data", "--batch", "8", "--rounds", "2"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    assert "given the same draws: True" in result.stdout
    assert result.stdout.count("stvit is") == 2
