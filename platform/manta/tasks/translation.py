"""Translation: a text in one language in, the same in another out; scored by chrF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.sections.tasks import TranslationTask
from manta.tasks.encoding import conversation
from manta.tasks.encoding.conversation import Encoded, Example, Message
from manta.tasks.fields import Field
from manta.tasks.scoring import ngrams

FIELDS = (Field("input", "text"), Field("target", "text"))
FIGURES = ("score", "bleu")  # of `score`


def prefix(settings: TranslationTask) -> str:
    """What T5 was taught to read before a text (arXiv:1910.10683, appendix D)."""
    return f"translate {settings.source_language} to {settings.target_language}: "


def instruction(settings: TranslationTask) -> str:
    """What a decoder reads before a text."""
    return f"Translate from {settings.source_language} to {settings.target_language}:\n\n"


def format(example: Example, settings: TranslationTask) -> list[Message]:
    """The example as a conversation; without a "target" it ends with the question."""
    messages = [{"role": "user", "content": instruction(settings) + example["input"]}]
    if example.get("target"):
        messages.append({"role": "assistant", "content": example["target"]})
    return messages


def question(example: Example, tokenizer: Any, settings: TranslationTask) -> list[Message]:
    """What a decoder is asked: the input cut as in training."""
    text, _ = conversation.cut(example["input"], tokenizer, settings.max_input_tokens)
    return format({"input": text}, settings)


def reference(example: Example) -> str:
    """The expected translation."""
    return str(example["target"])


def decode(text: str) -> str:
    """The answer in a generated text: all of it."""
    return text.strip()


def max_new_tokens(settings: TranslationTask) -> int:
    """Room for a whole target and its end token."""
    return settings.max_target_tokens + 1


def encode(example: Example, tokenizer: Any, settings: TranslationTask) -> Encoded:
    """Token ids and labels for a decoder; only the translation and its end token are scored.

    Input and target are cut to the settings' lengths; a target that was cut is not given an end token. Models with an
    encoder learn `seq2seq.encode`'s rows.
    """
    text, input_cut = conversation.cut(example["input"], tokenizer, settings.max_input_tokens)
    target, target_cut = conversation.cut(example["target"], tokenizer, settings.max_target_tokens)
    input_ids, labels = conversation.encode(format({"input": text, "target": target}, settings), tokenizer)
    if target_cut:
        input_ids, labels = input_ids[:-1], labels[:-1]
    return Encoded(input_ids, labels, input_cut or target_cut)


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Per cent, of all texts together: "score" is chrF2 (Popović 2015), "bleu" BLEU (Papineni et al. 2002).

    Both are sacrebleu's numbers; BLEU's words are those of `ngrams.words_of` the references.
    """
    if not references:
        return {"score": 0.0, "bleu": 0.0}
    return {
        "score": ngrams.chrf(predictions, references),
        "bleu": ngrams.bleu(predictions, references, ngrams.words_of(references)),
    }
