"""The endpoint with real Ray Serve and vLLM: what the official client meets, what breaks it, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from manta.errors import InputError
from manta.progress import Progress
from serving import deploy, launch

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KEY = "sk-test-0123456789abcdef"
QUESTION = [{"role": "user", "content": "the quick brown"}]


@pytest.fixture(scope="module")
def endpoint(tiny_model, serve_recipe, ray_session, tmp_path_factory) -> Iterator[deploy.Running]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY + "\n")
    with deploy.endpoint(
        serve_recipe(keys.parent, tiny_model, keys_file=str(keys), max_body_bytes=5000), Progress(quiet=True)
    ) as running:
        yield running
    assert len(running.processes) >= 2
    assert not [pid for pid, birth in running.processes.items() if deploy.is_alive(pid, birth)]
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", running.launch.port))


@pytest.fixture(scope="module")
def client(endpoint) -> Any:
    import openai

    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def post(endpoint: deploy.Running, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """One plain HTTP request with the key: status and JSON."""
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    fields = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
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
        "POST", "/v1/completions", body, {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
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


def test_metrics_are_vllms(endpoint):
    connection = http.client.HTTPConnection(urlsplit(endpoint.url).netloc, timeout=60)
    connection.request("GET", "/metrics", headers={"authorization": f"Bearer {KEY}"})
    text = connection.getresponse().read().decode()
    connection.close()
    assert "vllm:generation_tokens_total" in text


def test_the_port_counts_as_taken_while_it_serves(endpoint, serve_recipe, tiny_model, tmp_path):
    with pytest.raises(InputError, match=rf"serve\.port = {endpoint.launch.port} is taken"):
        launch.prepare(serve_recipe(tmp_path, tiny_model, port=endpoint.launch.port))


def test_z_a_dead_engine_is_replaced(endpoint, client, wait_until):
    """Last in this file that uses the endpoint: afterwards its processes are others."""
    replica, *engine = endpoint.processes
    for pid in engine:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not deploy.is_ready(endpoint.url), seconds=30, what="the endpoint still says ready without an engine"
    )
    wait_until(lambda: deploy.is_ready(endpoint.url), seconds=240, what="Serve did not bring the endpoint back")
    assert not deploy.is_alive(replica, endpoint.processes[replica])
    assert client.completions.create(model="tiny", prompt="fox", max_tokens=2).usage.completion_tokens == 2
