"""The loads of the serving benchmarks see what happens: tokens and gaps, failures by kind, and a crowd that is kept out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving import talker
from tests.serving.fake_engine import KEY, FakeEngine, begin, chunk, event, finish, hashed, launch, reply, served

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CROWD = BENCHMARKS / "serve_crowd.py"


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other as scripts of one folder do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def endpoint(engine: FakeEngine, **changes: Any) -> Any:
    return talker.listening(engine, launch(served=(served(name="bench", max_ongoing_requests=64),), **changes))


def server(url: str, key: str | None = None) -> Any:
    return SimpleNamespace(url=url, process=SimpleNamespace(pid=os.getpid()), key=key)


class Numbered(FakeEngine):
    """The number that a prompt begins with says what becomes of it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = json.loads((await receive())["body"])
        number = int(asked["prompt"].split()[0])
        if number == 2:
            raise RuntimeError("secret")
        if number == 4:
            return await asyncio.sleep(3600)
        finish(scope)
        if not asked.get("stream"):
            return await reply(send, 200, json.dumps({"usage": {"completion_tokens": 64}}).encode())
        await begin(send)
        await event(send, chunk("one"))
        if number == 3:
            raise RuntimeError("secret")
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def test_a_load_counts_tokens_and_the_gaps_between_them() -> None:
    from serve_load import Load

    with endpoint(FakeEngine(), key_hashes=hashed(KEY)) as url:
        load = Load(server(url, KEY), 2, 6)
        streams, figures = asyncio.run(load._all()), load()
    assert [len(stream.gaps) for stream in streams] == [2] * 6, "three pieces each, and [DONE] is none"
    assert all(0 < stream.first < 30 for stream in streams)
    assert figures["requests"] == 6 and figures["between_tokens_p99_ms"] > 0


def test_a_load_that_is_refused_says_so() -> None:
    from serve_load import Load

    with endpoint(FakeEngine(), key_hashes=hashed(KEY)) as url, pytest.raises(RuntimeError, match="401"):
        Load(server(url, "wrong"), 1, 1)()


def test_what_becomes_of_requests_is_told_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    import serve_faults

    monkeypatch.setattr(serve_faults, "HUNG_SECONDS", 2.0)
    killed: list[int] = []
    with endpoint(Numbered()) as url:
        found = asyncio.run(serve_faults.load(server(url), 20, lambda: killed.append(1)))
    told = serve_faults.summary(found)
    assert killed == [1]
    assert told["kinds"] == {"whole: http_500": 1, "stream: error_event": 1, "whole: timeout": 1}
    assert (told["requests"], told["failed"], told["hung"], told["silent"]) == (20, 2, 1, 0)
    assert told["slowest_s"] >= 2


def test_a_crowd_is_refused_and_says_what_it_met() -> None:
    with endpoint(FakeEngine(), key_hashes=hashed(KEY), requests_per_minute=4, max_body_bytes=100_000) as url:
        crowd = subprocess.Popen(
            [sys.executable, str(CROWD), url, KEY, "60", "24"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "ready\n"
            time.sleep(8)  # a few tries of each: a 413 may be lost with the connection that it closes
        finally:
            crowd.send_signal(signal.SIGTERM)
            out, err = crowd.communicate(timeout=60)
    assert crowd.returncode == 0, err
    met = json.loads(out)
    statuses = {kind: {key.split(": ")[1] for key in met if key.startswith(kind)} for kind in ("wrong key", "10 MB")}
    assert statuses["wrong key"] == {"401"}
    assert "413" in statuses["10 MB"]
    assert met.get("leaver: 200", 0) <= 4, "the limit of its key"
