"""Tagging: words, each with its tag; scored by the F1 of whole entities, or of tags that mark none by accuracy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from manta.errors import InputError
from manta.sections.tasks import TaggingTask
from manta.tasks.encoding.conversation import IGNORED
from manta.tasks.fields import Field
from manta.tasks.labels import Columns, Example, Labels, Row
from manta.tasks.scoring import spans

FIELDS = (Field("tokens", "tokens"), Field("tags", "tags"))
PADDED = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORED}
SCORES = ("score", "accuracy", "macro_f1", "precision", "recall")  # of `score`; the last three where tags mark entities

Answer = list[str]  # the tag of each word


def problem(settings: TaggingTask) -> None:
    """Transformers tells no problems of token classification apart."""
    del settings


def named(example: Example, settings: TaggingTask) -> list[str]:
    """The tags of an example's words."""
    del settings
    return list(example["tags"])


def reference(example: Example, settings: TaggingTask) -> Answer:
    """What is to be predicted: the tag of each word, of those that are cut off as well."""
    return named(example, settings)


def encode(example: Example, tokenizer: Any, settings: TaggingTask, labels: Labels) -> Row:
    """Columns of one example, each (seq,): those of the tokenizer, and `labels`, the number of a word's tag.

    It stands at the first piece of the word (Devlin et al., arXiv:1810.04805, section 5.3), -100 everywhere else. A word
    of which the tokenizer leaves nothing has no piece. An example without tags, as in serving, has the first label at
    each word.
    """
    refuse_joining(tokenizer)
    words = list(example["tokens"])
    given = {"is_split_into_words": True, "return_attention_mask": True}
    encoded = tokenizer(words, **given)
    truncated = len(encoded["input_ids"]) > settings.max_tokens
    if truncated:
        encoded = tokenizer(words, **given, truncation=True, max_length=settings.max_tokens)
    tags = example.get("tags")
    numbers, marked, before = [], [], None
    for word in encoded.word_ids():
        first = word is not None and word != before
        numbers.append((labels.number(tags[word]) if tags else 0) if first else IGNORED)
        marked += [word] if first else []
        before = word
    return Row({**encoded, "labels": numbers}, truncated, tuple(marked), len(words))


@functools.lru_cache(maxsize=8)
def refuse_joining(tokenizer: Any) -> None:
    """Raise InputError for a tokenizer that reads words in a list otherwise than in a text, as byte-level ones may."""
    if tokenizer(["a", "a"], is_split_into_words=True)["input_ids"] != tokenizer("a a")["input_ids"]:
        raise InputError(
            f"model.source: the tokenizer of {tokenizer.name_or_path} puts no space before a word that it is given by itself: set "
            '"add_prefix_space": true in its tokenizer_config.json and tokenizer.json'
        )


def decode(
    logits: Any, columns: Columns, labels: Labels, settings: TaggingTask, rows: Sequence[Row] = ()
) -> list[Answer]:
    """The likeliest tag of each word that is marked in `columns["labels"]`, int (rows, seq).

    `logits` is float32 (rows, seq, labels). With `rows`, words that were cut off or have no piece are O.
    """
    del settings
    found = _named(logits.argmax(-1), columns["labels"] != IGNORED, labels)
    return [_spread(tags, row) for tags, row in zip(found, rows, strict=True)] if rows else found


def references(columns: Columns, labels: Labels, settings: TaggingTask) -> list[Answer]:
    """What `columns["labels"]` says in the user's terms: of the words that are there."""
    del settings
    return _named(columns["labels"], columns["labels"] != IGNORED, labels)


def confidence(logits: Any, columns: Columns, settings: TaggingTask) -> list[list[float]]:
    """The probability of each marked word's likeliest tag, a list for each row."""
    import numpy as np

    del settings
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    best = shifted.max(-1) / shifted.sum(-1)  # (rows, seq)
    return [
        [round(float(value), 6) for value in row[where]]
        for row, where in zip(best, columns["labels"] != IGNORED, strict=True)
    ]


def shares(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> list[tuple[float, float]]:
    """Of each example (numerator, denominator) of the score, which is the quotient of their sums."""
    if marks_entities(predictions, wanted):
        return [(2.0 * found.right, float(found.guessed + found.wanted)) for found in spans.each(predictions, wanted)]
    pairs = list(zip(predictions, wanted, strict=True))
    return [(float(_right(guess, truth)), float(len(truth))) for guess, truth in pairs]


def score(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> dict[str, float]:
    """Per cent. Where tags mark entities (BIO, BIOES): "score" is the F1 of whole entities, read as conlleval does
    (seqeval's default), beside precision, recall and the mean of the types' F1; else the share of words that are right.
    "accuracy" is that share in both cases.
    """
    words = sum(map(len, wanted))
    right = sum(_right(guess, truth) for guess, truth in zip(predictions, wanted, strict=True))
    accuracy = 100 * right / words if words else 0.0
    if not marks_entities(predictions, wanted):
        return {"score": accuracy, "accuracy": accuracy}
    found = spans.figures(predictions, wanted)
    return {"score": found["f1"], **{name: found[name] for name in ("precision", "recall", "macro_f1")}, "accuracy": accuracy}  # fmt: skip


def marks_entities(predictions: Sequence[Answer], wanted: Sequence[Answer]) -> bool:
    """Whether all tags are O or mark a part of an entity. Tags that are all O mark entities of which there are none."""
    tags = {tag for side in (predictions, wanted) for row in side for tag in row}
    return tags <= {spans.OUTSIDE} or spans.scheme_of(tags) != "none"


def _named(numbers: Any, where: Any, labels: Labels) -> list[Answer]:
    return [[labels.names[number] for number in row[marked]] for row, marked in zip(numbers, where, strict=True)]


def _spread(tags: Answer, row: Row) -> Answer:
    found = [spans.OUTSIDE] * row.num_words
    for word, tag in zip(row.words, tags, strict=True):
        found[word] = tag
    return found


def _right(guess: Answer, truth: Answer) -> int:
    return sum(one == other for one, other in zip(guess, truth, strict=True))
