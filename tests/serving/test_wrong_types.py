"""What vLLM's reading of a request trips over is the request's fault, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, model_validator

from serving.engines.vllm import refuse_wrong_types


class Body(BaseModel):
    parts: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def look(cls, data: Any) -> Any:
        data["parts"].get("one")  # as vLLM's own do
        return data


def make() -> TestClient:
    app = FastAPI()

    @app.post("/")
    async def answer(body: Body) -> str:
        return None.missing if body.parts == {"break": 1} else "ok"  # type: ignore[attr-defined]

    app.middleware_stack = app.build_middleware_stack()  # as vLLM's has been when we come to it
    refuse_wrong_types(app)
    return TestClient(app)


def test_a_value_of_a_wrong_type_is_a_400_in_openais_shape() -> None:
    client = make()
    assert client.post("/", json={"parts": {}}).json() == "ok"
    refused = client.post("/", json={"parts": [1]})
    assert refused.status_code == 400
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}


def test_the_same_error_of_a_routes_own_stays_one() -> None:
    with pytest.raises(AttributeError):
        make().post("/", json={"parts": {"break": 1}})
