"""Masked language modelling with several hidden tokens a row, each of which also tells the token before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives import encoder
from manta.objectives.mlm import labels_scored
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch

    from manta.objectives.predecessor import WithPredecessor

INNER = "model."  # before the names of the model's own weights


def multi_mlm(
    model: Any, batch: Mapping[str, torch.Tensor], predecessor_weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sums and two counts: of the hidden tokens, and, weighted, of the tokens before them.

    L = 1/|M| sum_{t in M} -log p(x_t | x~, t) + w/|P| sum_{t in P} -log q(x_{t-1} | x~, t)

    x~ is the row with the places M hidden; P are those of M before which text of the same document stands. With h_t
    what the model puts into its output layer at t, and E that layer, p = softmax(E h_t) and q = softmax(E W h_t): W is
    one more matrix (hidden, hidden), E is shared. So h_t must know its left neighbour too, hidden or not.

    The batch is that of `mlm`, with `predecessor_labels`, int (batch, seq): x_{t-1} at the places of P, else -100.
    `model` is what `attach` made. Both results are (2,): float32 nats, int64.
    """
    import torch

    targets = batch["labels"].long()
    where = targets != NOT_SCORED
    logits, before = model(where=where, **encoder.inputs(model, batch))  # (scored, vocab) both
    own, num_own = cross_entropy(logits, targets[where])
    previous, num_previous = cross_entropy(before, batch["predecessor_labels"].long()[where])
    return torch.stack([own, predecessor_weight * previous]), torch.stack([num_own, num_previous])


def multi_mlm_scored(batch: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """How many tokens, and how many tokens before them, a batch (numpy) scores."""
    return labels_scored(batch), int((batch["predecessor_labels"] != NOT_SCORED).sum())


def attach(model: Any, seed: int) -> WithPredecessor:
    """The model with the matrix W beside it, drawn as the model's own from `seed`: the same on all workers.

    To be trained and saved in checkpoints is what this returns; it is not what `detach` leaves.
    """
    from manta.objectives.predecessor import WithPredecessor

    return WithPredecessor(model, seed)


def detach(model: WithPredecessor, weights: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model alone and its weights, by its own names: W served training only. `weights` are those of `model`."""
    own = {name.removeprefix(INNER): tensor for name, tensor in weights.items() if name.startswith(INNER)}
    return model.model, own
