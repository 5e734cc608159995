"""The published predictor's state dict, there and back."""

from __future__ import annotations

import parity
import pytest
import torch

import stvit
from stvit.checkpoint.layouts import openstl_mixvit
from stvit.errors import UserError


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return parity.load("simvp_mixvit_mmnist").state_dict


def test_recognised_by_its_keys(published: dict[str, torch.Tensor]) -> None:
    assert openstl_mixvit.matches(published)
    assert not openstl_mixvit.matches(stvit.create_model("mixvit_predictor").state_dict())


def test_every_key_has_a_place_in_our_network(published: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        ours = stvit.create_model("mixvit_predictor").state_dict()
    converted = openstl_mixvit.to_stvit(published)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in ours.items()}


def test_there_and_back_is_exact(published: dict[str, torch.Tensor]) -> None:
    back = openstl_mixvit.from_stvit(openstl_mixvit.to_stvit(published))
    assert set(back) == set(published)
    assert all(torch.equal(back[k], v) for k, v in published.items())


def test_filters_of_another_wavelet_are_refused(published: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"dwt_l2.w_l holds \[.*\], not the haar filter"):
        openstl_mixvit.to_stvit({**published, "dwt_l2.w_l": torch.ones(1, 2)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_another_precision_are_converted(published: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    converted = openstl_mixvit.to_stvit({key: value.to(dtype) for key, value in published.items()})
    assert converted.keys() == openstl_mixvit.to_stvit(published).keys()
    shifted = published["dwt_l2.w_l"].to(dtype) * 1.05
    with pytest.raises(UserError, match="not the haar filter"):
        openstl_mixvit.to_stvit({**published, "dwt_l2.w_l": shifted})


def test_a_table_of_a_window_that_is_not_square_is_refused(published: dict[str, torch.Tensor]) -> None:
    key = "hid.enc.0.block.attn_grid.attn.rel_pos.relative_position_bias_table"
    with pytest.raises(UserError, match="105 rows is not that of a square window"):
        openstl_mixvit.to_stvit({**published, key: torch.zeros(7 * 15, 20)})
