"""Tasks that an endpoint answers in Hugging Face's request and response shapes.

Each is a module of one shape: `Parameters`, what a request may say of how; `item`, which checks one of its `inputs`;
`rows`, what the model reads of it, as in training; `COMPUTE`, the pass over rows of all requests; `answer`, what is made
of their outputs; `probe`, a request that any model for it can answer; and, where a single answer is not sent as it is,
`shaped`. What is wrong in a request raises `asked.Wrong`. Importing this package loads no engine.
"""

from __future__ import annotations

from types import ModuleType

from serving.tasks import (
    feature_extraction,
    fill_mask,
    question_answering,
    relation_extraction,
    summarization,
    text_classification,
    token_classification,
    translation,
)

TASKS: dict[str, ModuleType] = {
    "text-classification": text_classification,
    "token-classification": token_classification,
    "fill-mask": fill_mask,
    "question-answering": question_answering,
    "relation-extraction": relation_extraction,
    "translation": translation,
    "summarization": summarization,
    "feature-extraction": feature_extraction,
}
EMBEDDINGS = "feature-extraction"  # whose models answer /v1/embeddings as well
