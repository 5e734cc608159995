"""The command line that counts parameters and multiply-accumulates, and the table that it made for the documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from shrunken import SHRUNKEN
from tool_calls import ToolCall

import stvit
from stvit.engine.flops import model_cost
from stvit.published import PUBLISHED, Published

ROOT = Path(__file__).parents[2]
TABLES = [file for file in (ROOT / "docs/flops.md", ROOT / "README.md") if "| its code counts |" in file.read_text()]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> ToolCall:
    """Runs the tool in this process: words -> (status, stdout, stderr)."""
    return ToolCall("flops", capsys)


def words(settings: dict[str, object]) -> list[str]:
    return ["--set", *(f"{key}={list(v) if isinstance(v, tuple) else v}" for key, v in settings.items())]


def rows(text: str) -> dict[str, list[str]]:
    """Of a Markdown table of models: name -> the other cells."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| m")]
    return {name.strip("` "): [cell.strip() for cell in cells] for name, *cells in lines if name != "model"}


def test_totals_operators_and_modules_are_listed(tool: ToolCall) -> None:
    settings = SHRUNKEN["mixvit_t_224"]
    cost = model_cost("mixvit_t_224", **settings)
    status, out, err = tool("--model", "mixvit_t_224", "--depth", 1, *words(settings))
    assert (status, err) == (0, "")
    assert f"{cost.parameters['']:,} parameters, {cost.total() / 1e9:.4f} GMACs, " in out
    assert f"{(cost.total() - cost.wavelet_macs) / 1e9:.4f} without the wavelet stem" in out
    assert "input 1 x 3 x 64 x 64" in out
    listed = out.split("module ")[1].splitlines()[1:]
    assert [line.split()[0] for line in listed] == ["stem", "stages", "head"]
    assert "stages.0.blocks" in tool("--model", "mixvit_t_224", "--depth", 3, *words(settings))[1]


def test_a_list_of_modules_costs_what_its_modules_do(tool: ToolCall) -> None:
    out = tool("--model", "mixvit_t_224", "--depth", 2, *words(SHRUNKEN["mixvit_t_224"]))[1]
    cells = {line.split()[0]: line.split()[1:] for line in out.split("module ")[1].splitlines()[1:]}
    parts = [float(cells[f"stages.{stage}"][1]) for stage in range(4)]
    assert all(part > 0 for part in parts)
    assert float(cells["stages"][1]) == pytest.approx(sum(parts), abs=2.5e-4)  # four roundings and one


def test_another_input_size_costs_more(tool: ToolCall) -> None:
    call = ("--model", "mvitv2_tiny", *words(SHRUNKEN["mvitv2_tiny"]), "--input-size")
    assert "input 1 x 3 x 96 x 96" in tool(*call, 96)[1]
    assert "input 1 x 3 x 64 x 128" in tool(*call, 64, 128)[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("--model", "mvitv2_tiy"), "did you mean 'mvitv2_tiny'"),
        (("--model", "mvitv2_tiny", "--input-size", "16", "224", "224"), "does not fit mvitv2_tiny"),
        (("--model", "mvitv2_tiny", "--input-size", "0"), "the input size 0 0 cannot be: each number is at least 1"),
        (("--model", "mixvit3d_predictor_mini", "--input-size", "4", "64", "64"), "(--set in_frames=4)"),
        (("--model", "mvitv2_tiny", "--depth", "0"), "--depth 0: at least 1 is needed"),
        (("--model", "mvitv2_tiny", "--depth", "-1"), "--depth -1: at least 1 is needed"),
        (("--model", "mvitv2_tiny", "--set", "depths"), "'depths' is not of the form KEY=VALUE"),
        (("--model", "mvitv2_tiny", "--set", "depths=[1"), "cannot be read as YAML"),
        (("--model", "mvitv2_tiny", "--set", "dephts=[1]"), "no setting 'dephts' (did you mean 'depths'"),
        (("--all", "resnet*"), "--all resnet*: no model has such a name"),
        (("--all", "--input-size", "64"), "leave out --input-size"),
        ((), "one of the arguments --model --all is required"),
    ],
)
def test_a_mistake_is_one_line(call: tuple[str, ...], message: str, tool: ToolCall) -> None:
    status, out, err = tool(*call)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_published_figures_are_of_registered_networks() -> None:
    assert set(PUBLISHED) <= set(stvit.list_models())


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        ((24.173, 4.704), ""),
        ((24.173, 4.76), "**GMACs +1.19% of its code**, GMACs +1.3%"),
        ((25.0, 4.704), "**params +3.42% of its code**, params +4.2%"),
    ],
)
def test_a_figure_that_rounds_to_another_is_marked(ours: tuple[float, float], text: str, tool: ToolCall) -> None:
    assert tool.module.difference(*ours, Published("24", "4.7", "a paper", (24.173, 4.704))) == text


@pytest.mark.parametrize("table", TABLES, ids=lambda file: file.name)
def test_the_table_has_every_model(table: Path) -> None:
    assert list(rows(table.read_text())) == stvit.list_models()


@pytest.mark.parametrize("pattern", ["mixvit_predictor_mini", "mpvit_tiny"])
def test_the_table_is_what_the_tool_prints(pattern: str, tool: ToolCall) -> None:
    status, out, _ = tool("--all", pattern)
    assert status == 0
    assert rows(out)
    for table in TABLES:
        assert rows(out).items() <= rows(table.read_text()).items()


def test_nothing_differs_from_the_published_code() -> None:
    """Bold marks that."""
    table = rows((ROOT / "docs/flops.md").read_text())
    assert not [name for name, cells in table.items() if "**" in cells[-1]]
