"""The counter-based random numbers: known words, sound statistics, one result everywhere."""

import numpy as np
import pytest
import torch

from stvit.datasets.counter_random import below, item_bases, mix, uniform, unit_vectors, word_steps

MASK = (1 << 64) - 1


def splitmix64(state: int, count: int) -> list[int]:
    """The published algorithm on Python's unbounded integers."""
    words = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    return words


def test_words_are_those_of_splitmix64():
    words = mix(np.array([0, 1234567, -5])[:, None] + word_steps(4)).view(np.uint64)
    assert words.tolist() == [splitmix64(state & MASK, 4) for state in (0, 1234567, -5)]
    assert splitmix64(1234567, 1) == [6457827717110365317]  # the value other implementations publish


def test_torch_and_numpy_give_the_same_bits():
    indices = np.arange(1000)
    bases = item_bases(indices, seed=-3, stream=2, epoch=7)
    on_torch = item_bases(torch.from_numpy(indices), seed=-3, stream=2, epoch=7)
    assert np.array_equal(bases, on_torch.numpy())
    assert np.array_equal(uniform(bases), uniform(on_torch).numpy())
    assert np.array_equal(below(bases, 60_000), below(on_torch, 60_000).numpy())
    for ours, theirs in zip(unit_vectors(bases), unit_vectors(on_torch), strict=True):
        assert np.array_equal(ours, theirs.numpy())


def test_every_stream_epoch_and_index_has_a_base_of_its_own():
    bases = np.concatenate(
        [
            item_bases(np.arange(2000), 42, stream, epoch)
            for stream in (0, 1, 2, 3)
            for epoch in (0, 1, 2, (1 << 30) - 1)
        ]
    )
    assert len(np.unique(bases)) == bases.size


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_uniform_values_fill_the_unit_interval_evenly(seed: int):
    values = uniform(item_bases(np.arange(200_000), seed, 0, 0))
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    assert values.min() >= 0
    assert values.max() < 1
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert 55 < chi_square < 155  # 99 degrees of freedom: 1 in 1000 on either side is at about 60 and 149


def test_neighbouring_indices_epochs_seeds_and_words_are_uncorrelated():
    n = 100_000
    index = np.arange(n)
    reference = uniform(item_bases(index, 1, 0, 0))
    others = {
        "next index": uniform(item_bases(index + 1, 1, 0, 0)),
        "next epoch": uniform(item_bases(index, 1, 0, 1)),
        "next seed": uniform(item_bases(index, 2, 0, 0)),
        "next stream": uniform(item_bases(index, 1, 1, 0)),
        "next word": uniform(mix(item_bases(index, 1, 0, 0) + word_steps(1))),
    }
    for name, values in others.items():
        assert abs(np.corrcoef(reference, values)[0, 1]) < 5 / np.sqrt(n), name


def test_integers_below_a_limit_are_uniform_and_reach_both_ends():
    values = below(item_bases(np.arange(60_000), 0, 0, 0), 6)
    counts = np.bincount(values, minlength=6)
    assert counts.size == 6
    assert abs(counts - 10_000).max() < 500


def test_unit_vectors_are_sine_and_cosine_of_a_uniform_angle():
    words = item_bases(np.arange(100_000), 5, 0, 0)
    sine, cosine = unit_vectors(words)
    assert np.abs(sine**2 + cosine**2 - 1).max() < 1e-15
    quarter = (words.view(np.uint64) >> np.uint64(62)).astype(np.float64)
    within = ((words.view(np.uint64) >> np.uint64(9)) & np.uint64((1 << 53) - 1)).astype(np.float64) / 2**53 - 0.5
    angle = (quarter + within) * (np.pi / 2)
    assert np.abs(sine - np.sin(angle)).max() < 1e-15
    assert np.abs(cosine - np.cos(angle)).max() < 1e-15
    counts = np.histogram(np.arctan2(sine, cosine), bins=50, range=(-np.pi, np.pi))[0]
    assert abs(counts - 2000).max() < 250


def test_a_stream_beyond_its_two_bits_is_refused():
    with pytest.raises(ValueError, match=r"stream 4 is outside 0\.\.3"):
        item_bases(np.array([1]), 0, 4, 0)
