"""What the OpenAPI page says that no engine says of itself: errors, lists, headers, the bounds of numbers, examples."""

from __future__ import annotations

from typing import Any

from serving.door.routes import TASK_PATHS

Json = dict[str, Any]

# What a request can be refused with: status -> when.
REFUSALS = {
    400: "The request is wrong in itself: `param` names the field where one is to blame.",
    401: "No key, or one that is not of this endpoint.",
    403: "A page of another site asks an endpoint without keys, or a key that is bound to models asks for /metrics.",
    404: "There is no such model, or not for this key.",
    405: "Another method than this path takes.",
    408: "The body did not arrive in time.",
    413: "The body is larger than this endpoint takes.",
    429: "The key's requests or tokens of this minute are used up: `Retry-After` says until when.",
    500: "The endpoint failed; the reason stays in its log.",
    503: "The endpoint is at its limit, or a model restarts: `Retry-After` says when to try again.",
    504: "The answer took longer than this endpoint allows.",
}
OF_READING = (401, 403, 405, 500, 503)
OF_WORK = tuple(REFUSALS)
WAITS = (429, 503)  # carry Retry-After

ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
MODEL: Json = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "root": {"type": "string"},
        "parent": {"type": ["string", "null"], "description": "The model below, of an adapter."},
        "max_model_len": {"type": "integer"},
    },
}
TASK: Json = {
    "type": "object",
    "required": ["id", "object", "models"],
    "properties": {
        "id": {"enum": list(TASK_PATHS)},
        "object": {"const": "task"},
        "models": {"type": "array", "items": {"type": "string"}},
        "mask_token": {"type": "string"},
    },
}
STATUS: Json = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "unavailable"]}},
}
# What numbers an engine takes, which its own page does not say: field of a request -> bounds.
BOUNDS: dict[str, Json] = {
    "temperature": {"minimum": 0, "maximum": 2},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "min_p": {"minimum": 0, "maximum": 1},
    "top_k": {"minimum": -1},
    "presence_penalty": {"minimum": -2, "maximum": 2},
    "frequency_penalty": {"minimum": -2, "maximum": 2},
    "repetition_penalty": {"exclusiveMinimum": 0, "maximum": 2},
    "n": {"minimum": 1, "maximum": 128},
    "max_tokens": {"minimum": 1},
    "max_completion_tokens": {"minimum": 1},
    "min_tokens": {"minimum": 0},
    "top_logprobs": {"minimum": 0, "maximum": 20},
}
EXAMPLES: dict[str, Json] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 16},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [1, 2]},
}
ID: Json = {"type": "string", "pattern": r"^[A-Za-z0-9._:-]{1,128}$"}
SHARED_HEADERS: Json = {
    "X-Request-Id": {"description": "The client's own id where it is sane, else a new one.", "required": True, "schema": ID},
    "X-Manta-Fingerprint": {"description": "Of the model that answers.", "required": True, "schema": {"type": "string"}},
}  # fmt: skip
RETRY_AFTER: Json = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
GIVEN_ID: Json = {"name": "X-Request-Id", "in": "header", "required": False, "schema": {"type": "string"}}
