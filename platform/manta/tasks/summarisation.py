"""Summarisation: a text in, its gist in a sentence out; scored by ROUGE-L."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.sections.tasks import SummarisationTask
from manta.tasks.encoding import conversation
from manta.tasks.encoding.conversation import Encoded, Example, Message
from manta.tasks.fields import Field
from manta.tasks.scoring.scores import exact_match, mean, rouge_l, rouge_n, token_f1

FIELDS = (Field("input", "text"), Field("target", "text"))
FIGURES = ("score", "rouge_1", "rouge_2", "token_f1", "exact_match")  # of `score`
INSTRUCTION = "Summarise in one sentence:\n\n"


def prefix(settings: SummarisationTask) -> str:
    """What T5 was taught to read before a text (arXiv:1910.10683, appendix D)."""
    del settings
    return "summarize: "


def format(example: Example) -> list[Message]:
    """The example as a conversation; without a "target" it ends with the question."""
    messages = [{"role": "user", "content": INSTRUCTION + example["input"]}]
    if example.get("target"):
        messages.append({"role": "assistant", "content": example["target"]})
    return messages


def question(example: Example, tokenizer: Any = None, settings: SummarisationTask | None = None) -> list[Message]:
    """What the model is asked; with a tokenizer and settings, the input cut as in training."""
    text = example["input"]
    if tokenizer is not None and settings is not None:
        text, _ = conversation.cut(text, tokenizer, settings.max_input_tokens)
    return format({"input": text})


def reference(example: Example) -> str:
    """The expected summary."""
    return str(example["target"])


def decode(text: str) -> str:
    """The answer in a generated text: its first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def max_new_tokens(settings: SummarisationTask) -> int:
    """Room for a whole target and its end token."""
    return settings.max_target_tokens + 1


def encode(example: Example, tokenizer: Any, settings: SummarisationTask) -> Encoded:
    """Token ids and labels for a decoder; only the summary and its end token are scored.

    Input and target are cut to the settings' lengths. A target that was cut is not given an end token: the model must
    not learn to stop in mid-sentence. Models with an encoder learn `seq2seq.encode`'s rows.
    """
    text, input_cut = conversation.cut(example["input"], tokenizer, settings.max_input_tokens)
    target, target_cut = conversation.cut(example["target"], tokenizer, settings.max_target_tokens)
    input_ids, labels = conversation.encode(format({"input": text, "target": target}), tokenizer)
    if target_cut:
        input_ids, labels = input_ids[:-1], labels[:-1]
    return Encoded(input_ids, labels, input_cut or target_cut)


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means in per cent: "score" is ROUGE-L F1, beside ROUGE-1 and ROUGE-2, token F1 and the share of exact matches."""
    pairs = list(zip(predictions, references, strict=True))
    return {
        "score": 100 * mean(rouge_l(prediction, wanted) for prediction, wanted in pairs),
        "rouge_1": 100 * mean(rouge_n(prediction, wanted, 1) for prediction, wanted in pairs),
        "rouge_2": 100 * mean(rouge_n(prediction, wanted, 2) for prediction, wanted in pairs),
        "token_f1": 100 * mean(token_f1(prediction, wanted) for prediction, wanted in pairs),
        "exact_match": 100 * mean(exact_match(prediction, wanted) for prediction, wanted in pairs),
    }
