"""The causal language modelling loss against a value worked out by hand and against Transformers' own."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from manta.objectives import TABLE
from tests.objectives import tiny

loss_of, scored_of = TABLE["clm"].loss, TABLE["clm"].scored


class Fixed(tiny.Told):
    """A model whose logits are given. `worked_on` are the shapes that its output layer was asked for."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits, self.worked_on = logits, []

    def forward(self, input_ids: torch.Tensor, use_cache: bool, position_ids: Any = None) -> SimpleNamespace:
        found = self.output(self.logits)
        self.worked_on.append(tuple(found.shape))
        return SimpleNamespace(logits=found)


def test_against_a_value_by_hand() -> None:
    """Two predictions: p(1 | 0) = 1/4 by logits (0, 0, ln 2), p(2 | 0, 1) = 2/3 by logits (0, -inf, ln 2)."""
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [0.0, -math.inf, math.log(2)], [9.0, 9.0, 9.0]]])
    loss, scored = loss_of(Fixed(logits), {"input_ids": torch.tensor([[0, 1, 2]])})
    assert float(loss) == pytest.approx(math.log(4) + math.log(3 / 2), rel=1e-6)
    assert int(scored) == 2


def test_positions_marked_unscored_do_not_count() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    input_ids = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(1))
    labels = input_ids.clone()
    labels[0, :3] = -100
    model = Fixed(logits)
    loss, scored = loss_of(model, {"input_ids": input_ids, "labels": labels})
    by_hand = -torch.log_softmax(logits, -1)[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0]
    assert int(scored) == 6
    assert float(loss) == pytest.approx(float(by_hand[0, 2:].sum() + by_hand[1].sum()), rel=1e-6)
    assert scored_of({"input_ids": input_ids.numpy(), "labels": labels.numpy()}) == 6
    assert model.worked_on == [(6, 7)], "no logits of what is not scored"


def test_counts_without_labels() -> None:
    assert scored_of({"input_ids": np.zeros((3, 10), np.int32)}) == 27


def test_equals_transformers() -> None:
    model = tiny.llama()
    input_ids = torch.randint(0, tiny.VOCAB, (3, 33), generator=torch.Generator().manual_seed(2))
    labels = input_ids.clone()
    labels[1, 10:] = -100
    with torch.no_grad():
        loss, scored = loss_of(model, {"input_ids": input_ids, "labels": labels})
        theirs = model(input_ids=input_ids, labels=labels).loss
    assert float(loss / scored) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_gradients_with_labels_are_those_of_all_logits(make: Callable[[], torch.nn.Module]) -> None:
    """Of answers alone the output layer works on what is scored; of a batch without any the gradients are 0."""
    model, input_ids = make(), tiny.ids(4, 12)
    labels = input_ids.clone()
    labels[:, :7] = -100
    labels[2] = -100
    loss_of(model, {"input_ids": input_ids, "labels": labels})[0].backward()
    mine = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    logits = model(input_ids=input_ids.long()).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().long(), reduction="sum").backward()
    for found, parameter in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-5)
    model.zero_grad()
    loss, scored = loss_of(model, {"input_ids": input_ids[:1], "labels": torch.full_like(labels[:1], -100)})
    loss.backward()
    assert float(loss.detach()) == int(scored) == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_the_first_token_of_a_document_is_not_scored() -> None:
    logits = torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": torch.tensor([[1, 2, 3, 4, 5, 0]]), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0]])}
    loss, scored = loss_of(Fixed(logits), batch)
    by_hand = -torch.log_softmax(logits[0], -1)
    assert int(scored) == 3 == scored_of({name: values.numpy() for name, values in batch.items()})
    assert float(loss) == pytest.approx(float(by_hand[0, 2] + by_hand[1, 3] + by_hand[3, 5]), rel=1e-6)


def test_a_split_batch_gives_the_same_sums() -> None:
    tiny.split_alike(loss_of, tiny.llama(), {"input_ids": tiny.ids(5, 12)})


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_documents_in_a_row_do_not_see_each_other(make: Callable[[], torch.nn.Module]) -> None:
    """The loss of a row with three documents is the sum of the losses of each alone, whatever stands beside it."""
    model = make()
    documents = [
        torch.randint(0, tiny.VOCAB, (1, length), generator=torch.Generator().manual_seed(length))
        for length in (9, 14, 5)
    ]
    row = {
        "input_ids": torch.cat(documents, dim=1),
        "position_ids": torch.cat([torch.arange(part.shape[1]) for part in documents])[None],
    }
    with torch.no_grad():
        together, scored = loss_of(model, row)
        alone = [loss_of(model, {"input_ids": document}) for document in documents]
        mixed, _ = loss_of(model, {"input_ids": row["input_ids"]})
    assert int(scored) == 8 + 13 + 4
    assert float(together) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-5)
    assert float(mixed) != pytest.approx(float(together), rel=1e-3), "without positions they do see each other"
