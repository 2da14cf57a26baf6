"""Losses of heads: by hand, against Transformers' own, the same however the rows are spread."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from manta.objectives import TABLE, loss_of, mean, scored_of
from manta.objectives.labels import sequence_labels, spans, token_labels
from manta.sections.objective import AnswerSpan, SequenceLabels, TokenLabels
from tests.objectives import tiny

ROWS, SEQ, LABELS = 5, 12, 3


def model_of(head: str, problem: str | None = None, pad: int | None = tiny.PAD) -> Any:
    """A tiny model with a head for three labels."""
    import transformers

    torch.manual_seed(0)
    if head.startswith("Bert"):
        config = transformers.BertConfig(
            vocab_size=tiny.VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64, num_labels=2 if head.endswith("Answering") else LABELS, problem_type=problem,
        )  # fmt: skip
    else:
        config = transformers.LlamaConfig(
            vocab_size=tiny.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=pad, num_labels=LABELS, problem_type=problem,
        )  # fmt: skip
    return getattr(transformers, head)(config).eval()


def batch_of(labels: Any) -> dict[str, torch.Tensor]:
    """Texts of 12, 11, 10, 9 and 8 tokens, padded, with these labels."""
    ids = tiny.ids(ROWS, SEQ)
    mask = (torch.arange(SEQ) < SEQ - torch.arange(ROWS)[:, None]).int()
    return {
        "input_ids": ids * mask + tiny.PAD * (1 - mask),
        "attention_mask": mask,
        "labels": torch.tensor(labels, dtype=torch.int32),
    }


ONE = [0, 2, 1, 2, 0]
SEVERAL = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1]]
TAGS = [[-100] + [(row + place) % LABELS for place in range(1, 7)] + [-100] * (SEQ - 7) for row in range(ROWS)]


def theirs(model: Any, batch: dict[str, torch.Tensor], **given: Any) -> float:
    longs = {name: values.long() for name, values in batch.items()}
    with torch.no_grad():
        return float(model(**{**longs, **given}).loss)


@pytest.mark.parametrize("head", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
def test_one_label_is_the_loss_of_transformers(head: str) -> None:
    model, batch = model_of(head, "single_label_classification"), batch_of(ONE)
    with torch.no_grad():
        sums, counts = sequence_labels(model, batch)
    assert int(counts) == ROWS and sums.dtype == torch.float32
    assert float(mean(sums, counts)) == pytest.approx(theirs(model, batch), rel=1e-5)


@pytest.mark.parametrize("head", ["BertForSequenceClassification", "LlamaForSequenceClassification"])
def test_several_labels_are_the_loss_of_transformers(head: str) -> None:
    model, batch = model_of(head, "multi_label_classification"), batch_of(SEVERAL)
    sums, counts = sequence_labels(model, batch, several=True)
    assert int(counts) == ROWS * LABELS
    assert float(mean(sums, counts)) == pytest.approx(theirs(model, batch, labels=batch["labels"].float()), rel=1e-5)


def test_tags_are_the_loss_of_transformers() -> None:
    model, batch = model_of("BertForTokenClassification"), batch_of(TAGS)
    sums, counts = token_labels(model, batch)
    assert int(counts) == ROWS * 6
    assert float(mean(sums, counts)) == pytest.approx(theirs(model, batch), rel=1e-5)


def span_batch() -> dict[str, torch.Tensor]:
    batch = batch_of(ONE)
    del batch["labels"]
    ends = {"start_positions": [1, 0, 4, 2, -100], "end_positions": [3, 0, 6, 2, -100]}
    return batch | {name: torch.tensor(values, dtype=torch.int32) for name, values in ends.items()}


def test_spans_are_the_loss_of_transformers() -> None:
    model, batch = model_of("BertForQuestionAnswering"), span_batch()
    sums, counts = spans(model, batch)
    assert int(counts) == 4
    scored = {name: values[:4] for name, values in batch.items()}
    assert float(mean(sums, counts)) == pytest.approx(theirs(model, scored), rel=1e-5)


class Fixed(torch.nn.Module):
    """Gives the same logits whatever it reads."""

    def __init__(self, **logits: list[Any]):
        super().__init__()
        self.found = {name: torch.tensor(values) for name, values in logits.items()}

    def forward(self, **_: Any) -> Any:
        return type("Output", (), self.found)


IDS = {"input_ids": torch.ones(2, 3, dtype=torch.int32)}


def test_values_by_hand() -> None:
    third = math.log(2)  # of logits 0 and ln 2 the probabilities are 1/3 and 2/3
    model = Fixed(logits=[[0.0, third], [0.0, third]])
    batch = IDS | {"labels": torch.tensor([0, 1])}
    assert float(sequence_labels(model, batch)[0]) == pytest.approx(math.log(3) + math.log(1.5))
    sums, counts = sequence_labels(model, batch, weights=[0.5, 2.0])
    assert float(sums) == pytest.approx(0.5 * math.log(3) + 2 * math.log(1.5)) and float(counts) == 2.5
    both = IDS | {"labels": torch.tensor([[1, 0], [-100, 1]])}  # logistic function: 1/2 and 2/3
    sums, counts = sequence_labels(model, both, several=True)
    assert float(sums) == pytest.approx(math.log(2) + math.log(3) + math.log(1.5)) and int(counts) == 3
    tagged = Fixed(logits=[[[0.0, third]] * 3] * 2)
    sums, counts = token_labels(tagged, IDS | {"labels": torch.tensor([[-100, 0, 1], [-100, -100, 1]])})
    assert float(sums) == pytest.approx(math.log(3) + 2 * math.log(1.5)) and int(counts) == 3
    ends = Fixed(start_logits=[[0.0, third]] * 2, end_logits=[[0.0, third]] * 2)
    where = {"start_positions": torch.tensor([0, -100]), "end_positions": torch.tensor([1, -100])}
    sums, counts = spans(ends, IDS | where)
    assert float(sums) == pytest.approx((math.log(3) + math.log(1.5)) / 2) and int(counts) == 1


def test_weights_are_those_of_torch() -> None:
    model, batch = model_of("BertForSequenceClassification"), batch_of(ONE)
    weights = [0.4, 3.0, 1.2]
    ours = mean(*sequence_labels(model, batch, weights=weights))
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"].long(), attention_mask=batch["attention_mask"].long()).logits
    wanted = torch.nn.functional.cross_entropy(logits, batch["labels"].long(), weight=torch.tensor(weights))
    assert float(ours) == pytest.approx(float(wanted), rel=1e-5)


def test_a_small_sum_of_weights_is_divided_by_as_it_is() -> None:
    """A batch whose weights add up to less than 1 has the loss of its mean, and one without any has none."""
    model = Fixed(logits=[[0.0, math.log(2)], [0.0, 0.0]])
    batch = IDS | {"labels": torch.tensor([0, -100])}
    assert float(mean(*sequence_labels(model, batch, weights=[0.25, 1.0]))) == pytest.approx(math.log(3))
    assert float(mean(torch.tensor(0.0), torch.tensor(0))) == 0.0


@pytest.mark.parametrize(
    ("head", "loss", "labels"),
    [
        ("BertForSequenceClassification", sequence_labels, ONE),
        ("LlamaForSequenceClassification", sequence_labels, ONE),
        ("BertForSequenceClassification", functools.partial(sequence_labels, several=True), SEVERAL),
        ("BertForTokenClassification", token_labels, TAGS),
    ],
)
def test_sums_do_not_depend_on_how_rows_are_spread(head: str, loss: Any, labels: Any) -> None:
    tiny.split_alike(loss, model_of(head), batch_of(labels))


def test_spans_and_weights_do_not_depend_on_how_rows_are_spread() -> None:
    tiny.split_alike(spans, model_of("BertForQuestionAnswering"), span_batch())
    model, batch = model_of("BertForSequenceClassification"), batch_of(ONE)
    weighted = functools.partial(sequence_labels, weights=[0.4, 3.0, 1.2])
    whole = weighted(model, batch)
    parts = [weighted(model, {name: values[part] for name, values in batch.items()}) for part in ([0, 1], [2, 3, 4])]
    for place in (0, 1):
        assert float(whole[place]) == pytest.approx(sum(float(part[place]) for part in parts), rel=1e-5)


def test_padding_is_not_seen() -> None:
    """The same text with more padding behind it has the same loss: the mask, and the decoder's last token, are right."""
    for head in ("BertForSequenceClassification", "LlamaForSequenceClassification"):
        model, batch = model_of(head), batch_of(ONE)
        longer = {name: torch.nn.functional.pad(values, (0, 7)) for name, values in batch.items() if name != "labels"}
        with torch.no_grad():
            a, b = sequence_labels(model, batch)[0], sequence_labels(model, longer | {"labels": batch["labels"]})[0]
        assert float(a) == pytest.approx(float(b), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "batch"),
    [
        (SequenceLabels(name="sequence_labels"), batch_of([0, -100, 1, 2, -100])),
        (SequenceLabels(name="sequence_labels", several=True), batch_of([*SEVERAL[:4], [-100, -100, -100]])),
        (SequenceLabels(name="sequence_labels", weights=[0.5, 3.0, 1.0]), batch_of([0, -100, 1, 2, -100])),
        (TokenLabels(name="token_labels"), batch_of(TAGS)),
        (AnswerSpan(name="spans"), span_batch()),
    ],
)
def test_counts_before_and_after_are_the_same(objective: Any, batch: dict[str, torch.Tensor]) -> None:
    head = TABLE[objective.name].head.replace("AutoModel", "Bert")
    with torch.no_grad():
        _, counts = loss_of(objective)(model_of(head), batch)
    assert float(np.atleast_1d(scored_of(objective)(tiny.numpy(batch)))[0]) == pytest.approx(float(counts))


def test_logits_are_kept_in_the_order_of_rows() -> None:
    model, batch = model_of("BertForSequenceClassification"), batch_of(ONE)
    kept: list[Any] = []
    with torch.no_grad():
        for part in ([0, 1], [2, 3, 4]):
            sequence_labels(model, {name: values[part] for name, values in batch.items()}, keep=kept)
        whole = model(input_ids=batch["input_ids"].long(), attention_mask=batch["attention_mask"].long()).logits
    torch.testing.assert_close(torch.cat(kept), whole, rtol=1e-5, atol=1e-5)
