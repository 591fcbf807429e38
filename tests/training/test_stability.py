"""The population stability index: its bins, its noise, and how much data is behind it."""

import numpy as np

from training.stability import counts_in, edges_of, effective_size, noise_level, stability_index

RNG = np.random.default_rng(5)


def test_bins_hold_equally_many_and_repeats_share_one() -> None:
    values = np.arange(1000.0)
    assert set(counts_in(values, edges_of(values))) == {100}
    assert len(edges_of(np.ones(50))) == 1
    assert counts_in(np.ones(50), edges_of(np.ones(50))) == [50, 0]


def test_the_noise_level_is_exceeded_as_often_as_it_says() -> None:
    over = 0
    for _ in range(400):
        before, now = RNG.exponential(size=400), RNG.exponential(size=150)
        edges = edges_of(before)
        psi = stability_index(counts_in(before, edges), counts_in(now, edges))
        over += psi > noise_level(10, 400, 150, 0.05)
    assert 0.01 < over / 400 < 0.10


def test_neighbours_alike_are_worth_less() -> None:
    alone = RNG.normal(size=2000)
    assert effective_size(alone) > 1500
    assert effective_size(np.repeat(alone[:100], 20)) < 200
