"""Encoders behind the real endpoint: started by `manta serve`, asked by Hugging Face's and OpenAI's clients, many at once."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from manta import recipe as recipes
from serving import deploy
from serving.door import keys
from tests.serving.chromium import chromium, find
from tests.serving.fake_engine import bearer, is_openai_error
from tests.serving.tasks import tiny

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NER = "/v1/tasks/token-classification"
TEXT = "anna lives in new york"
MANY = [" ".join(tiny.TEXTS[: 1 + number % 4]) + " cake" * number for number in range(16)]
LARGE = {"inputs": [MANY[-1]] * 1000}


class Running(NamedTuple):
    url: str
    key: str
    folder: Path  # of the model


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, manta_cli: Any) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ner")
    model = tiny.bert(folder / "model", "BertForTokenClassification", **tiny.TAGGED)
    file = str(folder / "keys")
    key = keys.create(file, "alice")[1]
    made = folder / "ner.yaml"
    made.write_text(recipes.to_yaml(tiny.recipe(folder, "ner", model, keys_file=file, tokens_per_minute=1_000_000)))
    begun = manta_cli("serve", str(made), "--detach", timeout=300)
    assert begun.returncode == 0, begun.stderr
    assert "/v1/tasks" in begun.stdout and "manta chat" not in begun.stdout
    state = json.loads((folder / "ner.server/server.json").read_text())
    yield Running(state["url"], key, model)
    ended = manta_cli("serve", "stop", str(made), timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert not [pid for pid, born in state["processes"].items() if deploy.is_alive(int(pid), born)]


def ask(endpoint: Running, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.url}{path}", json=body, headers=bearer(endpoint.key), timeout=60)


def test_hugging_faces_client_is_answered(endpoint: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the client takes this endpoint for the Hub
    client = InferenceClient(model=f"{endpoint.url}{NER}", token=endpoint.key)
    told = client.token_classification(TEXT, aggregation_strategy="first")
    wanted = tiny.ask(tiny.app(endpoint.folder, "token-classification"), "token-classification", TEXT, aggregation_strategy="first")  # fmt: skip
    assert [(one.entity_group, one.word, one.start, one.end) for one in told] == [
        (one["entity_group"], one["word"], one["start"], one["end"]) for one in wanted
    ]
    assert [one.score for one in told] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
    assert told


def test_requests_that_come_together_are_computed_together_and_answered_as_alone(endpoint: Running) -> None:
    alone = [ask(endpoint, NER, {"inputs": text}).json() for text in MANY]
    begun = batches(endpoint)
    ask(endpoint, NER, LARGE)
    before = batches(endpoint)
    together = asyncio.run(at_once(endpoint))
    after = batches(endpoint)
    for one, other in zip(alone, together, strict=True):
        assert [entity | {"score": 0} for entity in one] == [entity | {"score": 0} for entity in other]
        assert [entity["score"] for entity in one] == pytest.approx([entity["score"] for entity in other], abs=1e-5)
    assert after[1] - before[1] == len(MANY) + len(LARGE["inputs"])
    assert after[0] - before[0] < before[0] - begun[0] + len(MANY), "each of them was computed alone"


async def at_once(endpoint: Running) -> list[Any]:
    """The answers to MANY, all asked at the same moment, while a request of many texts keeps the model at work."""
    async with httpx.AsyncClient(base_url=endpoint.url, headers=bearer(endpoint.key), timeout=60) as client:
        bodies = [LARGE, *({"inputs": text} for text in MANY)]
        return [told.json() for told in await asyncio.gather(*(client.post(NER, json=body) for body in bodies))][1:]


def batches(endpoint: Running) -> tuple[float, float]:
    """How many batches were computed, and their rows."""
    text = httpx.get(f"{endpoint.url}/metrics", headers=bearer(endpoint.key)).text
    found = {sample.name: sample.value for each in text_string_to_metric_families(text) for sample in each.samples}
    return found["manta_batch_rows_count"], found["manta_batch_rows_sum"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (NER, {"inputs": 7}, 400, "`inputs` is not a text"),
        (NER, {"inputs": TEXT, "parameters": {"aggregation": "first"}}, 400, "did you mean `aggregation_strategy`"),
        (NER, {"inputs": "cake " * 99}, 400, "over the 64"),
        ("/v1/tasks/fill-mask", {"inputs": TEXT}, 404, "No model of this endpoint answers"),
        ("/v1/tasks/divination", {"inputs": TEXT}, 404, "Unknown request URL"),
        ("/v1/chat/completions", {"model": "ner", "messages": []}, 400, f"does not answer /v1/chat/completions, but {NER}"),
    ],
)  # fmt: skip
def test_bad_requests(endpoint: Running, path: str, body: Any, status: int, words: str) -> None:
    answer = ask(endpoint, path, body)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text
    assert is_openai_error(answer)


@pytest.mark.skipif(find() is None, reason="no Chromium on this machine: install `chromium`")
def test_the_page_marks_what_was_found(endpoint: Running) -> None:
    program = find()
    assert program is not None
    found = ask(endpoint, NER, {"inputs": TEXT}).json()
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as folder, chromium(program, Path(folder)) as page:
        page.open(endpoint.url)
        page.run(f"sessionStorage.setItem('manta-key', '{endpoint.key}')")
        page.open(endpoint.url)
        page.wait("document.querySelector('#panel-token-classification:not([hidden])')")
        page.run(f"document.querySelector('#token-classification-text').value = '{TEXT}'")
        page.run("document.querySelector('#panel-token-classification form').requestSubmit()")
        page.wait("document.querySelector('#panel-token-classification .figures')")
        marks = page.run("[...document.querySelectorAll('mark')].map((mark) => mark.textContent)")
        assert page.run("document.querySelectorAll('#tabs button').length") == 1, "there is nobody to chat with"
    assert marks == [f"{TEXT[one['start'] : one['end']]}{one['entity_group']}" for one in found]
    assert marks


def test_what_the_endpoint_says_of_itself(endpoint: Running) -> None:
    assert httpx.post(f"{endpoint.url}{NER}", json={"inputs": TEXT}).status_code == 401
    listed = httpx.get(f"{endpoint.url}/v1/tasks", headers=bearer(endpoint.key)).json()["data"]
    assert listed == [{"id": "token-classification", "object": "task", "models": ["ner"]}]
    answer = ask(endpoint, NER, {"inputs": TEXT})
    assert len(answer.headers["x-manta-fingerprint"]) == 64
    assert int(answer.headers["x-ratelimit-limit-tokens"]) == 1_000_000
    assert httpx.get(f"{endpoint.url}/ready").status_code == 200
