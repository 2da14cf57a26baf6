"""Embeddings: texts that belong together become vectors that lie close together; scored by finding one by the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manta.errors import InputError
from manta.sections.tasks import EmbeddingTask
from manta.tasks.fields import Field
from manta.tasks.labels import Columns, Row, filler
from manta.tasks.scoring.scores import mean

if TYPE_CHECKING:
    import numpy as np

Example = Mapping[str, Any]

FIELDS = (Field("text", "text"), Field("positive", "text"), Field("negative", "text", optional=True))
PARTS = {"text": "", "positive": "positive_", "negative": "negative_"}
PADDED = {
    f"{prefix}{name}": 0 for prefix in PARTS.values() for name in ("attention_mask", "token_type_ids")
}  # beside the tokens' ids
SCORES = ("score", "mrr")  # of `score`
AT_ONCE = 1024  # texts compared with all candidates in one go


def refuse_mixed(examples: Sequence[Example]) -> None:
    """Raise InputError where only some examples have a negative: their rows could not be computed together."""
    have = sum("negative" in example for example in examples)
    if 0 < have < len(examples):
        raise InputError(
            f"data.examples: {have} of {len(examples)} examples have a 'negative' and the others none: give each one, or leave "
            "them all out (the other positives of a group are negatives anyway)"
        )


def encode(example: Example, tokenizer: Any, settings: EmbeddingTask) -> Row:
    """Columns of one example: those of the tokenizer, each (seq,), of its text, and with "positive_" and "negative_"
    before their names of the others that it has; the shorter ones filled up on the right. `labels` is 0.

    What is longer than settings.max_tokens is cut. An example may be a text alone, as in serving.
    """
    limit = {"truncation": True, "max_length": settings.max_tokens}
    columns: dict[str, Any] = {}
    truncated = False
    for name, prefix in PARTS.items():
        if example.get(name) is not None:
            cut = dict(tokenizer(example[name], return_attention_mask=True, **limit))
            whole = tokenizer(example[name], return_attention_mask=False)["input_ids"]
            truncated |= len(whole) > len(cut["input_ids"])
            columns |= {prefix + column: list(values) for column, values in cut.items()}
    length, pad_id = max(map(len, columns.values())), filler(tokenizer)
    for column, values in columns.items():
        values += [pad_id if column.endswith("input_ids") else PADDED[column]] * (length - len(values))
    return Row({**columns, "labels": 0}, truncated)


def predictions(found: np.ndarray, columns: Columns, settings: EmbeddingTask) -> list[int]:
    """Of each text the rank of what belongs to it among all candidates, from 1 for the nearest.

    `found` is float32 (rows, parts, width): unit vectors of texts, positives and, if there are any, negatives. The
    candidates are the different positives and negatives of all rows; where a text stands in several rows, the nearest
    of its positives counts. Candidates that are equally near count as nearer than what is sought.
    """
    import numpy as np

    del settings
    texts = _numbered([_words(columns, "")])
    parts = list(PARTS.values())[1 : found.shape[1]]
    candidates = _numbered([_words(columns, prefix) for prefix in parts])  # the number of each, positives first
    first = np.unique(candidates, return_index=True)[1]
    vectors = np.concatenate([found[:, 1 + place] for place in range(len(parts))])[first]  # (candidates, width)
    belongs = {int(text): set[int]() for text in texts}
    for text, candidate in zip(texts, candidates, strict=False):
        belongs[int(text)].add(int(candidate))
    ranks: list[int] = []
    for start in range(0, len(found), AT_ONCE):
        near = found[start : start + AT_ONCE, 0] @ vectors.T  # (at once, candidates)
        for row, text in zip(near, texts[start : start + AT_ONCE], strict=True):
            own = sorted(belongs[int(text)])
            others = np.delete(row, own)
            ranks.append(1 + int((others >= row[own].max()).sum()))
    return ranks


def references(columns: Columns) -> list[None]:
    """Nothing: of each text what belongs to it should be the nearest."""
    return [None] * len(columns["labels"])


def score(predictions: Sequence[int], references: Sequence[Any]) -> dict[str, float]:
    """Per cent, of ranks: "score" is the accuracy at 1, the share of ranks that are 1; "mrr" the mean of 1/rank."""
    del references
    return {
        "score": 100 * mean(float(rank == 1) for rank in predictions),
        "mrr": 100 * mean(1 / rank for rank in predictions),
    }


def describe(figures: dict[str, Any], seq_len: int) -> str:
    """The statistics of the training rows in a sentence."""
    return (
        f"{figures['rows']:,} training rows of texts of at most {seq_len} tokens; {figures['truncated_share']:.1%} of the "
        "examples are cut"
    )


def _words(columns: Columns, prefix: str) -> np.ndarray:
    """A part's tokens, int (rows, seq), with -1 where they only fill up."""
    import numpy as np

    return np.where(columns[f"{prefix}attention_mask"] != 0, columns[f"{prefix}input_ids"], -1)


def _numbered(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """A number for each row of all these arrays, one after another; the same for the same tokens."""
    import numpy as np

    return np.unique(np.concatenate(list(tokens)), axis=0, return_inverse=True)[1].reshape(-1)
