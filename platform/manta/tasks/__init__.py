"""Supervised tasks: what an example is made of, what a model reads of it, how an answer is read, how it is scored.

There are two species, and every task is a module of the shape of its species. *Answering* tasks ask a language model for
text: `FIELDS`, `format`, `question`, `reference`, `decode`, `max_new_tokens`, `encode`, `score`. *Labelling* tasks put a
head on a model: `FIELDS`, `PADDED`, `SCORES`, `problem`, `named`, `reference`, `encode`, `decode`, `references`, `confidence`,
`shares`, `score`. Training, evaluation and serving call the same functions, so that a model is asked exactly as it was
taught. Importing this package loads no engine.
"""

from __future__ import annotations

from types import ModuleType

from manta.tasks import chat, classification, summarisation, tagging

ANSWERING: dict[str, ModuleType] = {"summarisation": summarisation, "chat": chat}
LABELLING: dict[str, ModuleType] = {"classification": classification, "tagging": tagging}
TASKS: dict[str, ModuleType] = {**ANSWERING, **LABELLING}
