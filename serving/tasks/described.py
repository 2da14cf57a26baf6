"""Requests and answers of each task as JSON Schema, for the endpoint's OpenAPI page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from serving.tasks import TASKS
from serving.tasks.asked import MAX_INPUTS

Json = dict[str, Any]

TEXT: Json = {"type": "string", "minLength": 1, "pattern": r"\S"}
SPAN: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}
SCORE: Json = {"type": "number"}
PLACE: Json = {"type": "integer", "minimum": 0}


def _object(required: Json, others: Json | None = None, strict: bool = False) -> Json:
    made: Json = {"type": "object", "required": list(required), "properties": {**required, **(others or {})}}
    return {**made, "additionalProperties": False} if strict else made


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _one_or_list(item: Json) -> Json:
    return {"anyOf": [item, _list(item)]}


LABELS = _list(_object({"label": {"type": "string"}, "score": SCORE}))
GAP = _list(_object({"score": SCORE, "token": PLACE, "token_str": {"type": "string"}, "sequence": {"type": "string"}}))
WORD = _object({"score": SCORE, "word": {"type": "string"}, "start": PLACE, "end": PLACE})
FOUND = _object({"answer": {"type": "string"}, "score": SCORE, "start": PLACE, "end": PLACE})
VECTOR = _list({"type": "number"})

# task -> what one of its `inputs` is, what is answered to it alone. To a list of inputs it is a list of these.
INPUTS: dict[str, Json] = {
    **dict.fromkeys(TASKS, TEXT),
    "text-classification": {"anyOf": [TEXT, _object({"text": TEXT}, {"text_pair": TEXT}, strict=True)]},
    "question-answering": _object({"question": TEXT, "context": TEXT}, strict=True),
    "relation-extraction": _object({"text": TEXT, "head": SPAN, "tail": SPAN}, strict=True),
}
ANSWERS: dict[str, Json] = {
    "text-classification": _list(LABELS),
    "token-classification": _one_or_list(_list(WORD)),
    "fill-mask": {"anyOf": [GAP, _list(GAP), _list(_list(GAP)), _list({"anyOf": [GAP, _list(GAP)]})]},
    "question-answering": {"anyOf": [FOUND, _list(FOUND), _list(_list(FOUND))]},
    "relation-extraction": _one_or_list(LABELS),
    "translation": _list(_object({"translation_text": {"type": "string"}})),
    "summarization": _list(_object({"summary_text": {"type": "string"}})),
    "feature-extraction": _one_or_list(VECTOR),
}


def _request(task: str) -> Json:
    """The body of a request: parameters are what the task's module reads."""
    parameters = TASKS[task].Parameters.model_json_schema()
    beside = parameters["properties"] if getattr(TASKS[task], "LOOSE", False) else {}
    others = {"model": {"type": "string"}, "parameters": {"anyOf": [parameters, {"type": "null"}]}, **beside}
    return _object({"inputs": _inputs(INPUTS[task])}, others, strict=True)


def _inputs(item: Json) -> Json:
    return {"anyOf": [item, {**_list(item), "minItems": 1, "maxItems": MAX_INPUTS}]}


def with_gap(request: Json, masks: Iterable[str]) -> Json:
    """The body of a request for fill-mask, each text of which has one of these masks."""
    text = {**TEXT, "pattern": "|".join(map(re.escape, masks))}
    return {**request, "properties": {**request["properties"], "inputs": _inputs(text)}}


TOKENS: Json = {"type": "array", "items": PLACE, "minItems": 1}
SEVERAL: Json = {"type": "array", "items": {"anyOf": [TEXT, TOKENS]}, "minItems": 1, "maxItems": MAX_INPUTS}
EMBEDDING = _object(
    {"object": {"const": "embedding"}, "index": PLACE, "embedding": {"anyOf": [VECTOR, {"type": "string"}]}}
)

TASK_SHAPES: dict[str, tuple[Json, Json]] = {task: (_request(task), ANSWERS[task]) for task in TASKS}
EMBEDDINGS_SHAPES: tuple[Json, Json] = (
    _object(
        {"input": {"anyOf": [TEXT, TOKENS, SEVERAL]}},
        {
            "model": {"type": "string"},
            "encoding_format": {"enum": ["float", "base64"]},
            "dimensions": {"type": ["integer", "null"]},
            "user": {"type": ["string", "null"]},
        },
        strict=True,
    ),
    _object(
        {
            "object": {"const": "list"},
            "data": _list(EMBEDDING),
            "model": {"type": "string"},
            "usage": _object({"prompt_tokens": PLACE, "total_tokens": PLACE}),
        }
    ),
)
