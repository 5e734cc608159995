"""The benchmark of videos: every contestant works on the same clips, and the loader is set beside decoding alone."""

import os
import subprocess
import sys
from pathlib import Path

from videos import write_video

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_it_compares_the_loader_with_decoding_alone(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 12)
    (tmp_path / "list.csv").write_text("a.mp4 0\n")
    listed = str(tmp_path / "list.csv")
    result = run("--list", listed, "--rounds", "1", "--clips", "2x2", "--decoders", "auto")
    assert result.returncode == 0, result.stderr
    for line in ("decode auto", "crop and flip", "loader auto, RandAugment"):
        assert f"  {line}" in result.stdout
    assert result.stdout.count("of decoding alone") == 2


def test_a_kind_of_clip_that_cannot_be_read_is_one_line_and_status_2():
    result = run("--clips", "16")
    assert result.returncode == 2
    assert "--clips takes frames and rate like 16x4, not '16'" in result.stderr
    assert result.stderr.count("\n") == 1
