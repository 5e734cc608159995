"""Parameters and multiply-accumulates that were published for the registered networks.

Of MixViT without the wavelet stem, whose Fourier transform fvcore does not see.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures for one forward pass at the nominal input size, batch 1."""

    parameters: str | None  # millions, with the decimals that were printed; None: not printed
    gmacs: str  # 10^9 multiply-accumulates, likewise
    source: str
    counted: tuple[float, float]  # the same two of the published code itself, the second by fvcore
    note: str = ""  # why ours differ, where that is known
    lookup: float = 0.0  # 10^9 of it are products that look up position tables, which ours index


def _lookup(window: int, heads: int) -> float:
    """MixViT's code turns a table ``(2 w - 1)^2`` into ``w^2 x w^2`` biases by two products with 0 and 1, each head.

    ``heads``: of all blocks together; each block has a window and a grid attention.
    """
    rows, places = 2 * window - 1, window**2
    return 2 * heads * (rows * places * rows + places * rows * places) / 1e9


_MVIT = "facebookresearch/mvit, README"
_SLOWFAST = "SlowFast, MViTv2 model zoo"
_MIXVIT, _MPVIT, _MIXFORMER = "MixViT paper", "arXiv 2112.11010", "arXiv 2204.02557"
_HEAD = "published with the 1,000-class head; this row has 19,168 classes"
_HIDDEN = "the paper's count seems to take the last hidden layer at 14 x 14 positions instead of 7 x 7"

PUBLISHED = {
    "mvitv2_tiny": Published("24", "4.7", _MVIT, (24.173, 4.704)),
    "mvitv2_small": Published("35", "7.0", _MVIT, (34.870, 6.998)),
    "mvitv2_base": Published("52", "10.2", _MVIT, (51.473, 10.159), "51.47 M is 51 M rounded"),
    "mvitv2_large": Published(
        "218",
        "42.1",
        _MVIT,
        (217.993, 43.869),
        "42.1 is near the layout of the 21k network; the published file's is this",
    ),
    "mvitv2_base_in21k": Published("52", "10.2", _MVIT, (65.444, 10.232), _HEAD),
    "mvitv2_large_in21k": Published("218", "42.1", _MVIT, (234.583, 42.172), _HEAD),
    "mvitv2_huge_in21k": Published("667", "120.6", _MVIT, (694.804, 120.667), _HEAD),
    "mvitv2_huge": Published(
        "667", "120.6", _MVIT, (666.880, 119.922), "120.6 has the class token and the head of 19,168 classes"
    ),
    "mvitv2_small_16x4": Published("34.5", "64", _SLOWFAST, (34.538, 64.457)),
    "mvitv2_base_32x3": Published("51.2", "225", _SLOWFAST, (51.230, 225.170)),
    "mvitv2_large_40x3": Published(
        "217.6", "2828", _SLOWFAST, (213.390, 2828.101), "SlowFast's own table for SSv2 says 213.1 M"
    ),
    "mixvit_p1_224": Published("5.0", "1.04", _MIXVIT, (5.043, 1.0244), lookup=_lookup(7, 19)),
    "mixvit_p2_224": Published("6.0", "1.35", _MIXVIT, (6.010, 1.3312), lookup=_lookup(7, 25)),
    "mixvit_n_224": Published("10.6", "1.97", _MIXVIT, (10.649, 1.9491), lookup=_lookup(7, 42)),
    "mixvit_t_224": Published("23.3", "4.6", _MIXVIT, (23.272, 4.5552), lookup=_lookup(7, 50)),
    "mixvit_t_384": Published("23.3", "14.1", _MIXVIT, (23.308, 14.071), lookup=_lookup(12, 50)),
    "mixvit_s_224": Published("41.7", "7.5", _MIXVIT, (41.726, 7.4160), lookup=_lookup(7, 84)),
    "mixvit_s_384": Published("41.8", "22.9", _MIXVIT, (41.786, 22.871), lookup=_lookup(12, 84)),
    "mixvit_m_224": Published("69.7", "12.4", _MIXVIT, (69.669, 12.373), lookup=_lookup(7, 92)),
    "mixvit_m_384": Published("69.7", "37.8", _MIXVIT, (69.735, 37.763), lookup=_lookup(12, 92)),
    "mixvit_b_224": Published("100.0", "17.0", _MIXVIT, (100.008, 16.942), lookup=_lookup(7, 138)),
    "mixvit_b_256": Published("100.0", "22.2", _MIXVIT, (100.023, 22.245), lookup=_lookup(8, 138)),
    "mixvit_b_384": Published("100.0", "51.7", _MIXVIT, (100.107, 51.496), lookup=_lookup(12, 138)),
    "mpvit_tiny": Published("5.8", "1.6", _MPVIT, (5.844, 1.654), "1.654, printed without rounding"),
    "mpvit_xsmall": Published("10.5", "2.9", _MPVIT, (10.573, 2.971), "10.573 and 2.971, printed without rounding"),
    "mpvit_small": Published("22.8", "4.7", _MPVIT, (22.892, 4.800), "22.892 and 4.7996, printed without rounding"),
    "mpvit_base": Published("74.8", "16.4", _MPVIT, (74.846, 16.445)),
    "mixformer_b0": Published(None, "0.4", _MIXFORMER, (5.099, 0.411)),
    "mixformer_b1": Published(None, "0.7", _MIXFORMER, (7.888, 0.711)),
    "mixformer_b2": Published(None, "0.9", _MIXFORMER, (9.895, 0.914)),
    "mixformer_b3": Published(None, "1.9", _MIXFORMER, (16.748, 1.827), _HIDDEN),
    "mixformer_b4": Published(None, "3.6", _MIXFORMER, (34.798, 3.507), _HIDDEN),
    "mixformer_b5": Published(None, "6.8", _MIXFORMER, (61.692, 6.729), _HIDDEN),
    "mixformer_b6": Published(None, "12.7", _MIXFORMER, (119.505, 12.634), _HIDDEN),
    "mixvit_predictor": Published("37.6", "14.0", _MIXVIT, (37.571, 14.0025)),
}
