"""An engine that says what its routes are, in the shape of FastAPI's page, and can be told to break that word."""

from __future__ import annotations

import json
from typing import Any

from tests.serving.fake_engine import FakeEngine, reply

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
MAYBE = {"anyOf": [{"type": "number"}, {"type": "null"}]}


def operation(name: str, answer: str) -> dict[str, Any]:
    asked, told = ({"application/json": {"schema": {"$ref": f"#/components/schemas/{one}"}}} for one in (name, answer))
    body = {"required": True, "content": asked}
    unprocessable = {"description": "as FastAPI says of every route", "content": {}}
    return {"post": {"operationId": name, "requestBody": body, "responses": {"200": {"content": told}, "422": unprocessable}}}  # fmt: skip


def shape(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": {"model": TEXT, **fields}}


TOLD: dict[str, Any] = {
    "paths": {
        "/v1/chat/completions": operation("Chat", "Answer.Text"),
        "/v1/completions": operation("Completion", "Answer.Text"),
        "/tokenize": operation("Tokenize", "Answer.Tokens"),
        "/detokenize": operation("Detokenize", "Answer.Prompt"),
        "/v1/secret": operation("Secret", "Answer.Text"),
    },
    "components": {
        "schemas": {
            "Chat": shape(messages={"type": "array", "items": {"$ref": "#/components/schemas/Message"}}),
            "Message": {"type": "object", "properties": {"role": TEXT, "content": TEXT}},
            "Completion": {**shape(prompt=TEXT), "properties": {"model": TEXT, "prompt": TEXT, "temperature": MAYBE, "n": NUMBER}},
            "Tokenize": {**shape(prompt=TEXT), "properties": {"model": TEXT, "prompt": TEXT, "special": {"type": "boolean"}}},
            "Detokenize": shape(tokens={"type": "array", "items": NUMBER}),
            "Secret": shape(prompt=TEXT),
            "Answer.Text": shape(model=TEXT, choices={"type": "array"}),
            "Answer.Tokens": shape(count=NUMBER),
            "Answer.Prompt": shape(prompt=TEXT),
        }
    },
}  # fmt: skip
ANSWERS = {
    "/v1/chat/completions": {"model": "tiny", "choices": []},
    "/v1/completions": {"model": "tiny", "choices": []},
    "/tokenize": {"count": 1},
    "/detokenize": {"prompt": "a"},
}


class DescribedEngine(FakeEngine):
    """Answers as it says; `breaks`: a path that fails where the request names `special`, `bends`: one that answers another shape."""

    def __init__(self, breaks: str = "", bends: str = "") -> None:
        super().__init__()
        self.breaks, self.bends = breaks, bends

    async def _tell(self, path: str, send: Any) -> None:
        if path == "/openapi.json":
            return await reply(send, 200 if self.is_alive else 500, json.dumps(TOLD).encode())
        return await super()._tell(path, send)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if scope["method"] == "GET":
            self.seen.append(path)
            return await self._tell(path, send)
        asked = json.loads((await receive())["body"])
        if path == self.breaks and "special" in asked:
            raise RuntimeError("secret /home/me")
        told = {"prompt": 5} if path == self.bends else ANSWERS[path]
        await reply(send, 200, json.dumps(told).encode())
