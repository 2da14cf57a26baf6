"""Whatever headers and bodies come, the gateway answers in OpenAI's shape and never with a 500 of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.door.gateway import ROUTES, Gateway
from tests.serving.described_engine import DescribedEngine
from tests.serving.fake_engine import KEY, hashed, launch

PATHS = st.sampled_from(["/", "/health", "/ready", "/v1/models/x", *ROUTES]) | st.text(max_size=30)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"]) | st.text(
    "ABCXYZ", min_size=1, max_size=40
)
NAMES = st.sampled_from(
    [b"authorization", b"content-length", b"content-type", b"origin", b"x-request-id", b"accept", b"accept-encoding", b"host"]
) | st.binary(max_size=20)  # fmt: skip
VALUES = (
    st.sampled_from([b"Bearer " + KEY.encode(), b"http://[", b"http://localhost", b"9" * 5000, b"-1"]) | st.binary()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("tiny"),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["model", "n", "max_tokens", "stream"]) | st.text(), inner)
    ),
    max_leaves=8,
)
BODIES = st.lists(st.binary(max_size=600), max_size=4) | JSON.map(lambda value: [json.dumps(value).encode()])


class Echo(DescribedEngine):
    """An engine that takes everything."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            json.loads((await receive())["body"])
        await self._tell(scope["path"], send)


@given(PATHS, METHODS, st.lists(st.tuples(NAMES, VALUES), max_size=6), BODIES, st.booleans(), st.booleans())
def test_no_request_makes_the_gateway_fail(path, method, headers, pieces, with_keys, limited):
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    limits = {"requests_per_minute": 1, "tokens_per_minute": 1} if limited else {}
    engine = Echo()
    gateway = Gateway(
        engine, engine, launch(key_hashes=hashed(KEY) if with_keys else (), cors_origins=("*",), **limits)
    )
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    asyncio.run(gateway(scope, receive, send))
    start, *rest = sent
    body = b"".join(message.get("body", b"") for message in rest)
    assert start["status"] < 500
    fields = dict(start["headers"])
    assert {b"x-request-id", b"x-manta-fingerprint"} <= set(fields)
    assert all(b"\n" not in value and b"\r" not in value for value in fields.values()), "a header of ours was split"
    if start["status"] >= 400:
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
