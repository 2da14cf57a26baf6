"""`GET /openapi.json`: the OpenAPI 3.1 page of exactly what a key may ask here, made of what the engine says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from serving.door.answers import DOWN, App, Problem, Receive, Refused
from serving.door.inbox import Kept
from serving.door.routes import (
    EMBEDDINGS_PATH,
    OPENAPI_PATH,
    PROBES,
    TASK_PATHS,
    TASKS_PATH,
    TEXT_PATHS,
    TOKEN_PATHS,
    paths,
)
from serving.door.shapes import (
    BOUNDS,
    ERROR,
    EXAMPLES,
    GIVEN_ID,
    MODEL,
    OF_READING,
    OF_WORK,
    REFUSALS,
    RETRY_AFTER,
    SHARED_HEADERS,
    STATUS,
    TASK,
    WAITS,
    Json,
)
from serving.launch import Launch, Served
from serving.tasks.described import EMBEDDINGS_SHAPES, TASK_SHAPES, with_gap

REF = "#/components/schemas/"
JSON_TYPE, STREAM_TYPE, TEXT_TYPE = "application/json", "text/event-stream", "text/plain"
NUMBERS = ("integer", "number")
ANSWER = "Answer."  # before the names of what an engine answers, which are also names of what it is asked


class Page:
    """The page of one gateway. `app` is what answers behind it, and is asked once what its routes are."""

    def __init__(self, app: App, launch: Launch):
        self._app = app
        self._launch = launch
        self._engine: Json | None = None
        self._made: dict[tuple[str, ...], bytes] = {}  # models that a key may ask -> the page

    async def body(self, scope: MutableMapping[str, Any], receive: Receive, models: tuple[str, ...]) -> bytes | Problem:
        """The page for whoever may ask `models`, or the problem that no engine is there to say what it takes."""
        if self._engine is None:
            try:
                self._engine = await self._ask(scope, receive)
            except Refused as refused:
                return refused.problem
        if models not in self._made:
            self._made[models] = json.dumps(page(self._engine, self._launch, models)).encode()
        return self._made[models]

    async def _ask(self, scope: MutableMapping[str, Any], receive: Receive) -> Json:
        if all(one.tasks for one in self._launch.served):  # nobody writes text: all of it is known here
            return {}
        kept = Kept()
        await self._app(scope, receive, kept)
        if kept.status != 200:
            raise Refused(DOWN)
        return dict(json.loads(kept.body))


def page(engine: Json, launch: Launch, models: Iterable[str]) -> Json:
    """The page as JSON data. `engine` is what `of_engine` made, or nothing; `models` are those that may be asked."""
    able = [one for one in launch.served if set(one.names) & set(models)]
    schemas: Json = {"Error": ERROR, "Model": MODEL, "Task": TASK, "Status": STATUS}
    found = _readable()
    for path in (*TEXT_PATHS, *TOKEN_PATHS):
        if names := _who(path, able, models):
            found[path] = {"post": _work(engine["paths"][path]["post"], path in TEXT_PATHS)}
            body = found[path]["post"]["requestBody"]["content"][JSON_TYPE]
            body = {**body, "example": {"model": names[0], **EXAMPLES[path]}}
            found[path]["post"]["requestBody"] = {"required": True, "content": {JSON_TYPE: body}}
            for name in _reached(found[path], engine["components"]["schemas"]):
                schema = engine["components"]["schemas"][name]
                schemas[name] = schema if name.startswith(ANSWER) else _bounded(_naming(schema, names, launch, path))
    for path in (*TASK_PATHS.values(), EMBEDDINGS_PATH):
        if names := _who(path, able, models):
            asked, answer = EMBEDDINGS_SHAPES if path == EMBEDDINGS_PATH else TASK_SHAPES[_task(path)]
            masks = {one.mask_token for one in able if one.mask_token is not None}
            if path == TASK_PATHS["fill-mask"] and masks:
                asked = with_gap(asked, sorted(masks))
            body = _naming(asked, names, launch, path)
            found[path] = {"post": _work(_operation(path, body, answer), streams=False)}
    page = {
        "openapi": "3.1.0",
        "info": {"title": "Manta endpoint", "version": "1", "description": f"What the endpoint `{launch.name}` answers."},
        "paths": found,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip
    return {**page, "security": [{"key": []}]} if launch.has_keys else page


def _readable() -> Json:
    """What is read by GET."""
    found: Json = {}
    for path, words in zip(PROBES, ("Whether an engine lives.", "Whether the endpoint generates."), strict=True):
        told = {status: _answer(words, JSON_TYPE, {"$ref": f"{REF}Status"}) for status in ("200", "503")}
        found[path] = {"get": {"operationId": path[1:], "security": [], "responses": {**told, "405": _see(405)}}}
    listed = {"/v1/models": ("Model", "The models that this key may ask."), TASKS_PATH: ("Task", "Their tasks.")}
    for path, (name, words) in listed.items():
        shape = {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": f"{REF}{name}"}}},
        }
        found[path] = {"get": _reading(path, words, JSON_TYPE, shape)}
    found["/metrics"] = {"get": _reading("/metrics", "For Prometheus.", TEXT_TYPE, {"type": "string"})}
    found[OPENAPI_PATH] = {"get": _reading(OPENAPI_PATH, "This page.", JSON_TYPE, {"type": "object"})}
    return found


def _reading(path: str, words: str, kind: str, shape: Json) -> Json:
    told = {"200": _answer(words, kind, shape), **{str(status): _see(status) for status in OF_READING}}
    return {"operationId": _id(path), "parameters": [GIVEN_ID], "responses": told}


def _operation(path: str, asked: Json, answer: Json) -> Json:
    """What an engine would say of a route: a body in JSON, an answer in JSON."""
    body = {"required": True, "content": {JSON_TYPE: {"schema": asked}}}
    return {"operationId": _id(path), "requestBody": body, "responses": {"200": _answer("", JSON_TYPE, answer)}}


def _work(operation: Json, streams: bool) -> Json:
    """A route as it is met through the gateway: its good answers are the engine's, its errors ours."""
    shape = operation["responses"]["200"]["content"][JSON_TYPE]["schema"]
    good = _answer("The answer.", JSON_TYPE, shape)
    if streams:
        good["description"] = "The answer; with `stream` its pieces as server-sent events, ended by `data: [DONE]`."
        good["content"][STREAM_TYPE] = {}
    kept: Json = {name: operation[name] for name in ("operationId", "summary", "requestBody") if name in operation}
    told = {"200": good, **{str(status): _see(status) for status in OF_WORK}}
    return {**kept, "parameters": [GIVEN_ID], "responses": told}


def _answer(words: str, kind: str, shape: Json) -> Json:
    return {"description": words, "headers": SHARED_HEADERS, "content": {kind: {"schema": shape}}}


def _refusal(status: int) -> Json:
    made = _answer(REFUSALS[status], JSON_TYPE, {"$ref": f"{REF}Error"})
    return {**made, "headers": {**SHARED_HEADERS, **(RETRY_AFTER if status in WAITS else {})}}


def _see(status: int) -> Json:
    return {"$ref": f"#/components/responses/{status}"}


def _who(path: str, able: Iterable[Served], models: Iterable[str]) -> list[str]:
    """The names under which a path is answered."""
    allowed = set(models)
    return [name for one in able if path in paths(one) for name in one.names if name in allowed]


def _naming(schema: Json, names: list[str], launch: Launch, path: str) -> Json:
    """The schema of a request with the models that it may name; which it must where not exactly one answers the path."""
    if "model" not in schema.get("properties", ()):
        return schema
    properties = {**schema["properties"], "model": {"type": "string", "enum": names}}
    several = sum(path in paths(one) for one in launch.served) > 1
    required = [*(name for name in schema.get("required", ()) if name != "model"), *(["model"] if several else [])]
    return {**schema, "properties": properties, "required": required}


def _bounded(schema: Json) -> Json:
    """The schema of a request with the bounds of its numbers, null aside where a field may be null."""
    properties = dict(schema.get("properties", {}))
    for name in properties.keys() & BOUNDS.keys():
        field = properties[name]
        choices = [{**one, **BOUNDS[name]} if one.get("type") in NUMBERS else one for one in field.get("anyOf", ())]
        properties[name] = {**field, "anyOf": choices} if choices else {**field, **BOUNDS[name]}
    return {**schema, "properties": properties} if properties else schema


def _reached(part: Any, schemas: Json) -> set[str]:
    """The names of all schemas that a part of a page refers to, and those refer to."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        names = {name for name in re.findall(rf'"{REF}([^"]+)"', json.dumps(waiting.pop())) if name in schemas}
        waiting += [schemas[name] for name in names - found]
        found |= names
    return found


def _task(path: str) -> str:
    return next(name for name, of in TASK_PATHS.items() if of == path)


def _id(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_")


def of_engine(app: Any) -> Json:
    """What vLLM's own server (a FastAPI application) says of the routes that are let through, and what it answers there."""
    from fastapi.openapi.utils import get_openapi
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
    from vllm.entrypoints.openai.completion.protocol import CompletionResponse
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeResponse, TokenizeResponse

    open_paths = (*TEXT_PATHS, *TOKEN_PATHS)
    routes = [route for route in app.routes if getattr(route, "path", None) in open_paths]
    told = get_openapi(title="engine", version="1", routes=routes)
    models = (ChatCompletionResponse, CompletionResponse, TokenizeResponse, DetokenizeResponse)
    for path, model in zip(open_paths, models, strict=True):
        made = model.model_json_schema(mode="serialization", ref_template=f"{REF}{ANSWER}{{model}}")
        parts = made.pop("$defs", {})
        told["components"]["schemas"] |= {f"{ANSWER}{name}": part for name, part in parts.items()}
        told["components"]["schemas"][f"{ANSWER}{model.__name__}"] = made
        content = told["paths"][path]["post"]["responses"]["200"]["content"]
        content[JSON_TYPE] = {"schema": {"$ref": f"{REF}{ANSWER}{model.__name__}"}}
    return dict(told)


def add_route(app: Any) -> None:
    """Have vLLM's own server tell its routes. They are described when they are first asked for: most never are."""
    made: list[Json] = []

    async def tell() -> Json:
        if not made:
            made.append(of_engine(app))
        return made[0]

    app.add_api_route(OPENAPI_PATH, tell, include_in_schema=False)
