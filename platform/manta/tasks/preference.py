"""Preferences: a question and two answers, of which one is to become likelier than the other; scored by how often it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from manta.sections.tasks import PreferenceTask
from manta.tasks.encoding import conversation
from manta.tasks.encoding.conversation import IGNORED, Example, Message
from manta.tasks.fields import Field
from manta.tasks.labels import Columns, Row, filler
from manta.tasks.scoring.scores import mean

if TYPE_CHECKING:
    import numpy as np

# The question is a conversation that ends with the user's words, or "input", which is the user's words alone.
FIELDS = (Field("messages", "prompt"), Field("chosen", "text"), Field("rejected", "text"))
PARTS = {"chosen": "", "rejected": "rejected_"}  # what a row holds side by side, and how its columns begin
PADDED = {"labels": IGNORED, "rejected_labels": IGNORED}  # beside the tokens' ids
SCORES = ("score", "margin")  # of `score`
# Nats. Before the first step both models are one, and their margins nothing but what another batch rounds otherwise.
TIE = 1.0e-5


def question(example: Example) -> list[Message]:
    """What was asked, as a conversation."""
    if "messages" in example:
        return [{"role": message["role"], "content": message["content"]} for message in example["messages"]]
    return [{"role": "user", "content": example["input"]}]


def encode(example: Example, tokenizer: Any, settings: PreferenceTask) -> Row:
    """Columns of one example: `input_ids` and `labels` of the conversation with the chosen answer, `rejected_input_ids`
    and `rejected_labels` of that with the other; all (seq,), the shorter one filled up on the right.

    Labels are those of the last answer's words and its end token, -100 elsewhere. Each conversation is cut at its end
    to settings.max_tokens. A pair of which then nothing can be told apart is not scored: all its labels are -100.
    """
    sides, truncated = [], False
    for name in PARTS:
        answered = [*question(example), {"role": "assistant", "content": example[name]}]
        input_ids, labels = conversation.encode(answered, tokenizer)
        labels = _last_answer(labels)
        truncated |= len(input_ids) > settings.max_tokens
        sides.append((input_ids[: settings.max_tokens], labels[: settings.max_tokens]))
    if sides[0][0] == sides[1][0] or any(set(labels) == {IGNORED} for _, labels in sides):
        sides = [(input_ids, [IGNORED] * len(labels)) for input_ids, labels in sides]
    length, pad_id = max(len(input_ids) for input_ids, _ in sides), filler(tokenizer)
    columns: dict[str, Any] = {}
    for prefix, (input_ids, labels) in zip(PARTS.values(), sides, strict=True):
        lacking = length - len(input_ids)
        columns[f"{prefix}input_ids"] = input_ids + [pad_id] * lacking
        columns[f"{prefix}labels"] = labels + [IGNORED] * lacking
    return Row(columns, truncated)


def predictions(found: np.ndarray, columns: Columns, settings: PreferenceTask) -> list[float]:
    """The margin of each pair, beta ((log p - log p_ref)(chosen) - (log p - log p_ref)(rejected)), in nats.

    `found` is float (rows, 4): log p of the chosen and of the rejected answer, then the same by the reference.
    """
    del columns
    return [settings.beta * float(value) for value in (found[:, 0] - found[:, 2]) - (found[:, 1] - found[:, 3])]


def references(columns: Columns) -> list[None]:
    """Nothing: of each pair the chosen answer is the one that should be likelier."""
    return [None] * len(columns["labels"])


def score(predictions: Sequence[float], references: Sequence[Any]) -> dict[str, float]:
    """ "score" is the reward accuracy in per cent: pairs whose margin is above 0; within TIE nats of 0 it counts half.

    "margin" is the mean margin in nats.
    """
    del references
    return {
        "score": 100 * mean(0.5 if abs(margin) <= TIE else float(margin > 0) for margin in predictions),
        "margin": mean(predictions),
    }


def describe(figures: dict[str, Any], seq_len: int) -> str:
    """The statistics of the training rows in a sentence."""
    return (
        f"{figures['rows']:,} pairs of answers, of at most {seq_len} tokens with their question; "
        f"{figures['truncated_share']:.1%} of the pairs are cut"
    )


def _last_answer(labels: list[int]) -> list[int]:
    """The labels of what stands behind the last token that is not the assistant's."""
    first = max((place + 1 for place, label in enumerate(labels) if label == IGNORED), default=0)
    return [IGNORED] * first + labels[first:]
