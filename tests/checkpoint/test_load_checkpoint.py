"""Loading puts all weights in place, or none and says why."""

from __future__ import annotations

import urllib.error
from email.message import Message
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import stvit
from stvit.checkpoint import LoadReport, load_checkpoint, pack_model
from stvit.checkpoint.layouts import openstl_mixvit
from stvit.errors import UserError

SMALL = {"hidden_spatial": 8, "hidden_translator": 32, "encoder_depth": 2, "translator_depth": 1}
BY_HAND = r", or save the file as .*/hub/checkpoints/stvit/\w+/a\.pth$"
SMALL |= {"window": (4, 4), "dim_head": 8, "channel_heads": 4, "in_frames": 4}


class Classifier(nn.Module):
    """A network with a head, in timm's manner."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, classes)

    def get_classifier(self) -> nn.Module:
        return self.head


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv.weight": None}, r"it lacks 1 of 9 weights \(conv\.weight\)"),
        ({"conv.weight": torch.ones(2, 1, 5, 5)}, r"conv\.weight \(2, 1, 5, 5\) instead of \(2, 1, 3, 3\)"),
        ({"extra": torch.ones(1), "more": torch.ones(1)}, r"2 have no place in the model \(extra, more\)"),
        ({"norm.num_batches_tracked": torch.tensor(1.5)}, r"norm\.num_batches_tracked \(\) instead of \(\) int64"),
        ({"norm.weight": torch.tensor([1.0, float("nan")])}, r"holds values in norm\.weight that are not finite"),
        ({"norm.running_var": torch.tensor([1.0, float("inf")])}, r"norm\.running_var that are not finite"),
        ({"head.weight": torch.ones(3, 4)}, r"1 have other sizes \(head\.weight \(3, 4\) instead of \(3, 2\)\)$"),
        ({"conv.bias": torch.tensor([1, 2])}, r"conv\.bias \(2,\) int64 instead of \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change: dict[str, Tensor | None], said: str) -> None:
    model, weights = Classifier(), Classifier().state_dict() | change
    before = copy_of(model)
    with pytest.raises(UserError, match=r"the given state dict \(layout stvit\).*" + said) as error:
        load_checkpoint(model, {key: value for key, value in weights.items() if value is not None})
    assert "\n" not in str(error.value)
    assert_unchanged(model, before)


def test_a_checkpoint_of_another_model_is_refused_with_both_names(tmp_path: Path) -> None:
    model = stvit.create_model("mixvit_predictor", **SMALL)
    other = pack_model(stvit.create_model("mixvit_predictor", **SMALL | {"hidden_spatial": 16}))
    torch.save(other | {"model": {"name": "mixvit_predictor_mini", "args": {}}}, tmp_path / "mini.pt")
    before = copy_of(model)
    with pytest.raises(UserError, match=r"mini\.pt \(of model mixvit_predictor_mini\) does not fit mixvit_predictor: "):
        load_checkpoint(model, tmp_path / "mini.pt")
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("channel_heads", 2, "2 instead of 4"), ("wavelet", "db2", "'db2' instead of 'haar'")],
)
def test_settings_that_change_no_size_have_to_agree(setting: str, value: object, said: str) -> None:
    packed = pack_model(stvit.create_model("mixvit_predictor", **SMALL | {setting: value}))
    model = stvit.create_model("mixvit_predictor", **SMALL)
    before = copy_of(model)
    with pytest.raises(UserError, match=rf"does not fit mixvit_predictor: it has {setting} {said}; create") as error:
        load_checkpoint(model, packed)
    assert "\n" not in str(error.value)
    assert_unchanged(model, before)


def test_settings_that_weights_do_not_depend_on_may_differ() -> None:
    other = {"out_frames": 2, "drop_path": 0.0, "first_drop_path": 0.0, "image_size": (32, 32)}
    source = stvit.create_model("mixvit_predictor", **SMALL | other)
    model = stvit.create_model("mixvit_predictor", **SMALL)
    load_checkpoint(model, pack_model(source))
    assert_unchanged(model, copy_of(source))


def test_the_published_layout_is_for_haar_alone() -> None:
    theirs = openstl_mixvit.from_stvit(stvit.create_model("mixvit_predictor", **SMALL).state_dict())
    model = stvit.create_model("mixvit_predictor", **SMALL, wavelet="db2")
    before = copy_of(model)
    with pytest.raises(UserError, match=r"\(layout openstl-mixvit\): it is for wavelet 'haar' and the model has 'db2'"):
        load_checkpoint(model, theirs)
    assert_unchanged(model, before)


def test_an_outside_checkpoint_of_another_model_is_refused_by_its_layout() -> None:
    weights = openstl_mixvit.from_stvit(stvit.create_model("mixvit_predictor", **SMALL).state_dict())
    with pytest.raises(UserError, match=r"\(layout openstl-mixvit\) does not fit Classifier: it lacks 4 of 9"):
        load_checkpoint(Classifier(), weights)


def test_the_published_layout_is_found_and_converted(tmp_path: Path) -> None:
    published, model = stvit.create_model("mixvit_predictor", **SMALL), stvit.create_model("mixvit_predictor", **SMALL)
    theirs = openstl_mixvit.from_stvit(published.state_dict())
    torch.save({"epoch": 1, "state_dict": {f"model.{k}": v for k, v in theirs.items()}}, tmp_path / "latest.pth")
    report = load_checkpoint(model, tmp_path / "latest.pth")
    assert_unchanged(model, copy_of(published))
    assert report.layout == "openstl-mixvit"
    assert set(report.loaded) == set(model.state_dict())
    assert "hid.enc.0.block.attn_grid.attn.qkv.weight" in report.converted
    assert report.missing == report.unexpected == ()


def test_a_published_layout_with_a_hole_is_refused(tmp_path: Path) -> None:
    model = stvit.create_model("mixvit_predictor", **SMALL)
    theirs = openstl_mixvit.from_stvit(model.state_dict())
    del theirs["hid.enc.0.block.attn_grid.attn.rel_pos.relative_position_bias_table"]
    with pytest.raises(UserError, match=r"has names of layout openstl-mixvit but is not whole: .*bias_table"):
        load_checkpoint(model, theirs)


def test_create_model_loads_a_checkpoint(tmp_path: Path) -> None:
    source = stvit.create_model("mixvit_predictor", **SMALL)
    torch.save(source.state_dict(), tmp_path / "checkpoint.pth")
    model = stvit.create_model("mixvit_predictor", checkpoint=tmp_path / "checkpoint.pth", **SMALL)
    assert_unchanged(model, copy_of(source))


@pytest.mark.parametrize("source_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_cast_to_the_type_of_the_model(source_dtype: torch.dtype, dtype: torch.dtype) -> None:
    source, model = Classifier().to(source_dtype).state_dict(), Classifier().to(dtype)
    load_checkpoint(model, source)
    assert model.conv.weight.dtype == dtype
    assert torch.equal(model.conv.weight, source["conv.weight"].to(dtype))


def test_values_too_large_for_the_model_are_refused() -> None:
    weights = Classifier().state_dict() | {"conv.bias": torch.tensor([1e6, 0.0])}
    with pytest.raises(UserError, match=r"conv\.bias too large for torch\.float16"):
        load_checkpoint(Classifier().half(), weights)


def test_another_number_of_classes_needs_permission() -> None:
    weights, model = Classifier(5).state_dict(), Classifier(3)
    with pytest.raises(UserError, match=r"does not fit Classifier: it has 5 classes and the model 3: "):
        load_checkpoint(model, weights)
    head = model.head.weight.clone()
    report = load_checkpoint(model, weights, allow_new_head=True)
    assert report.missing == ("head.weight", "head.bias")
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.conv.weight, weights["conv.weight"])


def test_a_new_head_excuses_nothing_but_the_head() -> None:
    weights = {k: v for k, v in Classifier(5).state_dict().items() if k != "conv.bias" and not k.startswith("head")}
    with pytest.raises(UserError, match=r"it lacks 1 of 9 weights \(conv\.bias\)"):
        load_checkpoint(Classifier(), weights, allow_new_head=True)


def test_a_model_without_head_cannot_have_a_new_one() -> None:
    with pytest.raises(UserError, match="Linear has no classifier"):
        load_checkpoint(nn.Linear(1, 1), nn.Linear(1, 1).state_dict(), allow_new_head=True)


def test_further_weights_of_the_file_can_be_left_out_by_request() -> None:
    model = Classifier()
    report = load_checkpoint(model, Classifier().state_dict() | {"neck.weight": torch.ones(1)}, allow_unexpected=True)
    assert report.unexpected == ("neck.weight",)
    assert len(report.loaded) == 9


def test_the_report_is_a_short_table() -> None:
    report = LoadReport("a.pth", "openstl-mixvit", loaded=("a", "b", "c", "d"), missing=("head.weight",))
    assert str(report).splitlines() == [
        "checkpoint    a.pth",
        "layout        openstl-mixvit",
        "weights       as trained",
        "loaded            4  a, b, c, ...",
        "new head          1  head.weight",
    ]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_an_address_is_downloaded_once(tmp_path: Path, hub: Path) -> None:
    source, model = Classifier(), Classifier()
    torch.save(source.state_dict(), tmp_path / "latest.pth")
    url = (tmp_path / "latest.pth").as_uri()
    assert load_checkpoint(model, url).source == url
    (tmp_path / "latest.pth").unlink()
    again = Classifier()
    load_checkpoint(again, url)
    assert_unchanged(again, copy_of(source))
    assert [p.name for p in hub.rglob("*") if p.is_file()] == ["latest.pth"]


def test_equal_names_at_two_addresses_are_two_files(tmp_path: Path, hub: Path) -> None:
    for value in (1.0, 2.0):
        (tmp_path / str(value)).mkdir()
        torch.save({"weight": torch.full((1, 1), value)}, tmp_path / str(value) / "latest.pth")
        model = nn.Linear(1, 1, bias=False)
        load_checkpoint(model, (tmp_path / str(value) / "latest.pth").as_uri())
        assert model.weight.item() == value


def test_a_web_page_at_an_address_is_refused_and_forgotten(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "a.pth").write_text("<html>Sign in</html>")
    with pytest.raises(UserError, match=r"file://.*a\.pth gave no checkpoint: .* is a web page"):
        load_checkpoint(Classifier(), (tmp_path / "a.pth").as_uri())
    assert not [p for p in hub.rglob("*") if p.is_file()]


def test_a_missing_file_at_an_address_is_the_users_mistake(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint file://"):
        load_checkpoint(Classifier(), (tmp_path / "missing.pth").as_uri())
    with pytest.raises(UserError, match="names no file"):
        load_checkpoint(Classifier(), "https://example.org/")


@pytest.mark.parametrize(("code", "kind"), [(404, UserError), (503, OSError)])
def test_answers_of_a_server_are_told_apart(
    hub: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def refuse(url: str, *_: object, **__: object) -> None:
        raise urllib.error.HTTPError(url, code, "reason", Message(), None)

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(kind, match=rf"https://example\.org/a\.pth cannot be downloaded \({code} reason\).*{BY_HAND}"):
        load_checkpoint(Classifier(), "https://example.org/a.pth")


def test_without_network_the_address_is_named(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError(OSError("no route"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(OSError, match=r"https://example\.org/a\.pth cannot be downloaded \(no route\).*" + BY_HAND):
        load_checkpoint(Classifier(), "https://example.org/a.pth")


def test_a_file_saved_by_hand_where_the_message_says_is_taken(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(OSError, match=BY_HAND) as error:
        load_checkpoint(Classifier(), "https://example.org/a.pth")
    source = Classifier()
    torch.save(source.state_dict(), str(error.value).rpartition("save the file as ")[2])
    model = Classifier()
    load_checkpoint(model, "https://example.org/a.pth")
    assert_unchanged(model, copy_of(source))
