"""The composite autoencoder: shapes, padding, the exported graph, and that it learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from data.actions import vocabulary
from data.errors import KubehabitError
from training import model as module
from training.export import TorchModel, check_newest, check_parity, export, export_newest
from training.model import Autoencoder, ModelConfig, Scorer, field_nll, targets_at
from training.unseen import UnseenValues

torch.set_num_threads(1)  # models this small only lose by waiting for each other
CONFIG = ModelConfig(
    vocabulary=(7, 5, 11), principals=4, groups=3, window=6, embedding=4, hidden=16, bottleneck=4, condition=4
)


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(CONFIG).eval()


def windows(batch: int, window: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(
            np.stack([rng.integers(3, size, (batch, window)) for size in CONFIG.vocabulary], axis=-1)
        ),
        torch.from_numpy(rng.integers(1, window + 1, batch)),
        torch.from_numpy(rng.integers(0, CONFIG.principals + 1, batch)),
        torch.from_numpy(rng.integers(0, CONFIG.groups + 1, batch)),
    )


def test_shapes(model: Autoencoder) -> None:
    nll, log_probs = Scorer(model)(*windows(5, 6), torch.arange(4))
    assert (nll.shape, log_probs.shape) == ((5, 4, 3), (5, 4, 23))
    assert (nll >= 0).all()


def test_log_probabilities_of_a_field_sum_to_one_and_hold_the_nll(model: Autoencoder) -> None:
    tokens, lengths, *who = windows(5, 6)
    nll, log_probs = Scorer(model)(tokens, lengths, *who, torch.arange(1))
    start = 0
    for i, size in enumerate(CONFIG.vocabulary):
        part = log_probs[:, 0, start : start + size]
        torch.testing.assert_close(part.exp().sum(-1), torch.ones(5))
        truth = tokens[torch.arange(5), lengths - 1, i]
        torch.testing.assert_close(-part[torch.arange(5), truth], nll[:, 0, i])
        start += size


def test_what_stands_after_the_end_of_a_window_changes_nothing(model: Autoencoder) -> None:
    tokens, lengths, *who = windows(8, 6)
    noisy = tokens.clone()
    for row, length in enumerate(lengths.tolist()):
        noisy[row, length:] = 1
    for given, noise in zip(
        Scorer(model)(tokens, lengths, *who, torch.arange(1)),
        Scorer(model)(noisy, lengths, *who, torch.arange(1)),
        strict=True,
    ):
        torch.testing.assert_close(given, noise)


def test_the_prediction_never_reads_what_it_predicts_or_anything_newer(model: Autoencoder) -> None:
    tokens, _, *who = windows(4, 6)
    lengths, positions = torch.full((4,), 6), torch.arange(6)
    rebuilt, predicted = model(tokens, lengths, *who, positions)
    for ago in range(6):
        changed = tokens.clone()
        changed[:, 5 - ago] = 3 + (tokens[:, 5 - ago] - 2) % torch.tensor([4, 2, 8])
        rebuilt_now, predicted_now = model(changed, lengths, *who, positions)
        differs = (predicted_now - predicted).abs().amax(dim=(0, 2)) > 1e-7
        assert differs.tolist() == [place < ago for place in range(6)]
        assert ((rebuilt_now - rebuilt).abs().amax(dim=(0, 2)) > 1e-7).all()


def test_the_first_action_is_predicted_from_who_acts_alone(model: Autoencoder) -> None:
    tokens, _, *who = windows(4, 6)
    _, predicted = model(tokens, torch.ones(4, dtype=torch.int64), *who, torch.arange(1))
    _, of_another = model(tokens.flip(0), torch.ones(4, dtype=torch.int64), *who, torch.arange(1))
    torch.testing.assert_close(predicted, of_another)
    _, of_others = model(tokens, torch.ones(4, dtype=torch.int64), who[0].flip(0), who[1], torch.arange(1))
    assert not torch.allclose(predicted, of_others)


@pytest.mark.parametrize("share", [1e-9, 0.25, 1 - 1e-9])
def test_the_error_is_that_of_the_mixture_of_both_decoders(model: Autoencoder, share: float) -> None:
    tokens, lengths, *who = windows(5, 6)
    model.rebuilt_share.fill_(share)
    newest = torch.arange(1)
    targets = targets_at(tokens, lengths, newest)
    rebuilt, predicted = (
        field_nll(logits, targets, CONFIG.vocabulary) for logits in model(tokens, lengths, *who, newest)
    )
    nll, _ = Scorer(model)(tokens, lengths, *who, newest)
    torch.testing.assert_close((-nll).exp(), share * (-rebuilt).exp() + (1 - share) * (-predicted).exp())


def test_both_decoders_weigh_alike(model: Autoencoder) -> None:
    assert model.rebuilt_share.tolist() == [0.5, 0.5, 0.5]


def test_targets_count_back_from_the_newest() -> None:
    tokens = torch.arange(5).view(1, 5, 1)
    assert targets_at(tokens, torch.tensor([3]), torch.arange(3)).flatten().tolist() == [2, 1, 0]
    assert targets_at(tokens, torch.tensor([2]), torch.arange(3)).flatten().tolist() == [1, 0, 0]


def test_field_nll_is_cross_entropy() -> None:
    logits, targets = (
        torch.randn(2, 3, 23),
        torch.stack([torch.randint(0, size, (2, 3)) for size in CONFIG.vocabulary], -1),
    )
    ours = field_nll(logits, targets, CONFIG.vocabulary)
    middle = torch.nn.functional.cross_entropy(
        logits[..., 7:12].flatten(0, 1), targets[..., 1].flatten(), reduction="none"
    )
    torch.testing.assert_close(ours[..., 1].flatten(), middle)


def test_the_mask_token_is_the_vocabularys() -> None:
    assert module.MASK == vocabulary.MASK


def test_corruption_masks_about_the_share_asked_for(model: Autoencoder) -> None:
    tokens = windows(400, 6)[0]
    corrupted = model.corrupt(tokens)
    assert ((corrupted == module.MASK) | (corrupted == tokens)).all()
    assert (corrupted == module.MASK).float().mean().item() == pytest.approx(CONFIG.mask, abs=0.02)


def test_it_learns_who_does_what() -> None:
    """Each principal always does its own thing; afterwards the same action costs more under another principal."""
    torch.manual_seed(0)
    model = Autoencoder(CONFIG)
    principal = torch.arange(1, 5).repeat(16)
    tokens = (2 + principal).view(-1, 1, 1).expand(-1, 6, 3).clone().clamp(max=4)
    tokens[..., 0] = (2 + principal).view(-1, 1)
    lengths, group = torch.full((64,), 6), torch.ones(64, dtype=torch.int64)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        known = principal * (torch.rand(64) >= CONFIG.principal_dropout)
        targets = targets_at(tokens, lengths, torch.arange(2))
        decoders = model(model.corrupt(tokens), lengths, known, group, torch.arange(2))
        loss = sum(field_nll(logits, targets, CONFIG.vocabulary).sum(-1).mean() for logits in decoders)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scorer = TorchModel(model)
    inputs = (tokens.numpy(), lengths.numpy(), principal.numpy(), group.numpy(), np.arange(1))
    own = scorer(*inputs)[0].sum()
    stolen = scorer(inputs[0], inputs[1], np.roll(inputs[2], 1), inputs[3], inputs[4])[0].sum()
    assert stolen > own + 0.5 * 64


def test_a_kind_of_values_shares_its_probability_among_them_in_every_graph(
    model: Autoencoder, tmp_path: Path
) -> None:
    sizes = tuple(range(1, 1 + sum(CONFIG.vocabulary)))
    shared = Autoencoder(replace(CONFIG, kind_sizes=sizes)).eval()
    shared.load_state_dict(
        model.state_dict()
    )  # what is shared comes from the vocabulary, not with the weights
    tokens, lengths, *who = windows(8, 6)
    newest = torch.arange(1)
    alone, _ = Scorer(model)(tokens, lengths, *who, newest)
    among, _ = Scorer(shared)(tokens, lengths, *who, newest)
    targets = targets_at(tokens, lengths, newest) + model.offsets
    torch.testing.assert_close(among - alone, torch.log(torch.tensor(sizes, dtype=torch.float32))[targets])
    export(shared, tmp_path / "model.onnx")
    export_newest(shared, tmp_path / "newest.onnx")
    assert check_parity(shared, tmp_path / "model.onnx", batches=20) <= 1e-4
    assert check_newest(shared, tmp_path / "newest.onnx", batches=20) <= 1e-5


def test_an_unseen_value_costs_what_its_kind_is_worth_to_who_uses_it() -> None:
    """Two principals, each with eight objects of one stem: one more of the own is no surprise, one of the other's is."""
    stems = 2
    known = torch.arange(5, 21).view(stems, 8)  # tokens 3 and 4 stand for the stems
    broader = torch.cat([torch.arange(3), torch.tensor([1, 1]), torch.tensor([3, 4]).repeat_interleave(8)])
    met = torch.tensor([1e9] * 5 + [1.0] * 16)
    unseen = UnseenValues((0.2 / met).numpy().astype(np.float32), broader.numpy(), np.zeros(1, np.int64))
    config = replace(CONFIG, vocabulary=(21,), principals=stems)
    torch.manual_seed(0)
    model = Autoencoder(config)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    rng = np.random.default_rng(0)
    principal, group = torch.arange(stems).repeat(32), torch.ones(64, dtype=torch.int64)
    lengths = torch.full((64,), 6)
    for _ in range(150):
        objects = known[principal].gather(1, torch.from_numpy(rng.integers(0, 8, (64, 6)))).unsqueeze(-1)
        tokens = torch.from_numpy(unseen.hide(objects.numpy(), rng))
        targets = targets_at(tokens, lengths, torch.arange(2))
        decoders = model(model.corrupt(tokens), lengths, principal + 1, group, torch.arange(2))
        loss = sum(field_nll(logits, targets, config.vocabulary).sum(-1).mean() for logits in decoders)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens[:, -1, 0] = 3 + principal  # an unseen object of the own stem
    inputs = (lengths.numpy(), principal.numpy() + 1, group.numpy(), np.arange(1))
    own = TorchModel(model)(tokens.numpy(), *inputs)[0].mean()
    tokens[:, -1, 0] = 4 - principal  # of the other's
    other = TorchModel(model)(tokens.numpy(), *inputs)[0].mean()
    assert own < 4  # as it is unseen in a sixth of the windows
    assert other > own + 2


def test_the_exported_graph_computes_the_same_numbers(model: Autoencoder, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    assert check_parity(model, tmp_path / "model.onnx", batches=50) <= 1e-4
    dims = {
        value.name: [d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in onnx.load(tmp_path / "model.onnx").graph.input
    }
    assert dims["tokens"][:2] == ["batch", "window"]
    assert dims["positions"] == ["positions"]


def test_the_graph_for_the_newest_action_computes_the_same_numbers(
    model: Autoencoder, tmp_path: Path
) -> None:
    export_newest(model, tmp_path / "newest.onnx")
    assert check_newest(model, tmp_path / "newest.onnx", batches=30) <= 1e-5


def test_a_broken_export_of_it_is_refused(model: Autoencoder, tmp_path: Path) -> None:
    export_newest(model, tmp_path / "newest.onnx")
    with torch.no_grad():
        model.encoder.weight_hh_l0.add_(0.05)
    with pytest.raises(KubehabitError, match="differs from the trained one"):
        check_newest(model, tmp_path / "newest.onnx", batches=5)


def test_a_broken_export_is_refused(model: Autoencoder, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        model.heads.bias[3] += 0.01
    with pytest.raises(KubehabitError, match="differs from the trained one"):
        check_parity(model, tmp_path / "model.onnx", batches=5)


def test_a_graph_that_gives_no_number_is_refused(model: Autoencoder, tmp_path: Path) -> None:
    with torch.no_grad():
        model.heads.bias[3] = float("nan")
    export(model, tmp_path / "model.onnx")
    with pytest.raises(KubehabitError, match="differs from the trained one"):
        check_parity(model, tmp_path / "model.onnx", batches=5)
