"""Supervised tasks: what an example is made of, what a model reads of it, how an answer is read, how it is scored.

There are three species, and every task is a module of the shape of its species. *Answering* tasks ask a language model
for text: `FIELDS`, `format`, `question`, `reference`, `decode`, `max_new_tokens`, `encode`, `score`; those that
`seq2seq` also puts to models with an encoder and a decoder have `FIGURES` and `prefix`. *Labelling* tasks put a head
on a model: `FIELDS`, `PADDED`, `SCORES`, `problem`, `named`, `reference`, `encode`, `decode`, `references`,
`confidence`, `shares`, `score`; where an example makes several rows (`WINDOWED`) `joined`, `keep` and `kept` in the
place of `confidence`. *Comparing* tasks learn from several texts of one example side by side: `FIELDS`, `PARTS`,
`PADDED`, `SCORES`, `encode`, `predictions`, `references`, `score`, `describe`. Training, evaluation and serving call
the same functions, so that a model is asked exactly as it was taught. Importing this package loads no engine.
"""

from __future__ import annotations

from types import ModuleType

from manta.tasks import (
    answering,
    chat,
    classification,
    embedding,
    preference,
    relations,
    summarisation,
    tagging,
    translation,
)

ANSWERING: dict[str, ModuleType] = {"summarisation": summarisation, "translation": translation, "chat": chat}
WINDOWED: dict[str, ModuleType] = {"answering": answering}
LABELLING: dict[str, ModuleType] = {
    "classification": classification,
    "tagging": tagging,
    "relations": relations,
    **WINDOWED,
}
COMPARING: dict[str, ModuleType] = {"preference": preference, "embedding": embedding}
TASKS: dict[str, ModuleType] = {**ANSWERING, **LABELLING, **COMPARING}
