"""What tasks are called elsewhere: any usual name of a task becomes ours, unknown ones get the nearest."""

from __future__ import annotations

import difflib
from typing import Any

from manta.errors import InputError
from manta.tasks import TASKS

# Ours -> what others say. Those of tasks that there are not (yet) are unknown like any other word.
ALIASES: dict[str, tuple[str, ...]] = {
    "classification": ("text-classification", "sequence-classification", "sentiment", "sentiment-analysis", "topic", "intent", "nli"),
    "tagging": ("ner", "named-entity-recognition", "token-classification", "pos", "chunking", "sequence-labelling", "sequence-labeling"),
    "answering": ("qa", "question-answering", "extractive-qa", "squad", "reading-comprehension"),
    "relations": ("relation", "relation-extraction", "relation-classification", "re"),
    "summarisation": ("summarization", "summary", "summarise", "summarize"),
    "translation": ("translate", "machine-translation", "mt"),
    "chat": ("instruct", "instruction", "instructions", "instruction-tuning", "sft", "conversation", "assistant"),
    "preference": ("dpo", "preferences", "preference-tuning"),
    "embedding": ("embed", "embeddings", "sentence-similarity", "sentence-embedding", "retrieval", "contrastive"),
}  # fmt: skip
# Names that say more than the task's own.
SETTINGS: dict[str, dict[str, Any]] = {
    name: {"name": "classification", "several": True}
    for name in ("multi-label", "multilabel", "multi-label-classification")
}


def task_of(word: str) -> dict[str, Any]:
    """The task that a word means, as a recipe's section: {"name": ...}. Raises InputError with what is known."""
    plain = word.strip().lower().replace("_", "-").replace(" ", "-")
    if plain in SETTINGS and SETTINGS[plain]["name"] in TASKS:
        return dict(SETTINGS[plain])
    known = {alias: name for name, aliases in ALIASES.items() if name in TASKS for alias in (name, *aliases)}
    known |= {name: name for name in TASKS}
    if plain in known:
        return {"name": known[plain]}
    near = difflib.get_close_matches(plain, [*known, *SETTINGS], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"--task {word!r}: choose one of {', '.join(sorted(TASKS))}{hint}")
