"""The endpoint with real Ray Serve and vLLM: what the official client meets, what breaks it, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from manta.errors import InputError
from manta.progress import Progress
from serving import deploy, launch
from serving.door import keys
from tests.serving.collector import Collector, collecting

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROMPT_TOKENS, PROMPT = 64, "the quick brown fox " * 60  # the limit, and what is far over it in few bytes
QUESTION = [{"role": "user", "content": "the quick brown"}]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> tuple[Path, str]:
    """A folder with the keys' file, and its first key."""
    folder = tmp_path_factory.mktemp("keys")
    return folder, keys.create(str(folder / "keys"), "alice")[1]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(tiny_model, serve_recipe, ray_session, guarded, collector) -> Iterator[deploy.Running]:
    folder, _ = guarded
    settings = {
        "keys_file": str(folder / "keys"), "access_log": str(folder / "logs"), "otlp_endpoint": collector.url
    }  # fmt: skip
    limits = {"max_body_bytes": 5000, "max_prompt_tokens": PROMPT_TOKENS, "tokens_per_minute": 1_000_000}
    recipe = serve_recipe(folder, tiny_model, **settings, **limits)
    with deploy.endpoint(recipe, Progress(quiet=True), own_key=True) as running:
        yield running
    assert len(running.processes) >= 2
    assert not [pid for pid, birth in running.processes.items() if deploy.is_alive(pid, birth)]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", running.launch.port))


@pytest.fixture(scope="module")
def client(endpoint, guarded) -> Any:
    import openai

    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=guarded[1], max_retries=0, timeout=60) as made:
        yield made


def post(endpoint: deploy.Running, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """One plain HTTP request with the key: status and JSON."""
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    fields = {"authorization": f"Bearer {endpoint.key}", "content-type": "application/json", **headers}
    connection.request("POST", path, body, fields)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_models_hides_where_the_model_lies(endpoint, client, tiny_model):
    [model] = client.models.list()
    assert model.id == "tiny"
    assert str(tiny_model) not in model.model_dump_json()


def test_chat_is_greedy_and_signed(endpoint, client):
    answers = [
        client.chat.completions.with_raw_response.create(model="tiny", messages=QUESTION, max_tokens=8, temperature=0)
        for _ in range(2)
    ]
    first, second = (answer.parse() for answer in answers)
    assert first.usage.completion_tokens == 8
    assert first.choices[0].message.content == second.choices[0].message.content
    assert answers[0].headers["x-manta-fingerprint"] == endpoint.launch.fingerprint
    assert first.system_fingerprint == f"manta-{endpoint.launch.fingerprint[:16]}"


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = client.completions.create(model="tiny", prompt="the lazy", max_tokens=12, temperature=0).choices[0]
    chunks = list(client.completions.create(model="tiny", prompt="the lazy", max_tokens=12, temperature=0, stream=True))
    assert len(chunks) > 3
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "length"


def test_a_raw_stream_ends_with_done(endpoint):
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    body = json.dumps({"model": "tiny", "prompt": "dog", "max_tokens": 3, "stream": True})
    connection.request(
        "POST", "/v1/completions", body, {"authorization": f"Bearer {endpoint.key}", "content-type": "application/json"}
    )
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.read().endswith(b"data: [DONE]\n\n")
    connection.close()


def test_tokenize(endpoint):
    status, told = post(endpoint, "/tokenize", b'{"model": "tiny", "prompt": "the fox"}')
    assert status == 200
    assert told["count"] == len(told["tokens"]) > 0


def test_a_wrong_key_is_the_clients_authentication_error(endpoint):
    import openai

    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'{"model": "none", "prompt": "a"}', {}, 404),
        (b'{"model": ', {}, 400),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": -1}', {}, 400),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": "many"}', {}, 400),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": 100000}', {}, 400),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e9}', {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"model": "tiny", "prompt": "a"}', {"content-type": "text/plain"}, 400),
        (b'{"model": "tiny", "prompt": "' + b"a" * 6000 + b'"}', {}, 413),
    ],
)
def test_wrong_requests_get_openais_error_shape(endpoint, tiny_model, body, headers, expected):
    status, told = post(endpoint, "/v1/completions", body, **headers)
    assert status == expected
    assert {"message", "type", "param", "code"} <= set(told["error"])
    assert str(tiny_model) not in json.dumps(told)
    assert "site-packages" not in json.dumps(told)


def test_it_goes_on_after_clients_that_left_in_mid_stream(endpoint, client):
    for _ in range(5):
        stream = client.completions.create(
            model="tiny", prompt="fox", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    assert client.completions.create(model="tiny", prompt="fox", max_tokens=2).usage.completion_tokens == 2


def get(endpoint: deploy.Running, path: str) -> str:
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    connection.request("GET", path, headers={"authorization": f"Bearer {endpoint.key}"})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_what_streams_used_is_counted_though_the_client_did_not_ask(endpoint, guarded, wait_until):
    """Tokens of a stream reach the key's limit, the metrics and the access log."""
    import openai

    folder, _ = guarded
    made, secret = keys.create(str(folder / "keys"), "bob", tokens_per_minute=1000)
    wait_until(lambda: not is_refused(endpoint, secret), seconds=30, what="a new key is not taken")
    asked = {"model": "tiny", "prompt": "the fox", "max_tokens": 9, "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=secret, max_retries=0, timeout=60) as bob:
        chunks = list(bob.completions.create(**asked, stream=True, extra_headers={"x-request-id": "of-bob"}))
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)
        raw = bob.completions.with_raw_response.create(**asked)
    used = raw.parse().usage
    assert raw.headers["x-ratelimit-limit-tokens"] == "1000"
    [line] = [line for line in access_lines(folder) if line["request_id"] == "of-bob"]
    assert (line["key"], line["status"]) == (made.id, 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (used.prompt_tokens, 9)
    text = get(endpoint, "/metrics")
    assert f'manta_completion_tokens_total{{key="{made.id}",model="tiny"}} 18.0' in text
    assert "vllm:generation_tokens_total" in text
    keys.revoke(str(folder / "keys"), made.id)
    wait_until(lambda: is_refused(endpoint, secret), seconds=10, what="a revoked key is still good")


def test_a_request_is_traced_under_its_id_and_the_clients_trace(endpoint, collector, wait_until):
    trace, parent = "ab" * 16, "cd" * 8
    headers = {"x-request-id": "traced", "traceparent": f"00-{trace}-{parent}-01"}
    assert post(endpoint, "/v1/completions", b'{"prompt": "the fox", "max_tokens": 5}', **headers)[0] == 200

    def spans() -> list[Any]:
        return [span for span in collector.spans if "traced" in str(span.attributes.get("gen_ai.request.id"))]

    wait_until(spans, seconds=30, what="no trace of the request has come")
    [span] = spans()
    assert (span.trace_id, span.parent_id) == (trace, parent)
    assert span.attributes["gen_ai.usage.completion_tokens"] == 5
    assert not [span for span in collector.spans if "fox" in str(span.attributes)], "a prompt is in a trace"


def is_refused(endpoint: deploy.Running, key: str) -> bool:
    return post(endpoint, "/tokenize", b'{"prompt": "a"}', authorization=f"Bearer {key}")[0] == 401


def access_lines(folder: Path) -> list[dict[str, Any]]:
    [file] = (folder / "logs").glob("access-tiny-*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_over_the_limit_is_refused_before_the_engine_works(endpoint, stream):
    body = json.dumps({"model": "tiny", "prompt": PROMPT, "max_tokens": 1, "stream": stream}).encode()
    status, told = post(endpoint, "/v1/completions", body)
    assert status == 400
    assert f"over the limit of {PROMPT_TOKENS}" in told["error"]["message"]


def test_the_port_counts_as_taken_while_it_serves(endpoint, serve_recipe, tiny_model, tmp_path):
    with pytest.raises(InputError, match=rf"serve\.port = {endpoint.launch.port} is taken"):
        launch.prepare(serve_recipe(tmp_path, tiny_model, port=endpoint.launch.port))


def test_z_a_dead_engine_is_replaced(endpoint, client, wait_until):
    """Last in this file that uses the endpoint: afterwards its processes are others."""
    import openai

    replica, *engine = endpoint.processes
    long = {"max_tokens": 200, "n": 32, "extra_body": {"ignore_eos": True}}
    stream = iter(client.completions.create(model="tiny", prompt="fox", stream=True, **long))
    next(stream)
    for pid in engine:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match=r"restarting|failed"):  # what the client makes of the error event
        list(stream)
    body = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
    deadline = time.monotonic() + 10
    while (status := post(endpoint, "/v1/completions", body)[0]) != 503:
        assert status in (200, 500) and time.monotonic() < deadline
    wait_until(
        lambda: not deploy.is_ready(endpoint.url), seconds=30, what="the endpoint still says ready without an engine"
    )
    wait_until(lambda: deploy.is_ready(endpoint.url), seconds=240, what="Serve did not bring the endpoint back")
    assert not deploy.is_alive(replica, endpoint.processes[replica])
    assert client.completions.create(model="tiny", prompt="fox", max_tokens=2).usage.completion_tokens == 2
