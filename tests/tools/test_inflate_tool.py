"""The command line that turns an image network's checkpoint into a video network's."""

import pytest
import torch
from shrunken import build
from tool_calls import ToolCall

import stvit
from stvit.checkpoint import load_checkpoint, model_from_checkpoint, pack_model, save_checkpoint

SHRUNKEN = {"depths": (1, 1, 1, 1), "width": 8, "input_size": (32, 32), "num_classes": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of a small image network and of the published one as its authors wrap it, without its training."""
    folder = tmp_path_factory.mktemp("inflate")
    torch.manual_seed(0)
    save_checkpoint(folder / "small.pt", pack_model(stvit.create_model("mvitv2_tiny", **SHRUNKEN)))
    published = stvit.create_model("mvitv2_tiny", num_classes=3).state_dict()
    torch.save({"model_state": published, "epoch": 300}, folder / "MViTv2_T.pyth")
    save_checkpoint(folder / "mixvit.pt", pack_model(build("mixvit_t_224")))
    save_checkpoint(folder / "predictor.pt", pack_model(stvit.create_model("mixvit_predictor_mini")))
    (folder / "text.pt").write_text("no checkpoint")
    return folder


@pytest.fixture
def tool(folder, monkeypatch, capsys):
    """Runs the tool in this process, in the folder: words -> (status, stdout, stderr)."""
    monkeypatch.chdir(folder)
    return ToolCall("inflate", capsys)


def test_the_video_network_keeps_the_image_networks_settings_classes_and_logits(folder, tool):
    status, out, err = tool("--checkpoint", "small.pt", "--model", "mvitv2_tiny_16f", "--output", "video.pt")
    assert (status, err) == (0, "")
    assert "still-video law holds" in out
    assert "written       video.pt, a checkpoint of mvitv2_tiny_16f" in out
    image, video = model_from_checkpoint(folder / "small.pt"), model_from_checkpoint(folder / "video.pt")
    assert video.spec.input_size == (16, 32, 32)
    assert video.preprocessing.frames == 16
    frame = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(video(frame[:, :, None].expand(-1, -1, 16, -1, -1)), image(frame), atol=1e-5)


def test_the_mean_rule_is_written_and_reported_as_breaking_the_law(folder, tool):
    words = ("--model", "mvitv2_tiny_16f", "--rule", "mean", "--output", "mean.pt")
    status, out, _ = tool("--checkpoint", "small.pt", *words)
    assert status == 0
    assert "still-video law does not hold: the rule mean" in out
    kernel = model_from_checkpoint(folder / "mean.pt").patch_embed.proj.weight
    image = model_from_checkpoint(folder / "small.pt").patch_embed.proj.weight
    assert torch.allclose(kernel, image[:, :, None].expand_as(kernel) / 3)


def test_a_published_file_is_recognised_and_agrees_with_loading_it_directly(folder, tool):
    words = ("--checkpoint", "MViTv2_T.pyth", "--model", "mvitv2_tiny_16f", "--output", "published.pt")
    status, out, err = tool(*words)
    assert (status, err) == (0, "")
    written = model_from_checkpoint(folder / "published.pt")
    direct = stvit.create_model("mvitv2_tiny_16f", num_classes=3)
    report = load_checkpoint(direct, folder / "MViTv2_T.pyth")
    printed = {line.split()[0]: line.split()[1] for line in out.splitlines() if line}
    assert (printed["inflated"], printed["new"]) == (str(len(report.inflated)), str(len(report.new)))
    assert int(printed["copied"]) == len(report.loaded) - len(report.inflated) - len(report.interpolated)
    assert written.spec == direct.spec
    assert all(torch.equal(weight, direct.state_dict()[key]) for key, weight in written.state_dict().items())


@pytest.mark.parametrize(
    ("checkpoint", "model", "message"),
    [
        ("gone.pt", "mvitv2_tiny_16f", "there is no checkpoint gone.pt"),
        ("text.pt", "mvitv2_tiny_16f", "text.pt"),
        ("small.pt", "mvitv2_tiny_16", "no model is named 'mvitv2_tiny_16' (did you mean"),
        ("small.pt", "mvitv2_tiny", "--model mvitv2_tiny is no video classifier"),
        ("small.pt", "mixvit_predictor", "--model mixvit_predictor is no video classifier"),
        ("small.pt", "mvitv2_small_16x4", "small.pt (of mvitv2_tiny) cannot become mvitv2_small_16x4: the 2D network"),
        ("mixvit.pt", "mixformer_b0_16f", "a MixViT and the 3D one a MixFormer: inflate into a MixViT"),
        ("predictor.pt", "mvitv2_tiny_16f", "predictor.pt is of mixvit_predictor_mini, which is no image network"),
        ("video.pt", "mvitv2_tiny_16f", "video.pt is of mvitv2_tiny_16f, which is no image network"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_an_earlier_file(folder, tool, checkpoint, model, message):
    if checkpoint == "video.pt":
        tool("--checkpoint", "small.pt", "--model", "mvitv2_tiny_16f", "--output", "video.pt")
    (folder / "kept.pt").write_bytes(b"earlier")
    before = sorted(file.name for file in folder.iterdir())
    status, out, err = tool("--checkpoint", checkpoint, "--model", model, "--output", "kept.pt")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert (folder / "kept.pt").read_bytes() == b"earlier"
    assert sorted(file.name for file in folder.iterdir()) == before


def test_the_checkpoint_itself_is_not_overwritten(folder, tool):
    before = (folder / "small.pt").read_bytes()
    words = ("--checkpoint", folder / "small.pt", "--model", "mvitv2_tiny_16f", "--output", "small.pt")
    status, out, err = tool(*words)
    assert (status, out) == (2, "")
    assert err == "error: --output small.pt is the file of --checkpoint, which is not overwritten: give another name\n"
    assert (folder / "small.pt").read_bytes() == before


def test_an_unknown_rule_and_a_missing_folder_are_users_mistakes(tool):
    words = ("--checkpoint", "small.pt", "--model", "mvitv2_tiny_16f", "--output")
    status, _, err = tool(*words, "new.pt", "--rule", "center")
    assert (status, "choose from" in err) == (2, True)
    status, _, err = tool(*words, "no/such/folder/new.pt")
    assert (status, "there is no folder no/such/folder" in err) == (2, True)


def test_help_shows_an_example(tool, capsys):
    with pytest.raises(SystemExit) as left:
        tool("--help")
    assert left.value.code == 0
    assert "Example:\n    python tools/inflate.py --checkpoint MViTv2_T_in1k.pyth" in capsys.readouterr().out
