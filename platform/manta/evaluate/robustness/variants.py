"""Examples with what a model reads of them perturbed: labels that sit on words or characters move along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from manta.data.augment.dictionary import Dictionary
from manta.evaluate.robustness import perturbations
from manta.evaluate.robustness.edits import Edit, Span, applied, confined, moved, sparing
from manta.sections.robustness import Robustness

Example = Mapping[str, Any]
Change = Callable[[str, str], list[Edit]]  # (a text, its place in the example) -> edits

# task -> the fields that a model reads; what it is to say is left alone.
READ: dict[str, tuple[str, ...]] = {
    "classification": ("text", "text_pair"),
    "tagging": ("tokens",),
    "relations": ("text",),
    "answering": ("question", "context"),
    "summarisation": ("input",),
    "translation": ("input",),
    "chat": ("input", "messages"),
}
SPANS = {"text": ("head", "tail")}  # field -> the fields that hold a span of it
ANSWERS = {"context": "answers"}  # field -> the field that holds answers cut out of it


def variants(
    examples: Sequence[Example], task: str, settings: Robustness, seed: int, known: Dictionary | None = None
) -> dict[str, list[dict[str, Any]]]:
    """perturbation -> the examples under it, in their order. An example's depend on (seed, its place, the perturbation).

    `known` is the dictionary that `synonyms` asks.
    """
    made = perturbations.table(known)
    return {
        name: [
            perturbed(example, task, partial(_draw, made[name], settings.rate, f"{seed} {place} {name}"))
            for place, example in enumerate(examples)
        ]
        for name in settings.perturbations
    }


def _draw(perturb: perturbations.Perturb, rate: float, source: str, text: str, field: str) -> list[Edit]:
    import numpy as np

    entropy = hashlib.blake2b(f"robustness {source} {field}".encode(), digest_size=16).digest()
    return perturb(text, rate, np.random.default_rng(int.from_bytes(entropy, "little")))


def perturbed(example: Example, task: str, change: Change) -> dict[str, Any]:
    """The example with its texts changed. Nothing becomes blank: neither a text, nor a word, nor a span that is marked.

    Words in a list stay as many: edits that would join or part them are left out. Spans and answers are moved, and an
    answer is what the changed text says at its place. Of a conversation the user's words are changed.
    """
    made = dict(example)
    for field in READ[task]:
        value = example.get(field)
        if isinstance(value, str):
            made |= _text(example, field, change)
        elif field == "tokens" and value:
            made[field] = _words(value, change)
        elif field == "messages" and value:
            made[field] = [
                {**message, "content": _alone(message["content"], change, f"{field} {place}")}
                if message["role"] == "user"
                else message
                for place, message in enumerate(value)
            ]
    return made


def told(example: Example, task: str) -> str:
    """What a model reads of an example, as one text to be shown."""
    return " | ".join(_said(example[field]) for field in READ[task] if example.get(field))


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    return " ".join(item if isinstance(item, str) else item["content"] for item in value)


def _alone(text: str, change: Change, field: str) -> str:
    return applied(text, sparing(text, change(text, field), [(0, len(text))]))


def _text(example: Example, field: str, change: Change) -> dict[str, Any]:
    """The changed text, and the fields that point into it."""
    text = example[field]
    pointing = [name for name in SPANS.get(field, ()) if example.get(name) is not None]
    answers = ANSWERS.get(field, "")
    held = [*(_span(example[name]) for name in pointing), *_spans_of(example.get(answers) or ())]
    edits = sparing(text, change(text, field), [(0, len(text)), *held])
    made: dict[str, Any] = {field: applied(text, edits)}
    made |= {name: list(moved(_span(example[name]), edits)) for name in pointing}
    if example.get(answers) is not None:
        places = [moved(span, edits) for span in _spans_of(example[answers])]
        made[answers] = [{"text": made[field][start:end], "start": start} for start, end in places]
    return made


def _span(value: Sequence[int]) -> Span:
    start, end = value
    return start, end


def _spans_of(answers: Sequence[Mapping[str, Any]]) -> Iterator[Span]:
    for answer in answers:
        yield answer["start"], answer["start"] + len(answer["text"])


def _words(words: Sequence[str], change: Change) -> list[str]:
    """As many words: those of the text that they make with a blank between them, changed within each alone."""
    text, spans, at = " ".join(words), [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    edits = sparing(text, confined(change(text, "tokens"), spans), spans)
    done = applied(text, edits)
    return [done[slice(*moved(span, edits))] for span in spans]
