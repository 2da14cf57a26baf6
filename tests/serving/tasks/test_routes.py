"""Tasks behind the gateway: who answers, what is listed to whom, what is counted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.door import keys
from serving.door.gateway import Gateway
from serving.launch import Launch
from tests.serving.fake_engine import CHAT, FakeEngine, bearer, is_openai_error, launch, served, talk
from tests.serving.tasks import tiny

NER, MASK, EMBEDDINGS = "/v1/tasks/token-classification", "/v1/tasks/fill-mask", "/v1/embeddings"
MODELS = (
    served(name="talker"),
    served(name="ner", tasks=("token-classification",), runner="transformers"),
    served(name="gaps", tasks=("fill-mask",), runner="transformers", mask_token="[MASK]"),
    served(name="more-gaps", tasks=("fill-mask",), runner="transformers", mask_token="<mask>"),
    served(name="vectors", tasks=("feature-extraction",), runner="transformers"),
)


def post(path: str, body: dict[str, Any], **changes: Any) -> tuple[FakeEngine, httpx.Response]:
    engine = FakeEngine()
    answer = talk(engine, lambda client: client.post(path, json=body), **{"served": MODELS, **changes})
    return engine, answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (NER, {"inputs": "a"}),
        (NER, {"inputs": "a", "model": "ner"}),
        (EMBEDDINGS, {"input": "a"}),
        (MASK, {"inputs": "a", "model": "gaps"}),
        (CHAT, {"messages": []}),
    ],
)
def test_the_only_model_for_a_path_answers_it(path: str, body: dict[str, Any]) -> None:
    engine, answer = post(path, body)
    assert (answer.status_code, engine.seen) == (200, [path])


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        (MASK, {"inputs": "a"}, 400, "model_missing", "is answered by gaps, more-gaps"),
        (NER, {"inputs": "a", "model": "gaps"}, 400, "model_not_supported", "but /v1/tasks/fill-mask"),
        (CHAT, {"messages": [], "model": "ner"}, 400, "model_not_supported", f"but {NER}"),
        (NER, {"inputs": "a", "model": "talker"}, 400, "model_not_supported", f"but {CHAT}"),
        ("/v1/tasks/translation", {"inputs": "a"}, 404, "model_not_found", "No model of this endpoint answers"),
        ("/v1/tasks/divination", {"inputs": "a"}, 404, "unknown_url", "Unknown request URL"),
        (NER, {"inputs": "a", "model": "nobody"}, 404, "model_not_found", "does not exist"),
    ],
)
def test_what_no_model_answers(path: str, body: dict[str, Any], status: int, code: str, words: str) -> None:
    engine, answer = post(path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert words in answer.json()["error"]["message"] and is_openai_error(answer)
    assert engine.seen == []


def test_the_tasks_are_listed_to_whom_may_ask_them(tmp_path: Path) -> None:
    file = str(tmp_path / "keys")
    everything, bound = keys.create(file, "all")[1], keys.create(file, "bound", models=["more-gaps", "talker"])[1]

    async def story(client: httpx.AsyncClient) -> list[Any]:
        listed = [await client.get("/v1/tasks", headers=bearer(key)) for key in (everything, bound)]
        refused = await client.post(MASK, json={"inputs": "a", "model": "gaps"}, headers=bearer(bound))
        open_to_none = await client.get("/v1/tasks")
        assert (refused.status_code, open_to_none.status_code) == (404, 401)
        return [{one["id"]: one for one in answer.json()["data"]} for answer in listed]

    of_all, of_some = talk(FakeEngine(), story, served=MODELS, keys_file=file)
    assert set(of_all) == {"token-classification", "fill-mask", "feature-extraction"}
    assert of_all["fill-mask"]["models"] == ["gaps", "more-gaps"] and of_all["fill-mask"]["mask_token"] == "[MASK]"
    assert of_some == {
        "fill-mask": {"id": "fill-mask", "object": "task", "models": ["more-gaps"], "mask_token": "<mask>"}
    }


# --- with a real model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("m") / "tagger", "BertForTokenClassification", **tiny.TAGGED)


class Alive:
    """What a gateway asks of an engine that never fails."""

    async def alive(self) -> bool:
        return True

    async def generate_once(self) -> None:
        return None


def of_tagger(**changes: Any) -> Launch:
    return launch(
        served=(served(tasks=("token-classification",), runner="transformers", max_ongoing_requests=32),), **changes
    )


def test_tokens_are_counted_and_batches_measured(tagger: Path) -> None:
    app = tiny.app(tagger, "token-classification")

    async def play() -> tuple[list[httpx.Response], httpx.Response, str]:
        gateway = Gateway(app, Alive(), of_tagger(tokens_per_minute=60))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://test") as client:
            bodies = [{"inputs": text} for text in tiny.TEXTS[:2]]
            told = await asyncio.gather(*(client.post(NER, json=body) for body in bodies))
            over = await client.post(NER, json={"inputs": tiny.TEXTS[0] * 20})
            return told, over, (await client.get("/metrics")).text

    told, over, metrics = asyncio.run(play())
    lengths = [len(app.model.tokenizer(text)["input_ids"]) for text in tiny.TEXTS[:2]]
    assert [answer.status_code for answer in told] == [200, 200]
    assert told[0].headers["x-ratelimit-limit-tokens"] == "60"
    assert (over.status_code, over.json()["error"]["code"]) == (429, "token_limit_exceeded")
    found = {
        (sample.name, sample.labels.get("path"), sample.labels.get("status")): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.labels.get("model") == "tiny"
    }
    assert found["manta_prompt_tokens_total", None, None] == sum(lengths)
    assert found["manta_batch_tokens_total", None, None] == sum(lengths)
    assert found["manta_batch_rows_sum", None, None] == 2
    assert found["manta_requests_total", NER, "200"] == 2


def test_a_client_that_leaves_is_not_answered(tagger: Path) -> None:
    app = tiny.app(tagger, "token-classification")
    body, sent = json.dumps({"inputs": tiny.TEXTS}).encode(), []

    async def play() -> None:
        messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "POST", "path": NER, "state": {}}, receive, send)

    asyncio.run(play())
    assert sent == []
