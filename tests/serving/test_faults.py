"""What clients meet when an answer breaks, takes too long or is not theirs to see: the official client's errors, and CORS."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from manta.errors import InputError
from serving.door import origins
from serving.door.gateway import Gateway
from tests.serving.fake_engine import CHAT, KEY, FakeEngine, bearer, hashed, is_openai_error, launch, talk

PAGE = "https://app.example.org"


def stream(do: str, engine: FakeEngine | None = None, **changes: Any) -> tuple[list[str], openai.APIError | None]:
    """The words that the openai client gets of a stream, and the exception that ends it."""

    async def play() -> tuple[list[str], openai.APIError | None]:
        made = engine or FakeEngine()
        transport = httpx.ASGITransport(Gateway(made, made, launch(**changes)))
        words = []
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)
            try:
                answer = await client.chat.completions.create(
                    model="tiny", messages=[], stream=True, extra_body={"do": do}
                )
                async for piece in answer:
                    words.append(piece.choices[0].delta.content)
            except openai.APIError as error:
                return words, error
        return words, None

    return asyncio.run(play())


def test_a_whole_stream_raises_nothing():
    assert stream("") == (["one ", "two ", "three"], None)


@pytest.mark.parametrize("do", ["break", "stop short", "engine error"])
def test_a_stream_that_breaks_is_an_exception_after_the_words_it_had(do):
    words, error = stream(do)
    assert words == ["one"]
    assert error is not None and error.code == "internal_error" and "secret" not in str(error)


def test_of_a_dead_engine_it_says_that_it_restarts():
    engine = FakeEngine()
    engine.is_alive = False
    words, error = stream("break", engine)
    assert words == ["one"] and error is not None and "restarting" in error.message


def test_what_is_wrong_with_the_request_itself_is_told():
    words, error = stream("bad grammar")
    assert words == ["one"] and error is not None and error.message == "the grammar is wrong"


@pytest.mark.parametrize(
    ("do", "kind"), [("bad at once", openai.BadRequestError), ("dead at once", openai.InternalServerError)]
)
def test_what_fails_before_the_first_piece_has_a_status_that_says_so(do, kind):
    """vLLM's own server answers 200 with an error event, which clients take for a broken connection."""
    words, error = stream(do)
    assert words == [] and isinstance(error, kind)
    assert ("grammar" in error.message) == (do == "bad at once") and "secret" not in error.message


@pytest.mark.parametrize("do", ["break", "stop short", "engine error", "bad grammar"])
def test_a_broken_stream_never_says_done(do):
    answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={"do": do, "stream": True}))
    assert "[DONE]" not in answer.text
    assert answer.text.count('"error"') == 1


class TestTime:
    def test_a_stream_over_the_limit_ends_with_an_error_and_the_engine_stops(self):
        engine = FakeEngine()
        words, error = stream("stream forever", engine, request_seconds=0.05)
        assert words == ["one"] and error is not None and "limit of 0.05 seconds" in error.message
        assert engine.stopped == 1

    def test_an_answer_over_the_limit_is_504_and_not_asked_again(self):
        engine = FakeEngine()
        body = {"do": "forever"}
        answer = talk(engine, lambda client: client.post(CHAT, json=body), request_seconds=0.05)
        assert answer.status_code == 504
        assert is_openai_error(answer) and answer.headers["x-should-retry"] == "false"
        assert engine.stopped == 1

    def test_an_engine_that_does_not_listen_is_left(self, monkeypatch):
        monkeypatch.setattr("serving.door.gateway.GRACE_SECONDS", 0.05)

        async def story(client):
            late = await client.post(CHAT, json={"do": "deaf"})
            return late, [await client.post(CHAT, json={}) for _ in range(4)]

        late, after = talk(FakeEngine(), story, request_seconds=0.05)
        assert late.status_code == 504
        assert [answer.status_code for answer in after] == [200] * 4


class TestOrigins:
    def preflight(self, client: httpx.AsyncClient, origin: str) -> Any:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        return client.options(CHAT, headers=asked)

    def test_a_named_page_may_ask(self):
        async def story(client):
            return await self.preflight(client, PAGE), await client.post(
                CHAT, json={}, headers={**bearer(KEY), "origin": PAGE}
            )

        before, answer = talk(FakeEngine(), story, key_hashes=hashed(KEY), cors_origins=(PAGE,))
        assert before.status_code == 204
        assert "authorization" in before.headers["access-control-allow-headers"]
        assert before.headers["access-control-allow-origin"] == answer.headers["access-control-allow-origin"] == PAGE
        assert answer.status_code == 200 and answer.headers["vary"] == "Origin"

    @pytest.mark.parametrize("allowed", [(), (PAGE,)])
    def test_other_pages_get_no_permission(self, allowed):
        async def story(client):
            headers = {**bearer(KEY), "origin": "https://evil.example"}
            return await self.preflight(client, "https://evil.example"), await client.post(
                CHAT, json={}, headers=headers
            )

        answers = talk(FakeEngine(), story, key_hashes=hashed(KEY), cors_origins=allowed)
        assert answers[0].status_code == 401
        assert all("access-control-allow-origin" not in answer.headers for answer in answers)

    @pytest.mark.parametrize(
        "origin", ["http://evil.example:8000", "null", "http://127.0.0.1.evil.example", "http://[", ""]
    )
    def test_without_keys_a_strangers_page_reaches_nothing(self, origin):
        engine = FakeEngine()
        answer = talk(engine, lambda client: client.post(CHAT, json={}, headers={"origin": origin}))
        assert answer.status_code == 403
        assert is_openai_error(answer) and engine.seen == []

    @pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost:3000", "http://[::1]:8000", PAGE])
    def test_without_keys_pages_of_this_machine_and_named_ones_do(self, origin):
        headers = {"origin": origin}
        answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={}, headers=headers), cors_origins=(PAGE,))
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "origin", ["app.example.org", "https://app.example.org/", "https://", "ftp://a", "https://a/b"]
    )
    def test_what_is_no_origin_is_refused(self, origin):
        with pytest.raises(InputError, match=r"serve\.cors_origins"):
            origins.require_sane([origin], has_keys=True)

    def test_of_all_pages_none_is_named(self):
        headers = {**bearer(KEY), "origin": PAGE}
        answer = talk(
            FakeEngine(), lambda c: c.post(CHAT, json={}, headers=headers), key_hashes=hashed(KEY), cors_origins=("*",)
        )
        assert answer.headers["access-control-allow-origin"] == "*"

    def test_all_pages_need_keys(self):
        with pytest.raises(InputError, match=r"serve\.keys_file"):
            origins.require_sane(["*"], has_keys=False)
        origins.require_sane(["*", PAGE], has_keys=True)


def test_json_is_asked_for_what_it_is():
    async def story(client):
        bodies = [b"[]", b'"x"', b"null", b"{", b"", b"\xff\xfe", b"[" * 900, b'{"model": 5}', b'{"model": ["tiny"]}']
        return [await client.post(CHAT, content=body) for body in bodies]

    for answer in talk(FakeEngine(), story):
        assert answer.status_code == 400
        assert is_openai_error(answer)


def test_errors_of_the_client_pass_as_the_engine_words_them():
    answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={"do": "400"}))
    assert (answer.status_code, json.loads(answer.text)["error"]["message"]) == (400, "no")
