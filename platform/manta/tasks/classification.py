"""Classification: a text, or a pair of texts, and its label or labels; scored by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.errors import InputError
from manta.sections.tasks import ClassificationTask
from manta.tasks.fields import Field
from manta.tasks.labels import Columns, Example, Labels, Row
from manta.tasks.scoring.scores import mean

FIELDS = (
    Field("text", "text"),
    Field("text_pair", "text", optional=True),
    Field("label", "label", optional=True),
    Field("labels", "labels", optional=True),
)
PADDED = {"attention_mask": 0, "token_type_ids": 0}  # columns as long as the row, and what fills them up
SCORES = ("score", "accuracy", "macro_f1")  # of `score`

Answer = str | list[str]  # the label, or with task.several the labels


def problem(settings: ClassificationTask) -> str:
    """Transformers' problem_type."""
    return "multi_label_classification" if settings.several else "single_label_classification"


def named(example: Example, settings: ClassificationTask) -> list[str]:
    """The labels of an example: of "labels" with task.several, else its "label"."""
    return list(example["labels"]) if settings.several else [example["label"]]


def reference(example: Example, settings: ClassificationTask) -> Answer:
    """What is to be predicted."""
    found = named(example, settings)
    return sorted(found) if settings.several else found[0]


def encode(example: Example, tokenizer: Any, settings: ClassificationTask, labels: Labels) -> Row:
    """Columns of one example: those of the tokenizer, each (seq,), and `labels`: a number, or 0 and 1 for each label.

    The tokenizer sets the special tokens around a text or a pair. What is longer than settings.max_tokens is cut, of a
    pair the longer text. An example without labels, as in serving, has the first label or none.
    """
    pair = example.get("text_pair")
    if pair is not None and tokenizer.num_special_tokens_to_add(pair=True) <= tokenizer.num_special_tokens_to_add():
        raise InputError(
            f"data.examples: the tokenizer of {tokenizer.name_or_path} puts nothing between the texts of a pair, so they cannot be "
            "told apart: join them in 'text' yourself, or choose a model.source whose tokenizer does, such as a BERT"
        )
    columns = dict(tokenizer(example["text"], pair, return_attention_mask=True))
    truncated = len(columns["input_ids"]) > settings.max_tokens
    if truncated:
        limit = {"truncation": "longest_first", "max_length": settings.max_tokens}
        columns = dict(tokenizer(example["text"], pair, return_attention_mask=True, **limit))
    known = example.get("labels" if settings.several else "label") is not None
    numbers = [labels.number(name) for name in named(example, settings)] if known else []
    if settings.several:
        columns["labels"] = [int(number in numbers) for number in range(len(labels.names))]
    else:
        columns["labels"] = numbers[0] if numbers else 0
    return Row(columns, truncated)


def decode(
    logits: Any, columns: Columns, labels: Labels, settings: ClassificationTask, rows: Sequence[Row] = ()
) -> list[Answer]:
    """The labels that a model gives: the likeliest, or with task.several all whose probability is above a half.

    `logits` is float32 (rows, labels).
    """
    del columns, rows
    if settings.several:
        return [[labels.names[place] for place in (row > 0).nonzero()[0]] for row in logits]
    return [labels.names[place] for place in logits.argmax(1)]


def references(columns: Columns, labels: Labels, settings: ClassificationTask) -> list[Answer]:
    """What `columns["labels"]`, int (rows,) or (rows, labels), says in the user's terms."""
    if settings.several:
        return [[labels.names[place] for place in (row > 0).nonzero()[0]] for row in columns["labels"]]
    return [labels.names[number] for number in columns["labels"]]


def confidence(logits: Any, columns: Columns, settings: ClassificationTask) -> list[list[float]]:
    """The probability of each label, (rows, labels) as lists."""
    import numpy as np

    del columns
    if settings.several:
        return [[round(float(value), 6) for value in row] for row in 1 / (1 + np.exp(-logits.astype(np.float64)))]
    return probabilities(logits)


def probabilities(logits: Any) -> list[list[float]]:
    """The softmax of each row, (rows, labels) as lists."""
    import numpy as np

    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return [[round(float(value), 6) for value in row] for row in shifted / shifted.sum(1, keepdims=True)]


def shares(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> list[tuple[float, float]]:
    """Of each example (numerator, denominator) of the score, which is the quotient of their sums."""
    return [(overlap(guess, truth), 1.0) for guess, truth in zip(predictions, wanted, strict=True)]


def score(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> dict[str, float]:
    """Per cent. "score" is the mean over examples of the F1 between both sets of labels, with one label the accuracy.

    "accuracy" is the share of examples all of whose labels are right; "macro_f1" the mean over labels of their F1.
    """
    pairs = list(zip(predictions, wanted, strict=True))
    return {
        "score": 100 * mean(share for share, _ in shares(predictions, wanted)),
        "accuracy": 100 * mean(float(as_set(guess) == as_set(truth)) for guess, truth in pairs),
        "macro_f1": 100 * macro_f1(predictions, wanted),
    }


def macro_f1(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> float:
    """Mean over the labels that stand on either side of 2 right / (guessed + true), 0 to 1."""
    pairs = [(as_set(guess), as_set(truth)) for guess, truth in zip(predictions, wanted, strict=True)]
    names = sorted({name for pair in pairs for side in pair for name in side})
    return mean(
        2 * sum(name in guess and name in truth for guess, truth in pairs) / sum((name in guess) + (name in truth) for guess, truth in pairs)
        for name in names
    )  # fmt: skip


def overlap(guess: Answer, truth: Answer) -> float:
    """2 |A and B| / (|A| + |B|) of two sets of labels; 1 where both are empty."""
    one, other = as_set(guess), as_set(truth)
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def as_set(answer: Answer) -> set[str]:
    return {answer} if isinstance(answer, str) else set(answer)
