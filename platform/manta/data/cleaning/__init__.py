"""Cleaning steps as pure functions over batches of texts, and how a list of them is applied; each drop has a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manta.data.cleaning import language as language_step
from manta.data.cleaning import length, lines, markup, normalise, pii, quality, repetition
from manta.data.cleaning.batch import Batch, Outcome

__all__ = ["CORPUS_STEPS", "STEPS", "Batch", "Outcome", "Phase", "apply", "phases"]

Function = Callable[[Batch, Any], Outcome]
# The `step` of a recipe's settings -> its function. Each takes a batch and its settings, and says for every document
# under which rule it falls (`step.rule`, None where it stays), with the texts as they are afterwards.
STEPS: dict[str, Function] = {
    "normalise": normalise.normalise,
    "markup": markup.markup,
    "language": language_step.language,
    "length": length.length,
    "letters": length.letters,
    "repeated_lines": lines.repeated_lines,
    "gopher_quality": quality.gopher_quality,
    "gopher_repetition": repetition.gopher_repetition,
    "c4_quality": quality.c4_quality,
    "fineweb_quality": quality.fineweb_quality,
    "pii": pii.pii,
}
# Steps that need all documents at once: they end a phase.
CORPUS_STEPS = ("exact_dedup", "near_dedup", "line_dedup")
# Pairs of settings of which the first must not exceed the second.
BOUNDS = (
    ("min_chars", "max_chars"),
    ("min_words", "max_words"),
    ("min_mean_word_length", "max_mean_word_length"),
)


@dataclass(frozen=True)
class Phase:
    """Steps on single documents, then at most one step on the whole corpus."""

    local: list[Any] = field(default_factory=list)
    corpus: Any = None


def phases(steps: Sequence[Any]) -> list[Phase]:
    """Cut a recipe's steps, in order, where one of them needs all documents. There is at least one phase."""
    found: list[Phase] = []
    local: list[Any] = []
    for step in steps:
        if step.step in CORPUS_STEPS:
            found.append(Phase(local, step))
            local = []
        else:
            local.append(step)
    # What line_dedup found is removed by the phase after it, so there must be one.
    more = local or not found or found[-1].corpus.step == "line_dedup"
    return [*found, Phase(local)] if more else found


def apply(batch: Batch, steps: Sequence[Any], bound: Mapping[str, Function] | None = None) -> Outcome:
    """Apply the steps in order. A document that one of them drops is not shown to the next; its text stays as it was.

    `bound` holds the functions of steps that need more than their settings, by `step`: decontaminate.
    """
    functions = {**STEPS, **(bound or {})}
    texts, languages = list(batch.texts), list(batch.languages)
    reasons: list[str | None] = [None] * len(texts)
    standing = list(range(len(texts)))
    for step in steps:
        seen = Batch([texts[i] for i in standing], [languages[i] for i in standing])
        outcome = functions[step.step](seen, step)
        for i, text, told, reason in zip(standing, outcome.texts, outcome.languages, outcome.reasons, strict=True):
            languages[i], reasons[i] = told, reason
            if reason is None:
                texts[i] = text
        standing = [i for i in standing if reasons[i] is None]
    return Outcome(texts, languages, reasons)
