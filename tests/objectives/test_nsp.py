"""BERT's joint objective against a value by hand and Transformers' own, and as one loss however the batch is spread."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from manta.objectives import TABLE, mean
from tests.objectives import tiny

loss_of, scored_of = TABLE["nsp"][:2]


def pairs() -> dict[str, torch.Tensor]:
    batch = tiny.masked()
    batch["token_type_ids"] = (torch.arange(20) > 8).int().expand(5, 20)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["attention_mask"][4, 17:] = 0
    batch["next_sentence_label"] = torch.tensor([0, 1, 1, 0, 1], dtype=torch.int32)
    return batch


class Fixed(torch.nn.Module):
    """Two tokens and a judgement, as given."""

    def __init__(self) -> None:
        super().__init__()
        self.output = torch.nn.Identity()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.output

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = torch.tensor([[[0.0, math.log(3)]] * 2] * 3)  # p = 1/4, 3/4 everywhere
        judged = torch.tensor([[0.0, 0.0], [math.log(4), 0.0], [9.0, 9.0]])
        return SimpleNamespace(prediction_logits=self.output(logits), seq_relationship_logits=judged)


def test_against_a_value_by_hand() -> None:
    """Tokens: -ln(3/4), -ln(1/4); rows: -ln(1/2), -ln(1/5), one not scored. L is the mean of the one plus the other's."""
    batch = {
        "input_ids": torch.zeros(3, 2, dtype=torch.int32),
        "labels": torch.tensor([[-100, 1], [0, -100], [-100, -100]]),
        "next_sentence_label": torch.tensor([0, 1, -100]),
    }
    sums, counts = loss_of(Fixed(), batch)
    assert sums.tolist() == pytest.approx([math.log(16 / 3), math.log(10)], rel=1e-6)
    assert counts.tolist() == [2, 2] == list(scored_of(tiny.numpy(batch)))
    assert sums.dtype == torch.float32 and counts.dtype == torch.int64
    assert float(mean(sums, counts)) == pytest.approx(math.log(16 / 3) / 2 + math.log(10) / 2, rel=1e-6)
    assert len(TABLE["nsp"].parts) == 2


def test_equals_transformers() -> None:
    model, batch = tiny.bert("BertForPreTraining"), pairs()
    sums, counts = loss_of(model, batch)
    theirs = model(**{name: values.long() for name, values in batch.items()}).loss
    assert float(mean(sums, counts)) == pytest.approx(float(theirs), rel=1e-6)
    assert counts.tolist() == list(scored_of(tiny.numpy(batch)))


def test_a_split_batch_gives_the_same_sums() -> None:
    tiny.split_alike(loss_of, tiny.bert("BertForPreTraining"), pairs())


def test_shares_of_the_loss_add_up_whatever_rows_a_worker_has() -> None:
    """Rows of 1 and of 9 hidden tokens: a mean of the workers' means would weigh them alike."""
    model, batch = tiny.bert("BertForPreTraining"), pairs()
    batch["labels"][0] = -100
    batch["labels"][0, 3] = 7
    counts = scored_of(tiny.numpy(batch))
    with torch.no_grad():
        whole = mean(*loss_of(model, batch))
        parts = [{name: values[rows] for name, values in batch.items()} for rows in ([0], [1, 2, 3, 4])]
        shares = [mean(loss_of(model, part)[0], counts) for part in parts]
        means = [mean(*loss_of(model, part)) for part in parts]
    assert float(sum(shares)) == pytest.approx(float(whole), rel=1e-6)
    assert float(sum(means)) / 2 != pytest.approx(float(whole), rel=1e-3)
