"""Documents written anew by an endpoint: a local server that answers, waits, breaks off and refuses as real ones do."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import TypeAdapter

from manta.data import augment, dedup
from manta.errors import InputError, StageFailed
from manta.sections.augment import Augmentation

KEY = "sk-local"
PROMPT = "Rewrite: {text}"
# A word in the prompt -> status, headers and error code of what comes back, the first time only where it says so.
TROUBLE: dict[str, tuple[int, dict[str, str], str]] = {
    "busy": (429, {"Retry-After": "1"}, "rate_limit"),
    "broken": (500, {"Retry-After": "0.05"}, "server"),
    "down": (503, {"Retry-After": "0.05"}, "server"),
    "huge": (400, {}, "context_length_exceeded"),
    "rude": (400, {}, "content_filter"),
    "wrong": (400, {}, "bad_parameter"),
    "lost": (404, {}, "model_not_found"),
    "teapot": (418, {}, "teapot"),
}
ONCE = ("busy", "broken")
FINISH = {"endless": "length", "filtered": "content_filter"}


class Server(ThreadingHTTPServer):
    """Answers with the prompt's text in capitals. `seen` holds each request's body, `times` when each prompt came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: list[dict[str, Any]] = []
        self.times: dict[str, list[float]] = {}
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: pytest shows what fails."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"].removeprefix("Rewrite: ")
        with self.server.lock:
            self.server.seen.append(body)
            came = self.server.times.setdefault(text, [])
            came.append(time.monotonic())
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(0.02)
        with self.server.lock:
            self.server.at_once -= 1  # before the answer goes: whoever has it may ask again at once
        self._answer(text, first=len(came) == 1)

    def _answer(self, text: str, first: bool) -> None:
        if self.path != "/v1/chat/completions":
            self._send(200, {}, {"hello": "world"})
            return
        if self.headers["Authorization"] not in (f"Bearer {KEY}", "Bearer none"):
            self._send(401, {}, {"error": {"message": "no such key", "code": "invalid_api_key"}})
            return
        if "dropped" in text and first:
            self.close_connection = True  # not a word
            return
        for word, (status, headers, code) in TROUBLE.items():
            if word in text and (first or word not in ONCE):
                self._send(status, headers, {"error": {"message": f"it is {word}", "code": code}})
                return
        reason = next((reason for word, reason in FINISH.items() if word in text), "stop")
        content = None if "silent" in text else text.upper()
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}
        self._send(200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    def _send(self, status: int, headers: dict[str, str], content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def endpoint(server: Server, **more: Any) -> dict[str, Any]:
    return {"url": server.url, "model": "m", "retries": 2, **more}


def made(texts: list[str], raw: dict[str, Any], counted: Counter[str] | None = None) -> dict[str, list[str]]:
    chosen = TypeAdapter(list[Augmentation]).validate_python([{"share": 1.0} | raw])
    found: dict[str, list[str]] = {}
    digests = [dedup.digest(text) for text in texts]
    for v in augment.variants(texts, [""] * len(texts), digests, chosen, 0, counted):
        found.setdefault(texts[v.document], []).append(v.text)
    return found


def rewritten(
    server: Server, texts: list[str], counted: Counter[str] | None = None, **more: Any
) -> dict[str, list[str]]:
    return made(texts, {"augment": "rewrite", "prompt": PROMPT, "endpoint": endpoint(server, **more)}, counted)


def test_answers_come_in_the_order_of_the_documents(server: Server) -> None:
    texts = [f"ship {n} left the harbour" for n in range(60)]
    assert rewritten(server, texts, concurrency=4) == {text: [text.upper()] for text in texts}
    assert 1 < server.most_at_once <= 4, "several at a time, never more than allowed"


def test_what_is_sent(server: Server) -> None:
    raw = {
        "augment": "rewrite",
        "prompt": PROMPT,
        "temperature": 0.7,
        "max_new_tokens": 50,
        "copies": 2,
        "endpoint": endpoint(server),
    }
    texts = ["a ship", "一艘船"]
    made(texts, raw)
    bodies = sorted(server.seen, key=lambda body: (body["messages"][0]["content"], body["seed"]))
    assert [body["messages"] for body in bodies] == [
        [{"role": "user", "content": f"Rewrite: {t}"}] for t in texts for _ in range(2)
    ]
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {("m", 0.7, 50)}
    seeds = [body["seed"] for body in bodies]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    made(texts[1:], raw)
    assert {body["seed"] for body in server.seen[4:]} == set(seeds[2:]), "a document's seeds are its own"


def test_a_busy_server_is_given_the_time_it_asks_for(server: Server) -> None:
    assert rewritten(server, ["a busy ship", "a ship"]) == {"a busy ship": ["A BUSY SHIP"], "a ship": ["A SHIP"]}
    first, second = server.times["a busy ship"]
    assert second - first >= 1.0
    assert len(server.times["a ship"]) == 1


@pytest.mark.parametrize("text", ["a broken ship", "a dropped anchor"])
def test_what_breaks_once_is_tried_again(server: Server, text: str) -> None:
    assert rewritten(server, [text]) == {text: [text.upper()]}
    assert len(server.times[text]) == 2


def test_what_stays_broken_stops_the_stage(server: Server) -> None:
    with pytest.raises(
        StageFailed, match=r"data.augment.0.endpoint.url = .* does not answer after 3 attempts.*it is down"
    ):
        rewritten(server, ["the server is down"])
    assert len(server.times["the server is down"]) == 3


def test_nobody_at_the_address_stops_the_stage(free_port: int) -> None:
    nobody = {"url": f"http://127.0.0.1:{free_port}/v1", "model": "m", "retries": 0}
    with pytest.raises(StageFailed, match="does not answer after 1 attempts"):
        made(["a ship"], {"augment": "rewrite", "endpoint": nobody})


def test_an_answer_takes_no_longer_than_the_time_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "_answer", lambda self, text, first: time.sleep(1.0))
    with pytest.raises(StageFailed, match="timed out"):
        rewritten(server, ["a slow ship"], timeout_s=0.2, retries=0)


def test_failed_answers_are_left_out_and_counted(server: Server) -> None:
    counted: Counter[str] = Counter()
    texts = ["a ship", "an endless tale", "a silent man", "a filtered word", "a huge book", "a rude word", "CAPITALS"]
    assert rewritten(server, texts, counted) == {"a ship": ["A SHIP"]}
    assert counted == {
        "rewrite.cut_off": 1,
        "rewrite.empty": 1,
        "rewrite.refused": 2,
        "rewrite.too_long": 1,
        "rewrite.unchanged": 1,
    }
    assert all(len(came) == 1 for came in server.times.values()), "none of them is asked twice"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the wrong way", "endpoint.url = .* refuses the request: it is wrong"),
        ("a lost model", "endpoint.model = 'm': .*it is lost"),
        ("a teapot", "endpoint.url = .* refuses the request: it is teapot"),
    ],
)
def test_a_refusal_names_the_setting(server: Server, text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"data.augment.0.{said}"):
        rewritten(server, [text])


def test_keys_come_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", "stolen")
    monkeypatch.delenv("NO_KEY", raising=False)
    assert rewritten(server, ["a ship"], api_key_env="LOCAL_KEY") == {"a ship": ["A SHIP"]}
    with pytest.raises(InputError, match=r"endpoint.api_key_env = 'OTHER_KEY': .*no such key"):
        rewritten(server, ["a ship"], api_key_env="OTHER_KEY")
    with pytest.raises(InputError, match=r"endpoint.api_key_env = 'NO_KEY': .*not set"):
        rewritten(server, ["a ship"], api_key_env="NO_KEY")


def test_something_else_at_the_address_is_told(server: Server) -> None:
    with pytest.raises(InputError, match="not with chat completions"):
        rewritten(server, ["a ship"], url=server.url.removesuffix("/v1"))


def test_there_and_back_ask_two_models(server: Server) -> None:
    there = {"endpoint": endpoint(server, model="to-de"), "prompt": "To German: {text}"}
    back = {"endpoint": endpoint(server, model="to-en"), "prompt": "To English: {text}"}
    found = made(["a ship", "an endless tale"], {"augment": "back_translate", "there": there, "back": back})
    assert found == {"a ship": ["TO ENGLISH: TO GERMAN: A SHIP"]}
    asked = Counter((body["model"], body["messages"][0]["content"]) for body in server.seen)
    assert asked == {
        ("to-de", "To German: a ship"): 1,
        ("to-de", "To German: an endless tale"): 1,
        ("to-en", "To English: TO GERMAN: A SHIP"): 1,
    }
    assert len({body["seed"] for body in server.seen}) == 3
