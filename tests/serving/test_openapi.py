"""The OpenAPI page: exactly the routes that a key may ask, in a shape that others' tools read; and that a fuzzer by it finds faults."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from serving.door.gateway import Gateway
from serving.door.openapi import page
from serving.door.routes import OPENAPI_PATH, PROBES, ROUTES, TASK_PATHS, TASKS_PATH, TEXT_PATHS, TOKEN_PATHS
from serving.fleet.fleet import Fleet
from serving.tasks import TASKS
from serving.tasks.described import EMBEDDINGS_SHAPES, INPUTS, TASK_SHAPES
from tests.serving.described_engine import TOLD, DescribedEngine
from tests.serving.fake_engine import bearer, is_openai_error, launch, served, talk
from tests.serving.fake_fleet import Crew

READABLE = {*PROBES, "/v1/models", TASKS_PATH, "/metrics", OPENAPI_PATH}
MODELS = (
    served(),
    served(name="other"),
    served(name="ner", tasks=("token-classification",)),
    served(name="vectors", tasks=("feature-extraction",)),
)


def fetch(engine: DescribedEngine | None = None, **changes: Any) -> dict[str, Any]:
    found = talk(engine or DescribedEngine(), lambda client: client.get(OPENAPI_PATH), **changes)
    assert found.status_code == 200, found.text
    return dict(found.json())


def body(found: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of a request, references resolved at the first step."""
    schema = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(found["components"]["schemas"][name] if name else schema)


def test_it_names_the_routes_that_the_gateway_lets_through_and_no_other():
    found = fetch()
    assert set(found["paths"]) == {*READABLE, *TEXT_PATHS, *TOKEN_PATHS}
    everything = fetch(served=(served(), served(name="all", tasks=tuple(TASKS))))
    assert set(everything["paths"]) == {*PROBES, *ROUTES}
    for path, item in everything["paths"].items():
        assert list(item) == [ROUTES.get(path, "GET").lower()]


def test_it_is_whole():
    """Each reference leads somewhere, what nobody refers to is left out, operations have ids of their own."""
    found = fetch(served=MODELS)
    text = json.dumps(found)
    schemas = found["components"]["schemas"]
    assert {name for name in schemas if f'"#/components/schemas/{name}"' in text} == set(schemas)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        where: Any = found
        for step in reference.removeprefix("#/").split("/"):
            where = where[step]
    assert "Secret" not in schemas
    ids = [operation["operationId"] for item in found["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


def test_every_error_has_openais_shape_and_no_route_says_422():
    found = fetch()
    for item in found["paths"].values():
        for operation in item.values():
            assert "422" not in operation["responses"]
    for status in (400, 401, 404, 405, 408, 413, 429, 500, 503, 504):
        told = found["components"]["responses"][str(status)]
        assert told["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
        assert ("Retry-After" in told["headers"]) == (status in (429, 503))
    answer = talk(DescribedEngine(), lambda client: client.post("/tokenize", json={"model": "none"}))
    jsonschema.validate(answer.json(), found["components"]["schemas"]["Error"])


def test_a_key_reads_of_the_models_that_it_may_ask(tmp_path: Path):
    from serving.door import keys

    file = str(tmp_path / "keys")
    _, all_of_them = keys.create(file, "alice")
    _, only_ner = keys.create(file, "bob", models=("ner",))
    stranger = talk(DescribedEngine(), lambda client: client.get(OPENAPI_PATH), keys_file=file)
    assert stranger.status_code == 401

    async def story(client: Any) -> list[dict[str, Any]]:
        answers = [await client.get(OPENAPI_PATH, headers=bearer(key)) for key in (all_of_them, only_ner)]
        return [answer.json() for answer in answers]

    alices, bobs = talk(DescribedEngine(), story, served=MODELS, keys_file=file)
    assert body(alices, "/tokenize")["properties"]["model"]["enum"] == ["tiny", "other"]
    assert set(bobs["paths"]) == {*READABLE, TASK_PATHS["token-classification"]}
    assert alices["security"] == [{"key": []}]
    assert alices["paths"]["/ready"]["get"]["security"] == []
    assert "tiny" not in json.dumps(bobs["paths"])


def test_a_model_must_be_named_where_several_answer():
    alone, several = fetch(), fetch(served=MODELS)
    assert "model" not in body(alone, "/tokenize")["required"]
    assert "model" in body(several, "/tokenize")["required"]
    assert "model" not in body(several, TASK_PATHS["token-classification"])["required"]
    answered = alone["components"]["schemas"]["Answer.Text"]
    assert answered == TOLD["components"]["schemas"]["Answer.Text"], "what an engine answers is its own word"
    assert "security" not in alone, "an endpoint without keys asks for none"


def test_numbers_have_the_bounds_that_the_engine_holds_them_to_and_bodies_an_example():
    found = fetch()
    fields = body(found, "/v1/completions")["properties"]
    assert fields["temperature"] == {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "null"}]}
    assert fields["n"] == {"type": "integer", "minimum": 1, "maximum": 128}
    for path in (*TEXT_PATHS, *TOKEN_PATHS):
        content = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["example"]["model"] == "tiny"
        jsonschema.validate(content["example"], {**content["schema"], "components": found["components"]})


def test_the_engine_is_asked_once_and_not_where_no_model_writes():
    engine = DescribedEngine()

    async def story(client: Any) -> None:
        for _ in range(3):
            assert (await client.get(OPENAPI_PATH)).status_code == 200

    talk(engine, story)
    assert engine.seen == [OPENAPI_PATH]
    silent = DescribedEngine()
    assert set(fetch(silent, served=MODELS[2:])["paths"]) > {TASK_PATHS["feature-extraction"], "/v1/embeddings"}
    assert silent.seen == []


def test_while_no_engine_can_say_it_clients_are_told_to_come_back():
    engine = DescribedEngine()
    engine.is_alive = False
    answer = talk(engine, lambda client: client.get(OPENAPI_PATH))
    assert answer.status_code == 503
    assert is_openai_error(answer)
    assert int(answer.headers["retry-after"]) > 0


class TestBehindAFront:
    """Where replicas hold the engines, one of them is asked."""

    def fetch(self, crew: Crew, names: str, lost: str = "") -> httpx.Response:
        async def run() -> httpx.Response:
            for name in names:
                (await crew.start(name))._tell = DescribedEngine()._tell  # type: ignore[method-assign]
            plan = launch(served=(served(name="ner", tasks=("token-classification",)), served(max_replicas=2)))
            fleet = Fleet(plan, {"ner": Crew(), "tiny": crew})
            for name in lost:
                await crew.kill(name)
            transport = httpx.ASGITransport(Gateway(fleet, fleet, plan))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                try:
                    return await client.get(OPENAPI_PATH)
                finally:
                    fleet.lines.close()
                    await crew.end()

        return asyncio.run(run())

    @pytest.mark.parametrize("lost", ["", "a"])
    def test_a_replica_that_lives_says_what_it_takes(self, lost: str):
        answer = self.fetch(Crew(), "ab", lost)
        assert set(answer.json()["paths"]) == {*READABLE, *TEXT_PATHS, *TOKEN_PATHS, TASK_PATHS["token-classification"]}

    def test_without_any_clients_are_told_to_come_back(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("serving.fleet.fleet.PROBE_SECONDS", 0.1)
        answer = self.fetch(Crew(), "")
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


def test_another_method_hears_which_one_is_right():
    answer = talk(DescribedEngine(), lambda client: client.get("/tokenize"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("task", TASKS)
def test_requests_of_tasks_are_described(task: str):
    asked, _ = TASK_SHAPES[task]
    examples = {
        "text-classification": {"text": "a", "text_pair": "b"},
        "question-answering": {"question": "who", "context": "me"},
        "relation-extraction": {"text": "a b", "head": [0, 1], "tail": [2, 3]},
    }
    one = examples.get(task, "a text")
    for inputs in (one, [one, one]):
        jsonschema.validate({"inputs": inputs, "model": "m", "parameters": None}, asked)
    for wrong in ({}, {"inputs": []}, {"inputs": " "}, {"inputs": 5}, {"inputs": one, "parameters": {"colour": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, asked)
    assert set(INPUTS) == set(TASKS)


def test_a_text_to_be_filled_has_a_gap():
    made = page({}, launch(served=(served(name="gaps", tasks=("fill-mask",), mask_token="[MASK]"),)), ("gaps",))
    asked = made["paths"][TASK_PATHS["fill-mask"]]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for inputs in ("a [MASK]", ["[MASK]", "a [MASK] b"]):
        jsonschema.validate({"inputs": inputs}, asked)
    for inputs in ("a M", ["a [MASK]", "a"]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"inputs": inputs}, asked)


def test_requests_for_embeddings_are_described():
    asked, told = EMBEDDINGS_SHAPES
    for one in ("a", ["a", "b"], [1, 2], [[1, 2], "a"]):
        jsonschema.validate({"input": one}, asked)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"input": []}, asked)
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    jsonschema.validate({"object": "list", "data": [vector], "model": "m", "usage": usage}, told)


def test_a_page_without_an_engine_is_a_pure_function():
    made = launch(served=MODELS[2:])
    assert page({}, made, ("ner",)) == page({}, made, ("ner",))
    assert TASK_PATHS["token-classification"] in page({}, made, ("ner",))["paths"]
    assert page({}, made, ())["paths"].keys() == READABLE
