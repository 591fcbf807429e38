"""The comparison of decoders weighs them as the exported graph does."""

import numpy as np
import pytest
import torch

from benchmarks.decoders import BothDecoders, Weighing, evenly, likeliest_share, markdown
from training.export import TorchModel
from training.model import Autoencoder, ModelConfig


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_weighing_gives_the_errors_of_the_product(share: float) -> None:
    torch.manual_seed(1)
    network = Autoencoder(ModelConfig((7, 5), principals=3, groups=2, window=5, hidden=8, bottleneck=4))
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(3, size, (6, 5)) for size in (7, 5)], axis=-1)
    inputs = (
        tokens,
        rng.integers(1, 6, 6),
        rng.integers(0, 4, 6),
        rng.integers(0, 3, 6),
        np.zeros(1, np.int64),
    )
    network.rebuilt_share.fill_(share)
    nll, _ = TorchModel(network)(*inputs)
    both, _ = BothDecoders(network)(*inputs)
    assert both.shape == (6, 1, 4)
    found = Weighing("", np.full(2, share))(both[:, 0])
    np.testing.assert_allclose(found, nll[:, 0], atol=1e-5)


def test_the_fitted_share_is_the_likeliest() -> None:
    """Of 1,000 actions the first decoder foresees 700 and the second 300, in the second field the other way round."""
    both = np.full((1000, 4), 6.0, np.float32)
    both[:700, 0] = both[:300, 1] = 0.0
    both[700:, 2] = both[300:, 3] = 0.0
    assert likeliest_share(both, np.ones(1000)) == pytest.approx([0.7, 0.3], abs=0.01)
    weight = np.where(np.arange(1000) < 700, 1.0, 0.0)
    assert likeliest_share(both, weight)[0] == 0.75  # neither is ever silent


def test_a_principal_counts_as_the_square_root_of_its_actions() -> None:
    weight = evenly(["node"] * 4 + ["alice"])
    assert weight[:4].sum() == pytest.approx(2 * weight[4])


def test_the_table_names_each_place() -> None:
    figures = {
        "recall": 0.5,
        "strict_per_10k": 1.25,
        "recall_at_1": 0.25,
        "recall_at_3": 0.75,
        "recall_at_10": 1.0,
    }
    text = markdown({"dev": [("by themselves", "rebuilt alone", figures)]})
    assert "| by themselves | rebuilt alone | 50% | 1.25 | 25% | 75% | 100% |" in text
