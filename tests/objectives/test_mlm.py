"""Masked language modelling against a value by hand and Transformers' own; documents in a row stay apart in an encoder."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manta.objectives import TABLE
from manta.objectives.encoder import block_mask
from tests.objectives import tiny

loss_of, scored_of = TABLE["mlm"][:2]


class Fixed(torch.nn.Module):
    """A model whose hidden states are given, and whose output layer multiplies them by nothing."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.states = logits
        self.output = torch.nn.Linear(logits.shape[-1], logits.shape[-1], bias=False)
        self.output.weight.data = torch.eye(logits.shape[-1])

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.output

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.output(self.states))


def test_against_a_value_by_hand() -> None:
    """p(2) = 1/2 at place 1 by logits (0, 0, ln 2), p(0) = 2/3 at place 2 by (ln 4, ln 2, -1000); place 0 is not scored."""
    logits = torch.tensor([[[5.0, 0.0, 0.0], [0.0, 0.0, math.log(2)], [math.log(4), math.log(2), -1000.0]]])
    batch = {"input_ids": torch.tensor([[1, 1, 1]]), "labels": torch.tensor([[-100, 2, 0]])}
    loss, scored = loss_of(Fixed(logits), batch)
    assert float(loss.detach()) == pytest.approx(math.log(2) + math.log(3 / 2), rel=1e-6)
    assert int(scored) == 2 == scored_of(tiny.numpy(batch))
    assert loss.dtype == torch.float32 and scored.dtype == torch.int64 and loss.shape == scored.shape == ()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_transformers(attention: str) -> None:
    model, batch = tiny.bert(attention=attention), tiny.masked()
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][2, 15:] = 0
    batch["token_type_ids"] = (torch.arange(20) > 8).int().expand(5, 20)
    loss, scored = loss_of(model, batch)
    theirs = model(**{name: values.long() for name, values in batch.items()}).loss
    assert float(loss / scored) == pytest.approx(float(theirs), rel=1e-6)
    (loss / scored).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    theirs.backward()
    for one, parameter in zip(ours, (p for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-7)


def test_a_split_batch_gives_the_same_sums() -> None:
    tiny.split_alike(loss_of, tiny.bert(), tiny.masked())


def test_a_batch_without_scored_tokens_is_nothing() -> None:
    batch = tiny.masked()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss, scored = loss_of(tiny.bert(), batch)
    assert float(loss) == 0.0 and int(scored) == 0 == scored_of(tiny.numpy(batch))
    loss.backward()


def test_the_output_layer_is_as_before_afterwards() -> None:
    model, batch = tiny.bert(), tiny.masked()
    before = model(input_ids=batch["input_ids"].long()).logits
    loss_of(model, batch)
    assert torch.equal(model(input_ids=batch["input_ids"].long()).logits, before)


def test_the_mask_of_blocks() -> None:
    positions = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]])
    filled = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    mask = block_mask(positions, filled, torch.float32)
    assert mask.shape == (2, 1, 5, 5) and mask.dtype == torch.float32
    seen = (mask[:, 0] == 0).int()
    assert seen[0].tolist() == [[1, 1, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 0]] * 3
    assert seen[1].tolist() == [[1, 1, 1, 1, 0]] * 4 + [[0, 0, 0, 0, 1]]
    assert (mask[mask != 0] == torch.finfo(torch.float32).min).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_in_a_row_do_not_see_each_other(attention: str, dtype: torch.dtype) -> None:
    """The loss of a row with three documents is the sum of the losses of each alone, whatever stands beside it."""
    model = tiny.bert(attention=attention).to(dtype)
    documents = [tiny.masked(1, length, seed=length) for length in (9, 14, 5)]
    row = {name: torch.cat([document[name] for document in documents], dim=1) for name in documents[0]}
    positions = torch.cat([torch.arange(document["labels"].shape[1]) for document in documents])[None]
    with torch.no_grad():
        together, scored = loss_of(model, row | {"position_ids": positions})
        alone = [loss_of(model, document) for document in documents]
        mixed, _ = loss_of(model, row)
    assert int(scored) == sum(int(number) for _, number in alone)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    assert float(together) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=close)
    if dtype == torch.float32:
        assert float(mixed) != pytest.approx(float(together), rel=1e-4), "without positions they do see each other"


def test_no_gradient_flows_between_documents() -> None:
    """Of a row of two documents only the first is scored: no embedding of the second document's tokens moves."""
    model = tiny.bert()
    first, second = torch.arange(10, 16), torch.arange(30, 36)
    labels = torch.full((1, 12), -100)
    labels[0, 2] = 10
    batch = {
        "input_ids": torch.cat([first, second])[None],
        "labels": labels,
        "position_ids": torch.arange(6).repeat(2)[None],
    }
    model.cls.predictions.decoder.weight = torch.nn.Parameter(model.cls.predictions.decoder.weight.detach().clone())
    loss, _ = loss_of(model, batch)
    loss.backward()
    moved = model.bert.embeddings.word_embeddings.weight.grad.abs().sum(dim=1) > 0
    assert np.flatnonzero(moved.numpy()).tolist() == first.tolist()
