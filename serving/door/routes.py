"""The paths of an endpoint: what reaches an engine and by which method, and which of them a model answers."""

from __future__ import annotations

from serving.launch import Served
from serving.tasks import EMBEDDINGS, TASKS

PROBES = ("/health", "/ready")
TEXT_PATHS = ("/v1/chat/completions", "/v1/completions")
TOKEN_PATHS = ("/tokenize", "/detokenize")
EMBEDDINGS_PATH = "/v1/embeddings"
TASKS_PATH = "/v1/tasks"
OPENAPI_PATH = "/openapi.json"
TASK_PATHS = {name: f"{TASKS_PATH}/{name}" for name in TASKS}

# What reaches the engine: path -> method. Everything else of the engine's own server stays closed.
ROUTES = {
    "/v1/models": "GET",
    TASKS_PATH: "GET",
    "/metrics": "GET",
    OPENAPI_PATH: "GET",
    **dict.fromkeys((*TEXT_PATHS, *TOKEN_PATHS, EMBEDDINGS_PATH, *TASK_PATHS.values()), "POST"),
}
COUNTED = frozenset({*TEXT_PATHS, EMBEDDINGS_PATH, *TASK_PATHS.values()})  # whose tokens limits count


def paths(served: Served) -> tuple[str, ...]:
    """What a model answers, of what not all models do."""
    if not served.tasks:
        return (*TEXT_PATHS, *TOKEN_PATHS)
    return (*(TASK_PATHS[task] for task in served.tasks), *([EMBEDDINGS_PATH] if EMBEDDINGS in served.tasks else []))
