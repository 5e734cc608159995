"""The command line that converts checkpoints between libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tool_calls import ToolCall
from torch import Tensor

import stvit
from stvit.checkpoint import TARGETS, convert, load_checkpoint, model_from_checkpoint


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ToolCall:
    """Runs the tool in this process, in an empty folder: words -> (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return ToolCall("convert", capsys)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official file of mvitv2_tiny for 7 classes."""
    path = tmp_path_factory.mktemp("official") / "MViTv2_T.pyth"
    weights = stvit.create_model("mvitv2_tiny", num_classes=7).state_dict()
    torch.save({"model_state": weights, "epoch": 300, "cfg": "MVIT: {}"}, path)
    return path


@pytest.fixture
def weights(tiny: Path) -> dict[str, Tensor]:
    return torch.load(tiny, weights_only=True)["model_state"]


def test_an_official_file_becomes_timms(tool: ToolCall, tiny: Path, weights: dict[str, Tensor]) -> None:
    status, out, _ = tool("--checkpoint", tiny, "--to", "timm", "--output", "timm.pth")
    assert (status, out) == (0, f"timm.pth: {len(weights)} tensors for timm\n")
    written = torch.load("timm.pth", weights_only=True)
    expected = convert(weights, to="timm")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], value) for key, value in expected.items())


def test_safetensors_are_written_where_the_name_says_so(tool: ToolCall, tiny: Path, weights: dict[str, Tensor]) -> None:
    assert tool("--checkpoint", tiny, "--to", "mmpretrain", "--output", "a.safetensors")[0] == 0
    assert safetensors.torch.load_file("a.safetensors").keys() == convert(weights, to="mmpretrain").keys()


@pytest.mark.parametrize(
    ("to", "entries"),
    [("slowfast", ["model_state"]), ("mvit", ["model_state"]), ("mmpretrain", ["meta", "state_dict"])],
)
def test_files_have_the_wrapper_of_their_library_and_load_again(
    tool: ToolCall, tiny: Path, weights: dict[str, Tensor], to: str, entries: list[str]
) -> None:
    assert tool("--checkpoint", tiny, "--to", to, "--output", "out.pyth")[0] == 0
    assert list(torch.load("out.pyth", weights_only=True)) == entries
    model = stvit.create_model("mvitv2_tiny", num_classes=7)
    load_checkpoint(model, "out.pyth")
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_stvits_own_file_names_its_model(tool: ToolCall, tiny: Path, weights: dict[str, Tensor]) -> None:
    assert tool("--checkpoint", tiny, "--to", "stvit", "--output", "own.pt")[0] == 0
    model = model_from_checkpoint("own.pt")
    assert (model.model_name, model.num_classes) == ("mvitv2_tiny", 7)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_refusal_writes_nothing_unless_forced(tool: ToolCall, tiny: Path) -> None:
    words = ("--checkpoint", tiny, "--to", "torchvision", "--output", "tv.pth")
    status, out, err = tool(*words)
    assert (status, out) == (2, "")
    assert "cannot be used by torchvision: it has mvit_v2_s" in err
    assert err.count("\n") == 1
    assert not Path("tv.pth").exists()
    assert tool(*words, "--force")[0] == 0
    assert "conv_proj.weight" in torch.load("tv.pth", weights_only=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--to": "keras"}, "there is no layout 'keras': choose from mvit, slowfast, "),
        ({"--checkpoint": "missing.pth"}, "there is no checkpoint missing.pth"),
        ({"--model": "mvitv2_small"}, "is of mvitv2_tiny, not of mvitv2_small: they differ in depths"),
        ({"--output": "no/such/folder.pth"}, "there is no folder no/such"),
    ],
)
def test_mistakes_are_named_in_one_line(tool: ToolCall, tiny: Path, change: dict[str, str], said: str) -> None:
    options = {"--checkpoint": str(tiny), "--to": "timm", "--output": "out.pth"} | change
    status, _, err = tool(*(word for pair in options.items() for word in pair))
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not Path("out.pth").exists()


@pytest.mark.parametrize("output", ["a.pth", "./a.pth", "link.pth"])
def test_the_checkpoint_itself_is_not_overwritten(tool: ToolCall, tiny: Path, output: str) -> None:
    Path("a.pth").write_bytes(tiny.read_bytes())
    Path("link.pth").symlink_to("a.pth")
    status, out, err = tool("--checkpoint", "a.pth", "--to", "timm", "--output", output)
    assert (status, out) == (2, "")
    assert err.endswith("is the file of --checkpoint, which is not overwritten: give another name\n")
    assert Path("a.pth").read_bytes() == tiny.read_bytes()


def test_weights_of_no_registered_network_need_a_name(tool: ToolCall, tmp_path: Path) -> None:
    torch.save(stvit.create_model("mvitv2_tiny", depths=(1, 1), width=16).state_dict(), "small.pth")
    status, _, err = tool("--checkpoint", "small.pth", "--to", "stvit", "--output", "own.pt")
    assert status == 2
    assert "those of no registered network: name theirs with --model" in err


def test_help_names_every_target(tool: ToolCall, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool("--help")
    said = capsys.readouterr().out.replace(",", " ").split()
    assert set(TARGETS) <= set(said)
