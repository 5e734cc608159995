"""Published weights: downloaded once, checked, and refused in one line where they cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import stvit
from stvit.checkpoint import fetch
from stvit.checkpoint.pretrained import load_pretrained
from stvit.errors import UserError
from stvit.model import Model
from stvit.registry import Weights, model_weights

SMALL = {"depths": (1, 1), "width": 16, "input_size": (32, 32)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


def network(**settings: object) -> Model:
    return stvit.create_model("mvitv2_tiny", **{**SMALL, **settings})


def published(folder: Path, **about: object) -> tuple[Weights, Model]:
    """An official file at an address, and the model whose weights are in it."""
    source = network()
    torch.save({"model_state": source.state_dict(), "epoch": 300, "cfg": "MVIT: {}"}, folder / "official.pyth")
    return Weights((folder / "official.pyth").as_uri(), "trained on nothing", "Apache-2.0", **about), source


@pytest.mark.parametrize("digits", [None, 8, 64])
def test_published_weights_are_downloaded_checked_and_loaded(tmp_path: Path, hub: Path, digits: int | None) -> None:
    weights, source = published(tmp_path)
    digest = hashlib.sha256((tmp_path / "official.pyth").read_bytes()).hexdigest()
    weights = Weights(weights.url, weights.protocol, weights.licence, sha256=digits and digest[:digits])
    model = network()
    report = load_pretrained(model, (weights, Weights("https://example.org/other.pyth", "", "")))
    assert (report.source, report.layout) == (weights.url, "slowfast/mvit")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    (tmp_path / "official.pyth").unlink()
    load_pretrained(network(), [weights])  # from the cache
    assert [path.name for path in hub.rglob("*") if path.is_file()] == ["official.pyth"]


def test_create_model_takes_the_weights_of_its_row(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, source = published(tmp_path)
    monkeypatch.setattr("stvit.registry.model_weights", lambda name: (weights,))
    model = stvit.create_model("mvitv2_tiny", pretrained=True, **SMALL)
    assert torch.equal(model.norm.weight, source.norm.weight)
    assert torch.equal(model.head.projection.weight, source.head.projection.weight)
    fresh = stvit.create_model("mvitv2_tiny", pretrained=True, num_classes=3, **SMALL)
    assert fresh.head.projection.weight.shape == (3, 32)
    assert torch.equal(fresh.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    maps = stvit.create_model("mvitv2_tiny", pretrained=True, features_only=True, **SMALL)
    assert torch.equal(maps.network.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


def test_another_file_than_the_digest_says_is_refused_and_not_kept(tmp_path: Path, hub: Path) -> None:
    weights, _ = published(tmp_path, sha256="0" * 64)
    with pytest.raises(UserError, match=r"official\.pyth gave another file than its sha256 0+ says") as error:
        load_pretrained(network(), [weights])
    assert "\n" not in str(error.value)
    assert not [path for path in hub.rglob("*") if path.is_file()]


def test_a_web_page_instead_of_the_file_is_refused_and_not_kept(tmp_path: Path, hub: Path) -> None:
    weights, _ = published(tmp_path)
    (tmp_path / "official.pyth").write_text("<html>Sign in</html>")
    with pytest.raises(UserError, match=r"official\.pyth gave no checkpoint: .* is a web page"):
        load_pretrained(network(), [weights])
    assert not [path for path in hub.rglob("*") if path.is_file()]


def test_a_link_that_needs_a_browser_says_where_to_put_the_file(tmp_path: Path, hub: Path) -> None:
    source, address = network(), "https://drive.example.org/file/d/123/view"
    weights = Weights(address, "trained on nothing", "Apache-2.0", browser_only=True)
    place = fetch.cached_file(address)
    with pytest.raises(UserError) as error:
        load_pretrained(network(), [weights])
    said = f"the weights of mvitv2_tiny need a browser: open {address} and save the file as {place}"
    assert str(error.value) == said
    place.parent.mkdir(parents=True)
    torch.save({"model_state": source.state_dict()}, place)
    model = network()
    load_pretrained(model, [weights])
    assert torch.equal(model.norm.weight, source.norm.weight)


def test_a_model_without_published_weights_says_so() -> None:
    with pytest.raises(UserError, match="no weights are published for mvitv2_tiny: give checkpoint= a file"):
        load_pretrained(network(), ())


PUBLISHED = [(name, weights) for name in stvit.list_models() for weights in model_weights(name)]


@pytest.mark.parametrize(("name", "weights"), PUBLISHED)
def test_what_is_published_says_how_it_was_trained_and_under_which_licence(name: str, weights: Weights) -> None:
    assert weights.url.startswith("https://")
    assert weights.protocol
    assert weights.licence
    assert weights.browser_only or fetch.cached_file(weights.url).suffix in (".pyth", ".pth", ".safetensors")
