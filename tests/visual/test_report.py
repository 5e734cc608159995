"""The results table."""

import math

import pytest

from stvit.errors import UserError
from stvit.visual.report import results_table

RESULTS = {
    "mixvit_predictor_mini": {"mse": 41.234, "ssim": 0.81, "psnr_uint8_wrapped": 30.0},
    "black": {"mse": 178.0, "ssim": 0.7, "psnr_uint8_wrapped": 41.0},
}


def test_the_best_of_every_column_is_marked_and_columns_are_aligned():
    assert results_table(RESULTS, ("mse", "ssim")).splitlines() == [
        "method                    MSE     SSIM",
        "---------------------  ------  -------",
        "mixvit_predictor_mini   41.2*  0.8100*",
        "black                  178.0   0.7000",
        "* best of its column",
    ]


def test_markdown():
    assert results_table(RESULTS, ("mse", "ssim"), markdown=True).splitlines() == [
        "| method                |      MSE |       SSIM |",
        "| --------------------- | -------: | ---------: |",
        "| mixvit_predictor_mini | **41.2** | **0.8100** |",
        "| black                 |    178.0 |     0.7000 |",
    ]


def test_the_wrapped_psnr_has_no_best_because_it_measures_no_quality():
    row = results_table(RESULTS, ("psnr_uint8_wrapped",)).splitlines()[3]
    assert "41.00" in row
    assert "*" not in row


def test_missing_and_undefined_values_are_shown_and_never_best():
    lines = results_table({"a": {"mse": math.nan}, "b": {}, "c": {"mse": 5.0}}, ("mse",)).splitlines()
    assert [line.split() for line in lines[2:5]] == [["a", "nan"], ["b", "-"], ["c", "5.0*"]]


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match=r"metric 'msee'.*known are mse, mae"):
        results_table(RESULTS, ("msee",))
