"""Supervised tasks: how an example becomes a conversation, how an answer is read, how it is scored.

Every task is a module of the same shape: `format`, `question`, `reference`, `decode`, `max_new_tokens`, `encode`, `score`.
Training, evaluation and serving call the same functions, so that a model is asked exactly as it was taught. Importing
this package loads no engine.
"""

from __future__ import annotations

from types import ModuleType

from manta.tasks import chat, summarisation

TASKS: dict[str, ModuleType] = {"summarisation": summarisation, "chat": chat}
