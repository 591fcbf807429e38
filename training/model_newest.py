"""The score of the newest action alone, laid out for speed: the same numbers as `training.model.Scorer` with half the work.

Windows of one principal share most of their actions. So the input projection of the encoder, two thirds of its arithmetic, is
computed once for each action instead of once for each window it is in. The LSTM is unrolled: its first step has no state to
multiply, and the state before its last step is what the predicting decoder reads. The rebuilding decoder has a single step, and
the place embedding of the newest action is folded into its bias. Only the log-probabilities of the true tokens are computed.

Letters in shapes: A actions, N windows, W actions a window, F fields, V tokens of all fields together, E embedding, C condition,
H hidden, Z bottleneck.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.model import Autoencoder, field_nll, mixed


class NewestScorer(nn.Module):
    """Error of the newest action of windows that are given as places in a block of actions."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.sizes, self.hidden = config.vocabulary, config.hidden

        def gates(lstm: nn.LSTM, name: str, wanted: str) -> Tensor:
            """Rows of an LSTM's weights, which torch orders i, f, g, o, in another order."""
            rows = lstm.get_parameter(name).detach()
            parts = dict(zip("ifgo", torch.split(rows, config.hidden), strict=True))
            return torch.cat([parts[gate] for gate in wanted])

        def bias(lstm: nn.LSTM, wanted: str) -> Tensor:
            return gates(lstm, "bias_ih_l0", wanted) + gates(lstm, "bias_hh_l0", wanted)

        self.encode_weight: Tensor
        self.recurrent_weight: Tensor
        self.encode_bias: Tensor
        self.decode_weight: Tensor
        self.decode_bias: Tensor
        encoder, decoder = model.encoder, model.decoder
        # The decoder's only step begins without a state: nothing is forgotten.
        gate = gates(decoder, "weight_ih_l0", "iog")  # [3H, Z+3C]
        given = config.bottleneck + 2 * config.condition
        place = gate[:, given:] @ model.place.weight[0].detach()  # [3H]
        for buffer, tensor in {
            "encode_weight": gates(encoder, "weight_ih_l0", "ifog").T.contiguous(),  # [F*E+2C, 4H]
            "recurrent_weight": gates(encoder, "weight_hh_l0", "ifog").T.contiguous(),  # [H, 4H]
            "encode_bias": bias(encoder, "ifog"),  # [4H]
            "decode_weight": gate[:, :given].T.contiguous(),  # [Z+2C, 3H]
            "decode_bias": bias(decoder, "iog") + place,  # [3H]
        }.items():
            self.register_buffer(buffer, tensor)

    def forward(self, actions: Tensor, principal: Tensor, group: Tensor, index: Tensor) -> Tensor:
        """Score.

        Args:
            actions: int64 [A, F], tokens.
            principal: int64 [A], id of each action's principal, 0 if never seen.
            group: int64 [A].
            index: int64 [N, W], rows of `actions` that make a window, oldest first, the newest last; A where the window has
                no action yet.

        Returns:
            float32 [N, F]: NLL of each field of the newest actions under the mixture of both decoders, nats.
        """
        model, hidden = self.model, self.hidden
        who = torch.cat([model.principal(principal), model.group(group)], dim=-1)  # [A, 2C]
        embedded = model.tokens(actions + model.offsets).flatten(1)  # [A, F*E]
        read = torch.cat([embedded, who], dim=-1)  # [A, F*E+2C]
        given = torch.addmm(self.encode_bias, read, self.encode_weight)  # [A, 4H]
        # An LSTM that is given nothing at all, not even its bias, stays in the state in which it begins.
        given = functional.pad(given, (0, 0, 0, 1))  # [A+1, 4H]
        state, memory = self._step(given[index[:, 0]], None)  # [N, H] each
        before = torch.zeros_like(state)  # [N, H]
        for step in range(1, index.shape[1]):
            before = state
            gates = torch.addmm(given[index[:, step]], state, self.recurrent_weight)  # [N, 4H]
            state, memory = self._step(gates, memory)
        newest = index[:, -1]  # [N]
        mine = who[newest]  # [N, 2C]
        code = torch.tanh(model.squeeze(state))  # [N, Z]
        gate = torch.addmm(self.decode_bias, torch.cat([code, mine], dim=-1), self.decode_weight)  # [N, 3H]
        inward, outward = torch.split(torch.sigmoid(gate[:, : 2 * hidden]), hidden, 1)  # [N, H] each
        decoded = outward * torch.tanh(inward * torch.tanh(gate[:, 2 * hidden :]))  # [N, H]
        targets = actions[newest]  # [N, F]
        rebuilt = field_nll(model.heads(torch.cat([decoded, mine], dim=-1)), targets, self.sizes)  # [N, F]
        predicted = field_nll(
            model.next_heads(torch.cat([before, mine], dim=-1)), targets, self.sizes
        )  # [N, F]
        return model.cost_of_kinds(targets) - mixed(-rebuilt, -predicted, model.rebuilt_share)

    def _step(self, gates: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step of the encoder from its gates [N, 4H] in the order i, f, o, g: state and memory [N, H]."""
        hidden = self.hidden
        inward, kept, outward = torch.split(torch.sigmoid(gates[:, : 3 * hidden]), hidden, 1)
        new = inward * torch.tanh(gates[:, 3 * hidden :])
        memory = new if memory is None else kept * memory + new
        return outward * torch.tanh(memory), memory
